"""The jobs of a model that keeps sequences: in order within each, each with one worker (SequenceBatching.java).

A sequence begins with its first request and belongs to the worker that took that one, until it ends: by a header of an
answer, after some time without a request, after its whole time, or with its worker. A batch holds one request of a
sequence at the most. A description belongs to none.
"""

from __future__ import annotations

import uuid
from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass, field
from math import inf

from serving.frontend.local.job import Job
from serving.frontend.local.models.model import Model
from serving.frontend.settings import Settings
from serving.protocol import Request, header_of


@dataclass(eq=False)
class _Sequence:
    """A sequence.

    Attributes:
        worker: that keeps its state; None before its first request was sent.
        idle_since: when its last request came or was under way, on the loop's clock.
        ends: when it has lasted long enough, on the loop's clock.
        last: the request that was sent last.
    """

    worker: Hashable | None
    idle_since: float
    ends: float
    jobs: deque[Job] = field(default_factory=deque)
    last: Job | None = None


class Sequences:
    """Jobs that wait, by sequence; in the place of `Waiting`.

    Args:
        model: how many sequences it keeps at once, how long, and how many requests of each may wait.
        settings: the names of the headers.
    """

    def __init__(self, model: Model, settings: Settings) -> None:
        values = model.values
        self.capacity = model.queue_size
        self._names = (settings.sequence_id, settings.sequence_start, settings.sequence_end)
        self._most = max(1, int(values.get("maxNumSequence") or 1))
        self._most_jobs = max(1, int(values.get("maxSequenceJobQueueSize") or 1))
        self._idle_s = int(values.get("sequenceMaxIdleMSec") or 0) / 1000
        self._whole_s = int(values.get("sequenceTimeoutMSec") or 0) / 1000 or inf
        #: Sequences of one worker.
        self._share = self._most
        self._alone: deque[Job] = deque()
        self._sequences: dict[str, _Sequence] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    @property
    def oldest(self) -> float | None:
        """When the job came that waits longest for any worker, on the loop's clock; the others wait for their own."""
        new = (one for one in self._sequences.values() if one.worker is None and one.jobs)
        return min((one.jobs[0].arrived for one in new), default=None)

    @property
    def has_room(self) -> bool:
        """Whether a new one can begin."""
        return len(self._sequences) < self._most

    def is_open(self, request: Request) -> bool:
        """Return whether a request goes on with a sequence."""
        return header_of(request.headers, self._names[0]) in self._sequences

    def has(self, worker: Hashable) -> bool:
        """Return whether sequences belong to a worker."""
        return any(one.worker == worker for one in self._sequences.values())

    def put(self, job: Job) -> bool:
        """Take a job; False when its sequence, or the model, has no room. One that names no sequence begins its own."""
        if job.alone:
            self._alone.append(job)
            self._count += 1
            return True
        name = name_of(job.request.headers, *self._names[:2])
        sequence = self._sequences.get(name)
        if sequence is None:
            if len(self._sequences) >= self._most:
                return False
            sequence = self._sequences[name] = _Sequence(None, job.arrived, job.arrived + self._whole_s)
        if len(sequence.jobs) >= self._most_jobs:
            return False
        sequence.jobs.append(job)
        sequence.idle_since = job.arrived
        self._count += 1
        return True

    def spread(self, workers: int) -> None:
        """Share the sequences out over so many workers."""
        self._share = -(-self._most // max(1, workers))

    def take(self, most: int, worker: Hashable) -> list[Job]:
        """Take the jobs of a worker's next batch: of its own sequences, and of new ones while it has room for them."""
        batch: list[Job] = []
        while self._alone:
            self._count -= 1
            if not (job := self._alone.popleft()).done:
                return [job]
        kept = sum(sequence.worker == worker for sequence in self._sequences.values())
        for sequence in self._sequences.values():
            if len(batch) >= most:
                break
            if sequence.worker is None and kept < self._share and sequence.jobs:
                sequence.worker, kept = worker, kept + 1
            if sequence.worker == worker and sequence.jobs:
                job = sequence.jobs.popleft()
                self._count -= 1
                if not job.done:
                    batch.append(job)
                    sequence.last = job
        return batch

    def put_back(self, jobs: list[Job]) -> None:
        """Take nothing back: the state of a sequence has died with its worker."""

    def drop(self, job: Job) -> None:
        """Remove a job whose client has left, or whose time is over."""
        if job in self._alone:
            self._alone.remove(job)
            self._count -= 1
            return
        for sequence in self._sequences.values():
            if job in sequence.jobs:
                sequence.jobs.remove(job)
                self._count -= 1
                return

    def answered(self, headers: dict[str, str]) -> list[Job]:
        """End the sequences that a header of an answer names, with semicolons between; return what waited of theirs."""
        told = header_of(headers, self._names[2])
        return [job for part in told.split(";") if (name := part.strip()) for job in self._end(name)]

    def expire(self, now: float) -> list[Job]:
        """End the sequences that are over; returns the requests of theirs that waited."""
        over = []
        for name, sequence in self._sequences.items():
            if sequence.jobs or (sequence.last is not None and not sequence.last.over):
                sequence.idle_since = now
            if now >= sequence.ends or now - sequence.idle_since >= self._idle_s:
                over.append(name)
        return [job for name in over for job in self._end(name)]

    def died(self, worker: Hashable) -> list[Job]:
        """End the sequences of a worker that has died; returns the requests of theirs that waited."""
        own = [name for name, sequence in self._sequences.items() if sequence.worker == worker]
        return [job for name in own for job in self._end(name)]

    def _end(self, name: str) -> list[Job]:
        sequence = self._sequences.pop(name, None)
        if sequence is None:
            return []
        self._count -= len(sequence.jobs)
        return list(sequence.jobs)

    def clear(self) -> list[Job]:
        """Take all of them."""
        alone = list(self._alone)
        self._alone.clear()
        self._count -= len(alone)
        return [*alone, *(job for name in list(self._sequences) for job in self._end(name))]


def name_of(headers: dict[str, str], key: str, start: str) -> str:
    """Return the name of a request's sequence; one that has none begins its own.

    Args:
        headers: of the request, which are completed then.
        key: header that names the sequence.
        start: header that says that the request is the first one.
    """
    name = header_of(headers, key)
    if not name:
        name = headers[key] = f"ts-seq-{uuid.uuid4()}"
        headers[start] = "true"
    return name
