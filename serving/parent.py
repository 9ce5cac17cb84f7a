"""A process that ends with the one that started it."""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Callable

_PR_SET_PDEATHSIG = 1  # prctl(2)


def ends_with_parent(number: int = signal.SIGTERM, parent: int | None = None) -> Callable[[], None]:
    """Return what a child process must call at its start to get a signal when its parent ends, killed or not.

    It holds over `exec`, but not for that process's own children. Linux only; there it is the end of
    the thread that started the child that counts.

    Args:
        number: of the signal. A process that is stopped heeds SIGKILL alone.
        parent: its process id; without one it is this process, which is then to call it after a fork.
    """
    libc, expected = ctypes.CDLL(None), parent or os.getpid()  # before the fork: little may be done after it

    def call() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, number)
        if os.getppid() != expected:  # it has just ended
            os._exit(1)

    return call
