"""Command: optimize."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from archive_tool.cli.options import allow_pickle_option
from archive_tool.cli.output import human_size, printable
from serving.cli.options import console, json_option, print_json, read_inputs

if TYPE_CHECKING:
    from serving.local.contest import Row
    from serving.local.optimize import Found


@click.command()
@click.argument("archive", type=click.Path(path_type=Path))
@click.option(
    "--input",
    "inputs",
    multiple=True,
    required=True,
    metavar="FILE",
    type=click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path),
    help="A request that the model can answer; - is standard input. May be repeated.",
)
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    help="The new archive, .mar or .tar.gz.  [default: NAME-optimized.mar beside the old one]",
)
@click.option(
    "--batch",
    type=click.IntRange(min=1),
    default=8,
    show_default=True,
    help="Requests that go together, for throughput.",
)
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda or cuda:N.")
@click.option(
    "--tolerance",
    type=click.FloatRange(min=1e-7, max=1),
    help="By how much an answer may differ, as a part of its largest number.  [default: 0.001, and for numbers of 16 "
    "bits 0.01 or 0.05]",
)
@click.option(
    "--rounds", type=click.IntRange(min=3), default=5, show_default=True, help="How often each takes its turn."
)
@click.option(
    "--seconds",
    type=click.FloatRange(min=0, min_open=True),
    default=0.5,
    show_default=True,
    help="How long one measurement lasts.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=1),
    default=300.0,
    show_default=True,
    help="Seconds for loading and compiling one.",
)
@click.option(
    "--budget",
    type=click.FloatRange(min=1),
    default=300.0,
    show_default=True,
    metavar="SECONDS",
    help="For everything; for a slow model there are fewer rounds and smaller batches, and not all is tried.",
)
@click.option("--dry-run", is_flag=True, help="Measure, and write nothing.")
@click.option("-f", "--force", is_flag=True, help="Replace an archive that is there.")
@allow_pickle_option
@json_option
def optimize(
    archive: Path,
    inputs: tuple[Path, ...],
    output: Path | None,
    batch: int,
    device: str,
    tolerance: float | None,
    rounds: int,
    seconds: float,
    timeout: float,
    budget: float,
    dry_run: bool,
    force: bool,
    allow_pickles: tuple[str, ...],
    as_json: bool,
) -> None:
    """Find the settings that make a model fast on this machine.

    Tries what is sensible here of the section `optimize` of model-config.yaml: number types, the layout of
    images, torch.compile or freezing, threads. Each runs in a process of its own, turn by turn with the plain model,
    with the files as requests. Shows latency, throughput, memory and by how much the answers differ, and writes the
    best into a new archive: the same one with the section in its config file, and with what was compiled. If nothing is
    faster by more than what the rounds differ by, nothing is written. On Ctrl-C what was found so far is shown.

    \b
    Examples:
      torchmar optimize model_store/mnist.mar --input digit.png --dry-run
      torchmar optimize model_store/mnist.mar --input digit.png --batch 16 --output fast.mar
    """
    from serving.local.optimize import Options
    from serving.local.optimize import optimize as run

    options = Options(
        archive,
        read_inputs(inputs),
        output,
        device,
        batch,
        tolerance,
        rounds,
        seconds,
        timeout,
        budget,
        dry_run=dry_run,
        force=force,
        allow_pickles=allow_pickles,
    )

    def show(found: Found, *, interrupted: bool = False) -> None:
        if as_json:
            document = _document(found) | {"interrupted": interrupted}
            print_json(document)
        else:
            _show(found, interrupted=interrupted)

    show(run(options, lambda line: click.echo(printable(line), err=True), lambda found: show(found, interrupted=True)))


def _document(found: Found) -> dict[str, object]:
    return {
        "rows": [row.to_dict() for row in found.rows],
        "recommended": found.best.candidate.name if found.best else None,
        "written": str(found.written) if found.written else None,
        "batch": found.batch,
        "notes": found.notes,
    }


def _show(found: Found, *, interrupted: bool = False) -> None:
    from rich.markup import escape
    from rich.table import Table

    # Narrow, so that a terminal of 80 columns has room for the names in two lines.
    table = Table(box=None, pad_edge=False, collapse_padding=True, header_style="bold")
    table.add_column("", overflow="fold")
    for title in ("ms\nalone", "", f"requests/s\nby {found.batch}", "", "memory", "differs\nby", "same\nclass"):
        table.add_column(title, justify="right", no_wrap=True)
    for row in found.rows:
        style = "green" if row is found.best else "red" if row.problem else None
        table.add_row(*(escape(printable(cell)) for cell in _cells(row)), style=style)
    console().print(table)
    for row in found.rows:
        if row.problem:
            click.echo(printable(f"{row.candidate.name}: {row.problem}"))
    for note in found.notes:
        click.echo(printable(note))
    for row in found.rows:
        if doubt := row.doubt:
            click.echo(printable(f"{row.candidate.name}: {doubt}"))
    if interrupted:
        click.echo("interrupted: nothing is written")
    if found.best is not None or not interrupted:
        click.echo(_verdict(found))
    if found.written:
        click.echo(printable(str(found.written)))


def _cells(row: Row) -> list[str]:
    if row.latency is None or row.rate is None:
        return [row.candidate.name, "failed" if row.problem else "not measured", *[""] * 6]
    alone, together = (f"{one:.2f}x" for one in row.speedups) if row.rounds else ("", "")
    return [
        row.candidate.name,
        f"{row.latency * 1000:.2f}",
        alone,
        f"{row.rate:,.1f}",
        together,
        human_size(row.memory) if row.memory else "",
        "" if row.difference is None else f"{row.difference:.2g}",
        "" if row.agreement is None else f"{row.agreement:.1%}",
    ]


def _verdict(found: Found) -> str:
    from serving.local.contest import MARGIN

    if found.best is None:
        return (
            f"nothing is faster than the plain model by {MARGIN:.0%} and in every round, so there is nothing to write"
        )
    alone, together = found.best.speedups
    return (
        f"recommended: {found.best.candidate.name}\n"
        f"{alone:.2f} times as fast alone, {together:.2f} times in batches of {found.batch}, faster in each of "
        f"{len(found.best.rounds)} rounds"
    )
