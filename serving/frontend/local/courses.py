"""How requests go to a worker and answers come back, in each of the frontend's modes.

- `Batches`: one message at a time; its answer ends with the first frame that announces no further part.
- `Asynchronous`: any number of requests under way, answered in any order.
- `Continuous`: one message an iteration, with all requests that are under way and the new ones; each is answered by a
  part in every iteration, and joins and leaves between two of them.
"""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import replace
from math import inf
from typing import Final, Protocol

from serving.frontend.engine import Timings
from serving.frontend.errors import FrontendError, InternalError
from serving.frontend.local.job import Job
from serving.frontend.local.models.model import Model
from serving.protocol import Inference, PredictionItem, Reply, Request, encode_inference

#: Requests that an asynchronous worker has at once.
_MAX_AT_ONCE: Final = 1000
#: Seconds in which an asynchronous worker can give up the one request that takes too long, before it is ended with all.
_GRACE_S: Final = 5.0


class Seat(Protocol):
    """What a course needs of its worker."""

    @property
    def model(self) -> Model:
        """What the worker serves."""

    def transmit(self, frame: bytes) -> None:
        """Send a message to its process, or to all of them."""

    def answered(self, job: Job, timings: Timings, headers: dict[str, str], status: int) -> None:
        """Count an answer, or the first part of one."""

    def broken(self, why: str) -> None:
        """End the worker: it said what it must not say."""

    def freed(self) -> None:
        """Take note that requests have been answered."""


def course_of(seat: Seat, model: Model) -> Course:
    """Return the course of a model's workers."""
    if model.asynchronous:
        return Asynchronous(seat)
    return Continuous(seat) if model.continuous else Batches(seat)


class Course(ABC):
    """Requests of one worker.

    Attributes:
        jobs: that the worker has, by the ids of their requests.
        deadline: when the worker has taken too long, on the loop's clock.
    """

    def __init__(self, seat: Seat) -> None:
        self.jobs: dict[str, Job] = {}
        self.deadline = 0.0
        self._seat = seat
        self._time = asyncio.get_running_loop().time

    @property
    @abstractmethod
    def room(self) -> int:
        """How many requests can be sent now."""

    def send(self, jobs: list[Job]) -> None:
        """Send requests, no more than there is `room` for."""
        now = time.monotonic()
        for job in jobs:
            job.begin(now, len(jobs), self._seat.model.response_timeout_s)
            self.jobs[job.request.request_id] = job
        self._transmit(job.request for job in jobs)

    def go_on(self) -> None:  # noqa: B027 (most have nothing to do)
        """Do what is to be done when nothing new waits."""

    @abstractmethod
    def replied(self, reply: Reply) -> None:
        """Take what the worker has answered."""

    def take_all(self) -> list[Job]:
        """Take the requests of a worker that has died."""
        jobs = list(self.jobs.values())
        self.jobs.clear()
        return jobs

    def _wind_up(self) -> None:
        """Let the worker's time begin anew."""
        self.deadline = self._time() + self._seat.model.response_timeout_s

    def _transmit(self, requests: Iterable[Request]) -> None:
        self._wind_up()
        self._seat.transmit(encode_inference(Inference(tuple(requests))))

    def _fail_all(self, reply: Reply) -> None:
        """Answer every request with the error of the whole message."""
        error = refusal_of(reply)
        for job in self.take_all():
            self._fail(job, error)

    def _fail(self, job: Job, error: FrontendError) -> None:
        if job.parts is None:
            self._seat.answered(job, job.timings, {}, error.status)
        job.fail(error)

    def _deliver(self, job: Job, item: PredictionItem) -> bool:
        """Give a part of an answer to who waits for it; say whether more will come."""
        if job.parts is not None:
            return job.take(item)
        timings = job.timings
        self._seat.answered(job, timings, item.headers, item.status)
        return job.take(item, self._seat.model.version, timings)


def refusal_of(reply: Reply) -> InternalError:
    """Return the error of a message that a worker refuses as a whole; 413 stands for a lack of memory there."""
    return InternalError(reply.message, status=507 if reply.code == 413 else reply.code)


class Batches(Course):
    """One batch at a time."""

    @property
    def room(self) -> int:
        """A batch, when there is none."""
        return 0 if self.jobs else self._seat.model.batch_size

    def replied(self, reply: Reply) -> None:
        """Take a frame; the batch ends with the first that announces no further part."""
        if reply.code != 200:
            self._fail_all(reply)
        else:
            more = False
            for item in reply.items:
                job = self.jobs.get(item.request_id)
                if job is None:
                    self._seat.broken(f"it answered a request that it does not have, {item.request_id}")
                    return
                more |= self._deliver(job, item)
            if more:
                self._wind_up()
                return
            for job in self.take_all():
                if job.parts is not None:
                    job.parts.end()
                elif not job.done:
                    self._fail(job, InternalError("the worker gave no answer to this request"))
        self._seat.freed()


class Asynchronous(Course):
    """Any number of requests under way; each item of a frame stands for itself."""

    @property
    def room(self) -> int:
        """Up to a bound, whatever is under way."""
        return _MAX_AT_ONCE - len(self.jobs)

    def send(self, jobs: list[Job]) -> None:
        """Send requests, each in a message of its own: TorchServe's worker takes the first of a message alone."""
        for job in jobs:
            super().send([job])

    def _wind_up(self) -> None:
        super()._wind_up()
        self.deadline += _GRACE_S

    def replied(self, reply: Reply) -> None:
        """Take a frame."""
        if reply.code != 200:
            self._seat.broken(f"it answered with {reply.code} after the load of its model: {reply.message}")
            return
        for item in reply.items:
            # None: the end mark of an answer that was whole, or a request that took too long.
            if (job := self.jobs.get(item.request_id)) and not self._deliver(job, item):
                del self.jobs[item.request_id]
        self._wind_up()
        self._seat.freed()


class Continuous(Course):
    """All requests under way go into every message, the begun ones without their inputs (ContinuousBatching.java)."""

    def __init__(self, seat: Seat) -> None:
        super().__init__(seat)
        self._under_way = False

    @property
    def room(self) -> int:
        """What a batch has left, between two iterations."""
        return 0 if self._under_way else max(0, self._seat.model.batch_size - len(self.jobs))

    def send(self, jobs: list[Job]) -> None:
        """Send an iteration with further requests."""
        now = time.monotonic()
        for job in jobs:
            job.begin(now, len(self.jobs) + len(jobs), inf)  # the worker's time is that of one iteration
        self.jobs |= {job.request.request_id: job for job in jobs}
        self._iterate()

    def go_on(self) -> None:
        """Send an iteration of those that are under way."""
        if self.jobs and not self._under_way:
            self._iterate()

    def take_all(self) -> list[Job]:
        """Take the requests of a worker that has died."""
        self._under_way = False
        return super().take_all()

    def _iterate(self) -> None:
        self._under_way = True
        self._transmit(replace(job.request, parameters=()) if job.begun else job.request for job in self.jobs.values())

    def replied(self, reply: Reply) -> None:
        """Take the answer to an iteration; who has left, or has a whole answer, is in the next one no more."""
        self._under_way = False
        if reply.code != 200:
            self._fail_all(reply)
            self._seat.freed()
            return
        for item in reply.items:
            job = self.jobs.get(item.request_id)
            if job is None:
                self._seat.broken(f"it answered a request that it does not have, {item.request_id}")
                return
            if not self._deliver(job, item):
                del self.jobs[item.request_id]
        for name, job in list(self.jobs.items()):
            if job.parts.left if job.parts is not None else job.done:
                del self.jobs[name]
        self._seat.freed()
