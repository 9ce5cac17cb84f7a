"""The clock of the asynchronous mode, in which the frontend does not limit how long a request takes.

It runs in a thread of its own. It answers what takes too long, and ends the process when its event loop hangs: no
request would be begun any more.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from types import FrameType
from typing import Any

from serving.worker.answering.replies import Failure
from serving.worker.modes.in_flight import Call, InFlight

logger = logging.getLogger(__name__)

# Functions of the caller's file; what is above them in a stack is not the handler's.
_CALLERS = ("run", "_run")
_FLUSH_S = 1.0


class Timekeeper:
    """The clock for the requests in flight and for the event loop; to be made in the thread that runs the loop.

    Args:
        in_flight: the requests, and the seconds that each may take.
        loop: that runs the handler.
        model: its name, for the log.
        caller: the file whose functions `_CALLERS` run the loop and the handler.
    """

    def __init__(self, in_flight: InFlight, loop: asyncio.AbstractEventLoop, model: str, *, caller: str) -> None:
        self._in_flight = in_flight
        self._limit_s = in_flight.limit_s
        self._loop = loop
        self._thread = threading.get_ident()
        self._model = model
        self._caller = caller
        self._ended = threading.Event()
        self._alive = 0.0
        self._asked = False

    def start(self) -> None:
        """Start the thread."""
        threading.Thread(target=self._keep_time, name="torchmar-timekeeper", daemon=True).start()

    def stop(self) -> None:
        """Let the thread end."""
        self._ended.set()
        self._in_flight.some.set()

    def tell_alive(self) -> None:
        """Note, in the event loop, that it runs."""
        self._alive = time.monotonic()

    def _keep_time(self) -> None:
        pause = min(1.0, max(0.02, self._limit_s / 20))
        while self._in_flight.some.wait() and not self._ended.wait(pause):
            now = time.monotonic()
            for call in self._in_flight.late(now, may_rest=not self._asked):
                self._give_up(call)
            if not self._asked:
                self._ask()
            elif now - self._alive > 2 * self._limit_s:
                # What holds up the loop for so long may do so for ever, and no request is begun any more.
                self._replace()

    def _give_up(self, call: Call) -> None:
        where = self._where(call.task)
        if not self._in_flight.finish(call, Failure(500, self._too_long(call))):
            return
        logger.error("Request %s: %s It is here:\n%s", call.request.request_id, self._too_long(call), where)
        if call.task is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(call.task.cancel)

    def _too_long(self, call: Call) -> str:
        what = "no further part of its answer" if call.streamed else "no answer"
        return f"The handler gave {what} within {self._limit_s:g} s (responseTimeout in model-config.yaml)."

    def _ask(self) -> None:
        """Ask the loop for a sign of life, unless there is nothing to do."""
        if self._in_flight.some.is_set():
            self._asked = True
            self._alive = time.monotonic()
            with contextlib.suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._reply)

    def _reply(self) -> None:
        self.tell_alive()
        self._asked = False

    def _replace(self) -> None:
        """End the process, whose loop hangs; answer the requests in flight, for the frontend would not."""
        logger.error(
            "This worker of %s is replaced: its event loop has not run for %g s. It is here:\n%s",
            self._model,
            2 * self._limit_s,
            self._where_loop(),
        )
        for call in self._in_flight.all():
            self._in_flight.finish(call, Failure(500, "The worker is replaced: its handler hangs."))
        self._in_flight.flush(_FLUSH_S)
        os._exit(1)

    # ---- for the log: where the handler is -------------------------------------------------------------------------

    def _where(self, task: asyncio.Task[None] | None) -> str:
        """Return the stack of a task, without our own part of it."""
        coroutine: Any = task.get_coro() if task is not None else None
        if coroutine is None or coroutine.cr_running:
            return self._where_loop()
        frames = [frame for frame in _awaiting(coroutine) if frame.f_code.co_filename != self._caller]
        return "".join(traceback.StackSummary.extract((frame, frame.f_lineno) for frame in frames).format()).rstrip()

    def _where_loop(self) -> str:
        """Return the stack of the loop's thread, from where the handler is called."""
        stack = traceback.extract_stack(sys._current_frames().get(self._thread))
        ours = (i for i, frame in enumerate(stack) if frame.filename == self._caller and frame.name in _CALLERS)
        return "".join(traceback.format_list(stack[max(ours, default=-1) + 1 :])).rstrip()


def _awaiting(coroutine: Any) -> Iterator[FrameType]:
    """Yield the frame of a coroutine that waits, of the one that it awaits, and so on."""
    while coroutine is not None:
        for kind, following in (("cr", "await"), ("gi", "yieldfrom"), ("ag", "await")):
            frame = getattr(coroutine, f"{kind}_frame", None)
            if frame is not None:
                yield frame
                coroutine = getattr(coroutine, f"{kind}_{following}", None)
                break
        else:
            return
