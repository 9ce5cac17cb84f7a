"""Command: run."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from archive_tool.cli.options import allow_pickle_option
from archive_tool.cli.output import printable
from serving.cli.options import header_option, json_option, print_json, read_inputs, traceback_shown

if TYPE_CHECKING:
    from serving.local.run import Answered, Timing


@click.command()
@click.argument("archive", type=click.Path(path_type=Path))
@click.argument(
    "inputs",
    nargs=-1,
    required=True,
    metavar="FILE...",
    type=click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path),
)
@click.option(
    "--batch",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    metavar="N",
    help="Requests that go together; if there are fewer files, they are sent several times.",
)
@click.option(
    "--repeat",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    metavar="N",
    help="How often each batch is sent again, for the times.",
)
@click.option("--profile", is_flag=True, help="Show the time of preprocess, inference and postprocess.")
@click.option(
    "--trace",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write a trace of one further run, for chrome://tracing or Perfetto: FILE.json or FILE.json.gz.",
)
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda or cuda:N.")
@header_option
@allow_pickle_option
@click.option("-q", "--quiet", is_flag=True, help="Print only the answers, errors, and what --profile asks for.")
@json_option
def run(
    archive: Path,
    inputs: tuple[Path, ...],
    batch: int,
    repeat: int,
    profile: bool,
    trace: Path | None,
    device: str,
    headers: tuple[tuple[str, str], ...],
    allow_pickles: tuple[str, ...],
    quiet: bool,
    as_json: bool,
) -> None:
    """Predict in this process, without a server.

    ARCHIVE is a .mar, a .tar.gz or a folder. Its handler gets the requests from the worker's own code, and the answers
    go to standard output as a client would get them, JSON with line breaks. Status and times, the handler's log and
    tracebacks go to standard error. As all runs in this process, breakpoint() in the handler opens the debugger here.

    The content type goes by the file's name, as with predict; - is standard input. Exit code 6 if the model cannot be
    loaded, 10 if a request fails.

    \b
    Examples:
      torchmar run model_store/mnist.mar digit.png
      torchmar run model_store/mnist.mar digit.png --batch 8 --repeat 50 --profile
      torchmar run model_store/mnist.mar digit.png --trace trace.json
      torchmar run model_store/mnist.mar digit.png --header explain=True
    """
    from serving.errors import CheckError
    from serving.local.run import RunOptions
    from serving.local.run import run as go

    options = RunOptions(
        archive,
        read_inputs(inputs),
        headers,
        device,
        batch,
        repeat,
        profile,
        trace.absolute() if trace else None,
        allow_pickles,
    )
    answers: list[Answered] = []

    def tell(answer: Answered) -> None:
        answers.append(answer)
        if not as_json:
            _show(answer, quiet=quiet)

    with traceback_shown(), _log_shown(quiet=quiet):
        timings = go(options, tell)
    if as_json:
        print_json([_document(answer) for answer in answers])
    _show_times(timings, batch, quiet=quiet)
    if trace and not quiet:
        click.echo(f"trace: {printable(str(trace))}", err=True)
    failed = [answer for answer in answers if not answer.ok]
    if failed:
        first = failed[0]
        message = f"{len(failed)} of {len(answers)} requests failed; the first: status {first.status}: {first.message}"
        raise CheckError(message, where=first.name)


def _document(answer: Answered) -> dict[str, Any]:
    """Return the answer as predict prints it."""
    from serving.answers import decode, strict
    from serving.cli.predict import prediction_to_dict
    from serving.client.inference import Prediction

    error = None if answer.ok else answer.message
    value = decode(answer.body, answer.content_type)
    found: dict[str, Any] = strict(
        prediction_to_dict(Prediction(answer.name, answer.status, answer.seconds, value, error))
    )
    return found


@contextmanager
def _log_shown(*, quiet: bool) -> Iterator[None]:
    """Send the handler's log to standard error, without the metrics that are meant for the frontend."""
    from serving.check.process import is_protocol

    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    handler.addFilter(lambda record: not is_protocol(record.getMessage()))
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.WARNING if quiet else logging.INFO)
    try:
        yield
    finally:
        root.removeHandler(handler)
        root.setLevel(level)


def _show(answer: Answered, *, quiet: bool) -> None:
    if not quiet:
        kind = f"  {answer.content_type}" if answer.content_type else ""
        line = f"{answer.name}  {answer.status}  {answer.seconds * 1000:.1f} ms{kind}"
        click.secho(printable(line), err=True, fg=None if answer.ok else "red")
    body, terminal = _readable(answer.body), sys.stdout.isatty()
    if isinstance(body, str):
        # What a terminal gets must not move its cursor.
        lines = map(printable, body.splitlines()) if terminal else [body.removesuffix("\n")]
        click.echo("\n".join(lines))
    elif terminal:
        click.echo(f"({len(body)} bytes that are no text; send standard output to a file)", err=True)
    else:
        click.echo(body, nl=False)


def _readable(body: bytes) -> str | bytes:
    """Return JSON objects and lists with line breaks, other text as it is, else the bytes."""
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError:
        return body
    try:
        # Numbers as they stand there: 1.10 and 1e400 are not changed by the reading.
        content = json.loads(text, parse_float=_Number, parse_int=_Number, parse_constant=_Number)
        return _written(content, "") if isinstance(content, dict | list) else text
    except (ValueError, RecursionError):
        return text


class _Number(str):
    """A number as it was written."""

    __slots__ = ()


def _written(value: object, indent: str) -> str:
    if isinstance(value, _Number):
        return str(value)
    deeper = f"{indent}  "
    if isinstance(value, dict) and value:
        rows = [f"{deeper}{json.dumps(key, ensure_ascii=False)}: {_written(one, deeper)}" for key, one in value.items()]
        return "{\n" + ",\n".join(rows) + f"\n{indent}}}"
    if isinstance(value, list) and value:
        if not any(isinstance(one, dict | list) for one in value):
            return "[" + ", ".join(_written(one, deeper) for one in value) + "]"
        return "[\n" + ",\n".join(deeper + _written(one, deeper) for one in value) + f"\n{indent}]"
    return json.dumps(value, ensure_ascii=False)


def _show_times(timings: list[Timing], batch: int, *, quiet: bool) -> None:
    """Show the times of each batch on standard error: standard output has the answers."""
    import statistics

    for timing in timings:
        further = timing.seconds[1:]
        if further and not quiet:
            median = statistics.median(further)
            rate = f", {batch / median:,.1f} requests/s" if median else ""
            first = timing.seconds[0] * 1000
            line = f"batch of {batch}: first {first:.1f} ms, then {len(further)} times {median * 1000:.1f} ms{rate}"
            click.echo(line, err=True)
        if timing.rows:
            _show_rows(timing)


def _show_rows(timing: Timing) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(escape(printable(", ".join(timing.names))), overflow="ellipsis", max_width=60)
    titles = ("first ms", "then ms", "share") if len(timing.seconds) > 1 else ("first ms", "share")
    for title in titles:
        table.add_column(title, justify="right")
    for row in timing.rows:
        times = [row.first] if row.median is None else [row.first, row.median]
        table.add_row(row.name, *(f"{seconds * 1000:.2f}" for seconds in times), f"{row.share:.0%}")
    Console(stderr=True).print(table)
