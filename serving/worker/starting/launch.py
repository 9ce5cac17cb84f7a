"""The process that the frontend executes for a worker, and the choice of the process that does its work.

::

    frontend --exec--> thin process --socket, stdout, lifeline--> prefork process --fork--> the process with the model
             --connects to the worker's socket------------------------------------------------------^

The thin process imports next to nothing. It listens, tells the frontend so, and hands all else to the prefork process.
It then only lives: the frontend ends a worker by killing it. Where that cannot be (another operating system, torchrun,
a model's own environment, a module of the archive that must come before one that the prefork process holds), it becomes
the worker itself.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Sequence

from serving.worker.process import arguments, rendezvous, stdin

_STARTED = "[PID]{pid}\nTorch worker started.\n"
_STATUS_WAIT_MS = 1000
_CONNECT_TRIES = 50
_CONNECT_PAUSE_S = 0.01
_HAND_OVERS = 3


def main(argv: Sequence[str]) -> int:
    """Run a worker and return the exit code.

    With ``--prefork FD PID`` it is the prefork process of the server ``PID``, with ``--server COMMAND`` it starts the
    prefork process and becomes the server.
    """
    if argv[:1] == ["--prefork"]:
        from serving.worker.starting import prefork

        return prefork.main(int(argv[1]), int(argv[2]))
    if argv[:1] == ["--server"]:
        return _become_server(argv[1:])
    try:
        parsed = arguments.parse(argv)
        if stdin.has_ended():
            # torchrun may start a rank just before it is killed: the socket is for that one's successor.
            with contextlib.suppress(OSError):
                sys.stderr.write("the worker ends: its standard input is closed, as it is once the frontend has gone\n")
                sys.stderr.flush()
            return 0
        listener = _listen(parsed)
    except (ValueError, OSError) as error:
        sys.stderr.write(f"the worker cannot start: {error}\n")
        return 1
    atexit.register(_remove, parsed.unix, os.stat(parsed.unix).st_ino if parsed.unix else 0)
    return _serve(parsed, listener)


def _serve(parsed: arguments.Arguments, listener: socket.socket) -> int:
    started = _STARTED.format(pid=os.getpid()).encode()
    for _ in range(_HAND_OVERS if _may_hand_over() else 0):
        ours, theirs = socket.socketpair()
        try:
            control = _hand_over(parsed, listener, theirs)
        except (PermissionError, TimeoutError) as error:
            sys.stderr.write(f"The worker starts by itself, slowly, and shares no model: {error}\n")
            ours.close()
            break
        finally:
            theirs.close()
        os.write(1, started)
        started = b""
        answer = _answer(control) if control is not None else b""
        if control is not None and answer == rendezvous.TAKEN:
            listener.close()
            return _live(control, ours)
        ours.close()
        if control is not None:
            control.close()
        if answer == rendezvous.PLAIN:
            break
        # It was killed before it took us: another one is worth its start, or every worker would import torch by itself.
    os.write(1, started)
    from serving.worker.starting import plain

    return plain.run(parsed, listener)


def _listen(parsed: arguments.Arguments) -> socket.socket:
    if parsed.unix:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(parsed.unix)  # of a predecessor that was killed
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(parsed.unix)
    else:
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((parsed.host, parsed.port))
    listener.listen(1)
    return listener


def _remove(path: str, inode: int) -> None:
    """Remove our socket file, not that of a successor at the same place."""
    with contextlib.suppress(OSError):
        if path and os.stat(path).st_ino == inode:
            os.unlink(path)


def _may_hand_over() -> bool:
    if not rendezvous.supported or os.environ.get("TORCHMAR_PREFORK") == "0" or "LOCAL_RANK" in os.environ:
        return False
    # A launcher between the frontend and us has set up this very process: bound it to cores, preloaded libraries.
    if not _is_frontends_child():
        return False
    # The environment of a model lies beside its files; it has packages of its own.
    beside = os.path.dirname(os.path.realpath(sys.prefix))
    return all(beside != os.path.realpath(entry) for entry in (os.getcwd(), *_python_path()))


def _is_frontends_child() -> bool:
    """Whether the frontend itself has executed this process: it has said who it is, or is Java, which says nothing.

    A pid of an outer server, whose environment has come down to this one, is not that of our parent.
    """
    parent = os.getppid()
    if os.environ.get(rendezvous.OWNER) == str(parent):
        return True
    try:
        with open(f"/proc/{parent}/comm") as file:
            return file.read().strip() == "java"
    except OSError:
        return False


def _python_path() -> list[str]:
    return [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]


def _hand_over(parsed: arguments.Arguments, listener: socket.socket, lifeline: socket.socket) -> socket.socket | None:
    """Ask the prefork process, started if there is none, to serve this worker. None if that fails.

    Raises:
        PermissionError, TimeoutError: another process has its place; see `rendezvous.connect`.
    """
    name = rendezvous.address(os.getppid())
    control = None
    for _ in range(_CONNECT_TRIES):
        control = rendezvous.connect(name)
        if control is not None or not _start_prefork(name, os.getppid()):
            break
    if control is None:
        return None
    from serving.worker.process import inheritance

    message = {
        "argv": [sys.argv[0]],
        "environ": dict(os.environ),
        "cwd": os.getcwd(),
        "path": list(sys.path),
        "inherited": inheritance.take(),
        "arguments": tuple(parsed),
    }
    try:
        rendezvous.send(control, message, (listener.fileno(), 0, 1, 2, lifeline.fileno()))
    except (OSError, ValueError):
        control.close()
        return None
    return control


def _become_server(command: Sequence[str]) -> int:
    """Lets the prefork process import torch while the server starts, which keeps this process's number."""
    os.environ[rendezvous.OWNER] = str(os.getpid())
    if rendezvous.supported and os.environ.get("TORCHMAR_PREFORK") != "0":
        # The server keeps it in its environment, which no other user can read.
        key = os.environ[rendezvous.KEY] = os.urandom(16).hex()
        child = os.fork()
        if child == 0:  # in between, so that the server has no child that it does not know of
            _start_prefork(rendezvous.address(os.getppid(), key), os.getppid())
            os._exit(0)
        os.waitpid(child, 0)
    try:
        os.execv(command[0], list(command))  # noqa: S606 (a shell would be another process)
    except OSError as error:
        sys.stderr.write(f"{command[0]} cannot be started: {error}\n")
    return 126


