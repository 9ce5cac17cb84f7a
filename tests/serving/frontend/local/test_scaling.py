"""How many workers there are: the rule by itself, and an engine with real workers that follows it."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.frontend.local import scaling
from serving.frontend.local.scaling import PAUSE_S, QUIET_S, WAITED_S, Scaling, Seen, decide

from .conftest import Bench

_BUSY = Seen(workers=2, ready=2, idle=0, waited_s=WAITED_S, batches=1)
_QUIET = Seen(workers=4, ready=4, idle=1)


@pytest.mark.parametrize(
    ("seen", "bounds", "quiet_s", "wanted"),
    [
        (_BUSY, (1, 8), 0.0, 3),
        (replace(_BUSY, batches=2), (1, 8), 0.0, 4),
        (replace(_BUSY, batches=50), (1, 8), 0.0, 4),  # twice as many at the most
        (replace(_BUSY, batches=50), (1, 3), 0.0, 3),
        (_BUSY, (1, 2), 0.0, 2),
        (replace(_BUSY, waited_s=WAITED_S / 2), (1, 8), 0.0, 2),  # all servers let one wait for a moment
        (replace(_BUSY, ready=1), (1, 8), 0.0, 2),  # the next one loads already, or cannot load
        (replace(_BUSY, idle=1), (1, 8), 0.0, 2),  # it is about to be taken
        (_QUIET, (1, 8), QUIET_S, 3),
        (_QUIET, (1, 8), QUIET_S / 2, 4),
        (_QUIET, (4, 8), QUIET_S, 4),
        (replace(_QUIET, batches=1), (1, 8), QUIET_S, 4),
        (replace(_QUIET, idle=0), (1, 8), QUIET_S, 4),
        (replace(_QUIET, ready=3), (1, 8), QUIET_S, 4),
        (Seen(workers=1, ready=1, idle=1), (0, 8), QUIET_S, 1),  # the last one: nothing would wait without it
        (Seen(workers=0, ready=0, idle=0), (0, 8), QUIET_S, 0),
    ],
)
def test_the_rule(seen: Seen, bounds: tuple[int, int], quiet_s: float, wanted: int) -> None:
    assert decide(seen, *bounds, quiet_s) == wanted


@st.composite
def _seen(draw: st.DrawFn) -> tuple[Seen, int, int]:
    least = draw(st.integers(0, 8))
    most = draw(st.integers(least, 16))
    workers = draw(st.integers(least, most))
    ready = draw(st.integers(0, workers))
    waited_s = draw(st.one_of(st.just(0.0), st.floats(0.0, 10.0)))
    batches = draw(st.integers(1, 100)) if waited_s else 0
    return Seen(workers, ready, draw(st.integers(0, ready)), waited_s, batches), least, most


@given(_seen(), st.floats(0.0, 1000.0))
def test_the_bounds_hold_and_only_idle_workers_go(given: tuple[Seen, int, int], quiet_s: float) -> None:
    seen, least, most = given
    wanted = decide(seen, least, most, quiet_s)
    assert least <= wanted <= most
    assert seen.workers - wanted <= min(1, seen.idle)
    assert wanted <= max(2 * seen.workers, least)
    if wanted > seen.workers:
        assert not seen.idle


@given(st.lists(st.booleans(), min_size=1, max_size=300))
def test_nobody_goes_before_it_was_quiet_for_long(needed: list[bool]) -> None:
    watch, last, workers = Scaling(0.0), 0.0, 4
    for now, all_needed in enumerate(needed, start=1):
        seen = Seen(workers, workers, 0 if all_needed else 1)
        wanted = watch.look(seen, 1, 4, float(now))
        last = float(now) if all_needed else last
        assert wanted == workers or now - last >= QUIET_S
        workers, last = wanted, last if wanted == workers else float(now)


def test_after_one_that_gave_up_none_is_tried_for_a_while() -> None:
    watch = Scaling(0.0)
    watch.pause(1.0)
    assert watch.look(_BUSY, 1, 8, PAUSE_S) == _BUSY.workers
    assert watch.look(_BUSY, 1, 8, PAUSE_S + 1.0) > _BUSY.workers


_SLOW = """
import os, time

def handle(data, context):
    if data is None:
        return None
    time.sleep(0.4)
    return [str(os.getpid()) for row in data]
