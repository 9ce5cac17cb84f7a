"""How the processes of the backend find each other, and their messages.

The prefork process listens on an abstract unix socket: a name that only lives as long as the process and leaves no file
behind, whichever way it ends. Abstract names have no permissions; the first to bind one has it. So no other user can
know the name before it is taken, and each side asks the kernel who the other one is and talks only to its own
user.

Only what a thin process needs is imported here, for there is one of them for every worker.
"""

from __future__ import annotations

import marshal
import os
import socket
import struct
import sys
from array import array
from typing import Any

try:
    from _blake2 import blake2s  # of hashlib, which loads OpenSSL: that takes ten times as long
except ImportError:
    from hashlib import blake2s

TAKEN = b"T"
"""The prefork process will serve this worker."""
PLAIN = b"P"
"""It will not: the worker must start by itself."""
EXITED = b"X"
"""The process that served the worker has ended; its exit status follows, four bytes."""

KEY = "TORCHMAR_RENDEZVOUS"
"""The variable in the environment of a server that holds its key, if it was started with one."""

OWNER = "TORCHMAR_OWNER"
"""The variable in the environment of a worker that holds the pid of its server, if that says so.

It is no secret and grants nothing: whom a worker hands its work to is settled by the address and by the kernel.
"""

TIMEOUT_S = 10.0
"""Seconds that each part of a message may take to come."""

STATUS = struct.Struct("!i")
_LENGTH = struct.Struct("!I")
_MAX_MESSAGE = 64 * 1024 * 1024
_MAX_FDS = 8
_CONNECT_TIMEOUT_S = 30
_TIMEVAL = struct.Struct("@ll")
_CLOSE_ON_EXEC = getattr(socket, "MSG_CMSG_CLOEXEC", 0)

Message = tuple[dict[str, Any], list[int]]
"""What was said, and the descriptors that came with it."""

supported = sys.platform == "linux" and hasattr(os, "fork") and hasattr(socket, "SO_PEERCRED")


def address(owner: int, key: str | None = None) -> str:
    """Return the name of the socket of the prefork process.

    One for each server and interpreter: a server is told by its frontend, and that by its pid and the namespace
    which the pid is of (containers that share a network would otherwise meet here). What no other user can read of the
    frontend's process makes it a name that no other user can take first.

    Args:
        owner: pid of the frontend.
        key: that the process will have in its environment when it is the frontend; None to look there.
    """
    namespace = os.stat("/proc/self/ns/pid").st_ino
    secret = _secret(owner) if key is None else key.encode()
    kind = f"{sys.executable}\0{sys.version}\0{os.path.realpath(__file__)}\0".encode()
    digest = blake2s(kind + secret, digest_size=16).hexdigest()  # it shows nothing of the secret
    return f"\0torchmar-{os.getuid()}-{namespace}-{owner}-{digest}"


def _secret(owner: int) -> bytes:
    """Return the key in a process's environment, else the random places where the kernel has put its memory.

    The places are other ones after each exec, so they are of use only once the process is the frontend.
    """
    try:
        for entry in _read(owner, "environ").split(b"\0"):
            name, _, key = entry.partition(b"=")
            if name == KEY.encode():
                return key
        return _read(owner, "auxv")
    except OSError:
        # It has ended, or has capabilities that hide it from its own user, too. If guessed, the start is only slower.
        return os.environb.get(KEY.encode(), b"")


def _read(pid: int, name: str) -> bytes:
    with open(f"/proc/{pid}/{name}", "rb", buffering=0) as file:
        return file.read()


