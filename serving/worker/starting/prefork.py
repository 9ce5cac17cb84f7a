"""The process that holds torch and its companions imported, and forks one for every model.

It is started by the first worker of a server, knows nothing of the user's, and ends with the server. Each worker's thin
process hands it the worker's listening socket. It takes the frontend's connection there and reads the first message,
which names the model and the device. Then a dedicated worker gets a process of its own, and a shared one becomes a
connection of the process that holds its model already.

Nothing here may start a thread or use more than one core: neither survives a fork (libgomp hangs). CUDA is never
touched.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import importlib.util
import os
import select
import selectors
import signal
import socket
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from serving.protocol import Decoder, Load, ProtocolError
from serving.worker.loading import settings
from serving.worker.process import leftovers, rendezvous, system
from serving.worker.starting import torch_imports
from serving.worker.starting.child import Assignment, Guest, run_dedicated, run_shared
from serving.worker.starting.reception import Reception, guest_of

# Before the first model, and when there is nothing else to do.
_FIRST = ("torch", "numpy", "yaml", "ts.context", "ts.metrics.metric_cache_yaml_impl")
_LATER = (
    "ts.utils.util",
    "ts.service",
    "numpy.random",
    "PIL.Image",
    "torchvision.transforms",
    "torchvision.io",
    "torchvision",
    # It imports onnxruntime where that is installed, which starts threads; they would not survive a fork.
    *(() if importlib.util.find_spec("onnxruntime") else ("ts.torch_handler.base_handler",)),
)
# On the path of every worker, with a folder ``ts`` that is no package and so hides none.
_HOME = str(Path(__file__).resolve().parents[1] / "home")
_IDLE_S = 0.03
_ACCEPT_S = 30.0
_KILL_AFTER_S = 2.0
_OWNER_POLL_S = 1.0
_END_POLL_S = 0.02
_LOOK_S = 0.1
# A module of a model with one of these names is looked up after ours are loaded; see loader.make_way.
_YIELDING = frozenset({"serving", "archive_tool", "handlers"})


def main(listener_fd: int, owner: int) -> int:
    """Runs until the owner, the frontend, has ended; in a forked process, until its work is done."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.set_inheritable(listener_fd, False)
    system.allow_descriptors()
    with contextlib.suppress(OSError):
        os.chdir("/")
    torch_imports.prepare()
    assignment = _Prefork(socket.socket(fileno=listener_fd), owner).run()
    if assignment is None:
        os._exit(0)  # nothing is kept that would have to be written; to take torch down again takes half a second
    return assignment()


class _OwnerEndedError(BaseException):
    """The server has ended while modules were imported."""


@dataclass(eq=False)
class _Worker:
    """A worker of the frontend, by its thin process.

    Attributes:
        control: connection to the thin process.
        pid: of the thin process.
        guest: what it handed over.
        sock: listens for the frontend, and is then its connection. It is kept when the process has it, too: to be shut
            down when that ends.
        process: that serves it.
        deadline: when to give up on it, or to kill its process, on the monotonic clock; None for never.
    """

    control: socket.socket
    pid: int
    guest: Guest
    sock: socket.socket
    decoder: Decoder = field(default_factory=Decoder)
    process: _Process | None = None
    deadline: float | None = None
    gone: bool = False


@dataclass(eq=False)
class _Process:
    """A process that serves workers.

    Attributes:
        channel: takes further workers; None for a dedicated process.
        key: of the model, if it is shared.
    """

    pid: int
    workers: set[_Worker] = field(default_factory=set)
    channel: socket.socket | None = None
    key: tuple[Any, ...] | None = None


