"""Sending a load and noting the answers, on one event loop."""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, Final, cast

from serving.bench.loads import Load, Place
from serving.bench.tally import Figures, Second, Tally
from serving.bench.wire.clock import Alarm
from serving.bench.wire.reading import AnswerReader, BadAnswerError
from serving.errors import INVALID_KEY

_LOOK_S: Final = 0.1  # how often it is looked whether an answer takes too long
_TELL_S: Final = 1.0
_STOP_S: Final = 1.0
_AGAIN_S: Final = 0.1  # after a connection that could not be made

#: Kinds of errors besides ``HTTP 503`` and its like.
TIMEOUT: Final = "no answer in time"
NOT_SENT: Final = "not sent in time: every connection was busy"
CLOSED: Final = "the connection was closed"
REFUSED: Final = "no connection"
UNREADABLE: Final = "an answer that cannot be read"
#: It ends the load: no request after it has a better key.
KEY: Final = "the key is not taken any more"


class Link(asyncio.Protocol):
    """One connection, with at most one request under way.

    Attributes:
        intended: when the request under way was to begin; `sent` when it did, 0 for none under way.
    """

    __slots__ = ("_part_at", "_reader", "_sending", "intended", "sent", "transport")

    transport: asyncio.Transport

    def __init__(self, sending: Sending) -> None:
        self._sending = sending
        self._reader = AnswerReader()
        self.intended = self.sent = self._part_at = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take part."""
        self.transport = cast("asyncio.Transport", transport)  # uvloop's are none of asyncio's classes
        self._sending.made(self)

    def begin(self, intended: float) -> None:
        """Send the next request."""
        self.intended = intended
        self.sent = time.monotonic()
        self._part_at = 0.0
        self._reader.clear()
        self.transport.write(self._sending.next_request())

    def data_received(self, data: bytes) -> None:
        """Take in a part of an answer."""
        now = time.monotonic()
        if not self.sent:
            self.end()  # an answer to nothing
            return
        reader = self._reader
        try:
            complete = reader.feed(data)
        except BadAnswerError as error:
            self.end(UNREADABLE, str(error))
            return
        if reader.parts and not self._part_at:
            self._part_at = now
        if not complete:
            return
        self.sent = 0.0
        self._note(now)
        if reader.closes:
            self.end()
        else:
            self._sending.free(self, now)

    def _note(self, now: float) -> None:
        reader, tally = self._reader, self._sending.tally
        if 200 <= reader.status < 300:
            tally.answered(now - self.intended, in_time=now <= self._sending.end, timing=reader.timing)
            if self._part_at:
                tally.firsts.add(self._part_at - self.intended)
                tally.parts += reader.parts
        else:
            kind, message = failure_of(reader.status, reader.kept)
            tally.failed(kind, message)
            if kind == KEY:
                self._sending.stop()

    def connection_lost(self, exc: Exception | None) -> None:
        """Note that the connection is gone, and with it the request under way."""
        if self.sent:
            self._sending.tally.failed(CLOSED, str(exc or ""))
            self.sent = 0.0
        self._sending.gone(self)

    def end(self, kind: str = "", message: str = "") -> None:
        """Close the connection; if a kind is named, the request under way has failed so."""
        if kind:
            self._sending.tally.failed(kind, message)
        self.sent = 0.0
        self.transport.abort()


def failure_of(status: int, body: bytes) -> tuple[str, str]:
    """Return the kind of an error, and its message: of TorchServe's JSON, or the text of the body."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        document = None
    kind = f"HTTP {status}"
    if isinstance(document, dict) and isinstance(document.get("message"), str):
        return KEY if document.get("type") == INVALID_KEY else kind, document["message"]
    return kind, body.decode("utf-8", "replace").strip()


