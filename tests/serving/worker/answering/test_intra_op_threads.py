"""The search for the number of threads: with torch's own setting, and handlers that take a set time."""

from __future__ import annotations

import logging
import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from serving.worker.answering.intra_op_threads import Threads, threads_of
from serving.worker.loading.settings import Backend

ENOUGH = 60  # batches; more than any trial takes


@pytest.fixture(autouse=True)
def _two_threads(two_threads: None) -> None:
    """Use two threads for all tests here."""


class Processor:
    """What the process has taken of the processor."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def trial(most: int = 2, processor: Processor | None = None) -> Threads:
    return Threads(torch, most, processor or Processor())


def run(
    threads: Threads,
    took: dict[int, float],
    size: int = 1,
    batches: int = ENOUGH,
    processor: Processor | None = None,
    wasted: dict[int, float] | None = None,
) -> list[int]:
    """Run batches of a model that takes so long with so many threads; return the threads that each was run with."""
    used = []
    for _ in range(batches):
        threads.before(size)
        used.append(torch.get_num_threads())
        if processor is not None and wasted is not None:
            processor.seconds += wasted[used[-1]]
        threads.after(size, took[used[-1]])
    return used


def model(**backend: Any) -> Any:
    return SimpleNamespace(backend=Backend(**backend))


@pytest.mark.parametrize(
    ("took", "best"),
    [
        ({2: 0.004, 1: 0.002}, 1),
        ({2: 0.002, 1: 0.004}, 2),
        ({2: 0.0020, 1: 0.0021}, 1),  # a core for the frontend is worth more than that
        ({2: 0.002, 1: 0.002}, 1),
    ],
)
def test_the_faster_setting_is_kept(took, best, caplog):
    caplog.set_level(logging.INFO)
    used = run(trial(), took)
    assert set(used) == {1, 2}
    assert set(used[-20:]) == {best}
    assert f"Threads for batches of 1: {best} (median in ms, time / processor, by threads: 2: " in caplog.text


def test_the_first_batches_have_all_threads_and_do_not_count():
    threads = trial()
    assert set(run(threads, {2: 9.0, 1: 9.0}, batches=4)) == {2}
    assert run(threads, {2: 0.001, 1: 0.004})[-1] == 2


def test_the_first_batch_after_a_change_does_not_count():
    threads = trial()
    last = 2
    for _ in range(ENOUGH):
        threads.before(1)
        now = torch.get_num_threads()
        threads.after(1, 9.0 if now != last else {2: 0.004, 1: 0.001}[now])
        last = now
    assert last == 1


def test_single_slow_batches_decide_nothing():
    threads = trial()
    for index in range(ENOUGH):
        threads.before(1)
        slow = index % 4 == 0
        threads.after(1, 0.019 if slow else {2: 0.004, 1: 0.001}[torch.get_num_threads()])
    assert torch.get_num_threads() == 1


def test_of_what_takes_long_two_batches_are_tried_with_half():
    used = run(trial(), {2: 0.11, 1: 0.2})
    assert used.count(1) == 2
    assert run(trial(), {2: 0.11, 1: 0.05})[-1] == 1
    torch.set_num_threads(16)
    assert set(run(trial(16), {16: 0.11, 8: 0.2})) == {16, 8}


@pytest.mark.parametrize("took", [{2: 0.15, 1: 0.3}, {2: 0.03, 1: 0.06}, {2: 0.002, 1: 0.004}])
def test_what_wastes_the_processor_is_not_kept(took):
    """Seen on a busy machine: 45 ms of the processor for a digit with two threads, 4 with one."""
    processor = Processor()
    assert run(trial(2, processor), took, processor=processor, wasted={2: 0.045, 1: 0.004})[-1] == 1
    torch.set_num_threads(2)
    assert run(trial(2, processor), took, processor=processor, wasted={2: 0.017, 1: 0.01})[-1] == 2


def test_of_long_batches_fewer_must_be_clearly_faster():
    assert run(trial(), {2: 0.03, 1: 0.029})[-1] == 2
    assert run(trial(), {2: 0.03, 1: 0.02})[-1] == 1
    assert run(trial(), {2: 0.019, 1: 0.019})[-1] == 1


def test_every_size_of_batch_has_its_own():
    threads = trial()
    for _ in range(ENOUGH):
        for size, took in ((1, {2: 0.002, 1: 0.001}), (8, {2: 0.005, 1: 0.009}), (15, {2: 0.005, 1: 0.009})):
            run(threads, took, size, batches=1)
    assert [run(threads, {1: 1.0, 2: 1.0}, size, batches=1) for size in (1, 8, 15)] == [[1], [2], [2]]


def test_many_cores_are_tried_in_steps():
    torch.set_num_threads(16)
    used = run(trial(16), {16: 0.004, 4: 0.001, 1: 0.003})
    assert set(used) == {16, 4, 1}
    assert used[-1] == 4


def test_a_handler_that_sets_its_own_is_left_alone():
    threads = trial()
    run(threads, {2: 0.004, 1: 0.001}, batches=10)
    torch.set_num_threads(3)
    assert set(run(threads, {3: 0.001})) == {3}


def test_a_batch_that_failed_is_not_measured():
    threads = trial()
    for _ in range(ENOUGH):
        threads.before(1)
        if torch.get_num_threads() == 2:
            continue
        threads.after(1, 0.001)
    assert torch.get_num_threads() == 2


def test_compiled_code_keeps_all_threads():
    """It is compiled for a number of threads, and anew for another: seconds, within a request."""
    threads, used = trial(), set()
    model = torch.compile(lambda x: x * 2, backend="eager")
    for _ in range(40):
        threads.before(1)
        used.add(torch.get_num_threads())
        model(torch.ones(2))
        threads.after(1, 0.001)
    assert used == {2}
    assert torch._dynamo.utils.counters["frames"]["total"] == 1


@given(st.lists(st.tuples(st.integers(1, 40), st.floats(0, 0.05)), max_size=300), st.integers(2, 64))
def test_the_setting_is_always_one_of_those_to_try(batches, most):
    torch.set_num_threads(most)
    threads = trial(most)
    for size, seconds in batches:
        threads.before(size)
        assert torch.get_num_threads() in {1, min(4, most), most}
        threads.after(size, seconds)


def test_only_where_nobody_has_chosen(monkeypatch):
    assert threads_of(model()) is not None
    assert threads_of(model(threads=2)) is None
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert threads_of(model()) is None
    monkeypatch.setenv("OMP_NUM_THREADS", "what")
    assert threads_of(model()) is not None


def test_not_with_one_thread():
    torch.set_num_threads(1)
    assert threads_of(model()) is None


def test_not_without_torch(monkeypatch):
    monkeypatch.delitem(sys.modules, "torch")
    assert threads_of(model()) is None


def test_not_where_the_bits_must_stay_the_same():
    torch.use_deterministic_algorithms(True)
    try:
        assert threads_of(model()) is None
    finally:
        torch.use_deterministic_algorithms(False)


def test_not_on_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    assert threads_of(model()) is None
