"""What every request passes first: the drain's answers, and the lines of the access log."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

from serving.frontend.apps.answers import NO_CACHE, json_body, new_id, our_headers

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

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


def access_line(scope: Scope, status: int, seconds: float) -> str:
    """Tell a request and its answer as in TorchServe's access_log.log; the last number is milliseconds.

    Such as ``/127.0.0.1:36024 "GET /ping HTTP/1.1" 200 2``.
    """
    client = scope.get("client")
    who = f"{client[0]}:{client[1]}" if client else "unix"
    asked = f"{scope['method']} {shown_target(scope)} HTTP/{scope['http_version']}"
    return f'/{who} "{asked}" {status} {round(1000 * seconds)}'


def logged(app: App, line: Callable[[str], None], form: Callable[[Scope, int, float], str] = access_line) -> App:
    """Make an application whose answers are each told in a line.

    Args:
        app: to be asked.
        line: takes it.
        form: makes it, of the request, the status (0 where there is no answer) and the seconds that it took.
    """

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        begun, status = time.monotonic(), 0

        async def told(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await app(scope, receive, told)
        finally:
            line(form(scope, status, time.monotonic() - begun))

    return answer


def shown_target(scope: Scope) -> str:
    """Return what a request asks, in ASCII, as the client has sent it: nothing in it can end a line."""
    target = scope["raw_path"] + (b"?" + scope["query_string"] if scope["query_string"] else b"")
    return str(target.decode("ascii", "backslashreplace"))
