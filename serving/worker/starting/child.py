"""A forked process, which takes on what the thin process handed over, and serves."""

from __future__ import annotations

import atexit
import contextlib
import importlib
import os
import socket
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from serving.protocol import Decoder, Load
from serving.worker.modes import dedicated, shared
from serving.worker.modes.connection import Connection
from serving.worker.process import inheritance
from serving.worker.process.arguments import Arguments
from serving.worker.process.guardian import Guardian
from serving.worker.process.output import Output

_LEAVE_S = 5.0


@dataclass
class Guest:
    """The worker that a thin process handed over.

    Attributes:
        path: its `sys.path`.
        inherited: what it has of the frontend; see `inheritance`.
        stdin: a pipe that the frontend never writes to.
        stdout, stderr: the pipes that the frontend reads.
        lifeline: ends when the thin process does, and tells it of our end.
    """

    arguments: Arguments
    argv: list[str]
    environ: dict[str, str]
    cwd: str
    path: list[str]
    inherited: dict[str, Any]
    stdin: int
    stdout: int
    stderr: int
    lifeline: socket.socket

    def close(self) -> None:
        """Close the descriptors, once."""
        for fd in (self.stdin, self.stdout, self.stderr):
            if fd >= 0:
                os.close(fd)
        self.stdin = self.stdout = self.stderr = -1
        self.lifeline.close()


@dataclass
class Assignment:
    """The first worker of a forked process.

    Attributes:
        processes: that will run this model side by side.
    """

    guest: Guest
    connection: socket.socket
    decoder: Decoder
    load: Load
    processes: int


def run_dedicated(assignment: Assignment) -> int:
    """Serve one worker; do not return."""
    guest = assignment.guest
    _enter(guest)
    output = Output()
    output.add(guest.stdout, guest.stderr)
    output.install()
    guardian = Guardian(alone=True)
    guardian.start()
    guardian.watch(guest.lifeline, lambda: None)
    connection = Connection(assignment.connection, assignment.decoder)

    def serve() -> int:
        if guest.arguments.asynchronous:
            from serving.worker.modes import asynchronous

            return asynchronous.serve(connection, assignment.load, guest.arguments, assignment.processes)
        return dedicated.serve(connection, assignment.load, guest.arguments, guardian, assignment.processes)

    return leave(serve)


def run_shared(assignment: Assignment, channel: socket.socket) -> int:
    """Serve the first worker of a model and those that come over the channel; do not return."""
    guest = assignment.guest
    _enter(guest)
    output = Output()
    output.install()
    server = shared.Server(assignment.load, guest.arguments, channel, output)
    server.add(Connection(assignment.connection, assignment.decoder), guest.lifeline, guest.stdout, guest.stderr)
    return leave(server.run)


def _enter(guest: Guest) -> None:
    """Become the process that the frontend would have started."""
    # The archive may have been removed meanwhile; loading it will say so.
    with contextlib.suppress(OSError):
        os.chdir(guest.cwd)
    os.environ.clear()
    os.environ.update(guest.environ)
    sys.argv[:] = guest.argv
    sys.path[:] = guest.path
    importlib.invalidate_caches()
    os.dup2(guest.stdin, 0)
    os.close(guest.stdin)
    guest.stdin = -1
    inheritance.put(guest.inherited)
    _reseed()


def _reseed() -> None:
    """Give every random number generator that was there before the fork a seed of its own.

    `random` does so by itself. What is imported later takes one from the system, as do the generators of devices.
    """
    if numpy_random := sys.modules.get("numpy.random"):
        numpy_random.seed()
    if torch := sys.modules.get("torch"):
        torch.default_generator.seed()
    if sympy_random := sys.modules.get("sympy.core.random"):  # which torch before 2.7 imports
        sympy_random.seed(None)


def leave(serve: Callable[[], int]) -> int:
    """Serve, and end this process without the interpreter's own end, which waits for threads of the handler."""
    try:
        code = serve()
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:
        import traceback

        traceback.print_exc()
        code = 1
    timer = threading.Timer(_LEAVE_S, os._exit, (code,))
    timer.daemon = True
    timer.start()
    with contextlib.suppress(Exception):
        atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    os._exit(code)
