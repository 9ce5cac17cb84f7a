"""The development server: a model is served while it is being written, and what is saved is what answers."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from serving.check.run import device_index
from serving.client.transport import Address
from serving.control.configuration.java import worker_home
from serving.control.following.forms import Access
from serving.errors import PortInUseError, StartError
from serving.frontend import listening, settings
from serving.frontend.apps.exchange import Exchange
from serving.frontend.apps.inference import InferenceApp
from serving.frontend.apps.routing import refuse_pages
from serving.frontend.entrance import Sampled, logged
from serving.frontend.errors import ForbiddenError, FrontendError
from serving.frontend.guard import Patience
from serving.frontend.server import Listener
from serving.local.engine import ReloadingEngine
from serving.local.reloading import Reloading, Tell
from serving.local.sources import Sources
from serving.signals import signalled

HOST: Final = "127.0.0.1"


@dataclass(frozen=True)
class DevOptions:
    """What to serve.

    Attributes:
        target: a handler's file, a project file, or a folder with a project file or a manifest.
        port: on the loopback interface; 0 for a free one.
        device: "cpu" or "cuda:N".
        given: options of `archive_tool.build` that say which files the model has, beside those of a project file.
    """

    target: Path
    port: int = 8080
    device: str = "cpu"
    given: Mapping[str, Any] = field(default_factory=dict)


def serve(options: DevOptions, tell: Tell, ready: Callable[[str, str], None] = lambda *_: None) -> None:
    """Serve until a signal comes; when nothing of it is left, that is raised anew for whoever else handles it.

    Args:
        options: what to serve.
        tell: gets what happens, and every line that the handler prints; called by several threads.
        ready: gets the address and the model's name, once requests are answered. The model may still be loading: they
            wait for it.

    Raises:
        InputError: there is nothing to serve.
        PortInUseError: the port is taken.
        StartError: the port cannot be opened.
    """
    sources = Sources(options.target, options.given)
    gpu = device_index(options.device)
    with (
        contextlib.closing(taken(options.port)) as place,
        tempfile.TemporaryDirectory(prefix="torchmar-dev-", ignore_cleanup_errors=True) as root,
    ):
        model = Reloading(sources, Path(root), gpu=gpu, tell=tell)

        async def run() -> int:
            with signalled() as came:
                async with answering(model, place, tell) as engine:
                    # What is wrong with a model without a name is reported when it is loaded.
                    ready(f"http://{HOST}:{place.sock.getsockname()[1]}", model.name or "NAME")
                    following = asyncio.ensure_future(engine.follow())
                    await asyncio.wait((following, came), return_when=asyncio.FIRST_COMPLETED)
                    if not came.done():
                        following.result()
                    following.cancel()
                return await came

        number = asyncio.run(run())
    signal.raise_signal(number)


def taken(port: int) -> listening.Place:
    """Take a port of the loopback interface, at which clients wait from now on; 0 for a free one.

    Raises:
        PortInUseError: somebody has it.
        StartError: it cannot be had.
    """
    address = Address(f"http://{HOST}:{port}")
    try:
        sock = listening.bind(address, "--port")
        try:
            sock.listen(listening.BACKLOG)
        except OSError:
            sock.close()
            raise
    except (PortInUseError, OSError) as error:
        raise PortInUseError(f"port {port} is in use", hint="choose another one: --port N, or --port auto") from error
    except StartError as error:
        reason = getattr(error.__cause__, "strerror", error.message)
        raise StartError(f"cannot listen on port {port}: {reason}", hint="choose one above 1023") from error
    return listening.Place(address, "--port", sock)


@contextlib.asynccontextmanager
async def answering(model: Reloading, place: listening.Place, tell: Tell) -> AsyncIterator[ReloadingEngine]:
    """Answer requests for a model at a place, meanwhile; then nothing of it is left."""
    here = settings.of(
        dict.fromkeys(("inference_address", "management_address", "metrics_address"), place.address.text),
        settings.Place(model.place, worker_home(), model.place, model.place, model.place),
        {},
    )
    engine = ReloadingEngine(model, here, tell)
    app = logged(_DevApp(engine, here, None, _Uncounted()), Sampled(lambda of: tell(_line(of), False)))
    listener = Listener(place, app, Patience())
    await listener.open()
    try:
        with _cut_streams_untold():
            yield engine
    finally:
        listener.announce_end()
        await engine.drain(0.0)
        await listener.close()


class _DevApp(InferenceApp):
    """The inference API, for this machine alone: who is asked runs the code of whoever saves a file here."""

    async def route(self, http: Exchange) -> None:
        """Answer a request.

        Raises:
            FrontendError: what is then the answer.
        """
        try:
            refuse_pages(http.scope, http.headers, None, keyed=False)
        except ForbiddenError:
            found = http.header(b"origin") or http.header(b"host")
            raise ForbiddenError(f"{found} is not this machine; ask {HOST} yourself") from None
        await super().route(http)


class _Uncounted:
    """Takes what the application does; each request is told in a line."""

    def responded(self, status: int) -> None:
        """Count nothing."""


def _line(of: Access) -> str:
    return f"{of.method} {of.target} {of.status or 'left'} {of.seconds * 1000:.1f} ms"


@contextlib.contextmanager
def _cut_streams_untold() -> Iterator[None]:
    """Meanwhile uvicorn does not tell of streams that were cut, which is how they end whose model failed."""

    def is_other(record: logging.LogRecord) -> bool:
        return not (record.exc_info and isinstance(record.exc_info[1], FrontendError))

    logger = logging.getLogger("uvicorn.error")
    logger.addFilter(is_other)
    try:
        yield
    finally:
        logger.removeFilter(is_other)
