"""What every request passes first: the drain's answers, and the lines of the access log."""

from __future__ import annotations

import random
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

from serving.control.following.forms import Access
from serving.frontend.apps.answers import NO_CACHE, REQUEST_ID, json_body, new_id, our_headers
from serving.frontend.engine import Answer

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

#: Key of a scope: what the access log is to tell of the answer; not there where nobody asks.
DETAILS: Final = "torchmar.details"
#: What stands in the access log for the method of a call over gRPC.
GRPC: Final = "gRPC"
_FAILED: Final = 500
_DRAINING: Final = json_body({"status": "Draining"})


class Entrance:
    """An application in the place of which another one can be put while it is asked.

    It is no coroutine of its own: a request pays a call for it.

    Attributes:
        app: whom requests are passed to.
    """

    def __init__(self, app: App) -> None:
        self.app = app

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Pass on a request."""
        return self.app(scope, receive, send)

    def drain(self) -> None:
        """From now on tell load balancers that this server is not ready; all else is answered as before."""
        self.app = _draining(self.app)


def _draining(app: App) -> App:
    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        if scope.get("path") != "/readyz":
            await app(scope, receive, send)
            return
        headers = our_headers(new_id(), NO_CACHE, len(_DRAINING))
        await send({"type": "http.response.start", "status": 503, "headers": headers})
        await send({"type": "http.response.body", "body": _DRAINING})

    return answer


def logged(app: App, take: Callable[[Access], None]) -> App:
    """Make an application whose answers are each told.

    Args:
        app: to be asked.
        take: gets who asked, and how it was answered.
    """

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        begun, status, request_id = time.monotonic(), 0, ""

        async def told(message: Message) -> None:
            nonlocal status, request_id
            if message["type"] == "http.response.start":
                status = message["status"]
                request_id = next((value.decode() for name, value in message["headers"] if name == REQUEST_ID), "")
            await send(message)

        details: dict[str, Any] = {}
        scope[DETAILS] = details
        try:
            await app(scope, receive, told)
        finally:
            client = scope.get("client")
            who = f"{client[0]}:{client[1]}" if client else "unix"
            asked = scope["method"], shown_target(scope), f"HTTP/{scope['http_version']}"
            take(Access(who, *asked, status, time.monotonic() - begun, request_id, details))

    return answer


def details_of(name: str | None, answer: Answer) -> dict[str, Any]:
    """Return what the log has of a model's answer beside the response's own."""
    found: dict[str, Any] = {"model": name, "version": answer.version}
    if answer.timings is not None:
        of = answer.timings
        found |= {"queue_ms": round(of.queue * 1000, 3), "worker_ms": round(of.worker * 1000, 3), "batch": of.batch}
    if trace := answer.headers.get("traceparent", "")[3:35]:
        found["trace_id"] = trace
    return found


class Sampled:
    """Takes a share of the answers, and all of errors of the server's, for the access log.

    Args:
        take: gets them.
        share: from 0 to 1.
    """

    def __init__(self, take: Callable[[Access], None], share: float) -> None:
        self._take, self._share = take, share

    def __call__(self, of: Access) -> None:
        """Pass on an answer, or leave it out."""
        # gRPC's statuses are small numbers: all but 0 are errors. Of HTTP 0 is a client that has left.
        failed = of.status > 0 if of.method == GRPC else of.status >= _FAILED
        if failed or random.random() < self._share:  # noqa: S311 (nobody gains by guessing)
            self._take(of)


def shown_target(scope: Scope) -> str:
    """Return what a request asks, in ASCII, as the client has sent it: nothing in it can end a line."""
    target = scope["raw_path"] + (b"?" + scope["query_string"] if scope["query_string"] else b"")
    return str(target.decode("ascii", "backslashreplace"))
