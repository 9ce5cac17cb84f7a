"""Command: check."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from archive_tool.cli.options import allow_pickle_option
from archive_tool.cli.output import human_size, printable
from serving.cli.options import console, json_option, read_inputs, read_once

if TYPE_CHECKING:
    from archive_tool.building.report import Report
    from serving.check import Input, InputResult, Result

_SHOWN_LINES = 40
_SHOWN_ANSWER = 400


@click.command()
@click.argument("archive", type=click.Path(path_type=Path))
@click.option(
    "--input",
    "inputs",
    multiple=True,
    metavar="FILE[=EXPECTED]",
    help="A file to send, - for standard input, and a file with the answer that is expected, or the answer itself. May "
    "be repeated.  [default: the archive's samples]",
)
@click.option(
    "--expect",
    "expected",
    multiple=True,
    metavar="JSON",
    help="The expected answer: JSON, text or a file. Of several, the first is for the first --input.",
)
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda or cuda:N.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="For loading, and for each answer.  [default: what the archive's config says, else 120]",
)
@click.option(
    "--repeat",
    type=click.IntRange(min=0),
    default=5,
    show_default=True,
    help="How often each input is sent again, for the latency; two seconds at most.",
)
@click.option(
    "--tolerance",
    type=click.FloatRange(min=0),
    help="By which part of them two numbers may differ.  [default: what the sample states, else 0.0001]",
)
@allow_pickle_option
@json_option
def check(
    archive: Path,
    inputs: tuple[str, ...],
    expected: tuple[str, ...],
    device: str,
    timeout: float | None,
    repeat: int,
    tolerance: float | None,
    allow_pickles: tuple[str, ...],
    as_json: bool,
) -> None:
    """Load an archive as a worker would, and try it.

    A worker of its own loads the model, and is sent the inputs, or the samples that the archive has, as the frontend
    sends requests; no server is started. Shows how long that takes, how much memory the worker has, the answers, and
    what the handler prints. A failure names the file and the line. Nothing is left behind.

    Exit code 0 if all is well, 6 if the model cannot be loaded, 10 if an input fails or gets another answer than was
    expected.

    \b
    Examples:
      torchmar check model_store/mnist.mar
      torchmar check model_store/mnist.mar --input digit.png --expect 7
      torchmar check model_store/mnist.mar --device cuda:0 --json
    """
    from serving.check import CheckOptions
    from serving.check import check as run

    given = _inputs(inputs, expected)
    result = run(CheckOptions(archive, given, device, timeout, repeat, tolerance, allow_pickles))
    if as_json:
        click.echo(json.dumps(result.to_dict(), indent=2, allow_nan=False))
    else:
        _show(result)
    if result.error is not None:
        raise result.error


def check_built(archive: Path) -> str:
    """Check an archive that was just built, with its own samples; return one line that says how it went.

    Raises:
        TorchmarError: the check failed.
    """
    from serving.check import CheckOptions
    from serving.check import check as run

    result = run(CheckOptions(archive, repeat=0))
    if result.error is not None:
        raise result.error
    return f"checked: loads in {result.load_seconds or 0:.2f} s, {_tried(result.inputs)}, {human_size(result.peak)}"


def _tried(inputs: list[InputResult]) -> str:
    if not inputs:
        return "no samples to try it with"
    compared = sum(one.expected for one in inputs)
    plural = "s" if len(inputs) > 1 else ""
    return f"{len(inputs)} sample{plural} answered" + (f", {compared} of them as expected" if compared else "")


def _inputs(texts: tuple[str, ...], expected: tuple[str, ...]) -> tuple[Input, ...] | None:
    from archive_tool.building import samples
    from archive_tool.building.report import Report
    from serving.check import Input

    if len(expected) > len(texts):
        raise click.UsageError("there are more --expect than --input", click.get_current_context())
    if not texts:
        return None
    read_once(text.partition("=")[0] for text in texts)
    report = Report()
    found = []
    for index, text in enumerate(texts):
        # A type that is given separately is read like one after the sign.
        whole = f"{text}={expected[index]}" if index < len(expected) else text
        if whole.partition("=")[0] == "-":
            found.append(_from_standard_input(whole, report))
            continue
        one = samples.read(whole, report, option="--input")
        if one is not None:
            kind = samples.content_type_of(one.name)
            body = one.body if isinstance(one.body, bytes) else one.body.read_bytes()
            found.append(Input(text.partition("=")[0] if one.expected else text, body, kind, one.expected))
    report.raise_errors()
    return tuple(found)


def _from_standard_input(text: str, report: Report) -> Input:
    from archive_tool.building import samples
    from serving.check import Input

    (one,) = read_inputs([Path("-")])
    _, equals, answer = text.partition("=")
    return Input("-", one.body, one.content_type, samples.read_expected(answer, "--input", report) if equals else None)


def _show(result: Result) -> None:
    title = " ".join(word for word in (str(result.archive), result.model, result.version, result.device) if word)
    click.secho(printable(title), bold=True)
    if result.load_seconds is not None:
        click.echo(f"loaded in {result.load_seconds:.2f} s")
    if result.inputs:
        _show_inputs(result.inputs)
    elif result.ok:
        click.echo("no inputs and no samples: only loading was tried (--input FILE)")
    if result.memory:
        click.echo(f"memory {human_size(result.memory)}, at most {human_size(result.peak)}")
    for name, text in (("stdout", result.stdout), ("stderr", result.stderr)):
        _show_output(name, text)


def _show_inputs(inputs: list[InputResult]) -> None:
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("input", overflow="fold")
    for title in ("status", "first ms", "then ms"):
        table.add_column(title, justify="right")
    table.add_column("answer", overflow="fold")
    for one in inputs:
        row = one.to_dict()
        answer = f"{len(one.body)} bytes" if "outputBase64" in row else json.dumps(row["output"], ensure_ascii=False)
        if len(answer) > _SHOWN_ANSWER:
            answer = f"{answer[:_SHOWN_ANSWER]}... ({len(answer)} characters; --json shows all)"
        if one.expected and one.ok:
            answer += "  as expected"
        times = [f"{value:.1f}" if value is not None else "" for value in (row["firstMs"], row["medianMs"])]
        cells = [one.name, str(one.status or ""), *times, answer if one.status else "no answer"]
        table.add_row(*(escape(printable(cell)) for cell in cells), style=None if one.ok else "red")
    console().print(table)


def _show_output(name: str, text: str) -> None:
    lines = text.splitlines()
    if not lines:
        return
    more = f" (the last {_SHOWN_LINES} of {len(lines)} lines; --json has all)" if len(lines) > _SHOWN_LINES else ""
    click.secho(f"{name}{more}", bold=True)
    for line in lines[-_SHOWN_LINES:]:
        click.echo(f"  {printable(line.expandtabs())}")
