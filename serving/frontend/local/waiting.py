"""The jobs of a model that wait for a worker: bounded, by priority and arrival, without the clients that have left."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from typing import Final

from serving.frontend.engine import Priority
from serving.frontend.local.job import Job

#: Seconds that a job of lower priority lets others pass that came after it. So nobody waits for ever.
_PATIENCE: Final = {Priority.HIGH: 0.0, Priority.NORMAL: 1.0, Priority.LOW: 10.0}
#: Bytes that the requests of one version may hold, beside one of any size.
MAX_BYTES: Final = 512 * 1024 * 1024


class Waiting:
    """Jobs that wait.

    Args:
        capacity: how many at the most.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._again: deque[Job] = deque()
        self._lines: dict[Priority, deque[Job]] = {priority: deque() for priority in Priority}
        self._count = 0
        self._bytes = 0

    def __len__(self) -> int:
        return self._count

    @property
    def oldest(self) -> float | None:
        """When the job came that waits longest, on the loop's clock; None if none does."""
        first = [line[0].arrived for line in (self._again, *self._lines.values()) if line]
        return min(first, default=None)

    @property
    def has_room(self) -> bool:
        """Whether another one can wait."""
        return self._count < self.capacity

    def put(self, job: Job) -> bool:
        """Take a job; False when there is no room."""
        if self._count >= self.capacity or (self._count and self._bytes + job.size > MAX_BYTES):
            return False
        self._lines[job.priority].append(job)
        self._count += 1
        self._bytes += job.size
        return True

    def put_back(self, jobs: list[Job]) -> None:
        """Take jobs back whose worker died: they come before all others, each in a batch of its own."""
        self._again.extend(jobs)
        self._count += len(jobs)
        self._bytes += sum(job.size for job in jobs)

    def take(self, most: int, worker: Hashable = None) -> list[Job]:  # noqa: ARG002
        """Take the jobs of the next batch, those that somebody still waits for; any worker may have them."""
        batch: list[Job] = []
        while self._again:
            if not (job := self._removed(self._again)).done:
                return [job]
        while len(batch) < most and (line := self._next()) is not None:
            if line[0].alone and batch:
                break
            if (job := self._removed(line)).done:
                continue
            batch.append(job)
            if job.alone:
                break
        return batch

    def _next(self) -> deque[Job] | None:
        normal = self._lines[Priority.NORMAL]
        if len(normal) == self._count:  # as a rule there are no others
            return normal or None
        lines = [(line[0].arrived + _PATIENCE[priority], line) for priority, line in self._lines.items() if line]
        return min(lines, key=lambda pair: pair[0])[1] if lines else None

    def _removed(self, line: deque[Job]) -> Job:
        job = line.popleft()
        self._count -= 1
        self._bytes -= job.size
        return job

    def drop(self, job: Job) -> None:
        """Remove a job whose client has left, or whose time is over."""
        for line in (self._lines[job.priority], self._again):
            try:
                line.remove(job)
            except ValueError:
                continue
            self._count -= 1
            self._bytes -= job.size
            return

    def clear(self) -> list[Job]:
        """Take all of them."""
        jobs = [*self._again, *(job for line in self._lines.values() for job in line)]
        self._again.clear()
        for line in self._lines.values():
            line.clear()
        self._count = self._bytes = 0
        return jobs
