"""What every request passes first: the drain's answers, and the lines of the access log."""

from __future__ import annotations

import random
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any, Final

from serving.control.following.forms import Access
from serving.frontend.apps.answers import NO_CACHE, REQUEST_ID, json_body, new_id, our_headers
from serving.frontend.engine import Timings

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

#: Key of a scope: a list that gets what `details_of` wants of a model's answer; not there where nobody asks.
ANSWERED: Final = "torchmar.answered"
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


class Sampled:
    """Takes a share of the answers, and all errors of the server's, for the access log.

    Args:
        take: gets who asked, and how it was answered.
        share: from 0 to 1.
    """

    def __init__(self, take: Callable[[Access], None], share: float = 1.0) -> None:
        self._take, self._share = take, share

    def __call__(self, make: Callable[[], Access], *, failed: bool) -> None:
        """Pass on an answer, or leave it out.

        Args:
            make: what is passed on: it costs more than all else here, and is made for those alone that are taken.
            failed: whether the answer is an error of the server's.
        """
        if failed or random.random() < self._share:  # noqa: S311 (nobody gains by guessing)
            self._take(make())


def logged(app: App, access: Sampled) -> App:
    """Make an application of whose answers the access log is told.

    Args:
        app: to be asked.
        access: asked of each answer.
    """

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        begun = time.monotonic()
        start: Message = {"status": 0, "headers": ()}

        def told(message: Message) -> Awaitable[None]:
            nonlocal start
            if message["type"] == "http.response.start":
                start = message
            return send(message)

        def made() -> Access:
            client = scope.get("client")
            who = f"{client[0]}:{client[1]}" if client else "unix"
            asked = scope["method"], shown_target(scope), f"HTTP/{scope['http_version']}"
            request_id = next((value.decode() for name, value in start["headers"] if name == REQUEST_ID), "")
            details = details_of(*answered[-1]) if answered else {}
            return Access(who, *asked, start["status"], time.monotonic() - begun, request_id, details)

        answered: list[tuple[str | None, str | None, Mapping[str, str], Timings | None]] = []
        scope[ANSWERED] = answered
        try:
            await app(scope, receive, told)
        finally:
            access(made, failed=start["status"] >= _FAILED)  # 0 is a client that has left

    return answer


def details_of(name: str | None, version: str | None, headers: Mapping[str, str], of: Timings | None) -> dict[str, Any]:
    """Return what the log has of a model's answer, or of an error in its place, beside the response's own.

    Args:
        name: of the model.
        version: that answered, or was asked for; None for an error of the default one.
        headers: of the answer.
        of: its times; None of an error.
    """
    found: dict[str, Any] = {"model": name} | ({"version": version} if version else {})
    if of is not None:
        found |= {"queue_ms": round(of.queue * 1000, 3), "worker_ms": round(of.worker * 1000, 3), "batch": of.batch}
    if trace := headers.get("traceparent", "")[3:35]:
        found["trace_id"] = trace
    return found


def shown_target(scope: Scope) -> str:
    """Return what a request asks, in ASCII, as the client has sent it: nothing in it can end a line."""
    target = scope["raw_path"] + (b"?" + scope["query_string"] if scope["query_string"] else b"")
    return str(target.decode("ascii", "backslashreplace"))
