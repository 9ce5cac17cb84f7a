"""Signals that end a command, for commands that run an event loop."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Iterator
from typing import Final

ENDING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextlib.contextmanager
def signalled() -> Iterator[asyncio.Future[int]]:
    """Meanwhile signals that end a command go to the event loop; the future has the number of the first one."""
    loop = asyncio.get_running_loop()
    came: asyncio.Future[int] = loop.create_future()

    def note(number: int) -> None:
        if not came.done():
            came.set_result(number)

    # An ignored signal stays ignored: nohup relies on it.
    before = {number: found for number in ENDING if (found := signal.getsignal(number)) is not signal.SIG_IGN}
    for number in before:
        loop.add_signal_handler(number, note, number)
    try:
        yield came
    finally:
        for number, found in before.items():
            loop.remove_signal_handler(number)
            signal.signal(number, found or signal.SIG_DFL)
