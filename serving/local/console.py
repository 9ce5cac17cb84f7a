"""The console of a server that has none itself: it stands beside, on this machine, and asks the server's APIs."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable

from serving.control.state import ServerRecord, StateFolder
from serving.frontend.apps.console.beside import PATH
from serving.frontend.apps.console.remote import ClientSource
from serving.frontend.apps.console.whole import console_of
from serving.frontend.guard import Patience
from serving.frontend.server import Listener
from serving.local.dev import HOST, taken
from serving.signals import signalled


def serve(record: ServerRecord, state: StateFolder, port: int, ready: Callable[[str], None] = lambda _: None) -> None:
    """Serve the console until a signal comes; when nothing of it is left, that is raised anew for whoever handles it.

    Args:
        record: of the server that it is about.
        state: the server's folder.
        port: on the loopback interface; 0 for a free one.
        ready: gets the address.

    Raises:
        PortInUseError: the port is taken.
        StartError: the port cannot be opened.
        NotRunningError, ReplyError: an expired key of the server could not be renewed.
    """
    with contextlib.closing(ClientSource(record, state)) as source, contextlib.closing(taken(port)) as place:

        async def run() -> int:
            app, end = console_of(source)
            listener = Listener(place, app, Patience())
            with signalled() as came:
                await listener.open()
                try:
                    ready(f"http://{HOST}:{place.sock.getsockname()[1]}{PATH}")
                    return await came
                finally:
                    end()
                    listener.announce_end()
                    await listener.close()

        number = asyncio.run(run())
    signal.raise_signal(number)
