"""Command: bench."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Callable
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from archive_tool.cli.output import printable
from serving.cli.options import (
    address_of,
    complete_models,
    console,
    header_option,
    json_option,
    management_client,
    management_option,
    name_option,
    print_json,
    read_inputs,
    timeout_option,
    token_file_option,
)

if TYPE_CHECKING:
    from serving.bench.report import Subject
    from serving.bench.session import Session
    from serving.bench.tally import Second
    from serving.bench.targets import Target
    from serving.check import Input

# Workers are scaled within this time, as a model may take its time to load.
_LOADING_S = 600.0
_FILE = click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path)


class Numbers(click.ParamType):  # type: ignore[type-arg, unused-ignore]  # generic since click 8.4
    """Numbers above 0, with commas between them.

    Args:
        of: what each is.
        most: the highest one that makes sense.
    """

    def __init__(self, of: Callable[[str], Any], most: float) -> None:
        self.name = "N,..."
        self._of, self._most = of, most

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[Any, ...]:
        """Convert the text to numbers."""
        if isinstance(value, tuple):
            return value
        try:
            found = tuple(self._of(part) for part in str(value).split(","))
        except ValueError:
            found = ()
        if not found or not all(0 < one <= self._most for one in found):
            self.fail(f"{value!r} is not one or several numbers up to {self._most:g}, such as 1,8,32", param, ctx)
        return found


@click.command()
@click.argument("model", shell_complete=complete_models)
@click.argument("more", nargs=-1, metavar="", type=_FILE)
@click.option(
    "--input", "inputs", multiple=True, required=True, metavar="FILE...", type=_FILE, help="Sent in turn; - is stdin."
)
@click.option(
    "--connections",
    type=Numbers(int, 10_000),
    metavar="N,...",
    help="A load each, sending all the time over so many connections; with --rate, at the most so many in all.  "
    "[default: 1,8,32; with --rate 256]",
)
@click.option(
    "--rate",
    "rates",
    type=Numbers(float, 1e6),
    metavar="N,...",
    help="A load each, of so many requests a second, whatever the server does.",
)
@click.option("--steady", is_flag=True, help="With a rate: at equal distances, not at random as users do.")
@click.option(
    "--duration", type=click.FloatRange(0.1, 86_400), default=10.0, show_default=True, help="Seconds of each load."
)
@click.option("--warm-up", type=click.FloatRange(0, 3600), default=1.0, show_default=True, help="Seconds before.")
@click.option(
    "--slo-ms",
    type=click.FloatRange(min=0, min_open=True),
    metavar="MS",
    help="What an answer may take. With --rate: exit code 10 if more than 1 % take longer; without: finds the highest "
    "rate at which 99 % do not.",
)
@click.option(
    "--scale",
    type=Numbers(int, 1000),
    metavar="N,...",
    help="Do all of it with so many workers each, and send a load while they are scaled; then scale back.",
)
@click.option("--explain", is_flag=True, help="Ask for explanations in place of predictions.")
@click.option("--version", metavar="V", help="Version of the model; by default the default one.")
@header_option
@click.option("--html", "page", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="Write a page.")
@click.option(
    "--inference",
    "--address",
    "inference",
    metavar="URL",
    help="Address of the inference API; by default that of the server NAME.",
)
@management_option
@token_file_option
@json_option
@timeout_option(30.0)
@name_option
def bench(
    model: str,
    more: tuple[Path, ...],
    inputs: tuple[Path, ...],
    connections: tuple[int, ...] | None,
    rates: tuple[float, ...] | None,
    steady: bool,
    duration: float,
    warm_up: float,
    slo_ms: float | None,
    scale: tuple[int, ...] | None,
    explain: bool,
    version: str | None,
    headers: tuple[tuple[str, str], ...],
    page: Path | None,
    inference: str | None,
    management: str | None,
    token_file: Path | None,
    as_json: bool,
    timeout: float,
    server: str,
) -> None:
    """Load a model's server, and measure its answers.

    Times count from the moment at which a request was to begin: where the server makes requests wait, that is seen. An
    interrupt ends the test, and what there is is shown. Exit code 9 if nothing was answered well, 10 if --slo-ms was
    not kept.

    \b
    Examples:
      torchmar bench mnist --input examples/mnist/samples/*.png
      torchmar bench mnist --input digit.png --rate 100,200 --html report.html
      torchmar bench mnist --input digit.png --slo-ms 50 --scale 1,2,4
    """
    from serving.bench.loads import Load
    from serving.bench.report import Subject
    from serving.bench.session import MOST_CONNECTIONS, Scaling, Session
    from serving.bench.targets import Target
    from serving.client import Address

    if page is not None and not page.absolute().parent.is_dir():
        raise click.UsageError(f"the folder {page.absolute().parent} of --html does not exist")
    files = read_inputs((*inputs, *more))
    address, token = address_of(server, "inference", inference, token_file)
    target = Target(Address(address), model, version, explain, token, dict(headers))
    base = Load(
        target.place,
        target.requests((one.body, one.content_type) for one in files),
        max(connections) if connections else MOST_CONNECTIONS,
        duration,
        steady=steady,
        timeout_s=timeout,
        slo_s=slo_ms / 1e3 if slo_ms else None,
    )
    _try(target, files, timeout)
    subject = Subject(model, version, address, explain, [(one.name, len(one.body), one.content_type) for one in files])
    session = Session(
        base,
        connections or (1, 8, 32),
        rates or (),
        search=slo_ms is not None and not rates,
        warm_up_s=warm_up,
        tell=_tell if sys.stderr.isatty() else lambda *_: None,
    )
    with ExitStack() as stack:
        if scale:
            client = stack.enter_context(management_client(server, management, _LOADING_S, token_file))
            session.scaling = Scaling(client, model, version, scale)
        try:
            asyncio.run(_until_interrupted(session))
        finally:
            _show(subject, session, page, as_json=as_json)
    if session.stop.is_set():
        raise KeyboardInterrupt
    _judge(session)


def _try(target: Target, files: tuple[Input, ...], timeout: float) -> None:
    """Send every input once: what is wrong with the request is no matter of load.

    Raises:
        NotRunningError: the server does not listen.
        ReplyError: it answered with an error.
    """
    from serving.client.transport import Transport

    with Transport(target.address, timeout, target.token) as transport:
        for file in files:
            headers = {"content-type": file.content_type} | {key.lower(): one for key, one in target.headers.items()}
            transport.checked("POST", target.path, body=file.body, headers=headers)


async def _until_interrupted(session: Session) -> None:
    """Send everything; the first interrupt ends the test, a second one the command."""
    loop = asyncio.get_running_loop()

    def interrupt() -> None:
        session.stop.set()
        loop.remove_signal_handler(signal.SIGINT)

    loop.add_signal_handler(signal.SIGINT, interrupt)
    try:
        await session.all()
    finally:
        loop.remove_signal_handler(signal.SIGINT)


def _tell(name: str, second: Second) -> None:
    """Show a second on the terminal's last line."""
    errors = f", {second.errors} errors" if second.errors else ""
    waiting = f", {second.waiting} waiting" if second.waiting else ""
    text = f"{name}, {second.at:.0f} s: {second.good} answers, p99 {second.p99_ms:.1f} ms{errors}{waiting}"
    click.echo(f"\r\x1b[K{text}\r", err=True, nl=False)


def _show(subject: Subject, session: Session, page: Path | None, *, as_json: bool) -> None:
    from serving.bench import report
    from serving.bench.page import html

    if sys.stderr.isatty():
        click.echo("\r\x1b[K", err=True, nl=False)
    if not session.runs:
        return
    if as_json:
        print_json(report.document(subject, session))
    else:
        _print(subject, session)
    if page is not None:
        when = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z")
        page.write_text(html(subject, session, when), encoding="utf-8", errors="backslashreplace")


def _print(subject: Subject, session: Session) -> None:
    from rich.markup import escape
    from rich.table import Table

    from serving.bench import report

    seconds = session.base.seconds
    click.echo(printable(f"{subject.title}; {seconds:g} s each, milliseconds from the intended start of a request"))
    table = Table(box=None, pad_edge=False, header_style="bold")
    for index, head in enumerate(report.heads(session)):
        table.add_column(escape(head), justify="left" if not index else "right")
    for row in report.rows(session):
        table.add_row(*(escape(printable(cell)) for cell in row))
    console().print(table)
    for line in report.notes(session):
        click.echo(printable(line))


def _judge(session: Session) -> None:
    """Fail where nothing was answered, or the SLO was not kept.

    Raises:
        ReplyError: no load had a good answer.
        CheckError: too many requests missed the SLO.
    """
    from serving.bench import report
    from serving.bench.search import kept
    from serving.errors import CheckError, ReplyError

    if failed := report.all_failed(session):
        kind = next(iter(failed.errors), "no request was sent")
        raise ReplyError(f"no request got a good answer: {kind}", status=0)
    missed = [workers for workers, rate in session.highest.items() if not rate]
    if missed:
        raise CheckError(report.highest(session, missed[0], 0.0))
    if session.base.slo_s is not None and session.rates:
        for run in session.runs:
            if not kept(run.figures):
                share = report.percent(run.figures.within_share)
                raise CheckError(f"{run.name}: {share} of the requests were answered within the SLO, not 99 %")
