"""The command line in a process of its own that need not import it: each is forked from one that has.

Most commands do little, and their imports take a third of a second of the processor; a run of the tests starts
hundreds. What the program `torchmar` itself does is tested where it is started as such: `Sandbox.popen` and the demos.
"""

from __future__ import annotations

import atexit
import os
import select
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import NoReturn

from archive_tool.cli.entry import COMMANDS, main
from serving.worker.process import rendezvous

# What the commands import when they run.
_MORE = (
    *(
        "archive_tool.building.builder",
        "archive_tool.reading.archive",
        "serving.check",
        "serving.client",
        "serving.control",
    ),
    *("rich.console", "rich.status", "rich.table"),
)


class CommandLine:
    """A runner of `torchmar` commands; it ends with the process that made it."""

    def __init__(self) -> None:
        self._control, theirs = socket.socketpair()
        self._lock = threading.Lock()
        # No folder of a test is where it works, or in its arguments: it is not something that a test leaves behind.
        command = [sys.executable, __file__, str(theirs.fileno())]
        none = subprocess.DEVNULL
        self._process = subprocess.Popen(command, pass_fds=[theirs.fileno()], cwd="/", stdin=none, stdout=none)
        theirs.close()
        atexit.register(self._close)

    def _close(self) -> None:
        self._control.close()
        self._process.wait()

    def fileno(self) -> int:
        """Return the file descriptor that a shell must hand on to `typed.py`, which has commands run here."""
        return self._control.fileno()

    def run(
        self, arguments: Sequence[str], *, cwd: Path, env: Mapping[str, str], timeout: float
    ) -> tuple[int, str, str]:
        """Return exit code, standard output and standard error of a command, once no process can write to them.

        Raises:
            TimeoutError: it takes longer.
        """
        (out, to_out), (err, to_err) = os.pipe(), os.pipe()
        status, to_status = os.pipe()
        message = {"arguments": list(arguments), "cwd": str(cwd), "env": dict(env)}
        with self._lock:
            rendezvous.send(self._control, message, (to_out, to_err, to_status))
        for fd in (to_out, to_err, to_status):
            os.close(fd)
        deadline, found = time.monotonic() + timeout, {out: b"", err: b"", status: b""}
        with selectors.DefaultSelector() as selector:
            for fd in found:
                selector.register(fd, selectors.EVENT_READ)
            while selector.get_map():
                if not (ready := selector.select(max(0.0, deadline - time.monotonic()))):
                    raise TimeoutError(f"torchmar {' '.join(arguments)} takes longer than {timeout} s: {found}")
                for key, _ in ready:
                    data = os.read(key.fd, 65536)
                    found[key.fd] += data
                    if not data:
                        selector.unregister(key.fd)
                        os.close(key.fd)
        return int(found[status]), found[out].decode(), found[err].decode()


def serve(control: socket.socket) -> int:
    """Fork a process for each command until the last request; in that process, run the command."""
    modules = {entry.target.partition(":")[0] for section in COMMANDS.values() for entry in section.values()}
    for name in (*sorted(modules), *_MORE):
        import_module(name)
    assert "torch" not in sys.modules, "it takes seconds"
    signal.signal(signal.SIGCHLD, _reap)
    while select.select([control], [], []) and (received := rendezvous.receive(control)):
        message, fds = received
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            return _watch(message["arguments"], Path(message["cwd"]), message["env"], fds)
        for fd in fds:
            os.close(fd)
    return 0


def _reap(*_: object) -> None:
    """Reap the watchers. Their exit codes are not read, but a measured run counts their time."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _watch(arguments: list[str], cwd: Path, env: dict[str, str], fds: list[int]) -> int:
    """Run a command in another process, so that its exit code is reported whatever happens to it."""
    out, err, status = fds
    if (pid := os.fork()) == 0:
        os.close(status)
        os.dup2(out, 1)
        os.dup2(err, 2)
        os.close(out)
        os.close(err)
        os.chdir(cwd)
        os.environ.clear()
        os.environ.update(env)
        # As Python begins: the program's folder comes first, then those of the environment.
        sys.path[:1] = [str(Path(sys.executable).parent), *filter(None, env.get("PYTHONPATH", "").split(os.pathsep))]
        sys.argv = ["torchmar", *arguments]
        _end(main(arguments))
    os.close(out)
    os.close(err)
    os.write(status, str(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])).encode())
    os._exit(0)


def _end(code: int) -> NoReturn:
    """End as Python does, but do not take apart what is loaded: of a small command that was nine tenths of the time."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)


if __name__ == "__main__":
    sys.exit(serve(socket.socket(fileno=int(sys.argv[1]))))
