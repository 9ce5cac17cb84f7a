"""How often the garbage collector looks while a model is loaded, and after that."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from serving.worker.process import garbage


@pytest.fixture(autouse=True)
def usual() -> Iterator[tuple[int, int, int]]:
    before, usual = gc.get_threshold(), (700, 10, 10)
    gc.set_threshold(*usual)
    yield usual
    gc.set_threshold(*before)


def looks(number: int = 20_000) -> int:
    """Return how often it looks at so many new objects."""
    found: list[str] = []

    def note(phase: str, _: object) -> None:
        found.append(phase)

    gc.callbacks.append(note)
    kept = [[number] for number in range(number)]
    gc.callbacks.remove(note)
    assert len(kept) == number
    return found.count("start")


def test_it_looks_seldom_and_then_as_before(usual: tuple[int, int, int]) -> None:
    with garbage.seldom():
        assert looks() <= 1
    assert gc.get_threshold() == usual
    assert looks() > 10


def test_it_is_as_before_after_a_failure(usual: tuple[int, int, int]) -> None:
    with pytest.raises(ImportError), garbage.seldom():
        raise ImportError
    assert gc.get_threshold() == usual


def test_what_the_handler_says_holds() -> None:
    with garbage.seldom():
        gc.set_threshold(5000)
    assert gc.get_threshold()[0] == 5000


@pytest.mark.parametrize("threshold", [0, 1_000_000])
def test_one_that_looks_more_seldom_or_never_is_left_alone(threshold: int) -> None:
    gc.set_threshold(threshold)
    with garbage.seldom():
        assert gc.get_threshold()[0] == threshold
    assert gc.get_threshold()[0] == threshold
