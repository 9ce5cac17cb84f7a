"""The console in front of the management API: nothing of it is imported before somebody opens it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from serving.frontend.entrance import App, Receive, Scope, Send

#: What the paths of the console begin with, and the page about the APIs, which leads there.
PATH: Final = "/console"
DOCS: Final = "/docs"


class Beside:
    """An application that passes on what is not the console's.

    Args:
        app: to be asked the rest.
        make: makes the console, and what ends its streams, when it is first asked.
    """

    def __init__(self, app: App, make: Callable[[], tuple[App, Callable[[], None]]]) -> None:
        self._app, self._make = app, make
        self._console: App | None = None
        self._making: asyncio.Future[tuple[App, Callable[[], None]]] | None = None
        self._ended: Callable[[], None] = _nothing

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Pass on a request."""
        if not is_consoles(scope.get("path", "")):
            return self._app(scope, receive, send)
        if self._console is None:
            return self._first(scope, receive, send)
        return self._console(scope, receive, send)

    async def _first(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Make the console in a thread: its imports take some hundred milliseconds."""
        if self._making is None:
            self._making = asyncio.ensure_future(asyncio.to_thread(self._make))
        # Whoever waits for it, too, must not end it by leaving.
        console, self._ended = await asyncio.shield(self._making)
        self._console = console
        await console(scope, receive, send)

    def end(self) -> None:
        """End the streams that are open: a server that drains does not wait for who only watches."""
        self._ended()


def is_consoles(path: str) -> bool:
    """Return whether a path is the console's."""
    return path in (DOCS, PATH) or path.startswith(f"{PATH}/")


def _nothing() -> None:
    return
