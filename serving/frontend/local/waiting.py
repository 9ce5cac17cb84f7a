"""The jobs of a model that wait for a worker: bounded, by priority and arrival, without the clients that have left.

And the worker that waits for them, for a moment: who has just been answered may ask again.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Hashable
from typing import Final

from serving.frontend.engine import Priority
from serving.frontend.local.job import Job

#: Seconds that a job of lower priority lets others pass that came after it. So nobody waits for ever.
_PATIENCE: Final = {Priority.HIGH: 0.0, Priority.NORMAL: 1.0, Priority.LOW: 10.0}
#: Bytes that the requests of one version may hold, beside one of any size.
MAX_BYTES: Final = 512 * 1024 * 1024
#: Of the time that the last batch took, and seconds at the most: longer on their way are few clients.
_HOLD: Final = 0.05
_MAX_HOLD_S: Final = 0.1


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


class Hold:
    """The moment in which a worker that has answered a batch waits for a full one.

    Clients that ask again when they are answered fall into two groups else: one runs, the other one waits, and the
    worker never sees them together. It takes up to a third more requests, where two small batches take longer than a
    large one (docs/adr/0030).

    Args:
        over: called when the moment ends without so many.
    """

    def __init__(self, over: Callable[[], None]) -> None:
        self._over = over
        self._wanted = 0
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, wanted: int, seconds: float) -> None:
        """Wait for so many jobs after a batch that took so many seconds."""
        self._end()
        self._wanted = wanted
        self._timer = asyncio.get_running_loop().call_later(min(_HOLD * seconds, _MAX_HOLD_S), self._run_out)

    def lasts(self, waiting: int) -> bool:
        """Return whether more jobs than these are waited for; else it has ended."""
        if self._timer is not None and waiting >= self._wanted:
            self._end()
        return self._timer is not None

    def _run_out(self) -> None:
        self._end()
        self._over()

    def _end(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
