from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.bench.loads import Load, Place

LOAD = Load(Place("h", 1), (b"\x00\xff", b"b"), 3, 10.0)


@given(st.tuples(st.binary(), st.binary()), st.none() | st.floats(0.1, 100), st.booleans(), st.text())
def test_a_load_goes_through_one_line(requests: tuple[bytes, ...], rate: float | None, steady: bool, path: str) -> None:
    load = replace(LOAD, requests=requests, rate=rate, steady=steady, place=Place("h", 1, path, True, None))
    line = load.to_json()
    assert "\n" not in line
    assert Load.from_json(line.encode()) == load


def test_a_closed_loop_has_no_times() -> None:
    assert list(LOAD.starts()) == []


def test_steady_requests_begin_at_equal_distances() -> None:
    assert list(replace(LOAD, rate=2.0, steady=True, seconds=2.0).starts()) == [0.0, 0.5, 1.0, 1.5]


def test_others_begin_at_random_but_the_same_in_every_run() -> None:
    load = replace(LOAD, rate=200.0, seconds=50.0)
    starts = list(load.starts())
    assert starts == list(load.starts()) == sorted(starts)
    assert starts[-1] < 50
    assert len(starts) == pytest.approx(10_000, rel=0.05)
    gaps = [after - before for before, after in pairwise(starts)]
    # Of a Poisson process: a distance is as long as its standard deviation.
    mean = sum(gaps) / len(gaps)
    assert (sum((gap - mean) ** 2 for gap in gaps) / len(gaps)) ** 0.5 == pytest.approx(mean, rel=0.1)
