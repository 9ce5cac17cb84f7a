"""Two batches of a shared process at once: while the model runs one, a second thread prepares the next.

    main thread      prepare 1, complete 1 | reply 1, complete 2 | reply 2, complete 3 | reply 3, ...
    second thread               prepare 2  |          prepare 3  |         gather ...  |

The second thread has work only while the main one is in the handler's second half, and only where it pays: preparing a
batch takes long enough to be worth a change of threads, and other requests come while one batch runs. One client alone
is served by the main thread alone.

While the second thread is at work it owns what comes in (the `Intake`), and the main thread owns what goes out.
"""

from __future__ import annotations

import contextvars
import logging
import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from serving.cores import available
from serving.protocol import Inference, Request
from serving.worker.answering.replies import Answer
from serving.worker.answering.service import Batch, Service
from serving.worker.answering.streaming import Sink
from serving.worker.loading.loader import Model
from serving.worker.process.guardian import Clock, Guardian

logger = logging.getLogger(__name__)

_WORTH_S = 0.001
_CROWDED = 16
_WEIGHT = 0.2


@dataclass(eq=False)
class Job:
    """Messages that run as one batch.

    Attributes:
        entries: the workers that asked, and their messages.
        requests: of all messages.
        sink: takes the parts of their answers.
        batch: what the handler's first half made of it; None until it was called.
    """

    entries: Sequence[tuple[Any, Inference]]
    requests: Sequence[Request]
    sink: Sink
    batch: Batch | None = None


class Intake(Protocol):
    """The incoming requests."""

    def poll(self, timeout: float | None) -> None:
        """Receive what is there; wait for it, at most ``timeout`` seconds, and until `Pipeline.wake` is readable."""

    def waiting(self) -> int:
        """Return the number of requests that wait."""

    def is_complete(self, running: Job) -> bool:
        """Return whether every worker waits whose request is not running."""

    def take(self, most: int) -> Job:
        """Take what waits: at least one message, and else no more than ``most`` requests."""


def can_run(model: Model) -> bool:
    """Return whether two batches may be in a model's handler at once: it must be one of our SDK, unchanged."""
    handler, setting = model.handler, model.backend.pipeline
    may_pipeline = getattr(handler, "may_pipeline", None)
    # Behind an envelope, or TorchServe's micro-batching, something else than the handler's own method is called.
    if may_pipeline is not None and model.entry == handler.handle and may_pipeline(setting):
        return True
    if setting:
        logger.warning("backend.pipeline has no effect: it wants a handler of torchmar's SDK that leaves handle alone")
    return False


