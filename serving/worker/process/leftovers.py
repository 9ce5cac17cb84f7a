"""The leftovers of a worker that ends: children of its handler, and its connection, which they may hold.

Forked children (a pool, the workers of a DataLoader) have the worker's descriptors. When the worker ends before them,
the frontend sees no end of the connection, and its client waits for the whole timeout. So another process has the
connection, too, and shuts it down, which ends it for all that hold it: the prefork process for the workers that it
forked, `watch` for those that do all themselves.

A copy that comes back from the handler (`os.fork` whose child returns) would answer the same requests once more, and
take a share of what comes next. `OwnProcess` ends it.

What is left is ended as well. A worker leads a process group, which all its children are in, and theirs. A child that
leaves it does so on purpose (a daemon, ``start_new_session=True``), and lives on as under TorchServe. So does, until
all others have ended, the one that then removes their shared memory: each worker would leave that in /dev/shm, which
is small in a container.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import socket
import sys
from types import TracebackType

from serving.worker.process import stdin, system

logger = logging.getLogger(__name__)

# Seconds in which a worker that nobody wants ends by itself, unless it is stopped, or its handler holds the GIL.
_LEAVE_S = 2.0
# What runs in the process that removes what `multiprocessing` and joblib share, once nobody has its pipe any more.
_TRACKER = b"resource_tracker import main"
# How often we kill one by one what is there: who starts others more quickly than that is killed with the whole group.
_ROUNDS = 5


def lead() -> None:
    """Make a process group of this process and of all that it will start."""
    with contextlib.suppress(OSError):  # it leads a session, and so a group
        os.setpgid(0, 0)


def hang_up(connection: socket.socket) -> None:
    """End a connection for all that hold it."""
    with contextlib.suppress(OSError):  # the frontend has closed it
        connection.shutdown(socket.SHUT_RDWR)


def end_group(leader: int) -> None:
    """Kill all members of a worker's process group; none if it led none. Who tidies up after them ends by itself."""
    killed = {os.getpid()}  # it may be one itself
    for _ in range(_ROUNDS):
        members = system.members(leader)
        others = {pid for pid in members if _TRACKER not in system.command(pid)}
        if others == members:
            break
        if others <= killed:
            return
        for pid in others - killed:
            system.kill(pid)
        killed |= others  # they start nothing more
    with contextlib.suppress(OSError):
        os.killpg(leader, signal.SIGKILL)


class OwnProcess:
    """A guard around handler calls: only the process that entered leaves; a copy that it made of itself ends here."""

    __slots__ = ("_pid",)

    def __enter__(self) -> None:
        self._pid = os.getpid()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if os.getpid() != self._pid:
            _end_copy(error)


def _end_copy(error: BaseException | None) -> None:
    code: object = 0
    if isinstance(error, SystemExit):
        code = error.code
    elif error is not None:
        code = 1
    try:
        if not isinstance(error, SystemExit):
            text = "A process that the handler has forked came back from it, and ends: only the worker itself answers"
            logger.warning(text, exc_info=error)
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
    finally:
        os._exit(code if isinstance(code, int) else int(code is not None))


def leave(code: int) -> None:
    """End this process at once, and its group, if it leads one. The exit code is not read."""
    if os.name == "posix" and os.getpgrp() == os.getpid():
        end_group(os.getpid())
    os._exit(code)


def watch(connection: socket.socket) -> None:
    """Start a process that looks after a connection, and after the group of this process, when this process ends.

    It ends this process, too, if nobody wants it any more and it does not see that.

    To be called while nothing is imported that makes a copy of this process large, and by its only thread. The copy is
    not our child: a handler that waits for its own must not meet it.
    """
    try:
        own = os.pidfd_open(os.getpid())
    except (AttributeError, OSError):
        return  # not on this system
    leader = os.getpid()
    child = os.fork()
    if child:
        os.close(own)
        os.waitpid(child, 0)
        return
    try:
        if os.fork() == 0:
            _watch(connection, own, leader)
    finally:
        os._exit(0)


def _watch(connection: socket.socket, worker: int, leader: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    null = os.open(os.devnull, os.O_WRONLY)
    for number in (1, 2):
        os.dup2(null, number)  # the frontend waits for the end of the worker's pipes
    poll = select.poll()
    poll.register(worker, select.POLLIN)
    stdin.watch(poll)
    if worker not in dict(poll.poll()):
        poll.unregister(0)
        poll.poll(_LEAVE_S * 1000)
    hang_up(connection)
    end_group(leader)  # and this process with it
