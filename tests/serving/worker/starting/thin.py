"""Thin processes and a prefork process: the test is their frontend."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import psutil

from serving.worker.process import inheritance, rendezvous
from serving.worker.process.arguments import Arguments
from tests.serving.worker.frontend import (
    METRICS,
    SCRIPT,
    TIMEOUT_S,
    Log,
    Peer,
    idle,
)

PID = """
    import os

    def handle(data, context):
        return [os.getpid()] * len(data or [])
"""


class Thins:
    """Thin processes of a prefork process, as far as it can tell.

    Args:
        owner: pid of the server.
        path: folders on the server's PYTHONPATH.
    """

    def __init__(self, owner: int, path: tuple[Path, ...] = ()) -> None:
        self.name = rendezvous.address(owner)
        self._path = [str(folder) for folder in path]
        self._folder = tempfile.TemporaryDirectory()
        self._numbers = itertools.count()
        self.thins: list[Thin] = []

    def connect(self) -> socket.socket:
        connection = rendezvous.connect(self.name)
        assert connection is not None
        connection.settimeout(TIMEOUT_S)
        return connection

    def thin(self, folder: Path, **changes: Any) -> Thin:
        """Do what a thin process does up to the answer."""
        changes = {"path": [*self._path, str(folder), *filter(None, sys.path)], **changes}
        thin = Thin(self.connect(), folder, f"{self._folder.name}/.ts.sock.{next(self._numbers)}", changes)
        self.thins.append(thin)
        return thin

    def backends(self) -> dict[int, tuple[int, int]]:
        with self.connect() as connection:
            rendezvous.send(connection, {"query": "backends"})
            received = rendezvous.receive(connection)
        assert received is not None
        return dict(received[0]["backends"])

    def end(self) -> None:
        for thin in self.thins:
            thin.close()
        self.thins.clear()

    def close(self) -> None:
        self.end()
        self._folder.cleanup()


class Prefork(Thins):
    """A prefork process whose server is a process that does nothing."""

    def __init__(self, path: tuple[Path, ...] = ()) -> None:
        self.owner = idle()
        super().__init__(self.owner.pid, path)
        listener = rendezvous.listen(self.name)
        assert listener is not None
        command = [sys.executable, str(SCRIPT), "--prefork", str(listener.fileno()), str(self.owner.pid)]
        environ = {**os.environ, "PYTHONPATH": os.pathsep.join(self._path)}
        null = subprocess.DEVNULL
        self.process = subprocess.Popen(
            command, pass_fds=[listener.fileno()], stdin=null, stdout=null, stderr=null, env=environ
        )
        listener.close()

    def children(self) -> set[int]:
        return {child.pid for child in psutil.Process(self.process.pid).children()}

    def close(self) -> None:
        self.owner.kill()
        self.owner.communicate()
        found = self.children() if self.process.poll() is None else set()
        self.process.kill()
        self.process.wait()
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        super().close()


class Thin:
    """A stand-in for a thin process."""

    def __init__(self, control: socket.socket, folder: Path, path: str, changes: dict[str, Any]) -> None:
        self.control, self.path, self.folder = control, path, folder
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(path)
        listener.listen(1)
        self.lifeline, theirs = socket.socketpair()
        self.lifeline.settimeout(TIMEOUT_S)
        (out, stdout), (err, stderr) = os.pipe(), os.pipe()
        message = {
            "argv": [str(SCRIPT)],
            "environ": {"PATH": os.environ["PATH"]},
            "cwd": str(folder),
            "arguments": tuple(Arguments(path, "", 0, str(METRICS), False, 0)),
            "inherited": inheritance.take(),
            **changes,
        }
        stdin, self._stdin = os.pipe()
        rendezvous.send(control, message, (listener.fileno(), stdin, stdout, stderr, theirs.fileno()))
        os.close(stdin)
        listener.close()
        theirs.close()
        os.close(stdout)
        os.close(stderr)
        self.out, self.err = Log(out), Log(err)
        self.peer: Peer | None = None

    def answer(self) -> bytes:
        return self.control.recv(1)

    def connect(self) -> Peer:
        """Connect as the frontend."""
        self.peer = Peer(socket.socket(socket.AF_UNIX))
        self.peer.sock.connect(self.path)
        return self.peer

    def load(self) -> Peer:
        assert self.answer() == rendezvous.TAKEN
        peer = self.connect()
        reply = peer.load(self.folder)
        assert reply.code == 200, self.out.text
        return peer

    def status(self) -> int:
        """Return what the prefork process reports of the end."""
        data = self.control.recv(5)
        assert data[:1] == rendezvous.EXITED, data
        code: int = rendezvous.STATUS.unpack(data[1:])[0]
        return code

    def is_told_of_the_end(self) -> bool:
        return self.lifeline.recv(1) == b""

    def die(self) -> None:
        """Imitate the end of a process that is killed."""
        self.control.close()
        self.lifeline.close()
        if self._stdin >= 0:
            os.close(self._stdin)
        self._stdin = -1

    def close(self) -> None:
        self.die()
        if self.peer:
            self.peer.close()
