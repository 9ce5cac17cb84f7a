"""The copies of requests that a version gets whose answers nobody sees.

A copy never waits and is never sent again: what comes beside it goes first, and where that leaves no worker free it is
dropped. Nobody waits for it either, so that a worker that is to end does.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

from serving.frontend.local.job import Job
from serving.frontend.local.worker import Worker
from serving.protocol import Request

# Statuses from here on are errors.
_BAD: Final = 400


class Shadows:
    """Copies on their way to the workers of a version.

    Args:
        settled: told of each, as `Meters.shadowed` is: what came of it, and the worker's seconds.

    Attributes:
        jobs: that came in this turn of the event loop.
    """

    def __init__(self, settled: Callable[[str, float], None]) -> None:
        self._settled = settled
        self.jobs: list[Job] = []

    def drop(self) -> None:
        """Count a copy for which no worker is free."""
        self._settled("dropped", 0.0)

    def take(self, request: Request) -> None:
        """Take a copy."""
        job = Job(request, asyncio.get_running_loop(), shadow=True)
        job.answer.add_done_callback(lambda _: self._settle(job))
        self.jobs.append(job)

    def share_out(self, free: dict[Worker, None]) -> None:
        """Give the copies to the workers that are free, of which some are not any more then, and drop the others."""
        jobs, self.jobs = self.jobs, []
        for worker in list(free):
            if batch := jobs[: worker.room]:
                jobs = jobs[len(batch) :]
                worker.send(batch)
                if not worker.room:
                    del free[worker]
        for _ in jobs:
            self.drop()

    def _settle(self, job: Job) -> None:
        failed = job.answer.exception() is not None or job.answer.result().status >= _BAD
        self._settled("failed" if failed else "answered", time.monotonic() - job.sent)
        if job.parts is not None:
            job.parts.end()  # of a stream the first part is enough
