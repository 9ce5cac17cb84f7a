"""Command: predict."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from archive_tool.cli.output import printable
from serving.answers import strict
from serving.cli.options import (
    complete_models,
    console,
    header_option,
    inference_client,
    json_option,
    name_option,
    print_json,
    read_once,
    running,
    timeout_option,
    token_file_option,
)

if TYPE_CHECKING:
    from serving.client import Prediction


@click.command()
@click.argument("model", shell_complete=complete_models)
@click.argument(
    "inputs",
    nargs=-1,
    required=True,
    metavar="FILE...",
    type=click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path),
)
@click.option("--version", metavar="V", help="Version of the model; by default the default one.")
@header_option
@click.option("--parallel", type=click.IntRange(min=1), default=8, show_default=True, help="Requests at once.")
@click.option("--inference", metavar="URL", help="Address of the inference API; by default that of the server NAME.")
@token_file_option
@json_option
@timeout_option(120.0)
@name_option
def predict(
    model: str,
    inputs: tuple[Path, ...],
    version: str | None,
    headers: tuple[tuple[str, str], ...],
    parallel: int,
    inference: str | None,
    token_file: Path | None,
    as_json: bool,
    timeout: float,
    server: str,
) -> None:
    """Send files to a model and show the answers.

    Several files are sent side by side; - is standard input. The content type goes by the file's name, and TorchServe
    decodes JSON and text by it. Exit code 9 if any of them got an error.

    \b
    Examples:
      torchmar predict mnist examples/mnist/samples/*.png
      torchmar predict mnist digit.png --json
      torchmar predict mnist digit.png --header x-request-timeout-seconds=0.5
      torchmar predict mnist digit.png --inference http://127.0.0.1:8080
    """
    from serving.errors import ReplyError

    read_once(map(str, inputs))
    with inference_client(server, inference, timeout, token_file) as client:
        answers = list(client.predict_files(model, inputs, version=version, headers=dict(headers), parallel=parallel))
    if as_json:
        print_json([strict(prediction_to_dict(answer)) for answer in answers])
    else:
        _print_predictions(answers)
    record = running(server) if inference is None else None
    failed = [answer for answer in answers if not answer.ok]
    if failed:
        raise ReplyError(
            f"{len(failed)} of {len(answers)} requests got an error; the first: {failed[0].error}",
            status=failed[0].status,
            where=failed[0].source,
            hint=_log_hint(model, str(failed[0].error), server)
            if record and failed[0].status >= 500
            else failed[0].hint,
        )


def _log_hint(model: str, error: str | None, server: str) -> str:
    """Return the command that shows what the server has logged of a failed request."""
    from serving.control.state import named

    found = re.search(r"under the id (\w+)", error or "")
    what = f"--id {found[1]}" if found else model
    return f"the log: torchmar logs {what}{named(server)}"


def prediction_to_dict(prediction: Prediction) -> dict[str, Any]:
    """Return what ``predict --json`` prints for a file; ``ms`` are milliseconds, binary answers are base64."""
    import base64

    answer: Any = prediction.answer
    row: dict[str, Any] = {
        "file": prediction.source,
        "status": prediction.status,
        "ms": round(prediction.seconds * 1000, 2),
    }
    if isinstance(answer, bytes):
        return row | {"answer_base64": base64.b64encode(answer).decode()}
    return row | ({"answer": answer} if prediction.ok else {"error": prediction.error})


def _print_predictions(answers: Sequence[Prediction]) -> None:
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("file", overflow="fold")
    table.add_column("status", justify="right")
    table.add_column("ms", justify="right")
    table.add_column("answer", overflow="fold")
    for row in answers:
        # A model's answer is untrusted text: it must not move the cursor, nor be taken for markup.
        text = escape(printable(_short(row.answer) if row.error is None else row.error))
        shown = text if row.ok else f"[red]{text}[/red]"
        table.add_row(escape(printable(row.source)), str(row.status), f"{row.seconds * 1000:.1f}", shown)
    console().print(table)


def _short(answer: Any, limit: int = 400) -> str:
    if isinstance(answer, bytes):
        return f"{len(answer)} bytes"
    text = answer if isinstance(answer, str) else json.dumps(answer, ensure_ascii=False)
    return text if len(text) <= limit else f"{text[:limit]}... ({len(text)} characters; --json shows all)"
