"""The processes that the prefork process has forked: which of them serves which worker, and how each has ended.

A dedicated worker gets a process of its own. A shared one is handed on to a process that has its model already, once
there are as many of these as the model may have.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from serving.protocol import Decoder, Load
from serving.worker.loading import settings
from serving.worker.process import leftovers, rendezvous, system
from serving.worker.starting.child import Assignment, Guest, run_dedicated, run_shared


@dataclass(eq=False)
class Worker:
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
    process: Process | None = None
    deadline: float | None = None
    gone: bool = False


@dataclass(eq=False)
class Process:
    """A process that serves workers.

    Attributes:
        channel: takes further workers; None for a dedicated process.
        key: of the model, if it is shared.
    """

    pid: int
    workers: set[Worker] = field(default_factory=set)
    channel: socket.socket | None = None
    key: tuple[Any, ...] | None = None


class Processes:
    """The processes by their numbers, and the shared ones by their model.

    Args:
        leave: called in a process that was just forked, with the worker that it is for: closes everything else that the
            prefork process has open.
    """

    def __init__(self, leave: Callable[[Worker], None]) -> None:
        self._leave = leave
        self._processes: dict[int, Process] = {}
        self._shared: dict[tuple[Any, ...], list[Process]] = {}

    def pids(self) -> list[int]:
        """Return the numbers of those that have not been reaped."""
        return list(self._processes)

    def backends(self) -> dict[int, tuple[int, int]]:
        """Return, by thin process, the process that serves it and how many that serves; for the metrics."""
        return {
            worker.pid: (process.pid, len(process.workers))
            for process in self._processes.values()
            for worker in process.workers
        }

    def assign(self, worker: Worker, load: Load) -> Callable[[], int] | None:
        """Give the worker a process: a new one, or one that has its model.

        Returns:
            None; in a forked process, what it has to do.
        """
        backend = settings.peek(load.model_path)
        if backend is None or not backend.shared or worker.guest.arguments.asynchronous:
            return self._fork(worker, load)
        key = (load.model_path, load.gpu_id)
        processes = self._shared.setdefault(key, [])
        if len(processes) < backend.processes:
            return self._fork(worker, load, key)
        process = min(processes, key=lambda one: len(one.workers))
        guest = worker.guest
        fds = (worker.sock.fileno(), guest.stdout, guest.stderr, guest.lifeline.fileno())
        try:
            if process.channel is None:
                raise BrokenPipeError
            if system.is_stopped(process.pid):  # it would take the worker, and never serve it
                system.kill(process.pid)
                raise BrokenPipeError
            rendezvous.send(process.channel, {"arguments": tuple(guest.arguments)}, fds)
        except OSError:  # it is just ending, and takes no more
            self._retire(process)
            return self.assign(worker, load)
        self._handed_on(worker, process)
        return None

    def _fork(self, worker: Worker, load: Load, key: tuple[Any, ...] | None = None) -> Callable[[], int] | None:
        served = (other for process in self._processes.values() for other in process.workers)
        running = sum(1 for other in served if other.guest.cwd == worker.guest.cwd)
        channels = socket.socketpair() if key is not None else None
        if channels:
            channels[0].setblocking(False)  # one that hangs must not stop the others
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # libraries' idle threads; see the prefork process
            pid = os.fork()
        if pid == 0:
            try:
                return self._in_child(worker, load, channels[1] if channels else None, running + 1)
            except BaseException:
                complain([worker])
                os._exit(1)  # it must not go on as a second prefork process, which shares what the first one watches
        if channels:
            channels[1].close()
        process = Process(pid, channel=channels[0] if channels else None, key=key)
        self._processes[pid] = process
        if key is not None:
            self._shared[key].append(process)
        self._handed_on(worker, process)
        return None

    def _handed_on(self, worker: Worker, process: Process) -> None:
        """Let go of what the process has now; the lifeline must end with that process."""
        worker.guest.close()
        worker.process = process
        process.workers.add(worker)

    def _in_child(self, worker: Worker, load: Load, channel: socket.socket | None, processes: int) -> Callable[[], int]:
        leftovers.lead()
        self._leave(worker)
        for process in self._processes.values():
            if process.channel is not None:
                process.channel.close()
        worker.sock.setblocking(True)
        assignment = Assignment(worker.guest, worker.sock, worker.decoder, load, processes)
        if channel is None:
            return lambda: run_dedicated(assignment)
        return lambda: run_shared(assignment, channel)

    def reap(self) -> Iterator[tuple[Process, int]]:
        """Reap those that have ended, with all that they left running; yield each with its exit code."""
        # What a process left is found by its number, which no other process can have before it is reaped.
        while pid := system.ended_child():
            if pid in self._processes:
                leftovers.end_group(pid)
            _, status = os.waitpid(pid, 0)
            if process := self._processes.pop(pid, None):
                self._retire(process)
                yield process, os.waitstatus_to_exitcode(status)

    def _retire(self, process: Process) -> None:
        """Give it no more workers."""
        if process.channel is not None:
            process.channel.close()
        if process.key is not None:
            self._shared[process.key].remove(process)
            if not self._shared[process.key]:
                del self._shared[process.key]
            process.key = None


def complain(workers: Iterable[Worker]) -> None:
    """Print the current exception into the log of the first worker that has one, unless that is not read."""
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
