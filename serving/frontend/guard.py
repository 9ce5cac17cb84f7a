"""What a client may take its time for: uvicorn's HTTP protocol, with limits that uvicorn does not have.

uvicorn waits without end for a request's head and body, httptools takes a head of any length, and what is not read of
an answer stays in memory. Here a watch goes over all connections once a second and ends those of clients that are too
slow, so that a request in time pays nothing but the addition of two numbers. What is refused gets TorchServe's form of
an error.

The attributes of uvicorn's protocols that are used here are not documented. tests/serving/frontend/test_guard.py sends
real slow clients, and setup.py says which versions of uvicorn it was run with.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass
from http import HTTPStatus
from importlib import import_module
from typing import Any, Final

from uvicorn.protocols.http.flow_control import FlowControl

from serving.frontend.apps.answers import NO_CACHE, error_body, new_id, our_headers
from serving.frontend.errors import BadRequestError, FrontendError, RequestTimeoutError, UnavailableError
from serving.frontend.responses import InOnePiece

#: Bytes of a request's line and headers.
HEAD_BYTES: Final = 64 * 1024
#: Bytes that are read at once, but for those of a body whose length is known: what they hold of requests is made into
#: objects, whoever waits for their answers.
PART_BYTES: Final = 16 * 1024
WATCH_S: Final = 1.0
#: Key of a scope: the names of its headers as they were sent, in their order; not there with h11.
NAMES: Final = "torchmar.names"
_UPGRADE: Final = re.compile(rb"\r\nupgrade[ \t]*:", re.IGNORECASE)


@dataclass(frozen=True)
class Patience:
    """How long a client is waited for, seconds.

    Attributes:
        idle_s: for a request, after the one before or the connection.
        head_s: for a request's line and headers, from their first byte on.
        body_s: in which a body must gain at least ``body_rate``.
        body_rate: bytes a second.
        reading_s: for a client that takes nothing of its answer.
    """

    # More than the minute after which the usual load balancers close.
    idle_s: float = 75.0
    head_s: float = 20.0
    body_s: float = 20.0
    body_rate: float = 1024.0
    reading_s: float = 60.0


class HeadTooLargeError(FrontendError):
    """A request's line and headers are longer than anybody's."""

    status, kind = 431, "RequestHeaderFieldsTooLargeException"


class _Flow(FlowControl):
    """Lets nothing more come while something that has come is unread, whoever asks for it."""

    def __init__(self, transport: Any, unread: bytearray) -> None:
        super().__init__(transport)
        self._unread = unread

    def resume_reading(self) -> None:
        if not self._unread:
            super().resume_reading()


class _Guard:
    """Beside one of uvicorn's protocols: counts what comes, and answers what cannot be read."""

    # Of uvicorn's, in either implementation.
    cycle: Any
    transport: Any
    flow: Any
    timeout_keep_alive_task: Any
    pipeline: Any  # of httptools' alone; see `_OneByOne`

    one_too_many = False  # set before the connection is made
    received = 0
    taken = 0
    waited_for: tuple[str, object, int] | None = None
    since = 0.0
    _head = 0
    _body = 0  # bytes of it that are still to come, by what its request says
    _refusal: FrontendError | None = None

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._unread = bytearray()

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)  # type: ignore[misc]
        self.flow = _Flow(transport, self._unread)
        if self.one_too_many:
            self.refuse(UnavailableError("The server has as many connections as it may have; try again later."))

    def data_received(self, data: bytes) -> None:
        """Read what has come, a part at a time, and no further while requests wait for their turn.

        uvicorn makes an object of each request that it has read: of a quarter of a megabyte of the shortest ones
        30 MB.
        """
        if self._unread or len(data) > max(PART_BYTES, self._body):
            self._unread += data
            self._read_on()
        else:
            self._read(data)

    def _read_on(self) -> None:
        while self._unread and not self.transport.is_closing():
            if self.pipeline:
                self.flow.pause_reading()
                return
            part = bytes(self._unread[: max(PART_BYTES, self._body)])
            del self._unread[: len(part)]
            if not self._unread:
                self.flow.resume_reading()
            self._read(part)

    def on_response_complete(self) -> None:
        super().on_response_complete()  # type: ignore[misc]
        if self._refusal is not None:
            if not self.is_answering:
                self.refuse(self._refusal)
        elif self._unread:
            self._read_on()

    def _read(self, data: bytes) -> None:
        before = self.cycle
        in_head = before is None or not before.more_body
        had = 0 if in_head else len(before.body)
        self.received += len(data)
        if in_head and b"pgrade" in data:
            data = _without_upgrade(data)
        super().data_received(data)  # type: ignore[misc]
        cycle = self.cycle
        # What adds nothing to a body stands around its chunks, or behind it, and is kept, too.
        if cycle is before and (in_head or (cycle.more_body and len(cycle.body) == had)):
            self._head += len(data)
            if self._head >= HEAD_BYTES:
                self.refuse(HeadTooLargeError(f"The request's head is longer than {HEAD_BYTES} bytes."))
        else:
            self._head = 0
        if cycle is None or not cycle.more_body:
            self._body = 0
        elif cycle is before:
            self._body -= len(data)
        else:
            self._body = _length(cycle.scope["headers"]) - len(cycle.body)

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 (uvicorn's own words)
        self.refuse(BadRequestError("Invalid HTTP message."))

    def _unsupported_upgrade_warning(self) -> None:
        """Refuse another protocol that was asked for unseen: httptools has read no body, and reads nothing more."""
        if self.cycle is None:
            return
        self.cycle.keep_alive = False
        if any(name in (b"content-length", b"transfer-encoding") for name, _ in self.cycle.scope["headers"]):
            self.cycle.more_body = True
            self.refuse(BadRequestError("A request with a body cannot ask for another protocol."))

    @property
    def is_answering(self) -> bool:
        """Whether a request has come that has not been answered completely."""
        return self.cycle is not None and not self.cycle.response_complete

    @property
    def is_busy(self) -> bool:
        """Whether a request is answered, or one has begun to come."""
        return self.is_answering or self._head > 0

    def refuse(self, error: FrontendError) -> None:
        """End the connection, with an answer unless another one is on its way."""
        if self.transport.is_closing():
            return
        self._unread.clear()
        if self.pipeline or (self.is_answering and not self.cycle.more_body):
            # The requests before are good ones, and get their answers first; nothing more is read.
            self._refusal = error
            self.flow.pause_reading()
            return
        if self.is_answering:
            if self.cycle.response_started:
                self.transport.abort()
                return
            self.cycle.disconnected = True  # the application is told, and what it still sends goes nowhere
            self.cycle.message_event.set()
        self.transport.write(_response(error))
        self.transport.close()

    def check(self, now: float, patience: Patience) -> None:
        """End the connection if its client is too slow."""
        if self.transport is None:
            return
        wanted = self._awaited()
        if wanted != self.waited_for:
            self.waited_for, self.since, self.taken = wanted, now, self.received
            return
        if wanted is None:
            return
        kind, waited = wanted[0], now - self.since
        if kind == "idle" and waited > patience.idle_s:
            self.transport.close()
        elif kind == "head" and waited > patience.head_s:
            self.refuse(RequestTimeoutError(f"The request's head did not come in {patience.head_s:g} s."))
        elif kind == "body" and waited > patience.body_s:
            if self.received - self.taken < patience.body_rate * waited:
                self.refuse(RequestTimeoutError("The request's body comes too slowly."))
            self.since, self.taken = now, self.received
        elif kind == "reading" and waited > patience.reading_s:
            self.transport.abort()

    def _awaited(self) -> tuple[str, object, int] | None:
        """Return what the client is to do next, and of which request; None if it is not its turn."""
        if self.flow.write_paused or self.transport.is_closing():
            return "reading", id(self.cycle), self.transport.get_write_buffer_size()
        if not self.is_answering:
            if not self.received:
                return "idle", None, 0
            # Between two requests uvicorn's own timer runs, until something comes.
            return None if self.timeout_keep_alive_task is not None else ("head", id(self.cycle), 0)
        waits = self.flow.read_paused or self.cycle.waiting_for_100_continue
        return ("body", id(self.cycle), 0) if self.cycle.more_body and not waits else None


class _AsSent:
    """Beside httptools' protocol: keeps the names of headers as the client wrote them, for handlers see them so.

    What stands behind a body is no header of the request, which the application has begun with already.
    """

    cycle: Any
    kind: type[Any]
    scope: Any
    _names: list[bytes] | None = None
    _running: Any = None

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)  # type: ignore[misc]

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)  # type: ignore[misc]
        # uvicorn tells the request that came last, which may still wait for its turn.
        running = self._running
        if running is not None and not running.response_complete:
            running.disconnected = True
            running.message_event.set()

    def on_message_begin(self) -> None:
        super().on_message_begin()  # type: ignore[misc]
        self._names = self.scope[NAMES] = []

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._names is not None:
            self._names.append(name)
            super().on_header(name, value)  # type: ignore[misc]

    def on_headers_complete(self) -> None:
        self._names = None
        before = self.cycle
        super().on_headers_complete()  # type: ignore[misc]
        if self.cycle is not before:
            self.cycle.__class__ = self.kind  # its task has not begun


