"""A server: applications at their addresses in one event loop, from the first signal of readiness to the drain.

The order of its end, as `Server._drain` has it: load balancers are told, and clients that keep their connection are
told to end it; nobody is accepted at the inference API any more; what was taken is answered; idle connections are
closed; the workers end; the management and metrics APIs follow. A second signal ends it at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import resource
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, Protocol

import uvicorn
from uvicorn.server import ServerState

from archive_tool.errors import InputError
from serving.client.transport import Address
from serving.frontend import listening
from serving.frontend.apps.keys import Kind
from serving.frontend.entrance import App, Entrance, Sampled, logged
from serving.frontend.guard import WATCH_S, Patience, guarded, watch
from serving.frontend.joined import APIS, Api, joined
from serving.frontend.settings import Settings

if TYPE_CHECKING:
    from serving.frontend.assembly import Parts  # with all that a server of many models needs

#: What the names of APIs over gRPC begin with.
GRPC: Final = "grpc_"
GRPC_APIS: Final[tuple[Kind, ...]] = ("inference", "management")
#: Seconds that answers may take when the server ends: less than `torchmar stop` waits.
GRACE_S: Final = 20
#: Seconds in which clients are told to close their connections, if there are any.
NOTICE_S: Final = 1
_HANDSHAKE_S: Final = 20.0
_LOOK_S: Final = 0.02
#: Descriptors that are left for other things than connections, or half of all where there are few.
_KEPT: Final = 8192
#: Seconds for those who are just shaking hands, and for the last bytes of answers.
_LAST_S: Final = 0.2
_CLOSING_S: Final = 2.0

log = logging.getLogger(__name__)


class Ear(Protocol):
    """What a server listens with at an address: `Listener` for HTTP, another one for gRPC."""

    place: listening.Place

    async def open(self) -> None:
        """Begin to accept."""

    @property
    def is_open(self) -> bool:
        """Whether it accepts."""

    @property
    def is_asked(self) -> bool:
        """Whether there are clients."""

    @property
    def is_busy(self) -> bool:
        """Whether something has been asked that has not been answered."""

    def renew_certificate(self) -> None:
        """Take note that the place's certificate was read anew."""

    def announce_end(self) -> None:
        """Tell load balancers and clients of the end."""

    async def accept_no_more(self) -> None:
        """Close the listening socket."""

    async def close_idle(self) -> None:
        """Close the connections on which nothing is asked."""

    async def close(self) -> None:
        """Close everything."""


