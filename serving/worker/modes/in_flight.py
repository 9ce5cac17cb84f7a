"""The requests that the asynchronous mode has taken and not answered yet, and all that is sent for them.

An answer, a part of one and the end of its time come from different threads. Each request has exactly one end here, and
nothing is sent for it afterwards: the frontend would close the connection.
"""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf

from serving.protocol import PredictionItem, Reply, Request, encode_reply
from serving.worker.answering import open_inference
from serving.worker.answering.replies import STREAM_NEXT, SUCCESS, Answer, Failure, failure_item
from serving.worker.modes.outbox import Outbox

# Far above what a model runs at once, far below what would fill the memory with waiting requests.
_MAX_IN_FLIGHT = 1000
# Bytes of parts of answers that the frontend has not taken yet; a thread that sends more then waits.
_MAX_UNSENT = 64 * 1024 * 1024


@dataclass(eq=False)
class Call:
    """A request in flight.

    Attributes:
        deadline: when it is given up, on the monotonic clock; never before the handler is called.
        streamed: parts of its answer were sent.
    """

    request: Request
    deadline: float = inf
    task: asyncio.Task[None] | None = None
    streamed: bool = False
    answered: bool = False


class InFlight:
    """The requests in flight, for any thread.

    Args:
        sock: of the frontend.
        limit_s: seconds that the handler has for an answer, and for each further part of it.

    Attributes:
        some: set while there are any, until `late` has found none.
    """

    def __init__(self, sock: socket.socket, limit_s: float) -> None:
        self.limit_s = limit_s
        self.some = threading.Event()
        self._outbox = Outbox(sock)
        self._calls: dict[str, Call] = {}
        self._lock = threading.Lock()  # of the calls, and of the order of what is sent
        self._slots = threading.Semaphore(_MAX_IN_FLIGHT)

    def add(self, request: Request) -> Call:
        """Take a request; wait while there are too many."""
        self._slots.acquire()
        call = Call(request)
        with self._lock:
            self._calls[request.request_id] = call
            self.some.set()
        return call

    def give_time(self, call: Call) -> None:
        """Give the handler the whole time from now on, for the answer or for a further part of it."""
        call.deadline = time.monotonic() + self.limit_s

    def finish(self, call: Call, answer: Answer) -> bool:
        """Send the answer, or the last part of it; False if the request has been answered already."""
        request = call.request
        with self._lock:
            if call.answered:
                return False
            call.answered = True
            if self._calls.get(request.request_id) is call:
                del self._calls[request.request_id]
            items = last_items(request, answer, streamed=call.streamed)
            self._outbox.put(encode_reply(Reply(200, SUCCESS, items)))
        self._slots.release()
        return True

    def send_parts(self, items: Sequence[PredictionItem]) -> None:
        """Send parts of answers; drop those for a request that has its answer already, because it took too long."""
        with self._lock:
            parts = []
            for item in items:
                if call := self._calls.get(item.request_id):
                    call.streamed = True
                    self.give_time(call)
                    parts.append(item)
            if parts:
                self._outbox.put(encode_reply(Reply(200, SUCCESS, tuple(parts))))
        self._outbox.wait(_MAX_UNSENT)

    def late(self, now: float, *, may_rest: bool) -> list[Call]:
        """Return those whose time is over at ``now``. With ``may_rest``, clear `some` if there are none at all."""
        with self._lock:
            if may_rest and not self._calls:
                self.some.clear()
            return [call for call in self._calls.values() if call.deadline <= now]

    def all(self) -> list[Call]:
        """Return every request in flight."""
        with self._lock:
            return list(self._calls.values())

    def flush(self, timeout: float) -> None:
        """Wait, for ``timeout`` seconds at most, until the frontend has taken all that was sent."""
        self._outbox.wait(0, timeout)


def last_items(request: Request, answer: Answer, *, streamed: bool) -> tuple[PredictionItem, ...]:
    """Return the items that end a request: the frontend forgets one only at an item with ``ts_stream_next: false``.

    That alone would be an HTTP body without a head if no part was sent before it. So the answer then is an ordinary
    item, and an empty one ends the request; the frontend cannot write it, for its HTTP encoder is between two answers,
    and drops it. Both are in one frame, for nothing else may be written to that client in between.

    Args:
        request: as the frontend sent it; gRPC has no headers.
        answer: the whole of it, or its last part.
        streamed: parts were sent before.
    """
    item = failure_item(request.request_id, answer) if isinstance(answer, Failure) else answer
    if not streamed:
        item = open_inference.readable(request, item)
    headers = {name: text for name, text in item.headers.items() if name != STREAM_NEXT}
    end = {STREAM_NEXT: "false"}
    if streamed or request.is_grpc or _is_description(request):
        return (replace(item, headers=end | headers),)
    return replace(item, headers=headers), PredictionItem(request.request_id, b"", headers=end)


def _is_description(request: Request) -> bool:
    """Return whether it is one of the management API: each item would be an HTTP answer, whatever its headers say.

    A client may send the header with a prediction, but that has a body, be it empty.
    """
    return request.headers.get("describe") == "True" and not request.parameters
