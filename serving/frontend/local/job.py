"""A request on its way: from its arrival until the last part of its answer."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Final

from serving.frontend.engine import Answer, Priority, Timings
from serving.frontend.errors import FrontendError, InternalError
from serving.frontend.local.models.model import DefaultAnswer
from serving.protocol import ATTEMPT, DEADLINE, PredictionItem, Request

#: Header of an item: ``true`` if the worker sends a further part of its answer, which no client sees.
STREAM_NEXT: Final = "ts_stream_next"
# Bytes of a streamed answer that its client has not taken. Who is that far behind does not read.
_MAX_UNREAD = 16 * 1024 * 1024


class Job:
    """A request and whoever waits for its answer.

    Attributes:
        request: what the worker is to see.
        size: bytes of its parameters.
        arrived: by the monotonic clock: uvloop's own counts whole milliseconds.
        deadline: of the client's, on the loop's clock; None without one.
        priority: among those that wait.
        default: what is answered where the model is too late; None where that is an error.
        answer: what the client gets.
        parts: of a streamed answer, once its first part was sent.
        batch: requests that were sent with it, itself included.
        sent: when it was sent to a worker, by the monotonic clock.
        attempt: which sending that was; 0 before the first.
        until: when its client has given up, by the monotonic clock; None if that is not known.
        deaths: workers that died of it, each counted twice, or with it and others, counted once.
        alone: whether it shares no batch: a description, which handlers tell by the first request of a batch.
        shadow: whether it is a copy, whose answer nobody sees.
        spared: whether another version answers it where this one cannot take it.
        timer: of the deadline.
    """

    __slots__ = (
        "alone",
        "answer",
        "arrived",
        "attempt",
        "batch",
        "deadline",
        "deaths",
        "default",
        "parts",
        "priority",
        "request",
        "sent",
        "shadow",
        "size",
        "spared",
        "timer",
        "until",
    )

    def __init__(
        self,
        request: Request,
        loop: asyncio.AbstractEventLoop,
        *,
        deadline: float | None = None,
        priority: Priority = Priority.NORMAL,
        default: DefaultAnswer | None = None,
        shadow: bool = False,
        spared: bool = False,
    ) -> None:
        self.request = request
        self.size = 0
        for parameter in request.parameters:
            self.size += len(parameter.value)
        self.arrived = time.monotonic()
        self.deadline = deadline
        self.priority = priority
        self.default = default
        self.answer: asyncio.Future[Answer] = loop.create_future()
        self.parts: Parts | None = None
        self.batch = 1
        self.sent = 0.0
        self.attempt = 0
        self.until = None if deadline is None else self.arrived + deadline - loop.time()
        self.deaths = 0
        self.shadow = shadow
        self.spared = spared
        self.alone = request.headers.get("describe") == "True"
        self.timer: asyncio.TimerHandle | None = None

    @property
    def done(self) -> bool:
        """Whether nobody waits for a first answer any more: it has one, or its client has left."""
        return self.answer.done()

    @property
    def begun(self) -> bool:
        """Whether a part of its answer has left."""
        return self.parts is not None

    @property
    def over(self) -> bool:
        """Whether all of its answer has come, or nobody waits for it any more."""
        return self.shadow or (self.answer.done() and (self.parts is None or self.parts.left))

    def wait_until(self, end: float) -> None:
        """Take note that its client waits no longer than that, by the monotonic clock."""
        self.until = end if self.until is None else min(self.until, end)

    def begin(self, now: float, batch: int, limit_s: float) -> None:
        """Take note that a worker gets it; only a default answer still has a deadline then.

        Args:
            now: by the monotonic clock.
            batch: requests that are sent with it, itself included.
            limit_s: seconds that the worker may take.
        """
        self.sent, self.batch = now, batch
        self.attempt += 1
        if self.default is None:
            self.forget_timer()
        if self.attempt > 1 or self.until is not None:
            self._tell(now + limit_s)

    def _tell(self, end: float) -> None:
        """Let the worker know what is beside the usual."""
        told = {}
        if self.until is not None:
            told[DEADLINE] = repr(min(self.until, end))
        if self.attempt > 1:
            told[ATTEMPT] = str(self.attempt)
        self.request = replace(self.request, headers=self.request.headers | told)

    @property
    def timings(self) -> Timings:
        """Where the time went until now, when (a part of) the answer has come."""
        return Timings(self.sent - self.arrived, time.monotonic() - self.sent, self.batch)

    def take(self, item: PredictionItem, version: str = "", timings: Timings | None = None) -> bool:
        """Give an answer, or a part of one, to who waits for it; say whether more will come.

        Args:
            item: of the worker's reply.
            version: that answers; of the first part.
            timings: of the first part.
        """
        headers = item.headers
        flag = headers.get(STREAM_NEXT)
        more = flag == "true"
        body = item.body if isinstance(item.body, (bytes, bytearray)) else bytes(item.body)
        if self.parts is not None:
            self.parts.feed(body)
            if not more:
                self.parts.trailers.update(headers)
                self.parts.end()
            return more
        if flag is not None:
            headers = {name: value for name, value in headers.items() if name != STREAM_NEXT}
        if more:
            self.parts = Parts()
        if not self.answer.done():
            answer = Answer(item.status, item.phrase, item.content_type, headers, body, self.parts, version, timings)
            if self.parts is not None:
                answer.trailers = self.parts.trailers
            self.answer.set_result(answer)
        elif self.parts is not None:
            self.parts.end()  # the client has left
        return more

    def fail(self, error: FrontendError) -> None:
        """End it with an error; a stream is cut."""
        if self.parts is not None:
            self.parts.fail(error)
        elif not self.answer.done():
            self.answer.set_exception(error)

    def forget_timer(self) -> None:
        """Stop the clock of the deadline."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None


class Parts(AsyncIterator[bytes]):
    """The further parts of a streamed answer, from a worker that does not wait to a client that may be slow.

    Attributes:
        trailers: headers of the last part.
    """

    def __init__(self) -> None:
        self.trailers: dict[str, str] = {}
        self._parts: deque[bytes | bytearray] = deque()
        self._unread = 0
        self._come = asyncio.Event()
        self._ended = False
        self._error: FrontendError | None = None

    def feed(self, part: bytes | bytearray) -> None:
        """Take a part. A client too far behind loses the rest: its stream ends in an error."""
        if self._ended or not part:
            return
        self._unread += len(part)
        if self._unread > _MAX_UNREAD:
            self._parts.clear()
            self.fail(InternalError(f"the client has not read {_MAX_UNREAD} bytes of a streamed answer"))
            return
        self._parts.append(part)
        self._come.set()

    def end(self) -> None:
        """Take note that there are no more."""
        self._ended = True
        self._come.set()

    def fail(self, error: FrontendError) -> None:
        """Take note that the rest will not come."""
        if not self._ended:
            self._error = error
            self.end()

    @property
    def left(self) -> bool:
        """Whether nothing more is taken: it has ended, or its reader has gone."""
        return self._ended

    async def aclose(self) -> None:
        """Take no more: the reader has gone."""
        self._parts.clear()
        self._ended = True

    async def __anext__(self) -> bytes:
        while not self._parts:
            if self._ended:
                if self._error is not None:
                    raise self._error
                raise StopAsyncIteration
            self._come.clear()
            await self._come.wait()
        part = self._parts.popleft()
        self._unread -= len(part)
        return bytes(part)