class _Prefork:
    def __init__(self, listener: socket.socket, owner: int) -> None:
        self._owner = owner
        self._selector = selectors.DefaultSelector()
        self._reception = Reception(listener, self._selector, self._received)
        self._workers: set[_Worker] = set()
        self._processes: dict[int, _Process] = {}
        self._shared: dict[tuple[Any, ...], list[_Process]] = {}
        self._later = list(_LATER)
        self._names: frozenset[str] = frozenset()
        self._assignment: Callable[[], int] | None = None

    def run(self) -> Callable[[], int] | None:
        """Serves until the owner has ended.

        Returns:
            None; in a forked process, what it has to do.
        """
        owner = system.end_of(self._owner)
        if owner is not None:
            self._selector.register(owner, selectors.EVENT_READ, None)
        wake, waker = socket.socketpair()
        for end in (wake, waker):
            end.setblocking(False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(waker.fileno(), warn_on_full_buffer=False)
        self._wake = (wake, waker)
        self._selector.register(wake, selectors.EVENT_READ, self._reap)
        self._reception.open()
        try:
            return self._serve(owner)
        except _OwnerEndedError:
            self._end()
            return None

    def _serve(self, owner: int | None) -> Callable[[], int] | None:
        self._import(_FIRST)
        self._freeze()
        while True:
            events = self._selector.select(self._timeout(owner))
            for key, _ in events:
                if key.data is None:
                    self._end()
                    return None
                if self._selector.get_map().get(key.fd) is not key:
                    continue  # an event before it, of the same round, has ended what it is about
                self._call(key.data)
                if self._assignment is not None:
                    return self._assignment
            if owner is None and not system.is_alive(self._owner):
                self._end()
                return None
            self._check_deadlines()
            # Whether a worker's modules come too late was decided by what there was when it came.
            if not events and self._later and not self._is_awaited():
                self._import((self._later.pop(0),))
                self._names = frozenset()
                if not self._later:
                    self._freeze()

    def _is_awaited(self) -> bool:
        """Whether somebody is to be given a process soon."""
        return self._reception.is_busy or not all(worker.process for worker in self._workers)

    def _call(self, callback: Callable[[], None]) -> None:
        """What goes wrong with one worker must not end all others."""
        try:
            callback()
        except Exception:
            _complain(self._workers)

    def _import(self, names: tuple[str, ...]) -> None:
        """Imports what can be; what is missing or broken will be told to whoever needs it.

        Raises:
            _OwnerEndedError: the server has ended; an import takes seconds, and longer on a busy machine.
        """

        looking = False

        def look(*_: object) -> None:
            nonlocal looking
            if looking:
                return
            looking = True
            if not system.is_alive(self._owner):
                raise _OwnerEndedError
            self._call(self._reap)  # clients wait for the end of a connection
            looking = False

        before = signal.signal(signal.SIGALRM, look)
        signal.setitimer(signal.ITIMER_REAL, _LOOK_S, _LOOK_S)
        try:
            for name in names:
                with contextlib.suppress(Exception), warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    importlib.import_module(name)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0.0)
            signal.signal(signal.SIGALRM, before)

    def _freeze(self) -> None:
        """Keeps the collector from writing to pages that are shared with the forked processes."""
        gc.collect()
        gc.freeze()

    def _timeout(self, owner: int | None) -> float | None:
        deadlines = [worker.deadline for worker in self._workers if worker.deadline is not None]
        limits = [deadline - time.monotonic() for deadline in (*deadlines, *self._reception.deadlines())]
        if self._later:
            limits.append(_IDLE_S)
        if owner is None:
            limits.append(_OWNER_POLL_S)
        return max(0.0, min(limits)) if limits else None

    def _end(self) -> None:
        """The server has ended, in whatever way: the frontend may not have removed the sockets."""
        self._reception.close()
        for worker in self._workers:
            if path := worker.guest.arguments.unix:
                with contextlib.suppress(OSError):
                    Path(path).unlink()
        # Whoever holds the GIL does not see that there is nobody left to work for.
        deadline = time.monotonic() + _KILL_AFTER_S
        while self._processes and time.monotonic() < deadline:
            self._reap()
            time.sleep(_END_POLL_S)
        for pid in self._processes:
            system.kill(pid)

    # ---- workers ---------------------------------------------------------------------------------------------------

    def _received(self, control: socket.socket, pid: int, message: dict[str, Any], fds: list[int]) -> None:
        """A thin process has handed over a worker, or the collector of metrics asks."""
        if message.get("query") == "backends" and not fds:
            with control, contextlib.suppress(OSError):
                rendezvous.send(control, {"backends": self._backends()})
            return
        try:
            listener, guest = guest_of(message, fds)
        except ValueError:
            control.close()
            return
        worker = _Worker(control, pid, guest, listener)
        plain = self._hides(guest)
        with contextlib.suppress(OSError):
            control.sendall(rendezvous.PLAIN if plain else rendezvous.TAKEN)
        if plain:
            self._close(worker)
            return
        self._workers.add(worker)
        worker.deadline = time.monotonic() + _ACCEPT_S
        self._selector.register(control, selectors.EVENT_READ, lambda: self._thin_ended(worker))
        self._selector.register(worker.sock, selectors.EVENT_READ, lambda: self._connected(worker))

    def _hides(self, guest: Guest) -> bool:
        """Whether the model brings a module of its own that would come too late here: ours is imported already."""
        if not self._names:
            loaded = {*sys.modules, *_LATER}
            self._names = frozenset(name.partition(".")[0] for name in loaded) - _YIELDING
        for entry in set(guest.path).difference(sys.path, {_HOME}):
            try:
                names = [file.name for file in Path(entry or guest.cwd).iterdir()]
            except OSError:
                continue
            if any(name.partition(".")[0] in self._names for name in names if _is_module(name)):
                return True
        return False

    def _connected(self, worker: _Worker) -> None:
        try:
            connection, _ = worker.sock.accept()
        except BlockingIOError:
            return  # who was there has gone
        except OSError:
            self._drop(worker)
            raise
        self._selector.unregister(worker.sock)
        worker.sock.close()
        worker.sock = connection
        connection.setblocking(False)
        worker.deadline = None
        self._selector.register(connection, selectors.EVENT_READ, lambda: self._readable(worker))

    def _readable(self, worker: _Worker) -> None:
        """Reads the worker's first message."""
        try:
            count = worker.sock.recv_into(worker.decoder.get_buffer())
            worker.decoder.advance(count)
            message = worker.decoder.next_message() if count else None
        except BlockingIOError:
            return
        except (OSError, ProtocolError):
            count, message = 0, None
        if isinstance(message, Load):
            self._selector.unregister(worker.sock)
            try:
                self._assign(worker, message)
            except Exception:
                _complain([worker])
                self._drop(worker)  # nobody would ever answer it
        elif message is not None or count == 0:
            self._drop(worker)

    def _thin_ended(self, worker: _Worker) -> None:
        """The frontend killed it, or somebody did. Its process sees that too, and ends the work for it."""
        self._selector.unregister(worker.control)
        worker.control.close()
        worker.gone = True
        process = worker.process
        if process is None:
            self._drop(worker)
        elif process.channel is None:
            worker.deadline = time.monotonic() + _KILL_AFTER_S  # unless code that holds the GIL keeps it from seeing
        else:
            process.workers.discard(worker)
            self._workers.discard(worker)
            worker.sock.close()

    def _check_deadlines(self) -> None:
        now = time.monotonic()
        for worker in [worker for worker in self._workers if worker.deadline is not None and worker.deadline <= now]:
            worker.deadline = None
            if worker.process is None:
                self._drop(worker)  # the frontend never connected
            else:
                system.kill(worker.process.pid)
        self._reception.check_deadlines()

    def _drop(self, worker: _Worker) -> None:
        """Gives up on a worker that no process serves; its thin process sees the lifeline end."""
        for end in (worker.control, worker.sock):
            if end is not None and end.fileno() >= 0:
                with contextlib.suppress(KeyError):
                    self._selector.unregister(end)
        self._close(worker)
        self._workers.discard(worker)

    def _close(self, worker: _Worker) -> None:
        for end in (worker.control, worker.sock):
            if end is not None:
                end.close()
        worker.guest.close()

    # ---- processes -------------------------------------------------------------------------------------------------

    def _assign(self, worker: _Worker, load: Load) -> None:
        """Gives the worker a process: a new one, or the one that has its model."""
        backend = settings.peek(load.model_path)
        if backend is None or not backend.shared or worker.guest.arguments.asynchronous:
            self._fork(worker, load)
            return
        key = (load.model_path, load.gpu_id)
        processes = self._shared.setdefault(key, [])
        if len(processes) < backend.processes:
            self._fork(worker, load, key)
            return
        process = min(processes, key=lambda one: len(one.workers))
        guest = worker.guest
        fds = (worker.sock.fileno(), guest.stdout, guest.stderr, guest.lifeline.fileno())
        try:
            if process.channel is None:
                raise BrokenPipeError
            rendezvous.send(process.channel, {"arguments": tuple(guest.arguments)}, fds)
        except OSError:  # it is just ending, and takes no more
            self._retire(process)
            self._assign(worker, load)
            return
        self._handed_on(worker, process)

    def _fork(self, worker: _Worker, load: Load, key: tuple[Any, ...] | None = None) -> None:
        running = sum(1 for other in self._workers if other.process and other.guest.cwd == worker.guest.cwd)
        channels = socket.socketpair() if key is not None else None
        if channels:
            channels[0].setblocking(False)  # one that hangs must not stop the others
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # libraries' idle threads; see the module's docstring
            pid = os.fork()
        if pid == 0:
            try:
                self._assignment = self._in_child(worker, load, channels[1] if channels else None, running + 1)
            except BaseException:
                _complain([worker])
                os._exit(1)  # it must not go on as a second prefork process, which shares what the first one watches
            return
        if channels:
            channels[1].close()
        process = _Process(pid, channel=channels[0] if channels else None, key=key)
        self._processes[pid] = process
        if key is not None:
            self._shared[key].append(process)
        self._handed_on(worker, process)

    def _handed_on(self, worker: _Worker, process: _Process) -> None:
        """Lets go of what the process has now; the lifeline must end with that process."""
        worker.guest.close()
        worker.process = process
        process.workers.add(worker)

    def _in_child(
        self, worker: _Worker, load: Load, channel: socket.socket | None, processes: int
    ) -> Callable[[], int]:
        """In the forked process: drops everything of the others, or their ends would never be seen."""
        leftovers.lead()
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for key in list(self._selector.get_map().values()):
            if isinstance(key.fileobj, int):
                os.close(key.fileobj)
        self._selector.close()
        self._reception.close()
        for end in self._wake:
            end.close()
        for process in self._processes.values():
            if process.channel is not None:
                process.channel.close()
        worker.control.close()
        for other in self._workers:
            if other is not worker:
                self._close(other)
        worker.sock.setblocking(True)
        assignment = Assignment(worker.guest, worker.sock, worker.decoder, load, processes)
        if channel is None:
            return lambda: run_dedicated(assignment)
        return lambda: run_shared(assignment, channel)

    def _reap(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self._wake[0].recv(4096):
                pass
        # What a process left is found by its number, which nobody else can have before it is reaped.
        while pid := system.ended_child():
            if pid in self._processes:
                leftovers.end_group(pid)
            _, status = os.waitpid(pid, 0)
            if process := self._processes.pop(pid, None):
                self._ended(process, os.waitstatus_to_exitcode(status))

    def _ended(self, process: _Process, code: int) -> None:
        """Tells the thin processes how it ended, as the frontend reads 137 as a lack of memory; then hangs up."""
        self._retire(process)
        message = rendezvous.EXITED + rendezvous.STATUS.pack(code if code >= 0 else 128 - code)
        for worker in process.workers:
            if not worker.gone:
                with contextlib.suppress(OSError):
                    worker.control.sendall(message)
                with contextlib.suppress(KeyError):
                    self._selector.unregister(worker.control)
                worker.control.close()
            leftovers.hang_up(worker.sock)
            worker.sock.close()
            self._workers.discard(worker)

    def _retire(self, process: _Process) -> None:
        """Gives it no more workers."""
        if process.channel is not None:
            process.channel.close()
        if process.key is not None:
            self._shared[process.key].remove(process)
            if not self._shared[process.key]:
                del self._shared[process.key]
            process.key = None

    def _backends(self) -> dict[int, tuple[int, int]]:
        """Who serves whom, for the collector of metrics."""
        return {
            worker.pid: (worker.process.pid, len(worker.process.workers)) for worker in self._workers if worker.process
        }


def _complain(workers: Iterable[_Worker]) -> None:
    """Prints what has just been raised into the log of the first worker that has one, unless that is not read."""
    text = f"torchmar's prefork process: {traceback.format_exc()}".encode()
    for worker in workers:
        if worker.guest.stderr >= 0:
            with contextlib.suppress(OSError):
                # A pipe that has room has it for that much, without waiting.
                room = select.poll()
                room.register(worker.guest.stderr, select.POLLOUT)
                if room.poll(0):
                    os.write(worker.guest.stderr, text[-select.PIPE_BUF :])
            return


def _is_module(name: str) -> bool:
    return name.endswith((".py", ".so", ".pyc")) or ("." not in name and not name.startswith("__"))
