from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.bench.tally import Figures, Tally, Times


def times(values: list[float]) -> Times:
    found = Times()
    for value in values:
        found.add(value)
    return found


@given(st.lists(st.floats(1e-6, 1e4), min_size=1), st.floats(0.001, 1.0))
def test_a_percentile_is_half_a_percent_from_a_value_that_occurred(values: list[float], share: float) -> None:
    exact = sorted(values)[max(1, math.ceil(len(values) * share - 1e-9)) - 1]
    assert times(values).percentile(share) == pytest.approx(exact, rel=0.0051)


def test_the_highest_value_is_exact_and_of_nothing_there_is_nothing() -> None:
    assert times([0.123456, 0.0]).percentile(1.0) == 0.123456
    assert times([]).percentile(0.5) == 0.0


@given(st.lists(st.floats(0, 100)), st.lists(st.floats(0, 100)))
def test_merged_times_are_those_of_all_values(left: list[float], right: list[float]) -> None:
    merged, whole = times(left), times(left + right)
    merged.merge(times(right))
    assert merged.buckets == whole.buckets
    assert (merged.number, merged.highest) == (whole.number, whole.highest)
    assert merged.total == pytest.approx(whole.total)


def test_memory_is_bounded_whatever_the_values() -> None:
    assert len(times([10 ** (exponent / 1000) for exponent in range(-6000, 6000)]).buckets) < 6000


def test_errors_keep_no_slo() -> None:
    tally = Tally(slo_s=0.1)
    for seconds in (0.05, 0.1, 0.2):
        tally.answered(seconds, in_time=True, timing=b"")
    tally.failed("HTTP 503", "first")
    tally.failed("HTTP 503", "second")
    figures = tally.figures(2.0, 0.1)
    assert (figures.requests, figures.good, figures.within, figures.within_share) == (5, 3, 2, 0.4)
    assert (figures.errors, figures.messages, figures.failed) == ({"HTTP 503": 2}, {"HTTP 503": "first"}, 2)
    assert figures.rate == 1.5
    assert tally.missed == 3


def test_an_answer_after_the_time_counts_but_not_for_the_rate() -> None:
    tally = Tally()
    tally.answered(0.1, in_time=False, timing=b"")
    assert (tally.figures(1.0, 0.0).good, tally.figures(1.0, 0.0).rate) == (1, 0.0)


def test_what_a_server_tells_is_bounded() -> None:
    tally = Tally()
    for number in range(100):
        tally.answered(0.1, in_time=True, timing=b'queue;dur=2, batch;desc="4", x%d;dur=1, none, y;dur=z' % number)
        tally.failed(f"kind {number}", "m" * 5000)
    figures = tally.figures(1.0, 0.0)
    assert (figures.server["queue"].mean, figures.server["batch"].max) == (2.0, 4.0)
    assert len(figures.server) == 16
    assert len(figures.errors) == 33
    # So it is when other seconds have told of other things.
    whole = Tally()
    for second in range(100):
        part = Tally()
        part.answered(0.1, in_time=True, timing=b"queue;dur=2, x%d;dur=1" % second)
        part.failed(f"kind {second}", f"message {second}", 3)
        whole.merge(part)
    merged = whole.figures(1.0, 0.0)
    assert (len(merged.server), merged.server["queue"].mean) == (16, 2.0)
    assert (len(merged.errors), merged.failed, merged.errors["other"]) == (33, 300, 3 * 68)
    assert (merged.messages["kind 0"], merged.messages["other"]) == ("message 0", "message 32")
    assert max(map(len, figures.messages.values())) == 300


def test_figures_go_through_json() -> None:
    tally = Tally(0.5)
    tally.answered(0.25, in_time=True, timing=b"queue;dur=1")
    for first in (False, True):
        if first:
            tally.firsts.add(0.1)
        figures = tally.figures(3.0, 0.2)
        assert Figures.from_document(json.loads(json.dumps(figures.document()))) == figures
