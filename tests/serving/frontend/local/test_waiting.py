"""Jobs that wait: in order, bounded, none lost."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.frontend.engine import Priority
from serving.frontend.local import waiting
from serving.frontend.local.job import Job
from serving.frontend.local.waiting import Hold, Waiting
from serving.protocol import Parameter, Request


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    made = asyncio.new_event_loop()
    yield made
    made.close()


def job(
    loop: asyncio.AbstractEventLoop, *, priority: Priority = Priority.NORMAL, at: float = 0.0, size: int = 0
) -> Job:
    made = Job(Request("id", {}, (Parameter("body", bytearray(size)),)), loop, priority=priority)
    made.arrived = at
    return made


def test_who_came_first_goes_first(loop: asyncio.AbstractEventLoop) -> None:
    line = Waiting(10)
    jobs = [job(loop, at=float(at)) for at in range(5)]
    assert all(line.put(one) for one in jobs)
    assert line.take(3) == jobs[:3]
    assert line.take(3) == jobs[3:]
    assert len(line) == 0


def test_who_waits_longest_is_known(loop: asyncio.AbstractEventLoop) -> None:
    assert Waiting(10).oldest is None
    line = Waiting(10)
    again, low, first = job(loop, at=3.0), job(loop, priority=Priority.LOW, at=2.0), job(loop, at=4.0)
    assert line.put(first)
    assert line.oldest == 4.0
    line.put_back([again])
    assert line.oldest == 3.0
    assert line.put(low)
    assert line.oldest == 2.0
    line.drop(low)
    assert line.take(2) == [again]
    assert line.oldest == 4.0


def test_a_full_line_takes_nobody(loop: asyncio.AbstractEventLoop) -> None:
    line = Waiting(2)
    assert [line.put(job(loop)) for _ in range(3)] == [True, True, False]


def test_a_line_holds_so_many_bytes_and_one_request_of_any_size(
    loop: asyncio.AbstractEventLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "MAX_BYTES", 100)
    line = Waiting(10)
    assert [line.put(job(loop, size=size)) for size in (200, 1)] == [True, False]
    line.take(1)
    assert [line.put(job(loop, size=size)) for size in (60, 40, 1)] == [True, True, False]


def test_high_goes_before_normal_and_low_is_not_forgotten(loop: asyncio.AbstractEventLoop) -> None:
    line = Waiting(10)
    low = job(loop, priority=Priority.LOW, at=0.0)
    normal = job(loop, at=5.0)
    high = job(loop, priority=Priority.HIGH, at=5.5)
    late = job(loop, priority=Priority.HIGH, at=12.0)
    for one in (low, normal, high, late):
        line.put(one)
    assert line.take(4) == [high, normal, low, late]


def test_who_comes_back_goes_first_and_alone(loop: asyncio.AbstractEventLoop) -> None:
    line = Waiting(10)
    fresh = [job(loop), job(loop)]
    back = [job(loop), job(loop)]
    for one in fresh:
        line.put(one)
    line.put_back(back)
    assert [line.take(8) for _ in range(3)] == [back[:1], back[1:], fresh]


def test_clients_that_have_left_are_passed_over(loop: asyncio.AbstractEventLoop) -> None:
    line = Waiting(10)
    left, there = job(loop), job(loop)
    line.put(left)
    line.put(there)
    left.answer.cancel()
    assert line.take(2) == [there]


_STEP = st.one_of(
    st.tuples(st.just("put"), st.sampled_from(Priority)),
    st.tuples(st.just("take"), st.integers(1, 4)),
    st.tuples(st.just("back"), st.just(None)),
    st.tuples(st.just("drop"), st.integers(0, 9)),
)


@given(st.lists(_STEP, max_size=40))
def test_none_is_lost_and_none_is_given_twice(loop: asyncio.AbstractEventLoop, steps: list[tuple[str, object]]) -> None:
    line = Waiting(8)
    inside: list[Job] = []
    taken: list[Job] = []
    for clock, (what, value) in enumerate(steps):
        if what == "put":
            one = job(loop, priority=value, at=float(clock))  # type: ignore[arg-type]
            if line.put(one):
                inside.append(one)
        elif what == "take":
            taken = line.take(value)  # type: ignore[arg-type]
            for one in taken:
                inside.remove(one)
        elif what == "back" and taken:
            line.put_back(taken)
            inside += taken
            taken = []
        elif what == "drop" and inside:
            line.drop(inside.pop(value % len(inside)))  # type: ignore[operator]
        assert len(line) == len(inside)
    assert sorted(map(id, line.clear())) == sorted(map(id, inside))
    assert len(line) == 0


def test_a_worker_waits_for_so_many_or_a_twentieth_of_its_time() -> None:
    async def work() -> None:
        over = asyncio.Event()
        hold = Hold(over.set)
        assert not hold.lasts(0)
        hold.begin(3, 60.0)
        assert hold.lasts(2)
        assert not hold.lasts(3)
        assert not hold.lasts(2)
        hold.begin(3, 0.2)
        hold.begin(3, 0.2)
        assert hold.lasts(0)
        begun = asyncio.get_running_loop().time()
        await asyncio.wait_for(over.wait(), 60.0)
        assert asyncio.get_running_loop().time() - begun >= 0.009
        assert not hold.lasts(0)

    asyncio.run(work())


def test_nobody_is_waited_for_longer_than_it_takes_to_ask() -> None:
    async def work() -> None:
        over = asyncio.Event()
        Hold(over.set).begin(2, 3600.0)
        await asyncio.wait_for(over.wait(), 60.0)

    asyncio.run(work())
