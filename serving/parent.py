"""A process that ends with the one that started it."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

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


def run(command: Sequence[str], **options: Any) -> subprocess.CompletedProcess[bytes]:
    """Run a command as `subprocess.run` does; it ends with this process, and with it all that it has started.

    It has a process group of its own, in the session of this process. Linux only; elsewhere it runs on.
    """
    # -I: where this is run, and by what environment, is for the command alone.
    keeper = [sys.executable, "-I", __file__, str(os.getpid())] if sys.platform == "linux" else []
    return subprocess.run([*keeper, *command], check=False, **options)


def _keep(parent: int, command: Sequence[str]) -> int:
    """Run a command in a group that this process leads, and that ends with the parent or with the command."""
    ours = os.getpgrp()
    os.setpgid(0, 0)
    signal.signal(signal.SIGTERM, lambda *_: os.killpg(0, signal.SIGKILL))
    ends_with_parent(signal.SIGTERM, parent)()
    try:
        code = subprocess.call(command)
    except OSError as error:
        sys.stderr.write(f"{command[0]} cannot be started: {error.strerror}\n")
        return 127  # as a shell has it
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # our group is about to be the parent's
    with contextlib.suppress(OSError):  # the command has left nothing
        os.setpgid(0, ours)
        if os.getpgrp() == ours:  # not where that is outside this namespace, and has no number here
            os.killpg(os.getpid(), signal.SIGKILL)  # the number is not another's while this process has it
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(_keep(int(sys.argv[1]), sys.argv[2:]))
