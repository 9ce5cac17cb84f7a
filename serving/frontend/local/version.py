"""A version of a model that is served: the requests that wait for its workers, and who gets which.

A worker that is free takes what waits, up to the batch size, at once: what came in one turn of the event loop is one
batch, shared out over the workers that are free. One that becomes free waits a moment for those whom it has just
answered (`Hold`).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from functools import partial
from typing import Final

from serving.frontend.engine import Answer, Call, ModelState, Share, Timings
from serving.frontend.errors import DeadlineError, FrontendError, UnavailableError, no_worker
from serving.frontend.local.crew import Crew
from serving.frontend.local.job import Job
from serving.frontend.local.models import describing
from serving.frontend.local.models.model import Model
from serving.frontend.local.process import Launch, launch_of
from serving.frontend.local.sequences import Sequences
from serving.frontend.local.shadows import Shadows
from serving.frontend.local.surroundings import Surroundings
from serving.frontend.local.waiting import Hold, Waiting
from serving.frontend.local.worker import Worker
from serving.protocol import Load, Request

logger = logging.getLogger(__name__)

# A request ends when two workers died of it alone. A death with others proves nothing against it, and counts half.
_ALONE: Final = 2
_SHARED: Final = 1
_MAX_DEATHS: Final = 2 * _ALONE
#: What the log says of such a request: its id, and name and version of the model.
POISONED: Final = "request %s of %s fails: too many workers died of it"


class Version:
    """A version of a model.

    Attributes:
        model: what is served.
        at_startup: whether the server began with it.
        closing: whether it takes no more requests.
        stateful: whether it keeps sequences.
    """

    def __init__(self, model: Model, around: Surroundings, *, at_startup: bool = False) -> None:
        self.model = model
        self.at_startup = at_startup
        self.closing = False
        self.stateful = model.stateful
        self._around = around
        self._loop = asyncio.get_running_loop()
        self._sequences = Sequences(model, around.settings) if model.stateful else None
        # Not by "or": without requests both are empty, and so false.
        self._waiting: Waiting | Sequences = Waiting(model.queue_size) if self._sequences is None else self._sequences
        grace_s = float(around.settings.unregister_model_timeout)
        self._workers = Crew(self, around.numbers, around.gpus, grace_s, self._keeps_sequences)
        self._free: dict[Worker, None] = {}
        self._shadows = Shadows(partial(around.meters.shadowed, model.name, model.version))
        self._scheduled = False
        # The process of a shared model gathers by itself; what joins others at any time needs no batch.
        alone = model.shared or model.stateful or model.asynchronous or model.continuous
        self._gathers = model.batch_size > 1 and not alone
        self._hold = Hold(self._look)
        self._last = 0, 0.0
        self._shared = model.shared
        self._empty = asyncio.Event()

    # ---- requests --------------------------------------------------------------------------------------------------

    async def predict(self, call: Call, *, spared: bool = False) -> Answer:
        """Answer a request; see `Engine.predict`.

        Args:
            call: the request.
            spared: whether another version answers it where this one cannot take it.
        """
        default = self.model.default_answer if call.may_default else None
        job = Job(
            call.request, self._loop, deadline=call.deadline, priority=call.priority, default=default, spared=spared
        )
        self._submit(job, call.version)
        try:
            return await job.answer
        except asyncio.CancelledError:
            self._forget(job)
            if job.answer.cancelled():  # else it has an answer, which was counted
                self._drop("client")
            raise

    def shadow(self, request: Request) -> None:
        """Let a worker that is free answer a copy of a request, whose answer nobody sees."""
        if self.closing:
            return
        if not self._free:
            self._shadows.drop()
            return
        self._shadows.take(request)
        self._look()

    def _submit(self, job: Job, named: str | None) -> None:
        model = self.model
        if self.closing or not self._workers.can_serve:
            error = no_worker(model.name, named)
            self._count(job, "drain" if self.closing else "worker", error)
            raise error
        if model.ticketed and len(self._waiting) >= len(self._free):
            error = no_worker(model.name, named, headers={"Retry-After": "1"})
            self._count(job, "queue", error)
            raise error
        if not self._in_time(job):
            return
        if not self._waiting.put(job):
            job.forget_timer()
            self._refuse(job, "queue", no_worker(model.name, named, headers={"Retry-After": "1"}))
            return
        if model.client_timeout_s:
            patience = self._loop.call_later(model.client_timeout_s, self._overdue, job, self._too_slow)
            job.answer.add_done_callback(lambda _: patience.cancel())
            job.wait_until(job.arrived + model.client_timeout_s)
        self._look()

    @property
    def takes(self) -> bool:
        """Whether a request would be answered, as far as one can see: a worker is ready, and there is room."""
        return not self.closing and self._workers.ready > 0 and self._waiting.has_room

    def goes_on(self, request: Request) -> bool:
        """Return whether a request goes on with a sequence that began here."""
        return self._sequences is not None and self._sequences.is_open(request)

    def _look(self) -> None:
        """Share out what waits, at the end of this turn of the event loop."""
        if self._free and not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._share_out)

    def _share_out(self) -> None:
        self._scheduled = False
        if self._hold.lasts(len(self._waiting)):
            self._level()
            return
        free = list(self._free)
        while free and len(self._waiting):
            # Workers of a shared model are one process: half a batch each would only be more batches.
            share = self.model.batch_size if self._shared else -(-len(self._waiting) // len(free))
            worker = free.pop()  # the last one: its caches are warm
            if batch := self._waiting.take(min(worker.room, share), worker):
                worker.send(batch)
                if worker.room:
                    free.append(worker)
                else:
                    del self._free[worker]
        if self._shadows.jobs:
            self._shadows.share_out(self._free)
        self._level()

    def _in_time(self, job: Job) -> bool:
        """Start the clock of a request's deadline; False where it has passed, and the request is answered."""
        if job.deadline is None or job.timer is not None:
            return True
        if job.deadline <= self._loop.time():
            self._refuse(job, "deadline", _too_late())
            return False
        job.timer = self._loop.call_at(job.deadline, self._overdue, job, _too_late)
        if job.default is not None:
            job.answer.add_done_callback(lambda _: job.forget_timer())
        return True

    def _overdue(self, job: Job, error: Callable[[], DeadlineError]) -> None:
        """Answer in the worker's place: where it has the request already, its answer is read and dropped."""
        if job.done:
            return
        if not job.sent:
            self._waiting.drop(job)
        self._refuse(job, "deadline", error())
        self._level()

    def _too_slow(self) -> DeadlineError:
        limit = self.model.values["clientTimeoutInMills"]
        return DeadlineError(f"there was no answer within {limit} ms (clientTimeoutInMills)")

    def _refuse(self, job: Job, reason: str, error: FrontendError) -> None:
        """Answer in the model's place: by the default answer, where the request may have it."""
        self._count(job, reason, error)
        if job.default is None:
            job.fail(error)
            return
        model = self.model
        self._around.meters.defaulted(model.name, model.version, reason)
        job.answer.set_result(job.default.answer(model.version, reason, error))

    def _forget(self, job: Job) -> None:
        """Drop a request whose client has left, if it has not begun; what runs is read to its end."""
        job.forget_timer()
        if not job.sent:
            self._waiting.drop(job)
        if job.parts is not None:
            job.parts.end()
        self._level()

    def _count(self, job: Job, reason: str, error: FrontendError) -> None:
        """Count a request that this model does not answer, unless another version of it will."""
        if not (job.spared and isinstance(error, UnavailableError)):
            self._drop(reason)

    def _drop(self, reason: str) -> None:
        self._around.meters.dropped(self.model.name, self.model.version, reason)

    def _level(self) -> None:
        waiting, running = len(self._waiting), self._workers.running
        self._around.meters.level(self.model.name, self.model.version, waiting=waiting, running=running)
        if self.closing and not waiting and not self._workers.awaited:
            self._empty.set()

    # ---- what its workers tell -------------------------------------------------------------------------------------

    @property
    def max_response_size(self) -> int:
        """Bytes of each field of a reply."""
        return self._around.settings.max_response_size

    def launch(self, worker: Worker) -> Launch:
        """Tell how to start a worker."""
        python = self._around.python(self.model)
        return launch_of(self.model, self._around.settings, worker.number, worker.gpu, python)

    def load(self, worker: Worker) -> Load:
        """Tell a worker what to load."""
        return self.model.load(self._around.settings, worker.gpu)

    def loaded(self, worker: Worker, seconds: float) -> None:
        """Count the load of the model."""
        self._around.meters.loaded(self.model.name, self.model.version, str(worker.number), seconds)

    def freed(self, worker: Worker) -> None:
        """Give a worker that has room what waits."""
        if worker.room and worker in self._workers:
            self._gather()
            self._free[worker] = None
        if len(self._waiting):
            self._share_out()  # at once: an idle worker is what everybody waits for
        else:
            self._level()
        worker.go_on()

    def _gather(self) -> None:
        """Let the only worker that is free wait for those whom it has just answered."""
        answered, seconds = self._last
        wanted = min(answered + len(self._waiting), self.model.batch_size)
        if self._gathers and not self._free and len(self._waiting) < wanted > 1:
            self._hold.begin(wanted, seconds)

    def left(self, worker: Worker) -> None:
        """Give a worker nothing more."""
        self._free.pop(worker, None)

    def fell(self) -> None:
        """Count a worker that ended unasked."""
        self._around.meters.died(self.model.name, self.model.version)

    def overdue(self, jobs: list[Job], error: FrontendError) -> None:
        """Answer the requests for which a worker took too long."""
        for job in jobs:
            self._lose(job, "timeout", error)

    def _lose(self, job: Job, reason: str, error: FrontendError) -> None:
        """Count a request that gets no answer of the model's, unless it has got one or is a copy, and end it."""
        if not (job.done or job.shadow):
            self._count(job, reason, error)
        job.forget_timer()
        job.fail(error)

    def died(self, worker: Worker, jobs: list[Job], error: FrontendError) -> None:
        """Send the requests of a dead worker to another one, once; the others fail."""
        if worker.ended:
            self._around.ended(worker.name)
        again = []
        for job in jobs:
            if job.shadow:
                job.fail(error)
                continue
            # Who died with others may have died of them: sent again, each goes alone.
            job.deaths += _ALONE if len(jobs) == 1 else _SHARED
            if job.done and not job.begun:
                continue
            if self._may_be_resent(job):
                job.sent = 0.0
                if self._in_time(job):
                    again.append(job)
                    self._around.meters.resent(self.model.name, self.model.version)
                continue
            if job.deaths >= _MAX_DEATHS:
                logger.error(POISONED, job.request.request_id, self.model.label)
            self._lose(job, "worker", error)
        self._waiting.put_back(again)
        if self._sequences is not None:
            self._end_all(self._sequences.died(worker), "its worker died")
        if not self._workers.can_serve:
            for job in self._waiting.clear():
                self._lose(job, "worker", no_worker(self.model.name, None))
        self._look()
        self._level()

    def _end_all(self, jobs: list[Job], why: str) -> None:
        for job in jobs:
            self._lose(job, "sequence", UnavailableError(f"the sequence of this request has ended: {why}"))

    def _may_be_resent(self, job: Job) -> bool:
        return (
            self.model.retry
            and not self.model.stateful
            and not job.begun
            and job.deaths < _MAX_DEATHS
            and self._workers.can_serve
        )

    def answered(self, job: Job, timings: Timings, headers: dict[str, str], status: int) -> None:
        """Count an answer."""
        if job.shadow:
            return
        self._last = timings.batch, timings.worker
        if self._sequences is not None:
            self._end_all(self._sequences.answered(headers), "an answer said so")
        self._around.meters.answered(
            self.model.name,
            self.model.version,
            queue_s=timings.queue,
            total_s=time.monotonic() - job.arrived,
            batch=timings.batch,
            status=0 if job.done else status,
        )

    def heard(self, worker: Worker, pipe: str, line: str) -> None:
        """Take a line that a worker has printed."""
        if not self._around.meters.worker_line(self.model.name, self.model.version, line):
            self._around.printed(worker.name, pipe, line)

    # ---- workers ---------------------------------------------------------------------------------------------------

    def check(self, now: float) -> None:
        """Look at the clocks of all workers; called some times a second."""
        self._workers.check(now)
        if self._sequences is not None:
            self._end_all(self._sequences.expire(now), "it lasted too long")
            self._look()  # a worker may have room for a new one
        if self.model.least < self.model.most and not self.closing:
            self._workers.adapt(now, self._waiting)

    def _keeps_sequences(self, worker: Worker) -> bool:
        return self._sequences is not None and self._sequences.has(worker)

    async def scale(self, least: int, most: int, *, wait: bool) -> None:
        """Have at least and at most as many workers.

        Raises:
            FrontendError: a new worker could not load the model.
        """
        self.model = self.model.with_workers(least, most)
        if self._sequences is not None:
            self._sequences.spread(least)
        await self._workers.scale(wait=wait)

    async def close(self, grace_s: float) -> bool:
        """Take no more, answer what was taken, end the workers; say whether the grace was enough."""
        self.closing = True
        self._level()
        in_time = True
        try:
            await asyncio.wait_for(self._empty.wait(), grace_s)
        except asyncio.TimeoutError:
            in_time = False
            for job in self._waiting.clear():
                self._lose(job, "drain", UnavailableError(f"{self.model.name} ends, and this request waited too long"))
        self._free.clear()
        await self._workers.end(1.0 if in_time else 0.0)
        self._around.meters.forgotten(self.model.name, self.model.version)
        return in_time

    # ---- what it tells ---------------------------------------------------------------------------------------------

    @property
    def healthy(self) -> bool:
        """Whether it has as many workers as it wants, ready or on their way."""
        return self._workers.alive >= self.model.least

    @property
    def ready(self) -> bool:
        """Whether a worker is ready, if it wants any."""
        return self.model.least == 0 or self._workers.ready > 0

    def state(self, *, default: bool, share: Share | None = None) -> ModelState:
        """Describe it."""
        workers = tuple(worker.state(self._around.memory(worker.pid)) for worker in self._workers)
        return ModelState(
            self.model.name,
            self.model.version,
            self.model.unpacked.url,
            self.model.runtime,
            describing.settings_of(self.model),
            workers,
            len(self._waiting),
            max(0, self._waiting.capacity - len(self._waiting)),
            default,
            self.at_startup,
            share,
            self.model.unpacked.task,
        )


def _too_late() -> DeadlineError:
    return DeadlineError("the time that the request gave has passed before a worker was free")
