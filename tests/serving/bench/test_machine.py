from __future__ import annotations

import time
from dataclasses import replace

import pytest

from serving.bench.loads import Place
from serving.bench.machine import Processors, is_here, warnings
from serving.bench.tally import Tally


@pytest.mark.parametrize(
    ("place", "here"),
    [
        (Place("127.0.0.1", 80), True),
        (Place("localhost", 80), True),
        (Place("", 0, "/tmp/x.sock"), True),
        (Place("192.0.2.1", 80), False),  # of documentation
        (Place("nowhere.invalid", 80), False),
    ],
)
def test_whether_a_server_is_here(place: Place, here: bool) -> None:
    assert is_here(place) is here


def test_how_busy_the_processors_are() -> None:
    processors = Processors()
    until = time.monotonic() + 0.3
    while time.monotonic() < until:
        pass
    assert 0 < processors.busy() <= 1


def test_what_speaks_against_figures() -> None:
    figures = Tally().figures(1.0, 0.3)
    assert warnings(figures, None) == warnings(figures, 0.5) == []
    (own,) = warnings(replace(figures, own_core=0.97), 0.5)
    assert "busy 97% of the time" in own
    (machine,) = warnings(figures, 0.99)
    assert "busy 99% of the time" in machine
    assert len(warnings(replace(figures, own_core=0.97), 0.99)) == 2