class _OneByOne:
    """Beside h11's protocol: gives it nothing of a request as long as the one before is answered.

    h11 would keep it, however much it is, and what it keeps would be taken for one long head.
    """

    # Of `_Guard`.
    cycle: Any
    flow: Any
    is_answering: bool
    _unread: bytearray

    @property
    def pipeline(self) -> tuple[Any, ...]:
        """The request for whose answer the others wait, as httptools' protocol has those that wait."""
        return (self.cycle,) if self.is_answering and not self.cycle.more_body else ()

    def data_received(self, data: bytes) -> None:
        if self.pipeline:
            self._unread += data
            self.flow.pause_reading()
        else:
            super().data_received(data)  # type: ignore[misc]


def _length(headers: list[tuple[bytes, bytes]]) -> int:
    """Return the length of a body; 0 where it comes in chunks. The parser has seen that it is a number."""
    return next((int(value) for name, value in headers if name == b"content-length"), 0)


def _without_upgrade(data: bytes) -> bytes:
    """Rename the header in which a client, such as Java's, asks for HTTP/2.

    A server may pass over it (RFC 9110, 7.8). httptools does not: it takes the body for that other protocol.
    """
    head, end, rest = data.partition(b"\r\n\r\n")
    return _UPGRADE.sub(b"\r\nx-upgrade:", head) + end + rest


