from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from benchmarks import frontend, pipeline
from benchmarks.serving_bench import turns
from benchmarks.serving_bench.contenders import Contender
from benchmarks.serving_bench.driver import Figures
from benchmarks.serving_bench.turns import Case
from benchmarks.serving_bench.workloads import Workload, noop


def figures(rps: float, p99: float) -> Figures:
    return Figures(100, 1.0, rps, 1.0, p99, 2 * p99, 0)


def test_quick_is_one_round_at_few_connections() -> None:
    options = turns.parse(frontend.COMPARISON, ["--quick", "--driver", "bundled"])
    assert (options.rounds, options.connections) == (1, (1, 8))
    usual = turns.parse(frontend.COMPARISON, ["--driver", "bundled"])
    assert "frontend" not in usual
    assert turns.parse(pipeline.COMPARISON, ["--driver", "bundled"]).frontend == "java"
    assert (usual.rounds, usual.connections, usual.contenders) == (3, (1, 8, 32, 64), ["usual", "few"])


@pytest.mark.parametrize("comparison", [frontend.COMPARISON, pipeline.COMPARISON])
@pytest.mark.parametrize("arguments", [["--contenders", "x"], ["--workloads", "x"], ["--cores", "0"]])
def test_a_wrong_option_is_refused(
    comparison: turns.Comparison, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        turns.parse(comparison, arguments)
    assert caught.value.code == 2
    assert "error:" in capsys.readouterr().err


def test_ratios_are_of_one_round() -> None:
    rounds = {"usual": [figures(10, 4), figures(20, 8), figures(90, 8)], "few": [figures(20, 2), figures(30, 4)] * 2}
    rounds["few"] = rounds["few"][:3]
    text = turns.report({Case("mnist", 8): rounds}, ["usual", "few"])
    assert "| mnist, 8 | 20.0 | 20.0 (1.50) | 8.00 | 2.00 (0.50) | 0 |" in text


class Silent:
    """A server that is only asked for its address."""

    def __init__(self, url: str) -> None:
        self.url = url

    def drain(self, body: bytes) -> None:
        pass


@pytest.mark.parametrize("together", [False, True])
def test_each_round_another_contender_begins(together: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[tuple[str, int]] = []

    @contextmanager
    def servers(models: Sequence[tuple[Contender, Workload, int]], *_: object) -> Iterator[list[Silent]]:
        yield [Silent(f"{contender.batch_size} {workload.name}") for contender, workload, _ in models]

    @contextmanager
    def server(contender: Contender, workload: Workload, *_: object) -> Iterator[Silent]:
        yield Silent(f"{contender.batch_size} {workload.name}")

    def send(driver: str, url: str, bodies: object, connections: int, seconds: float) -> Figures:
        if seconds == 3.0:
            sent.append((url, connections))
        return figures(10, 1)

    monkeypatch.setattr(turns, "serving", server)
    monkeypatch.setattr(turns, "serving_together", servers)
    monkeypatch.setattr(turns.driver, "send", send)
    contenders = {"a": Contender("shared", batch_size=1), "b": Contender("shared", batch_size=2)}
    comparison = turns.Comparison("", contenders, "a,b", {"noop": noop}, "4,8", together=together)
    options = turns.parse(comparison, ["--rounds", "2", "--driver", "bundled"])
    run = turns.Run(comparison, options, tmp_path, [noop(tmp_path)])
    run.all()
    assert not run.problems
    names = ["1 noop-a", "2 noop-b"] if together else ["1 noop", "2 noop"]
    one, other = names
    if together:
        orders = (
            [[(one, count), (other, count)] for count in (4, 8)],
            [[(other, count), (one, count)] for count in (4, 8)],
        )
        assert sent == [turn for order in orders for pair in order for turn in pair]
    else:
        assert sent == [(name, count) for name in (one, other, other, one) for count in (4, 8)]
    assert {case: {label: len(found) for label, found in by.items()} for case, by in run.figures.items()} == {
        Case("noop", 4): {"a": 2, "b": 2},
        Case("noop", 8): {"a": 2, "b": 2},
    }