def most_connections() -> int:
    """Return how many connections there may be at an address, by the limit of open files: each is one."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return sys.maxsize if limit == resource.RLIM_INFINITY else limit - min(_KEPT, limit // 2)


class Listener:
    """An application at an address, by uvicorn's HTTP protocol.

    Not by `uvicorn.Server`: that has no time limit for TLS handshakes, and closes idle connections first when it ends.

    Args:
        place: that is taken already.
        app: to be asked there.
        patience: with its clients.
        parser: ``httptools`` or ``h11``; None for the first that is installed.
    """

    def __init__(self, place: listening.Place, app: App, patience: Patience, parser: str | None = None) -> None:
        self.place = place
        self._entrance, self._patience = Entrance(app), patience
        self._config = uvicorn.Config(
            self._entrance,
            interface="asgi3",
            http=guarded(parser),
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            date_header=False,
            timeout_keep_alive=int(patience.idle_s),
        )
        self._config.load()
        self._state = ServerState()
        self._most = most_connections()
        self._told = False
        self._server: asyncio.Server | None = None
        self._watch: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Begin to accept.

        Raises:
            PortInUseError, StartError: somebody else listens there by now, or it cannot be had.
        """
        loop = asyncio.get_running_loop()
        options: dict[str, Any] = {"sock": self.place.sock, "ssl": self.place.tls, "backlog": listening.BACKLOG}
        if self.place.tls is not None:
            options["ssl_handshake_timeout"] = _HANDSHAKE_S

        def protocol() -> asyncio.Protocol:
            made: Callable[..., Any] = self._config.http_protocol_class
            one: asyncio.Protocol = made(config=self._config, server_state=self._state, app_state={}, _loop=loop)
            if len(self._state.connections) >= self._most:
                self._refuse(one)
            return one

        create = loop.create_unix_server if self.place.address.socket_path else loop.create_server
        try:
            self._server = await create(protocol, **options)
        except OSError as error:
            raise listening.refusal(error, self.place.address, self.place.key) from error
        every_s = min(WATCH_S, self._patience.head_s / 4)
        self._watch = loop.create_task(watch(self._state.connections, self._patience, every_s))

    def _refuse(self, one: Any) -> None:
        """Answer a new connection at once, and end it: without a descriptor no worker could be started any more."""
        one.one_too_many = True
        if not self._told:
            self._told = True
            log.warning("New connections are refused: there are %d, for which the limit of open files is", self._most)

    @property
    def is_open(self) -> bool:
        """Whether it accepts."""
        return self._server is not None

    @property
    def connections(self) -> list[Any]:
        """Those that are open."""
        return list(self._state.connections)

    @property
    def is_asked(self) -> bool:
        """Whether there are connections."""
        return bool(self._state.connections)

    def renew_certificate(self) -> None:
        """Nothing: the place's context has it."""

    @property
    def is_busy(self) -> bool:
        """Whether a request has come, or begun to come, that has not been answered."""
        return any(connection.is_busy for connection in self.connections)

    def announce_end(self) -> None:
        """Tell load balancers that this is no longer ready, and clients to close their connections."""
        self._entrance.drain()
        self._state.default_headers = [(b"connection", b"close")]
        for connection in self.connections:
            if connection.is_answering:
                connection.shutdown()  # after the answer

    async def accept_no_more(self) -> None:
        """Close the listening socket; who has connected is still accepted."""
        if self._server is None:
            return
        self.place.turn_away()
        await asyncio.sleep(_LAST_S)
        self._server.close()
        self._server = None

    async def close_idle(self) -> None:
        """Close the connections on which nothing is asked."""
        await asyncio.sleep(0)  # what has come is read first
        for connection in self.connections:
            if not connection.is_busy:
                connection.shutdown()

    async def close(self) -> None:
        """Close everything; answers that are just being sent get a moment."""
        await self.accept_no_more()
        await self.close_idle()
        deadline = time.monotonic() + _CLOSING_S
        while self._state.connections and time.monotonic() < deadline:
            await asyncio.sleep(_LOOK_S)
        if self._watch is not None:
            self._watch.cancel()
        for connection in self.connections:
            connection.transport.abort()


def addresses(settings: Settings) -> dict[Api, Address]:
    """Where each API is, as far as it is on."""
    found: dict[Api, Address] = {"inference": settings.inference_address, "management": settings.management_address}
    if settings.enable_metrics_api:
        found["metrics"] = settings.metrics_address
    return found


def on_single_port(settings: Settings) -> Settings:
    """Move all APIs of a server to the address of the inference API."""
    one = settings.inference_address
    return replace(settings, management_address=one, metrics_address=one)


@contextlib.contextmanager
def places(settings: Settings) -> Iterator[dict[str, listening.Place]]:
    """Take the addresses of the APIs, those of gRPC under ``grpc_`` and their names; see `listening.taken`.

    Raises:
        InputError: HTTP and gRPC have the same address.
    """
    http: dict[str, Address] = dict(addresses(settings).items())
    keys = {api: f"{api}_address" for api in http}
    grpc = {f"{GRPC}{api}": address for api, address in listening.grpc_addresses(settings).items()}
    keys |= {api: f"{api}_port" for api in grpc}
    with listening.taken(settings, {keys[api]: address for api, address in {**http, **grpc}.items()}) as taken:
        found = {api: taken[key] for api, key in keys.items()}
        for api in grpc:
            if found[api] in [found[other] for other in http]:
                raise InputError(
                    f"{found[api].key} and {keys[api]} are one address, {found[api].address.text}; gRPC needs its own",
                    hint=f"change {keys[api]}",
                )
        yield found


