from __future__ import annotations

from dataclasses import replace

import pytest

from serving.bench.search import Hopeless, Search, kept
from serving.bench.tally import Second, Tally


def found(capacity: float, limit: float) -> Search:
    """Search on a server that keeps its promise up to a limit."""
    search = Search(capacity)
    while (rate := search.next()) is not None:
        search.tried(rate, kept=rate <= limit)
    return search


@pytest.mark.parametrize("limit", [30, 99, 333, 640, 801, 999, 1400])
def test_the_rate_is_found_to_a_twentieth(limit: float) -> None:
    search = found(1000, limit)
    assert limit / 1.06 <= search.kept <= limit
    assert search.tries <= 12


def test_where_no_rate_is_kept_that_is_told_soon() -> None:
    search = found(1000, 0)
    assert (search.kept, search.tries) == (0, 7)


def test_a_server_without_a_limit_ends_the_search() -> None:
    assert found(1000, 1e9).tries == 14


def test_what_is_kept() -> None:
    tally = Tally(0.1)
    for _ in range(99):
        tally.answered(0.1, in_time=True, timing=b"")
    assert kept(tally.figures(1.0, 0.0))
    tally.failed("HTTP 503")
    assert kept(tally.figures(1.0, 0.0))
    tally.answered(0.11, in_time=True, timing=b"")
    assert not kept(tally.figures(1.0, 0.0))
    assert not kept(Tally(0.1).figures(1.0, 0.0))


def test_a_rate_is_given_up_when_more_were_missed_than_may_be() -> None:
    one = Second(1.0, 100, 0, 10, 1.0, 1.0, 0, 0)
    hopeless = Hopeless(1000)
    assert not hopeless.seen(one)
    assert hopeless.seen(one)
    assert not Hopeless(1000).seen(replace(one, missed=0))
