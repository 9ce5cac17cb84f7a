"""What a worker is told of a request beside the usual."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from math import inf

from serving.frontend.local.job import Job
from serving.protocol import ATTEMPT, DEADLINE, Request


def in_loop(work: Callable[[asyncio.AbstractEventLoop], None]) -> None:
    async def main() -> None:
        work(asyncio.get_running_loop())

    asyncio.run(main())


def test_without_a_deadline_the_first_worker_gets_the_request_as_it_is() -> None:
    def work(loop: asyncio.AbstractEventLoop) -> None:
        request = Request("1", {"Host": "here"})
        job = Job(request, loop)
        job.begin(time.monotonic(), 1, 120.0)
        assert job.request is request
        assert (job.attempt, job.until, request.headers) == (1, None, {"Host": "here"})

    in_loop(work)


def test_the_clients_deadline_or_the_workers_whichever_is_sooner() -> None:
    def work(loop: asyncio.AbstractEventLoop) -> None:
        for limit_s, sooner in ((120.0, 5.0), (inf, 5.0), (2.0, 2.0)):
            request = Request("1", {"Host": "here"})
            job = Job(request, loop, deadline=loop.time() + 5.0)
            now = time.monotonic()
            job.begin(now, 1, limit_s)
            assert abs(float(job.request.headers[DEADLINE]) - now - sooner) < 0.05
            assert job.request.headers.keys() == {"Host", DEADLINE}
            assert request.headers == {"Host": "here"}  # whoever asks may ask another one the same

    in_loop(work)


def test_the_models_own_limit_is_a_deadline() -> None:
    def work(loop: asyncio.AbstractEventLoop) -> None:
        for deadline, until in ((None, 3.0), (5.0, 3.0), (1.0, 1.0)):
            job = Job(Request("1"), loop, deadline=None if deadline is None else loop.time() + deadline)
            job.wait_until(job.arrived + 3.0)
            job.begin(job.arrived, 1, 120.0)
            assert abs(float(job.request.headers[DEADLINE]) - job.arrived - until) < 0.05

    in_loop(work)


def test_each_further_worker_is_told_which_try_it_is() -> None:
    def work(loop: asyncio.AbstractEventLoop) -> None:
        job = Job(Request("1"), loop)
        told = []
        for _ in range(3):
            job.begin(time.monotonic(), 1, 120.0)
            told.append(job.request.headers)
        assert told == [{}, {ATTEMPT: "2"}, {ATTEMPT: "3"}]

    in_loop(work)
