"""What workers take, of processes that one or several share."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from serving.frontend.metering import processes
from serving.frontend.metering.processes import Processes, Processor, Seen
from serving.frontend.metering.series import Registry
from serving.worker.scripts import registry as prefork


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> dict[int, float]:
    """Seconds that processes have taken, by pid."""
    found: dict[int, float] = {}
    monkeypatch.setattr(processes, "_seconds", found.get)
    return found


def test_the_time_of_a_shared_process_is_divided_as_it_grows(clock: dict[int, float]) -> None:
    processor = Processor()
    clock.update({1: 0.5, 900: 100.0})
    assert processor.taken({1: ((1, 1), (900, 1))}) == {1: 100.5}
    clock.update({2: 0.25, 900: 110.0})
    two = {1: ((1, 1), (900, 2)), 2: ((2, 1), (900, 2))}
    assert processor.taken(two) == {1: 105.5, 2: 5.25}, "the first one's shrinks with no second one"
    clock[900] = 111.0
    assert processor.taken(two) == {1: 106.0, 2: 5.75}
    del clock[2]
    clock[900] = 112.0
    assert processor.taken({1: ((1, 1), (900, 1)), 2: ((2, 1), (900, 1))}) == {1: 107.0}, "one is gone"


def test_a_process_that_is_found_late_is_added_and_no_time_is_taken_back(clock: dict[int, float]) -> None:
    processor = Processor()
    clock.update({1: 0.5, 900: 3.0})
    assert processor.taken({1: ((1, 1),)}) == {1: 0.5}
    assert processor.taken({1: ((1, 1), (900, 1))}) == {1: 3.5}
    clock[900] = 1.0  # another program has the number
    assert processor.taken({1: ((1, 1), (900, 1))}) == {1: 3.5}


def test_who_is_behind_whom_is_kept_while_nobody_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as thin:
        behind = {thin.pid: (os.getpid(), 1)}
        monkeypatch.setattr(prefork, "backends", lambda *_: behind)
        found = Processes(Registry())
        found.watch(lambda: [Seen("mnist", "1.0", 1, 1, [("9000", thin.pid)])])
        found.look()

        def memory() -> float:
            (family,) = (one for one in found.collect() if one.name == "torchmar_worker_memory_bytes")
            return float(family.samples[0].value)

        first = memory()

        def busy(*_: object) -> None:
            raise TimeoutError

        monkeypatch.setattr(prefork, "backends", busy)
        assert memory() == pytest.approx(first, rel=0.2)
        thin.kill()
