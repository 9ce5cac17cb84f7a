"""Reception of workers from thin processes, without waiting for any of them: a silent one must not hold up the others.

Only processes of the same user are heard. One that has not sent all within some seconds, or sends no valid message, is
disconnected, and no descriptor that came from it stays open.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
import stat
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from serving.worker.process import rendezvous
from serving.worker.process.arguments import Arguments
from serving.worker.starting.child import Guest

_LIMIT_S = 10.0
# The worker's socket, its standard input, output and error, its lifeline.
_DESCRIPTORS = 5

Received = Callable[[socket.socket, int, dict[str, Any], list[int]], None]
"""Takes a connection, the pid of who is there, its message and the descriptors that came with it; owns them all."""


@dataclass(eq=False)
class _Caller:
    """A connection whose message has not come completely.

    Attributes:
        deadline: on the monotonic clock.
    """

    connection: socket.socket
    pid: int
    deadline: float
    receiver: rendezvous.Receiver = field(default_factory=rendezvous.Receiver)

    def close(self) -> None:
        self.connection.close()
        self.receiver.close()


class Reception:
    """The listener's side: accepts connections and reads one message from each.

    Args:
        listener: where they come from; owned.
        selector: tells what is readable; the data of a key is the function to call then.
        received: takes each message.
    """

    def __init__(self, listener: socket.socket, selector: selectors.BaseSelector, received: Received) -> None:
        self._listener = listener
        self._selector = selector
        self._received = received
        self._callers: set[_Caller] = set()
        listener.setblocking(False)

    def open(self) -> None:
        """Begin to accept."""
        self._selector.register(self._listener, selectors.EVENT_READ, self._accept)

    @property
    def is_busy(self) -> bool:
        """Whether a message is just arriving."""
        return bool(self._callers)

    def deadlines(self) -> Iterable[float]:
        """Return when to call `check_deadlines`."""
        return (caller.deadline for caller in self._callers)

    def check_deadlines(self) -> None:
        """Disconnect processes that have been silent for too long."""
        now = time.monotonic()
        for caller in [caller for caller in self._callers if caller.deadline <= now]:
            self._forget(caller)
            caller.close()

    def close(self) -> None:
        """Accept no more connections, close the open ones. Leave alone the selector, which forked processes share."""
        self._listener.close()
        for caller in self._callers:
            caller.close()
        self._callers.clear()

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except BlockingIOError:
            return  # the other side has gone
        connection.setblocking(False)
        pid, uid = rendezvous.peer(connection)
        if uid != os.getuid():
            connection.close()
            return
        caller = _Caller(connection, pid, time.monotonic() + _LIMIT_S)
        self._callers.add(caller)
        self._selector.register(connection, selectors.EVENT_READ, lambda: self._read(caller))

    def _read(self, caller: _Caller) -> None:
        try:
            received = caller.receiver.read(caller.connection)
        except BlockingIOError:
            return
        except (OSError, ValueError, EOFError):
            self._forget(caller)
            caller.close()
            return
        if received is not None:
            self._forget(caller)
            self._received(caller.connection, caller.pid, *received)

    def _forget(self, caller: _Caller) -> None:
        self._selector.unregister(caller.connection)
        self._callers.discard(caller)


def guest_of(message: dict[str, Any], fds: Sequence[int]) -> tuple[socket.socket, Guest]:
    """Return the socket that a worker listens on, and what else a thin process has handed over.

    Raises:
        ValueError: this is not what a thin process hands over. The descriptors are closed.
    """
    try:
        _check(message, fds)
        arguments = Arguments(*message["arguments"])
    except (ValueError, TypeError, KeyError, OSError) as error:
        for fd in fds:
            with contextlib.suppress(OSError):
                os.close(fd)
        raise ValueError(f"a hand-over that cannot be used: {error!r}") from error
    listener, stdin, stdout, stderr, lifeline = fds
    guest = Guest(
        arguments=arguments,
        argv=message["argv"],
        environ=message["environ"],
        cwd=message["cwd"],
        path=message["path"],
        inherited=message["inherited"],
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        lifeline=socket.socket(fileno=lifeline),
    )
    taken = socket.socket(fileno=listener)
    taken.setblocking(False)
    return taken, guest


def _check(message: dict[str, Any], fds: Sequence[int]) -> None:
    kinds = {"argv": list, "environ": dict, "cwd": str, "path": list, "inherited": dict, "arguments": tuple}
    for name, kind in kinds.items():
        if not isinstance(message[name], kind):
            raise TypeError(f"{name} is {type(message[name]).__name__}")
    if len(fds) != _DESCRIPTORS:
        raise ValueError(f"{len(fds)} descriptors")
    for fd in (fds[0], fds[-1]):
        if not stat.S_ISSOCK(os.fstat(fd).st_mode):
            raise ValueError("a descriptor that is no socket")
