"""Command: batch."""

from __future__ import annotations

import signal
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from archive_tool.cli.options import allow_pickle_option
from archive_tool.cli.output import printable
from serving.cli.options import json_option, print_json, traceback_shown

if TYPE_CHECKING:
    from serving.batch.inputs import Reading
    from serving.batch.job import Done
    from serving.batch.ledger import Ledger
    from serving.batch.workers import Answerer, Wanted

_FORMATS = ("file", "jsonl", "csv", "tsv", "parquet")
# What the protocol of the workers has room for.
_MOST_SIZE = (1 << 31) - 1


def _delimiter(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:  # noqa: ARG001
    """Understand a mark that stands between fields.

    Raises:
        BadParameter: it is none.
    """
    mark = "\t" if value in ("tab", r"\t") else value
    if mark is not None and (len(mark) != 1 or mark in '"\r\n' or not mark.isascii()):
        raise click.BadParameter(f"{value!r} is not one character, other than a quotation mark; write tab for a tab")
    return mark


@click.command()
@click.argument("archive", type=click.Path(exists=True, path_type=Path))
@click.argument("inputs", nargs=-1, required=True, metavar="INPUT...", type=click.Path(exists=True, path_type=Path))
@click.option(
    "--output",
    required=True,
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Where the answers go: FILE.jsonl or FILE.csv.",
)
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    metavar="N",
    help="Workers.  [default: the archive's, else one for each GPU, else for each core]",
)
@click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    metavar="N",
    help="Rows of a batch.  [default: the archive's batchSize, else 32 for handlers of torchmar's SDK, 1 for others]",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(_FORMATS),
    help="Read every input as this, whatever its name ends in; file: each is one row.",
)
@click.option(
    "--delimiter",
    metavar="MARK",
    callback=_delimiter,
    help="What stands between the fields of CSV: ; or tab, say.  [default: a comma; a tab in .tsv]",
)
@click.option(
    "--column", metavar="NAME", help="The column that is the request.  [default: all of them, as a JSON object]"
)
@click.option(
    "--labels",
    metavar="COLUMN|FILE",
    help="What the answers should be: a column, or a file with a line for each row. Prints accuracy or error.",
)
@click.option(
    "--max-size",
    type=click.IntRange(1, _MOST_SIZE),
    metavar="BYTES",
    help="Bytes of a row and of an answer.  [default: 6553500, as a server's]",
)
@click.option(
    "--log", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="Write what the workers print."
)
@click.option("--ray", "on_ray", is_flag=True, help="Run the workers on the nodes of a Ray cluster.")
@click.option(
    "--address",
    metavar="ADDRESS",
    help="The Ray cluster, or auto for that of this machine.  [default: one that ends with the job]",
)
@allow_pickle_option
@click.option("-f", "--force", is_flag=True, help="Replace the output, if it exists.")
@click.option("--restart", is_flag=True, help="Drop what an interrupted job has done, and begin anew.")
@click.option("-q", "--quiet", is_flag=True, help="Print only errors, and what --labels and --json ask for.")
@json_option
def batch(
    archive: Path,
    inputs: tuple[Path, ...],
    output: Path,
    workers: int | None,
    batch_size: int | None,
    form: str | None,
    delimiter: str | None,
    column: str | None,
    labels: str | None,
    max_size: int | None,
    log: Path | None,
    on_ray: bool,
    address: str | None,
    allow_pickles: tuple[str, ...],
    force: bool,
    restart: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Predict every row of files, as a job that can be interrupted.

    ARCHIVE is a .mar, a .tar.gz or a folder; its workers answer as under a server. An INPUT is a file or a folder. Each
    line of .jsonl, each row of .csv, .tsv and .parquet is a request; any other file is one, with the content type of
    its name. Answers are in the order of the rows; those without one are in FILE.failures.jsonl, with input and error.

    After an interrupt, or a kill, the same command goes on where the job was cut. Exit code 6 if the model cannot be
    loaded, 10 if a row has failed.

    \b
    Examples:
      torchmar batch model_store/mnist.mar pictures --output answers.jsonl
      torchmar batch model_store/price.mar houses.csv --output prices.csv --labels price --workers 4
      torchmar batch model_store/sentiment.mar reviews.parquet --column text --output answers.jsonl
      torchmar batch model_store/mnist.mar pictures --output answers.jsonl --ray --address auto
    """
    from serving.batch.job import identity_of, run
    from serving.batch.ledger import Ledger
    from serving.batch.workers import Wanted
    from serving.cli.servers import warn
    from serving.errors import CheckError

    start = _starter(on_ray=on_ray, address=address)
    reading = _reading(inputs, form, delimiter, column, labels, max_size, output)
    with ExitStack() as stack:
        stack.enter_context(traceback_shown())
        job = identity_of(archive, reading)
        ledger = stack.enter_context(Ledger(output, job, force=force, restart=restart))
        before = ledger.rows
        if before and not quiet and not ledger.finished:
            click.echo(f"going on after {before} rows", err=True)
        wanted = Wanted(archive, workers, batch_size, reading.most, allow_pickles, _logged(log, stack), ledger.uses)
        seen = _shown(reading, stack, hidden=quiet)
        done = run(reading, ledger, lambda: start(wanted), seen)
    if done.signal:
        click.echo(f"stopped after {done.rows} rows; the same command goes on there", err=True)
        signal.raise_signal(done.signal)
    if done.unlabelled or done.labels_left:
        more = (
            f"fewer lines than there are rows: {done.unlabelled} have none"
            if done.unlabelled
            else "labels after the last row"
        )
        warn(f"{labels} has {more}; are its labels those of these rows?")
    _tell(done, ledger, labels, quiet=quiet, as_json=as_json)
    if done.failed:
        hint = "what the handler has printed of them: --log FILE" if log is None else None
        raise CheckError(f"{done.failed} of {done.rows} rows failed", where=str(ledger.failures), hint=hint)


def _starter(*, on_ray: bool, address: str | None) -> Callable[[Wanted], AbstractAsyncContextManager[Answerer]]:
    """Return what starts the workers.

    Raises:
        UsageError: an address without `--ray`.
        StartError: Ray is not installed.
    """
    if not on_ray:
        if address is not None:
            raise click.UsageError("--address is that of a Ray cluster: add --ray")
        from serving.batch.workers import local_workers

        return local_workers
    from serving.control.configuration.frontends import check_ray

    check_ray()
    from serving.batch.ray_workers import ray_workers

    return partial(ray_workers, address=address)


def _reading(
    inputs: tuple[Path, ...],
    form: str | None,
    delimiter: str | None,
    column: str | None,
    labels: str | None,
    max_size: int | None,
    output: Path,
) -> Reading:
    """Understand what is to be read.

    Raises:
        InputError: an input is where the output is, or Parquet cannot be read.
    """
    from archive_tool.building.samples import MAX_REQUEST
    from archive_tool.errors import InputError
    from serving.batch import parquet
    from serving.batch.inputs import Reading
    from serving.batch.rows import Columns

    target = output.absolute()
    for path in inputs:
        if target.resolve() == path.resolve() or (path.is_dir() and target.resolve().is_relative_to(path.resolve())):
            raise InputError(f"the output {output} is in the input {path}", hint="write it elsewhere")
    if not target.parent.is_dir():
        raise InputError(f"the folder {target.parent} does not exist", hint=f"mkdir -p {target.parent}")
    file = Path(labels) if labels and Path(labels).is_file() else None
    columns = Columns(column, None if file else labels)
    reading = Reading(inputs, form, columns, file, max_size or MAX_REQUEST, delimiter)
    if any(reading.kind(path) == "parquet" for path in inputs):
        parquet.check_installed()
    return reading


def _logged(log: Path | None, stack: ExitStack) -> Callable[[str], None]:
    if log is None:
        return lambda _: None
    stream = stack.enter_context(log.open("a", encoding="utf-8", errors="backslashreplace", buffering=1))
    return lambda line: print(line, file=stream)


def _shown(reading: Reading, stack: ExitStack, *, hidden: bool) -> Callable[[Ledger, int], None]:
    """Return what shows the progress."""
    from archive_tool.progress import row_bar

    show = stack.enter_context(row_bar("predicting", hidden=hidden))
    if show is None:
        return lambda *_: None
    total = max(1, reading.size())
    return lambda ledger, position: show(ledger.rows, ledger.failed, min(1.0, position / total))


def _tell(done: Done, ledger: Ledger, labels: str | None, *, quiet: bool, as_json: bool) -> None:
    """Print what the job has come to: on standard error, and what was asked for on standard output."""
    result = ledger.scores.result if labels else {}
    rate = done.asked / done.seconds if done.seconds else 0.0
    if not quiet:
        line = f"{done.rows} rows, {done.failed} failed"
        if done.answerer is not None and done.asked:
            size = f"batches of up to {done.answerer.batch}, {done.answerer.workers} workers"
            line += f"; {done.asked} of them in {done.seconds:.1f} s, {rate:,.1f} rows/s ({size})"
        click.echo(f"{printable(str(ledger.target))}: {line}", err=True)
    if as_json:
        document: dict[str, Any] = {"rows": done.rows, "failed": done.failed, "output": str(ledger.target)}
        document["failures"] = str(ledger.failures) if done.failed else None
        document["rowsPerSecond"] = round(rate, 2)
        print_json(document | ({"scores": result} if labels else {}))
    elif labels:
        click.echo(_scores(result))


def _scores(result: dict[str, Any]) -> str:
    compared, unlike = result["compared"], result["notComparable"]
    if not compared:
        text = "no answer was compared: no row has both a label and an answer with one value"
    elif "meanAbsoluteError" in result:
        text = f"mean absolute error {result['meanAbsoluteError']:.6g} (of {compared} rows)"
    else:
        text = f"accuracy {result['accuracy']:.4f} ({result['correct']} of {compared} rows)"
    return text + (f"; {unlike} answers have no one value to compare" if unlike else "")
