"""The deadline and the attempt of a request, as they reach the handlers of real workers in each mode."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from serving.frontend.engine import Answer

from .conftest import Bench

_TELL = """
import time

def told(data, context):
    now = time.monotonic()
    left = [None if (end := context.get_deadline(n)) is None else end - now for n in range(len(data))]
    whole = None if context.deadline is None else context.deadline - now
    shown = sorted(context.get_all_request_header(0))
    attempts = [context.get_attempt(n) for n in range(len(data))]
    for row in data:
        time.sleep(float(bytes(row["body"])))
    tell = {"left": left, "whole": whole, "attempts": attempts, "attempt": context.attempt, "headers": shown}
    return [tell] * len(data)
"""
_HANDLE = """
def handle(data, context):
    return None if data is None else told(data, context)
"""
_ASYNC = """
class Handler:
    def initialize(self, context):
        pass

    async def handle(self, data, context):
        return told(data, context)
"""


async def _ask(bench: Bench, *, within: float | None = None, body: str = "0") -> dict[str, Any]:
    deadline = None if within is None else asyncio.get_running_loop().time() + within
    return _read(await bench.ask("tell", body, deadline=deadline))


def _read(answer: Answer) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(bytes(answer.body))
    return found


MODES = {
    "dedicated": (_HANDLE, "batchSize: 4\n"),
    "shared": (_HANDLE, "batchSize: 4\nbackend: {mode: shared}\n"),
    "asynchronous": (_ASYNC, "asyncCommunication: true\n"),
    "iterations": (_HANDLE, "continuousBatching: true\nresponseTimeout: 2\n"),
}


@pytest.mark.parametrize("mode", MODES)
def test_the_deadline_of_a_request(bench: Bench, mode: str) -> None:
    handler, config = MODES[mode]
    archive = bench.build("tell", _TELL + handler, config)

    async def work() -> None:
        await bench.register(archive)
        plain = await _ask(bench)
        assert (plain["left"], plain["whole"], plain["attempts"], plain["attempt"]) == ([None], None, [1], 1)
        timed = await _ask(bench, within=30)
        assert 20 < timed["left"][0] < 30
        assert timed["left"] == [timed["whole"]]
        assert timed["headers"] == plain["headers"]
        busy = asyncio.ensure_future(_ask(bench, body="0.3"))
        await asyncio.sleep(0.1)
        first, second = await asyncio.gather(_ask(bench, within=30), _ask(bench, within=50))
        await busy
        if len(first["left"]) == 2:  # one batch, where the mode has any
            assert first == second
            assert first["whole"] == max(first["left"])
        assert 35 < second["left"][-1] < 50

    bench.run(work)


def test_the_worker_may_not_take_longer_than_responsetimeout(bench: Bench) -> None:
    archive = bench.build("tell", _TELL + _HANDLE, "responseTimeout: 7\nclientTimeoutInMills: 5000\n")

    async def work() -> None:
        await bench.register(archive)
        assert 3 < (await _ask(bench))["whole"] < 5
        assert 3 < (await _ask(bench, within=30))["whole"] < 5
        assert (await _ask(bench, within=2))["whole"] < 2

    bench.run(work)


def test_a_request_that_is_sent_again_says_so(bench: Bench) -> None:
    archive = bench.build("tell", _TELL + _HANDLE, "backend: {retry: true}\n")

    async def work() -> None:
        await bench.register(archive)
        running = asyncio.ensure_future(_ask(bench, within=60, body="0.3"))
        await asyncio.sleep(0.1)
        bench.kill("tell")
        again = await running
        assert (again["attempts"], again["attempt"]) == ([2], 2)
        assert 30 < again["whole"] < 59.9  # the same moment, and not as long again
        assert (await _ask(bench))["attempt"] == 1

    bench.run(work)
