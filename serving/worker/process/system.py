"""The prefork process's questions to the system about other processes, and about itself."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path


def end_of(pid: int) -> int | None:
    """Return a descriptor that becomes readable when the process ends; None where the kernel has none."""
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError):
        return None


def is_alive(pid: int) -> bool:
    """Return whether there is such a process; a zombie does not count."""
    return _state(pid) not in ("", "Z", "X")


def is_stopped(pid: int) -> bool:
    """Return whether somebody has stopped the process (SIGSTOP); not by a debugger, which goes on with it."""
    return _state(pid) == "T"


def members(group: int) -> set[int]:
    """Return the processes of a process group that have not ended; none where the system does not show them."""
    try:
        pids = [int(folder.name) for folder in Path("/proc").iterdir() if folder.name.isdecimal()]
    except OSError:
        return set()
    return {pid for pid in pids if _group(pid) == group and is_alive(pid)}


def _group(pid: int) -> int:
    """Return a process's group; 0 if there is no such process. The system tells it in a hundredth of a file's time."""
    try:
        return os.getpgid(pid)
    except OSError:
        return 0


def command(pid: int) -> bytes:
    """Return the command line of a process, a zero byte after each part; empty if there is no such process."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def _state(pid: int) -> str:
    """Return a process's state as Linux has it, one letter; empty if there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[0]
    except OSError:
        return ""


def kill(pid: int) -> None:
    """Kill a process, if it is still there."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def ended_child() -> int:
    """Return a child that has ended and is not reaped; 0 if there is none."""
    try:
        found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return 0
    return found.si_pid if found is not None else 0