def _response(error: FrontendError) -> bytes:
    body = error_body(error)
    headers = [*our_headers(new_id(), NO_CACHE, len(body)), (b"connection", b"close")]
    line = f"HTTP/1.1 {error.status} {HTTPStatus(error.status).phrase}\r\n".encode()
    return line + b"".join(b"%s: %s\r\n" % pair for pair in headers) + b"\r\n" + body


def guarded(implementation: str | None = None) -> type[asyncio.Protocol]:
    """uvicorn's HTTP protocol with limits.

    Args:
        implementation: ``httptools`` or ``h11``; None for the first where it is installed, else the second.

    Raises:
        ImportError: it is not there.
    """
    if implementation in (None, "httptools"):
        try:
            module = import_module("uvicorn.protocols.http.httptools_impl")
        except ImportError:
            if implementation is not None:
                raise
        else:
            kind = type("Cycle", (InOnePiece, module.RequestResponseCycle), {})
            return type("GuardedHttpToolsProtocol", (_Guard, _AsSent, module.HttpToolsProtocol), {"kind": kind})
    module = import_module("uvicorn.protocols.http.h11_impl")
    return type("GuardedH11Protocol", (_OneByOne, _Guard, module.H11Protocol), {})


async def watch(connections: Iterable[Any], patience: Patience, every_s: float = WATCH_S) -> None:
    """End slow clients' connections, until it is cancelled.

    Args:
        connections: of a server, all guarded; looked at anew each time.
    """
    while True:
        await asyncio.sleep(every_s)
        now = time.monotonic()
        for connection in list(connections):
            connection.check(now, patience)
