from __future__ import annotations

import argparse

import pytest

from benchmarks.load import Rounds, ratio, report
from benchmarks.serving_bench.driver import Figures

OPTIONS = argparse.Namespace(workload="mnist", connections=8, rounds=3, seconds=5.0)


def rounds(theirs: list[float], ours: list[float]) -> Rounds:
    def figures(rates: list[float]) -> list[Figures]:
        return [Figures(100, 5.0, rate, 1.0, 2.0, 3.0, 0) for rate in rates]

    return {"wrk": figures(theirs), "bundled": figures(ours)}


@pytest.mark.parametrize(("ours", "agrees"), [(91.0, "yes"), (109.0, "yes"), (89.0, "**no**"), (111.0, "**no**")])
def test_medians_are_compared(ours: float, agrees: str) -> None:
    found = rounds([100.0, 1.0, 1000.0], [ours, 2.0, 1000.0])
    assert ratio(found) == ours / 100
    text = report(found, OPTIONS, 0.5)
    assert f"Within a tenth: {agrees}" in text
    assert f"Ratio of requests/s: {ours / 100:.3f}" in text
    assert "| torchmar bench |" in text