class Sending:
    """A load under way.

    Attributes:
        tally: of the second that runs.
        begun: when the first one may begin; end: when no more do.

    Args:
        load: what to send.
        tell: called with each second that is over.
    """

    def __init__(self, load: Load, tell: Callable[[Second], None] = lambda _: None) -> None:
        self.load = load
        self.tally = Tally(load.slo_s)
        self.begun = self.end = 0.0
        self._tell = tell
        self._total = Tally(load.slo_s)
        self._turn = 0
        self._links: set[Link] = set()
        self._opening: set[asyncio.Task[None]] = set()
        self._idle: list[Link] = []
        self._waiting: deque[float] = deque()  # when requests without a connection were to begin
        self._starts = load.starts()
        self._next = next(self._starts, None)
        self._done = asyncio.Event()
        self._stopped = self._tried = False
        self._ssl = tls_of(load.place)
        self._told = 0.0
        self._core = 0.0

    def stop(self) -> None:
        """Begin no more requests and wait no longer than a moment for answers: `run` returns what there is."""
        if not self._stopped:
            self._stopped = True
            self.end = min(self.end, time.monotonic())
            self._next = None
            self._waiting.clear()
            asyncio.get_running_loop().call_later(_STOP_S, self._done.set)
            self._look_whether_done()

    async def run(self) -> Figures:
        """Send the load and return the figures."""
        loop = asyncio.get_running_loop()
        self.begun = self._told = time.monotonic()
        self.end = self.begun + (0.0 if self._stopped else self.load.seconds)
        taken = time.process_time()
        alarm = Alarm(loop, self._start_due)
        self._alarm = alarm
        if self.load.rate is None:
            for _ in range(self.load.connections):
                self._open(self.begun)
        else:
            self._start_due()
        watch = loop.create_task(self._watch(taken))
        try:
            await self._done.wait()
        finally:
            watch.cancel()
            alarm.close()
            for task in self._opening:
                task.cancel()
            for link in self._links:
                link.transport.abort()
        self._say(time.monotonic())
        seconds = max(1e-9, self.end - self.begun)
        if not self._core:
            self._core = (time.process_time() - taken) / seconds
        return self._total.figures(seconds, self._core)

    def next_request(self) -> bytes:
        """Return the next request in turn."""
        requests = self.load.requests
        self._turn = turn = self._turn + 1 if self._turn + 1 < len(requests) else 0
        return requests[turn - 1]

    def made(self, link: Link) -> None:
        """Count a connection in."""
        self._links.add(link)
        if self.load.rate is None and not self._tried and not self._stopped:
            # The time of a closed loop begins here: a short one would be over before a busy machine has connected.
            self._core = 0.0
            self.begun = self._told = time.monotonic()
            self.end = self.begun + self.load.seconds
        self._tried = True

    def free(self, link: Link, now: float) -> None:
        """Give a connection that has its answer something to do."""
        if self.load.rate is None:
            if now < self.end and not self._stopped:
                link.begin(now)
                return
        elif self._waiting:
            link.begin(self._waiting.popleft())
            return
        self._idle.append(link)
        if now >= self.end:
            self._look_whether_done()

    def gone(self, link: Link) -> None:
        """Do without a connection that is closed; open another one for what there is to do."""
        self._links.discard(link)
        if link in self._idle:
            self._idle.remove(link)
        now = time.monotonic()
        if self._stopped or (self.load.rate is None and now >= self.end):
            self._look_whether_done()
        elif self.load.rate is None:
            self._open(now)
        elif self._waiting:
            self._open(self._waiting.popleft())
        else:
            self._look_whether_done()

    def _start_due(self) -> None:
        """Begin the requests whose time has come."""
        now = time.monotonic()
        while self._next is not None and self.begun + self._next <= now:
            intended = self.begun + self._next
            self._next = next(self._starts, None)
            if self._idle:
                self._idle.pop().begin(intended)  # the one that was used last
            elif len(self._links) + len(self._opening) < self.load.connections:
                self._open(intended)
            else:
                self._waiting.append(intended)
        if self._next is not None:
            self._alarm.set(self.begun + self._next)

    def _open(self, intended: float) -> None:
        """Open a connection for a request."""
        task = asyncio.get_running_loop().create_task(self._connect(intended))
        self._opening.add(task)
        task.add_done_callback(self._opened)

    def _opened(self, task: asyncio.Task[None]) -> None:
        self._opening.discard(task)
        self._look_whether_done()

    async def _connect(self, intended: float) -> None:
        loop, place, tls = asyncio.get_running_loop(), self.load.place, self._ssl
        name = place.host if tls else None
        making: Coroutine[Any, Any, tuple[Any, Link]]
        if place.socket_path:
            making = loop.create_unix_connection(lambda: Link(self), place.socket_path, ssl=tls, server_hostname=name)
        else:
            making = loop.create_connection(lambda: Link(self), place.host, place.port, ssl=tls, server_hostname=name)
        try:
            _, link = await asyncio.wait_for(making, self.load.timeout_s)
        except (OSError, asyncio.TimeoutError) as error:
            self._tried = True
            self.tally.failed(REFUSED, str(error) or "it took too long")
            await asyncio.sleep(_AGAIN_S)
            now = time.monotonic()
            if self.load.rate is None and now < self.end:
                self._open(now)
            elif self._waiting and not self._stopped:
                self._open(self._waiting.popleft())
            return
        if link.transport.is_closing():
            self.tally.failed(CLOSED)
            return
        if self._stopped or (self.load.rate is None and time.monotonic() >= self.end):
            self._idle.append(link)
            return
        link.begin(intended)

    def _look_whether_done(self) -> None:
        """End the load when its time is over and nothing is under way."""
        over = self._next is None and (self._stopped or time.monotonic() >= self.end)
        if over and not self._waiting and not self._opening and not any(link.sent for link in self._links):
            self._done.set()

    async def _watch(self, taken: float) -> None:
        """Tell of each second, and end what takes too long."""
        while True:
            await asyncio.sleep(_LOOK_S)
            now = time.monotonic()
            if not self._core and now >= self.end:
                self._core = (time.process_time() - taken) / max(1e-9, now - self.begun)
            for link in [one for one in self._links if one.sent and now - one.sent > self.load.timeout_s]:
                link.end(TIMEOUT)
            while self._waiting and now - self._waiting[0] > self.load.timeout_s:
                self._waiting.popleft()
                self.tally.failed(NOT_SENT)
            if now >= self._told + _TELL_S:
                self._told += _TELL_S * ((now - self._told) // _TELL_S)
                self._say(now)
            self._look_whether_done()

    def _say(self, now: float) -> None:
        busy = sum(1 for link in self._links if link.sent)
        self._tell(self.tally.second(round(now - self.begun, 1), busy, len(self._waiting)))
        self._total.merge(self.tally)
        self.tally = Tally(self.load.slo_s)


def tls_of(place: Place) -> ssl.SSLContext | None:
    """Return how connections are encrypted; None for not at all."""
    if not place.tls:
        return None
    context = ssl.create_default_context(cafile=place.authorities)
    if place.authorities is None:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