"""


def test_workers_come_with_requests_and_go_without(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = bench.build("slow", _SLOW, "minWorkers: 1\nmaxWorkers: 3\n")
    monkeypatch.setattr(scaling, "WAITED_S", 0.2)
    monkeypatch.setattr(scaling, "QUIET_S", 1.0)

    async def work() -> None:
        await bench.register(archive)
        assert len(bench.pids("slow")) == 1
        answered: set[bytes] = set()
        most = 0

        async def client() -> None:
            while len(answered) < 3:
                answered.add(bytes((await bench.ask("slow")).body))  # none fails

        clients = [asyncio.ensure_future(client()) for _ in range(6)]
        while not all(one.done() for one in clients):
            most = max(most, len(bench.pids("slow")))
            await asyncio.sleep(0.05)
        await asyncio.gather(*clients)
        assert most == 3
        # A worker that is taken away cuts no request.
        while len(bench.pids("slow")) > 1:
            assert (await bench.ask("slow")).status == 200
        assert (await bench.ask("slow")).status == 200
        while len(bench.ended) < 2:
            await asyncio.sleep(0.05)
        assert bench.counts.drops == []

    bench.run(work)


def test_equal_bounds_and_an_idle_model_stay_as_they_are(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = bench.build("slow", _SLOW, "minWorkers: 2\nmaxWorkers: 2\n")
    monkeypatch.setattr(scaling, "WAITED_S", 0.0)
    monkeypatch.setattr(scaling, "QUIET_S", 0.1)

    async def work() -> None:
        await bench.register(archive)
        pids = bench.pids("slow")
        await asyncio.gather(*(bench.ask("slow") for _ in range(5)))
        await asyncio.sleep(0.5)
        assert bench.pids("slow") == pids

    bench.run(work)


_ONCE = """
import pathlib, time

there = pathlib.Path(__file__).with_name("loaded")

def handle(data, context):
    if data is None:
        if there.exists():
            raise OSError("no memory for another")
        there.touch()
        return None
    time.sleep(0.3)
    return ["x" for row in data]
"""


def test_one_more_that_cannot_load_costs_nothing_and_is_not_tried_again_and_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = bench.build("once", _ONCE, "minWorkers: 1\nmaxWorkers: 3\nmaxRetryTimeoutInSec: 1\n")
    monkeypatch.setattr(scaling, "WAITED_S", 0.1)

    async def work() -> None:
        await bench.register(archive)
        pids = bench.pids("once")
        for _ in range(4):
            answers = await asyncio.gather(*(bench.ask("once") for _ in range(5)))
            assert all(answer.status == 200 for answer in answers)
        while not bench.ended:
            await bench.ask("once")
        await asyncio.gather(*(bench.ask("once") for _ in range(5)))
        assert bench.ended == ["W-9001-once_1.0"]
        assert bench.pids("once") == pids
        assert bench.engine.healthy

    bench.run(work)


_COUNTING = """
import os

def handle(data, context):
    if data is None:
        return None
    for at, row in enumerate(data):
        if bytes(row["body"]) == b"end":
            context.set_response_header(at, "ts_request_sequence_end", context.get_sequence_id(at))
    return [str(os.getpid()) for row in data]
"""
_SEQUENCES = (
    "sequenceBatching: true\nminWorkers: 2\nmaxWorkers: 2\n"
    "sequenceMaxIdleMSec: 60000\nmaxNumSequence: 2\nmaxSequenceJobQueueSize: 4\n"
)


def test_a_worker_that_keeps_a_sequence_stays(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = bench.build("counting", _COUNTING, _SEQUENCES)
    monkeypatch.setattr(scaling, "WAITED_S", 0.1)
    monkeypatch.setattr(scaling, "QUIET_S", 0.3)

    async def work() -> None:
        await bench.register(archive)

        async def ask(name: str, body: str = "on") -> bytes:
            answer = await bench.ask("counting", body, headers={"ts_request_sequence_id": name})
            return bytes(answer.body)

        one = await ask("one")
        two = await ask("two")  # the sequences are shared out over the workers
        assert one != two
        await bench.engine.scale("counting", None, 1, 2, synchronous=True)
        await asyncio.sleep(1.0)
        assert len(bench.pids("counting")) == 2
        assert [await ask("one"), await ask("two")] == [one, two]
        await ask("one", "end")
        while len(bench.pids("counting")) > 1:
            await asyncio.sleep(0.05)
        assert await ask("two") == two

    bench.run(work)