def _start_prefork(name: str, owner: int) -> bool:
    """Start the prefork process, with the socket listening already, unless another process is just doing it.

    Returns:
        Whether it is worth while to connect again.
    """
    listener = rendezvous.listen(name)
    if listener is None:
        time.sleep(_CONNECT_PAUSE_S)  # between its bind and its listen
        return True
    with listener:
        os.set_inheritable(listener.fileno(), True)
        command = [sys.executable, sys.argv[0], "--prefork", str(listener.fileno()), str(owner)]
        null = os.open(os.devnull, os.O_RDWR)
        try:
            # Our pipes must end with the worker, so the prefork process gets none of them.
            # It is spawned as Java spawns workers: then a signal of glibc's own is ignored, as it is in those.
            to_null = [(os.POSIX_SPAWN_DUP2, null, number) for number in (0, 1, 2)]
            os.posix_spawn(sys.executable, command, _prefork_environment(), file_actions=to_null)
        except OSError:
            return False
        finally:
            os.close(null)
    return True


def _prefork_environment() -> dict[str, str]:
    """Return the server's environment without what the frontend added for this model: its folders in PYTHONPATH."""
    own = {os.path.realpath(os.getcwd())}
    environ = dict(os.environ)
    # A folder model is a link in a folder of its own, which is named right after it.
    kept: list[str] = []
    follows_own = False
    for entry in _python_path():
        is_own = os.path.realpath(entry) in own or not os.path.isabs(entry)
        if not is_own and not (follows_own and _is_model_folder(entry)):
            kept.append(entry)
        follows_own = is_own
    environ["PYTHONPATH"] = os.pathsep.join(kept)
    if not kept:
        del environ["PYTHONPATH"]
    return environ


def _is_model_folder(path: str) -> bool:
    """Return whether this is the frontend's folder for a model: ``<temporary folder>/models/<32 hex digits>``."""
    parent, name = os.path.split(os.path.normpath(path))
    return os.path.basename(parent) == "models" and len(name) == 32


def _answer(control: socket.socket) -> bytes:
    """Read TAKEN, PLAIN, or nothing if the prefork process failed."""
    try:
        return control.recv(1)
    except OSError:
        return b""


def _live(control: socket.socket, lifeline: socket.socket) -> int:
    """Live as long as the process that does the work, and end as it ended."""
    # Ctrl-C in the terminal of a server reaches the whole group: the frontend decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the prefork process may be our child; only we could reap it
    poll = select.poll()
    poll.register(control, select.POLLIN)
    poll.register(lifeline, select.POLLIN)
    stdin.watch(poll)
    status: int | None = None
    while True:
        for fd, _ in poll.poll(None if status is None else 0):
            if fd == 0:
                return 0
            if fd == lifeline.fileno():
                return status if status is not None else _last_status(control)
            data = control.recv(1 + rendezvous.STATUS.size)
            if data[:1] == rendezvous.EXITED:
                status = rendezvous.STATUS.unpack(data[1:])[0]
            else:
                poll.unregister(control)  # the prefork process has gone, the worker may go on
        if status is not None:
            return status


def _last_status(control: socket.socket) -> int:
    """Return how the worker ended, if the prefork process can still say."""
    poll = select.poll()
    poll.register(control, select.POLLIN)
    if poll.poll(_STATUS_WAIT_MS):
        with contextlib.suppress(OSError):
            data = control.recv(1 + rendezvous.STATUS.size)
            if data[:1] == rendezvous.EXITED:
                return int(rendezvous.STATUS.unpack(data[1:])[0])
    return 1
