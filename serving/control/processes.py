"""The end of a server and everything under it.

The frontend leads a session of its own and its workers stay in it, so that whatever the frontend leaves behind,
killed or not, is found by the session's number. No process id is reused while it numbers a session that has members.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import time

import psutil


def session_members(leader: int) -> list[psutil.Process]:
    """Return the live processes of the session that ``leader`` started, the leader included."""
    found = []
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == leader and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.Error, OSError):
            continue  # it ended while we looked
    return found


def wait(process: subprocess.Popen[bytes]) -> int:
    """Wait for the end of the only child of this process, and return its exit code.

    Where this is a container's first process, all become its children whose parents have ended. Each that is not reaped
    keeps its number, and a container has only so many.
    """
    while os.getpid() == 1 and hasattr(os, "waitid") and process.poll() is None:
        ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)
        if ended is not None and ended.si_pid != process.pid:
            os.waitpid(ended.si_pid, 0)
    return process.wait()


def end_session(leader: int, *, leader_is_ours: bool, grace_s: float) -> int:
    """Ask the leader to end, wait, then kill what is left of its session.

    Args:
        leader: process id of the session's leader.
        leader_is_ours: False when that process has ended; a process of the same number is then a stranger,
            and so is its session.
        grace_s: seconds that the leader may take, and then its workers.

    Returns:
        How many processes had to be killed.
    """
    if not leader_is_ours and _lives(leader):
        return 0
    try:
        if leader_is_ours:
            with contextlib.suppress(psutil.NoSuchProcess):
                psutil.Process(leader).terminate()
            # Not psutil's wait: that waits until the process has been reaped, and not every init does so at once.
            deadline = time.monotonic() + grace_s
            while _lives(leader) and time.monotonic() < deadline:
                time.sleep(0.02)
        # Workers leave by themselves when their connection closes.
        deadline = time.monotonic() + min(grace_s, 5.0)
        while session_members(leader) and time.monotonic() < deadline:
            time.sleep(0.05)
    finally:  # who does not want to wait, and sends another signal, leaves nothing running either
        left = session_members(leader)
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
    deadline = time.monotonic() + 5.0
    while any(_lives(process.pid) for process in left) and time.monotonic() < deadline:
        time.sleep(0.02)
    return len(left)


def _lives(pid: int) -> bool:
    """Return whether there is such a process; a zombie does not count."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
