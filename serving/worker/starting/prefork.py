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
import selectors
import signal
import socket
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from serving import descriptors
from serving.protocol import Load, ProtocolError
from serving.worker.process import garbage, leftovers, rendezvous, system
from serving.worker.starting import torch_imports
from serving.worker.starting.child import Guest
from serving.worker.starting.processes import Process, Processes, Worker, complain
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
    """Run until the owner, the frontend, has ended; in a forked process, until its work is done."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.set_inheritable(listener_fd, False)
    descriptors.allow()  # it holds some for every worker; those that it forks get limits of their own
    with contextlib.suppress(OSError):
        os.chdir("/")
    torch_imports.prepare()
    assignment = _Prefork(socket.socket(fileno=listener_fd), owner).run()
    if assignment is None:
        os._exit(0)  # nothing is kept that would have to be written; to take torch down again takes half a second
    return assignment()


class _OwnerEndedError(BaseException):
    """The server has ended while modules were imported."""


class _Prefork:
    def __init__(self, listener: socket.socket, owner: int) -> None:
        self._owner = owner
        self._selector = selectors.DefaultSelector()
        self._reception = Reception(listener, self._selector, self._received)
        self._workers: set[Worker] = set()
        self._processes = Processes(self._leave)
        self._later = list(_LATER)
        self._names: frozenset[str] = frozenset()
        self._assignment: Callable[[], int] | None = None

    def run(self) -> Callable[[], int] | None:
        """Serve until the owner has ended.

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
        """Return whether a worker is to be given a process soon."""
        return self._reception.is_busy or not all(worker.process for worker in self._workers)

    def _call(self, callback: Callable[[], None]) -> None:
        """Call it, and log what it raises: an error with one worker must not end all others."""
        try:
            callback()
        except Exception:
            complain(self._workers)

    def _import(self, names: tuple[str, ...]) -> None:
        """Import what can be imported; what is missing or broken is reported to the handler that needs it.

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
                with contextlib.suppress(Exception), warnings.catch_warnings(), garbage.seldom():
                    warnings.simplefilter("ignore")
                    importlib.import_module(name)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0.0)
            signal.signal(signal.SIGALRM, before)

    def _freeze(self) -> None:
        """Keep the collector from writing to pages that are shared with the forked processes."""
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
        """Clean up after the server, however it ended: the frontend may not have removed the sockets."""
        self._reception.close()
        for worker in self._workers:
            if path := worker.guest.arguments.unix:
                with contextlib.suppress(OSError):
                    Path(path).unlink()
        # A process that holds the GIL does not see that no client is left.
        deadline = time.monotonic() + _KILL_AFTER_S
        while self._processes.pids() and time.monotonic() < deadline:
            self._reap()
            time.sleep(_END_POLL_S)
        for pid in self._processes.pids():
            leftovers.end_group(pid)
            system.kill(pid)  # its handler may have put it into another group

    # ---- workers ---------------------------------------------------------------------------------------------------

    def _received(self, control: socket.socket, pid: int, message: dict[str, Any], fds: list[int]) -> None:
        """Take the worker that a thin process has handed over, or answer the collector of metrics."""
        if message.get("query") == "backends" and not fds:
            with control, contextlib.suppress(OSError):
                rendezvous.send(control, {"backends": self._processes.backends()})
            return
        try:
            listener, guest = guest_of(message, fds)
        except ValueError:
            control.close()
            return
        worker = Worker(control, pid, guest, listener)
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
        """Return whether the model has a module of its own that would come too late here: ours is imported already."""
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

    def _connected(self, worker: Worker) -> None:
        try:
            connection, _ = worker.sock.accept()
        except BlockingIOError:
            return  # the other side has gone
        except OSError:
            self._drop(worker)
            raise
        self._selector.unregister(worker.sock)
        worker.sock.close()
        worker.sock = connection
        connection.setblocking(False)
        worker.deadline = None
        self._selector.register(connection, selectors.EVENT_READ, lambda: self._readable(worker))

    def _readable(self, worker: Worker) -> None:
        """Read the worker's first message."""
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
                self._assignment = self._processes.assign(worker, message)
            except Exception:
                complain([worker])
                self._drop(worker)  # no process would ever answer it
        elif message is not None or count == 0:
            self._drop(worker)

    def _thin_ended(self, worker: Worker) -> None:
        """Let go of a worker that was killed, by the frontend or otherwise; its process sees that, too."""
        self._selector.unregister(worker.control)
        worker.control.close()
        worker.gone = True
        process = worker.process
        if process is None:
            self._drop(worker)
        elif process.workers == {worker}:
            # Code that holds the GIL, or whoever has stopped it, may keep it from seeing that it is to end.
            worker.deadline = time.monotonic() + _KILL_AFTER_S
        else:
            self._let_go(worker, process)

    def _check_deadlines(self) -> None:
        now = time.monotonic()
        for worker in [worker for worker in self._workers if worker.deadline is not None and worker.deadline <= now]:
            worker.deadline = None
            if worker.process is None:
                self._drop(worker)  # the frontend never connected
            elif worker.process.workers == {worker}:
                system.kill(worker.process.pid)
            else:  # a shared process that has got another one meanwhile
                self._let_go(worker, worker.process)
        self._reception.check_deadlines()

    def _let_go(self, worker: Worker, process: Process) -> None:
        process.workers.discard(worker)
        self._workers.discard(worker)
        worker.sock.close()

    def _drop(self, worker: Worker) -> None:
        """Give up on a worker that no process serves; its thin process sees the lifeline end."""
        for end in (worker.control, worker.sock):
            if end is not None and end.fileno() >= 0:
                with contextlib.suppress(KeyError):
                    self._selector.unregister(end)
        self._close(worker)
        self._workers.discard(worker)

    def _close(self, worker: Worker) -> None:
        for end in (worker.control, worker.sock):
            if end is not None:
                end.close()
        worker.guest.close()

    # ---- processes -------------------------------------------------------------------------------------------------

    def _leave(self, worker: Worker) -> None:
        """Close, in a process forked for a worker, all that is the others': or their ends would never be seen."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for key in list(self._selector.get_map().values()):
            if isinstance(key.fileobj, int):
                os.close(key.fileobj)
        self._selector.close()
        self._reception.close()
        for end in self._wake:
            end.close()
        worker.control.close()
        for other in self._workers:
            if other is not worker:
                self._close(other)

    def _reap(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self._wake[0].recv(4096):
                pass
        for process, code in self._processes.reap():
            self._ended(process, code)

    def _ended(self, process: Process, code: int) -> None:
        """Tell the thin processes how it ended, as the frontend reads 137 as a lack of memory; then hang up."""
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


def _is_module(name: str) -> bool:
    return name.endswith((".py", ".so", ".pyc")) or ("." not in name and not name.startswith("__"))
