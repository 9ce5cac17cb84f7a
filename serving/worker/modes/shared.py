"""One process for all workers of a model: the model is in memory once, and requests of all workers make a batch.

Every worker of the frontend is a connection here. The requests that wait, up to the limit, run as one batch, and
each is answered on its own connection: one client waits for no other, and under load batches are full. A single thread
does it all, and requests that come while the model runs wait in the sockets; unless the handler lets a second one
prepare the next batch meanwhile (`pipeline`).
"""

from __future__ import annotations

import contextlib
import gc
import select
import socket
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from serving.protocol import Inference, Load, PredictionItem, ProtocolError, Reply
from serving.worker.answering import warm_up
from serving.worker.answering.replies import SUCCESS, Answer, reply_to
from serving.worker.answering.service import Service
from serving.worker.loading import loader
from serving.worker.modes import dedicated, pipeline
from serving.worker.modes.connection import Connection, items_of
from serving.worker.modes.pipeline import Job, Pipeline
from serving.worker.process import rendezvous
from serving.worker.process.arguments import Arguments
from serving.worker.process.guardian import Guardian
from serving.worker.process.output import Output, say


@dataclass(eq=False)
class _Guest:
    """A worker of the frontend.

    Attributes:
        gone: nothing more comes from it, and its answers are no longer wanted.
    """

    connection: Connection
    lifeline: socket.socket
    stdout: int
    gone: bool = False


class _Streams:
    """The parts of a batch's answers, on their way to their clients.

    Attributes:
        streamed: requests that a part was sent for since this was cleared.
    """

    def __init__(self, guardian: Guardian, asked: Mapping[str, _Guest]) -> None:
        self.streamed: set[str] = set()
        self._asked = asked
        self._guardian = guardian

    def sendall(self, data: Any) -> None:
        """Send the items of a frame made by `ts.handler_utils`, each on its own connection."""
        parts: dict[_Guest, list[PredictionItem]] = {}
        for item in items_of(bytes(data)):
            guest = self._asked.get(item.request_id)
            if guest is not None:
                self.streamed.add(item.request_id)
                parts.setdefault(guest, []).append(item)
        for guest, items in parts.items():
            guest.connection.send(Reply(200, SUCCESS, tuple(items)))
        self._guardian.touch()