class Pipeline:
    """The runner of one model's batches.

    Attributes:
        ahead: whether the second thread owns the intake.
        wake: a file descriptor that the intake is to poll, too; it ends the second thread's waiting.
    """

    def __init__(self, service: Service, intake: Intake, guardian: Guardian) -> None:
        backend = service.model.backend
        self.ahead = False
        self.wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._service = service
        self._intake = intake
        self._guardian = guardian
        self._limit = backend.max_batch_size
        self._delay_s = backend.max_batch_delay_s
        self._costs = _Costs(backend.processes)
        self._thread: threading.Thread | None = None
        self._clock = Clock()
        self._orders: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._results: queue.SimpleQueue[Job | BaseException | None] = queue.SimpleQueue()
        self._stopping = False
        self._seen = False

    def accepts(self, job: Job) -> bool:
        """Return whether a job can run here: its requests are one batch of plain predictions."""
        return len(job.requests) <= self._limit and self._service.can_prepare(job.requests)

    def run(self, job: Job, reply: Callable[[Job, Sequence[Answer]], None]) -> Job | None:
        """Answer a job that is accepted.

        Return the next one if it was taken meanwhile, prepared if accepted. Only process-ending exceptions leave it.
        """
        clock, costs, batch = self._guardian.clock, self._costs, job.batch
        clock.since = time.monotonic()
        if batch is None:
            batch = self._service.prepare(job.requests, job.sink, ahead=False)
            costs.prepared(batch)
        else:
            clock.since -= batch.seconds
        ahead = batch.ready and costs.pay()
        if ahead:
            self._begin(job)
        begin = time.monotonic()
        answers = self._service.complete(batch, job.sink)
        costs.completed(time.monotonic() - begin)
        clock.since = 0.0
        # Before the first reply: a client that is here now came while the batch ran.
        if ahead:
            self._stop()
        elif costs.would_pay():
            self._intake.poll(0.0)
        reply(job, answers)
        following = self._result() if ahead else None
        if len(job.requests) > 1 or (self._seen if ahead else self._intake.waiting()):
            costs.crowded()
        return following

    def close(self) -> None:
        """End the second thread."""
        if self._thread is not None:
            self._orders.put(None)
            self._thread.join()
        os.close(self.wake)

    # ---- main thread -----------------------------------------------------------------------------------------------

    def _begin(self, running: Job) -> None:
        if self._thread is None:
            settings = contextvars.copy_context()
            torch_settings = _TorchSettings()
            self._thread = threading.Thread(
                target=lambda: settings.run(self._serve, torch_settings), name="torchmar-preparer", daemon=True
            )
            self._thread.start()
            torch_settings.adopted.wait()
            torch_settings.keep()
        self.ahead = True
        self._stopping = self._seen = False
        self._orders.put(running)

    def _stop(self) -> None:
        """Stop the second thread's intake; it finishes what it has begun."""
        self._stopping = True
        os.eventfd_write(self.wake, 1)

    def _result(self) -> Job | None:
        result = self._results.get()
        os.eventfd_read(self.wake)
        self.ahead = False
        if isinstance(result, BaseException):
            raise result
        if result is not None and result.batch is not None:
            self._costs.prepared(result.batch)
        return result

    # ---- second thread ---------------------------------------------------------------------------------------------

    def _serve(self, settings: _TorchSettings) -> None:
        try:
            settings.adopt()
        finally:
            settings.adopted.set()
        self._clock = self._guardian.add_clock()
        while (running := self._orders.get()) is not None:
            result: Job | BaseException | None
            try:
                result = self._prepare_next(running)
            except BaseException as error:  # only the main thread may end the process
                result = error
            self._results.put(result)

    def _prepare_next(self, running: Job) -> Job | None:
        """Take in what comes until the main thread is done, and prepare one batch of it."""
        intake, costs = self._intake, self._costs
        begin = time.monotonic()
        first = 0.0
        job: Job | None = None
        while not self._stopping:
            waiting = intake.waiting()
            if job is not None or not waiting:
                intake.poll(None)
                continue
            self._seen = True
            now = time.monotonic()
            first = first or now
            start = max(begin + costs.hold_s(waiting), first + self._delay_s)
            if now < start and waiting < self._limit and not intake.is_complete(running):
                intake.poll(start - now)
                continue
            # Two batches of like size: a small and a large one would wait for each other.
            job = intake.take(min(self._limit, (len(running.requests) + waiting + 1) // 2))
            self._prepare(job)
        return job

    def _prepare(self, job: Job) -> None:
        if not self.accepts(job):
            return
        self._clock.since = time.monotonic()
        try:
            job.batch = self._service.prepare(job.requests, job.sink, ahead=True)
        finally:
            self._clock.since = 0.0


class _Costs:
    """The costs of a handler's halves, from the recent batches.

    Args:
        processes: of this model, which share the cores.
    """

    def __init__(self, processes: int) -> None:
        self._cores = available() // processes
        self._batch_s = 0.0
        self._request_s = 0.0
        self._complete_s = 0.0
        self._crowded = 0

    def prepared(self, batch: Batch) -> None:
        self._batch_s = _average(self._batch_s, batch.seconds)
        self._request_s = _average(self._request_s, batch.seconds / len(batch.requests))

    def completed(self, seconds: float) -> None:
        self._complete_s = _average(self._complete_s, seconds)
        self._crowded -= 1

    def crowded(self) -> None:
        """Note that there are several requests in flight."""
        self._crowded = _CROWDED

    def would_pay(self) -> bool:
        return self._cores > 1 and self._batch_s > _WORTH_S

    def pay(self) -> bool:
        return self._crowded > 0 and self.would_pay()

    def hold_s(self, count: int) -> float:
        """Return how long after the start of a batch the next one can still be begun, to hold more requests."""
        return max(self._complete_s - 2 * self._request_s * count, self._complete_s / 2)


def _average(average: float, value: float) -> float:
    return average + _WEIGHT * (value - average) if average else value


class _TorchSettings:
    """Per-thread settings of torch, which a handler's initialization may have set. Made by the main thread.

    Attributes:
        adopted: set when the other thread has them.
    """

    def __init__(self) -> None:
        self.adopted = threading.Event()
        self._torch = torch = sys.modules.get("torch")
        if torch is None:
            return
        self._grad = torch.is_grad_enabled()
        self._device = torch.cuda.current_device() if torch.cuda.is_initialized() else None
        self._threads = torch.get_num_threads()

    def adopt(self) -> None:
        """Make this thread like the main one, but for its intra-op threads.

        It has none besides itself. The main thread's model takes the cores meanwhile; and libgomp lets waiting threads
        sleep at once when all teams have more threads than there are cores, which makes a model a third slower.
        """
        if self._torch is None:
            return
        self._torch.set_grad_enabled(self._grad)
        if self._device is not None:
            self._torch.cuda.set_device(self._device)
        self._torch.get_num_threads()  # else the first use here takes what was set last anywhere
        self._torch.set_num_threads(1)

    def keep(self) -> None:
        """Let the main thread, and those that a handler starts, keep their number: a new thread takes the last one."""
        if self._torch is not None:
            self._torch.set_num_threads(self._threads)
