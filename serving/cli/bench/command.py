"""The options of bench, and what they ask for."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from serving.cli.bench import showing
from serving.cli.options import (
    address_of,
    complete_models,
    header_option,
    json_option,
    management_client,
    management_option,
    name_option,
    read_inputs,
    timeout_option,
    token_file_option,
)

if TYPE_CHECKING:
    from serving.bench.session import Session

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
@click.option(
    "--warm-up",
    type=click.FloatRange(0, 3600),
    default=1.0,
    show_default=True,
    help="Seconds of load before, which are in no figure: at the lowest --rate; without one over the most "
    "connections, and before a search over the fewest.",
)
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
    from serving.bench.session import CONNECTIONS, MOST_CONNECTIONS, Scaling, Session
    from serving.bench.targets import Target
    from serving.bench.wire.trial import try_each
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
    asyncio.run(try_each(target, base.requests, timeout, late="allow more with --timeout"))
    subject = Subject(model, version, address, explain, [(one.name, len(one.body), one.content_type) for one in files])
    session = Session(
        base,
        connections or CONNECTIONS,
        rates or (),
        search=slo_ms is not None and not rates,
        warm_up_s=warm_up,
        tell=showing.progress if sys.stderr.isatty() else lambda *_: None,
    )
    with ExitStack() as stack:
        if scale:
            client = stack.enter_context(management_client(server, management, _LOADING_S, token_file))
            session.scaling = Scaling(client, model, version, scale)
        try:
            asyncio.run(_until_interrupted(session))
        finally:
            showing.show(subject, session, page, as_json=as_json)
    if session.stop.is_set():
        raise KeyboardInterrupt
    showing.judge(session)


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