class Server:
    """Runs the parts of a server at their addresses until a signal ends it.

    Args:
        settings: of the server.
        parts: of it.
        places: where each API is; several may have the same.
        access: takes what the access log has; None for none.
        patience: with clients.
    """

    def __init__(
        self,
        settings: Settings,
        parts: Parts,
        places: Mapping[str, listening.Place],
        access: Sampled | None = None,
        patience: Patience = Patience(),  # noqa: B008 (it is frozen)
    ) -> None:
        self._settings, self._engine, self._parts = settings, parts.engine, parts
        self._listeners: list[Ear] = []
        self._names: list[list[str]] = []
        for place in {id(place): place for place in places.values()}.values():
            names = [name for name in places if places[name] is place]
            over_grpc: list[Kind] = [api for api in GRPC_APIS if f"{GRPC}{api}" in names]
            if over_grpc and parts.grpc:
                self._listeners.append(parts.grpc(place, over_grpc, access))
            else:
                app = joined({api: parts.apps[api] for api in APIS if api in names})
                self._listeners.append(Listener(place, logged(app, access) if access else app, patience))
            self._names.append(names)
        # Read now: at the end nobody would see that one is none.
        self._grace_s = settings.number("torchmar_drain_grace", GRACE_S)
        self._notice_s = settings.number("torchmar_drain_notice", NOTICE_S)
        self._always_told = settings.text("torchmar_drain_notice") is not None
        self._ending: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._at_once = asyncio.Event()

    async def run(self) -> int:
        """Serve until a signal comes, and drain.

        Returns:
            The signal's number.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._signalled, number)
        if tls := {listener.place.tls for listener in self._listeners} - {None}:
            loop.add_signal_handler(signal.SIGHUP, self._renew_certificate, tls)
        beside = [loop.create_task(_kept(run)) for run in self._parts.beside]
        try:
            try:
                if await self._begin():
                    await self._ending
            except BaseException:
                await self._engine.drain(0.0)
                raise
            await self._drain()
        finally:
            for task in beside:
                task.cancel()
            for listener in self._listeners:
                await listener.close()
        return self._ending.result()

    async def _begin(self) -> bool:
        """Register the models, then listen: who gets an answer gets one of a server that knows its models.

        Returns:
            False if a signal came before.
        """
        beginning = asyncio.ensure_future(self._parts.begin())
        await asyncio.wait((beginning, self._ending), return_when=asyncio.FIRST_COMPLETED)
        if not beginning.done():
            beginning.cancel()
            await asyncio.wait((beginning,), timeout=_CLOSING_S)
            return False
        beginning.result()
        for listener, names in zip(self._listeners, self._names, strict=True):
            await listener.open()
            log.info("%s API bind to: %s", _title(names), listener.place.address.text)
        log.info("Model server started.")
        return True

    def _signalled(self, number: int) -> None:
        if self._ending.done():
            self._at_once.set()
            log.warning("Ends at once: a second signal (%s) has come.", signal.Signals(number).name)
        else:
            self._ending.set_result(number)
            log.info("Ends: %s has come.", signal.Signals(number).name)

    def _renew_certificate(self, tls: set[Any]) -> None:
        for context in tls:
            try:
                listening.load_certificate(context, self._settings)
            except InputError as error:
                log.error("The certificate was not read anew: %s", error)
                return
        for listener in self._listeners:
            listener.renew_certificate()
        log.info("The certificate was read anew.")

    async def _drain(self) -> None:
        if self._at_once.is_set():
            return
        for end in self._parts.ending:
            end()
        asked = {"inference", f"{GRPC}inference"}
        first = [one for one, names in zip(self._listeners, self._names, strict=True) if asked.intersection(names)]
        deadline = time.monotonic() + self._grace_s
        for listener in first:
            listener.announce_end()
        if any(listener.is_asked or (self._always_told and listener.is_open) for listener in first):
            deadline += self._notice_s
            await self._unless_at_once(asyncio.sleep(self._notice_s))
        for listener in first:
            await listener.accept_no_more()
        while any(one.is_busy for one in first) and time.monotonic() < deadline and not self._at_once.is_set():
            await asyncio.sleep(_LOOK_S)
        for listener in first:
            await listener.close_idle()
        await self._unless_at_once(self._engine.drain(max(0.0, deadline - time.monotonic())))

    async def _unless_at_once(self, doing: Awaitable[None]) -> None:
        """Wait for something, but no longer when a second signal comes."""
        task = asyncio.ensure_future(doing)
        hurry = asyncio.ensure_future(self._at_once.wait())
        await asyncio.wait((task, hurry), return_when=asyncio.FIRST_COMPLETED)
        hurry.cancel()
        if task.done():
            task.result()
        else:
            task.cancel()
            with suppress(asyncio.CancelledError, asyncio.TimeoutError):
                await asyncio.wait_for(task, _CLOSING_S)


def _title(names: Sequence[str]) -> str:
    """Name an address in the log, as ``Inference, management`` or ``gRPC inference``."""
    text = ", ".join(names).replace(GRPC, "gRPC ")
    return text if text.startswith("gRPC") else text.capitalize()


async def _kept(run: Callable[[], Awaitable[None]]) -> None:
    """Run something beside the server, which does not depend on it."""
    try:
        await run()
    except Exception:
        log.exception("Something that runs beside the server has failed")