def listen(name: str) -> socket.socket | None:
    """Open the listening socket of that name; None if another process has it."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(name)
        listener.listen(1024)
    except OSError:
        listener.close()
        return None
    return listener


def connect(name: str) -> socket.socket | None:
    """Connect to the prefork process; None if there is none.

    Raises:
        PermissionError: another user has the name.
        TimeoutError: its queue is full.
    """
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # Not Python's own timeout: it makes the socket non-blocking, and then nothing waits for room at all.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _TIMEVAL.pack(_CONNECT_TIMEOUT_S, 0))
        connection.connect(name)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _TIMEVAL.pack(0, 0))
    except BlockingIOError:
        connection.close()
        raise TimeoutError(f"the socket @{name[1:]} accepts nobody") from None
    except OSError:
        connection.close()
        return None
    uid = peer(connection)[1]
    if uid != os.getuid():
        connection.close()
        raise PermissionError(f"the user {uid} holds the socket @{name[1:]}")
    return connection


def peer(connection: socket.socket) -> tuple[int, int]:
    """Return process id and user id of the other side, from the kernel."""
    data = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    pid, uid, _ = struct.unpack("3i", data)
    return pid, uid


def send(connection: socket.socket, message: dict[str, Any], fds: tuple[int, ...] = ()) -> None:
    """Send a message and copies of file descriptors.

    Raises:
        OSError: the other side has gone.
    """
    data = marshal.dumps(message)
    frame = _LENGTH.pack(len(data)) + data
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", fds))] if fds else []
    sent = connection.sendmsg([frame], rights)
    if sent < len(frame):
        connection.sendall(memoryview(frame)[sent:])


def receive(connection: socket.socket, within_s: float = TIMEOUT_S) -> Message | None:
    """Receive the next message and its file descriptors, which the caller owns; None at the end of the stream.

    Raises:
        OSError: the other side has gone, or did not send the rest in time.
        ValueError: this is not a message. The file descriptors are closed.
    """
    connection.settimeout(within_s)
    receiver = Receiver()
    try:
        while (message := receiver.read(connection)) is None:
            pass
    except EOFError:
        return None
    finally:
        receiver.close()
        connection.settimeout(None)
    return message


class Receiver:
    """An assembler of one message from pieces as they come. Owns the descriptors until it is complete."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._fds: list[int] = []

    def read(self, connection: socket.socket) -> Message | None:
        """Read once; return the message and its descriptors, which the caller owns, or None if more has to come.

        Raises:
            EOFError: the stream ended before a message.
            BlockingIOError: nothing is there, and the connection is non-blocking.
            OSError: the other side has gone.
            ValueError: this is not a message.
        """
        # Not inheritable: a program that a handler starts must not keep a lifeline open.
        space = socket.CMSG_SPACE(4 * _MAX_FDS)
        piece, ancillary, _, _ = connection.recvmsg(self._wanted(), space, _CLOSE_ON_EXEC)
        self._fds += _fds(ancillary)
        if len(self._fds) > _MAX_FDS:
            raise ValueError("a message with too many descriptors")
        if not piece and self._data:
            raise ValueError("the stream ended inside a message")
        if not piece:
            raise EOFError
        self._data += piece
        if self._wanted():
            return None
        fds, self._fds = self._fds, []
        try:
            return self._message(), fds
        except BaseException:
            self._fds = fds
            raise

    def close(self) -> None:
        """Close the descriptors of a message that is not complete."""
        for fd in self._fds:
            os.close(fd)
        self._fds = []

    def _wanted(self) -> int:
        """Return how many bytes are still to come, as far as is known."""
        if len(self._data) < _LENGTH.size:
            return _LENGTH.size - len(self._data)
        length: int = _LENGTH.unpack_from(self._data)[0]
        if length > _MAX_MESSAGE:
            raise ValueError(f"a message of {length} bytes")
        return _LENGTH.size + length - len(self._data)

    def _message(self) -> dict[str, Any]:
        try:
            message = marshal.loads(memoryview(self._data)[_LENGTH.size :])  # noqa: S302 (our own user's process sent it)
        except (EOFError, TypeError) as error:
            raise ValueError("a message that cannot be read") from error
        if not isinstance(message, dict):
            raise ValueError(f"a message of type {type(message).__name__}")
        return message


def _fds(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    found = array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            found.frombytes(data[: len(data) - len(data) % found.itemsize])
    return list(found)