class Server:
    """The server of one model's workers.

    Args:
        request: the first worker's LOAD.
        arguments: the first worker's.
        channel: brings further workers.
        output: takes the workers' pipes.
    """

    def __init__(self, request: Load, arguments: Arguments, channel: socket.socket, output: Output) -> None:
        self._request = request
        self._arguments = arguments
        self._channel: socket.socket | None = channel
        self._output = output
        self._guardian = Guardian(alone=False)
        self._guests: dict[int, _Guest] = {}
        self._waiting: deque[tuple[_Guest, Inference]] = deque()
        self._epoll = select.epoll()
        self._epoll.register(channel, select.EPOLLIN)
        self._pipeline: Pipeline | None = None
        self._left: list[_Guest] = []

    def add(self, connection: Connection, lifeline: socket.socket, stdout: int, stderr: int) -> None:
        """Take on a worker whose LOAD has been read; own what is passed."""
        guest = _Guest(connection, lifeline, stdout)
        sock = connection.sock
        self._output.add(stdout, stderr)
        self._guests[sock.fileno()] = guest
        self._epoll.register(sock, select.EPOLLIN)

        def ended() -> None:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

        self._guardian.watch(lifeline, ended)

    def run(self) -> int:
        """Load the model and serve until the last worker has gone; return the exit code."""
        self._guardian.start()
        first = next(iter(self._guests.values()))
        self._guardian.busy_since = time.monotonic()  # if it hangs, the frontend gives up, and tries another process
        try:
            model = loader.load(self._request, self._arguments.metrics_config)
        except (Exception, SystemExit) as error:
            self._guardian.busy_since = 0.0
            self._tell(error)
            return 1
        backend = model.backend
        self._service = Service(model, _Streams(self._guardian, {}))
        warm_up.run(model, self._service.rehearse, self._request.model_path)
        self._guardian.busy_since = 0.0
        gc.collect()
        gc.freeze()
        self._guardian.limit(backend.response_timeout_s)
        self._limit = backend.max_batch_size
        self._delay_s = backend.max_batch_delay_s
        if pipeline.can_run(model):
            self._pipeline = Pipeline(self._service, self, self._guardian)
            self._epoll.register(self._pipeline.wake, select.EPOLLIN)
        self._welcome(first)
        job: Job | None = None
        while job or (job := self._next()):
            job = self._answer(job)
        if self._pipeline is not None:
            self._pipeline.close()
        return 0

    def _next(self) -> Job | None:
        """Wait for requests, and take a batch of them; None when the last worker has gone."""
        while self._guests or self._take_last():
            self.poll(0.0 if self._waiting else None)
            if self._waiting:
                if self._delay_s:
                    self._fill()
                return self.take(self._limit)
        return None

    def _tell(self, error: BaseException) -> None:
        """Log once why the model cannot be loaded, and tell every worker that waits for it."""
        self._drain()
        connections = [guest.connection for guest in self._guests.values()]
        dedicated.tell_failure(connections, self._request, error, end=True)

    def _welcome(self, guest: _Guest) -> None:
        guest.connection.send_load_reply(200, f"loaded model {self._request.model_name}")

    # ---- what comes in: the pipeline's second thread calls this, too ------------------------------------------------

    def poll(self, timeout: float | None) -> None:
        """Receive what is there; wait for it, at most ``timeout`` seconds."""
        for fd, _ in self._epoll.poll(timeout):
            guest = self._guests.get(fd)
            if guest is None:
                if self._pipeline is not None and fd == self._pipeline.wake:
                    continue
                if taken := self._take_guest():
                    self._welcome(taken)
                continue
            try:
                message = guest.connection.receive_now()
            except EOFError:
                self._remove(fd)
                continue
            except ProtocolError as error:
                say(f"A connection of {self._request.model_name} ends: {error}")
                self._remove(fd)
                continue
            if isinstance(message, Inference):
                self._waiting.append((guest, message))

    def waiting(self) -> int:
        """Return the number of requests that wait."""
        return sum(len(message.requests) for _, message in self._waiting)

    def is_complete(self, running: Job) -> bool:
        """Return whether every worker waits whose request is not running."""
        return len(self._waiting) + sum(not guest.gone for guest, _ in running.entries) >= len(self._guests)

    def take(self, most: int) -> Job:
        """Take what waits: at least one message, and else no more than ``most`` requests."""
        entries = [self._waiting.popleft()]
        count = len(entries[0][1].requests)
        while self._waiting and count + len(self._waiting[0][1].requests) <= most:
            entry = self._waiting.popleft()
            count += len(entry[1].requests)
            entries.append(entry)
        if len(entries) == 1:
            requests = entries[0][1].requests
        else:
            requests = tuple(request for _, message in entries for request in message.requests)
        asked = {request.request_id: guest for guest, message in entries for request in message.requests}
        return Job(entries, requests, _Streams(self._guardian, asked))

    def _fill(self) -> None:
        """Wait for the batch to fill, as long as the model's configuration allows."""
        deadline = time.monotonic() + self._delay_s
        while self.waiting() < self._limit:
            left = deadline - time.monotonic()
            if left <= 0 or not self._guests:
                return
            self.poll(left)

    def _take_guest(self) -> _Guest | None:
        """Take the next worker from the channel; None if the channel has ended."""
        if self._channel is None:
            return None
        try:
            received = rendezvous.receive(self._channel)
        except (OSError, ValueError):
            received = None
        if received is None:  # the prefork process has gone; the workers that are here are served on
            self._epoll.unregister(self._channel)
            self._channel.close()
            self._channel = None
            return None
        connection, stdout, stderr, lifeline = received[1]
        sock = socket.socket(fileno=connection)
        sock.setblocking(True)
        self.add(Connection(sock), socket.socket(fileno=lifeline), stdout, stderr)
        return self._guests[connection]

    def _take_last(self) -> bool:
        """Close the channel before the end, and take the workers that are in it already."""
        if self._channel is None:
            return False
        for guest in self._drain():
            self._welcome(guest)
        return bool(self._guests)

    def _drain(self) -> list[_Guest]:
        if self._channel is not None:
            self._channel.shutdown(socket.SHUT_RD)
        taken = []
        while self._channel is not None:
            if guest := self._take_guest():
                taken.append(guest)
        return taken

    def _remove(self, fd: int) -> None:
        guest = self._guests.pop(fd)
        guest.gone = True
        self._epoll.unregister(fd)
        if any(waiting is guest for waiting, _ in self._waiting):
            self._waiting = deque(entry for entry in self._waiting if entry[0] is not guest)
        if self._pipeline is not None and self._pipeline.ahead:
            self._left.append(guest)  # the main thread may be writing to it
        else:
            self._close(guest)

    def _close(self, guest: _Guest) -> None:
        guest.connection.close()
        self._guardian.release(guest.lifeline)
        self._output.remove(guest.stdout)

    # ---- what goes out ---------------------------------------------------------------------------------------------

    def _answer(self, job: Job) -> Job | None:
        """Run a batch; return the next one if it was prepared meanwhile."""
        following: Job | None = None
        if self._pipeline is not None and self._pipeline.accepts(job):
            following = self._pipeline.run(job, self._reply)
            while self._left:
                self._close(self._left.pop())
            if following and all(guest.gone for guest, _ in following.entries):
                following = None
        else:
            self._answer_whole(job)
        return following

    def _answer_whole(self, job: Job) -> None:
        self._service.use(job.sink)
        self._guardian.busy_since = time.monotonic()
        answers: list[Answer] = []
        for start in range(0, len(job.requests), self._limit):
            answers += self._service.answer(job.requests[start : start + self._limit])
        self._guardian.busy_since = 0.0
        self._reply(job, answers)

    def _reply(self, job: Job, answers: Sequence[Answer]) -> None:
        position = 0
        for guest, message in job.entries:
            stop = position + len(message.requests)
            guest.connection.send(reply_to(message.requests, answers[position:stop]))
            position = stop
