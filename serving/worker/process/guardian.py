"""A thread that ends a process whose work is no longer wanted, and reports what a handler hangs in.

The thread that runs the handler may be busy for long, or for ever. The frontend then kills the thin process. The
process that works for it sees only that the lifeline, a socket pair, ends.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import select
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass

from serving.worker.process import leftovers, stdin

_POLL_S = 1.0
_LINGER_S = 1.0
_MARGIN = 0.1
_MARGIN_MAX_S = 0.5


@dataclass(eq=False)
class Clock:
    """The time that a thread has spent in the handler.

    Attributes:
        since: when it called the handler, on the monotonic clock; 0.0 while it is elsewhere.
        thread: its identifier.
    """

    since: float = 0.0
    thread: int = 0


class Guardian:
    """A watch over lifelines, and over the time that the handler takes.

    Attributes:
        clock: of the thread that runs the handler. Set it around every call.

    Args:
        alone: this process serves one worker, and ends with it at once, as a worker that is killed.
    """

    def __init__(self, *, alone: bool) -> None:
        self.clock = Clock(thread=threading.get_ident())
        self._clocks = [self.clock]
        self._alone = alone
        self._limit_s = 0.0
        self._replaced = not alone
        self._lifelines: dict[int, tuple[socket.socket, Callable[[], None]]] = {}
        self._dumped = 0.0
        self._last_left = 0.0
        self._stdin = -1
        self._wake, self._waker = socket.socketpair()
        self._poll = select.poll()
        self._poll.register(self._wake, select.POLLIN)
        self._thread = threading.Thread(target=self._run, name="torchmar-guardian", daemon=True)

    def start(self) -> None:
        """Begin to watch; the thread that calls is the one that runs the handler."""
        self.clock.thread = threading.get_ident()
        self._thread.start()

    @property
    def busy_since(self) -> float:
        """Return when the handler was called, on the monotonic clock; 0.0 while it is not running."""
        return self.clock.since

    @busy_since.setter
    def busy_since(self, since: float) -> None:
        self.clock.since = since

    def add_clock(self) -> Clock:
        """Watch one more thread that runs the handler: the one that calls."""
        clock = Clock(thread=threading.get_ident())
        self._clocks.append(clock)
        return clock

    def touch(self) -> None:
        """Note that a part of an answer was sent: the frontend's time for the batch of this thread begins anew."""
        own = next((clock for clock in self._clocks if clock.thread == threading.get_ident()), self.clock)
        if own.since:
            own.since = time.monotonic()

    def limit(self, response_timeout_s: float) -> None:
        """Set after how many seconds the frontend gives up on a worker."""
        self._limit_s = response_timeout_s
        self._nudge()

    def watch(self, lifeline: socket.socket, ended: Callable[[], None]) -> None:
        """Call ``ended``, in the guardian's thread, when the other end of the lifeline has gone; own the lifeline."""
        self._lifelines[lifeline.fileno()] = (lifeline, ended)
        self._poll.register(lifeline, select.POLLIN)
        self._nudge()

    def watch_stdin(self) -> None:
        """End this process when the frontend has gone: it holds the other end of our standard input."""
        with contextlib.suppress(OSError):  # it may be closed
            self._stdin = os.dup(0)
        if stdin.watch(self._poll, self._stdin):
            self._nudge()

    def release(self, lifeline: socket.socket) -> None:
        """Close a lifeline: the thin process sees it, and ends."""
        if self._lifelines.pop(lifeline.fileno(), None) is not None:
            with contextlib.suppress(KeyError):
                self._poll.unregister(lifeline)
            lifeline.close()

    def _nudge(self) -> None:
        self._waker.send(b"\0")

    def _run(self) -> None:
        while True:
            for fd, _ in self._poll.poll(self._pause_ms()):
                if fd == self._wake.fileno():
                    self._wake.recv(4096)
                elif fd == self._stdin:
                    leftovers.leave(0)
                else:
                    self._ended(fd)
            self._check_busy()
            self._check_wanted()

    def _pause_ms(self) -> float | None:
        limit = self._limit_s or _POLL_S * 10
        return max(20.0, min(_POLL_S, limit / 20) * 1000)

    def _ended(self, fd: int) -> None:
        lifeline, ended = self._lifelines.get(fd, (None, None))
        # It may have been released since it was polled, and another one have its number.
        if lifeline is None or ended is None or not _is_over(lifeline) or self._lifelines.pop(fd, None) is None:
            return
        with contextlib.suppress(KeyError):
            self._poll.unregister(fd)
        if self._alone:
            leftovers.leave(0)
        self._last_left = time.monotonic()
        ended()
        lifeline.close()

    def _check_wanted(self) -> None:
        """End a handler that works for workers that have all gone: it may never return."""
        if self._lifelines or not self._last_left or not any(clock.since for clock in self._clocks):
            return
        if time.monotonic() - self._last_left > _LINGER_S:
            leftovers.leave(0)

    def _check_busy(self) -> None:
        limit = self._limit_s
        if not limit:
            return
        # Code that never releases the GIL keeps this thread, too, from reporting, and from the end below. So a thread
        # of faulthandler's, which needs none, does both, unless this one comes by and calls it off.
        with contextlib.suppress(OSError, ValueError, RuntimeError):
            faulthandler.dump_traceback_later(limit, file=2, exit=self._replaced)
        busy = [(since, clock.thread) for clock in self._clocks if (since := clock.since)]
        since, thread = min(busy, default=(0.0, 0))
        if not since:
            return
        age = time.monotonic() - since
        if age >= limit - min(_MARGIN_MAX_S, limit * _MARGIN) and self._dumped != since:
            self._dumped = since
            self._dump(age, limit, thread)
        if self._replaced and age > limit + 1.0:
            with contextlib.suppress(OSError, ValueError):
                sys.stderr.write("The process of this model is replaced: its handler hangs.\n")
                sys.stderr.flush()
            os._exit(1)

    def _dump(self, age: float, limit: float, thread: int) -> None:
        frame = sys._current_frames().get(thread)
        lines = [
            f"The handler has been running for {age:.1f} s; the frontend gives up on it after {limit:g} s"
            " (responseTimeout).\n"
            "The thread of the handler is here (most recent call last):\n"
        ]
        if frame is not None:
            lines += traceback.format_stack(frame)
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.write("".join(lines))
            sys.stderr.flush()


def _is_over(lifeline: socket.socket) -> bool:
    try:
        return lifeline.recv(1, socket.MSG_DONTWAIT) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True
