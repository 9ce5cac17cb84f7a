from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import frontend, pipeline
from benchmarks.serving_bench import turns
from benchmarks.serving_bench.contenders import Contender
from benchmarks.serving_bench.driver import Figures
from benchmarks.serving_bench.turns import AtLeast, Case
from benchmarks.serving_bench.workloads import Workload, noop, upload


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


def test_a_contender_that_is_not_measured_everywhere_leaves_a_gap_and_targets_are_of_one_round() -> None:
    one, four = Case("mnist", 1), Case("mnist", 4)
    targets = [
        AtLeast((four, "few"), (four, "usual"), 2.0),
        AtLeast((four, "few"), (one, "few"), 3.0),
        AtLeast((one, "few"), (one, "absent"), 1.0),
    ]
    comparison = replace(frontend.COMPARISON, targets=targets, workloads={"mnist": noop})
    options = turns.parse(comparison, ["--driver", "bundled"])
    workload = Workload("mnist", "", {}, (), str)
    run = turns.Run(comparison, options, Path(), [workload])
    run.figures = {
        one: {"few": [figures(10, 1), figures(20, 1), figures(40, 1)]},
        four: {
            "usual": [figures(10, 1), figures(10, 1), figures(100, 1)],
            "few": [figures(20, 1), figures(50, 1), figures(100, 1)],
        },
    }
    text = turns.reports(run)
    assert "| mnist, 1 | - | 20.0 | - | 1.00 | 0 |" in text
    assert "| mnist at 4, few: requests/s against usual | >= 2 | 2.00 | yes |" in text
    assert "| mnist at 4, few: requests/s against few at 1 | >= 3 | 2.50 | **no** |" in text
    assert "absent" not in text


class Silent:
    """A server that is only asked for its address, and who it is."""

    def __init__(self, url: str, contender: Contender) -> None:
        self.url = url
        self.contender = contender

    def drain(self, body: bytes) -> None:
        pass


def test_loops_and_contenders_of_one_workload(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    served: list[tuple[str, int]] = []

    @contextmanager
    def server(contender: Contender, workload: Workload, *_: object) -> Iterator[Silent]:
        served.append((workload.name, contender.batch_size))
        yield Silent("", contender)

    monkeypatch.setattr(turns, "serving", server)
    monkeypatch.setattr(turns.driver, "send", lambda *_: figures(10, 1))
    comparison = turns.Comparison(
        "",
        {"a": Contender("shared", batch_size=1), "b": Contender("shared", batch_size=2)},
        "a,b,c,loop",
        {"noop": noop, "upload": upload},
        "4,8",
        loops={"loop": lambda _, every, __: dict.fromkeys(every, figures(5, 1))},
        others={"upload": {"a": Contender("shared", batch_size=3), "c": Contender("shared", batch_size=4)}},
        only={"c": (8,)},
    )
    options = turns.parse(comparison, ["--rounds", "1", "--driver", "bundled"])
    run = turns.Run(comparison, options, tmp_path, [noop(tmp_path), upload(tmp_path)])
    run.all()
    assert not run.problems
    assert served == [("noop", 1), ("noop", 2), ("upload", 3), ("upload", 4)]
    assert {case: [*by] for case, by in run.figures.items()} == {
        Case("noop", 4): ["a", "b", "loop"],
        Case("noop", 8): ["a", "b", "loop"],
        Case("upload", 4): ["a", "loop"],
        Case("upload", 8): ["a", "c", "loop"],
    }
    first, second = turns.reports(run).split("\n\n")
    assert "| noop, 4 | 10.0 | 10.0 (1.00) | 5.00 (0.50) |" in first
    assert "| upload, 4 | 10.0 | - | 5.00 (0.50) |" in second


@pytest.mark.parametrize("together", [False, True])
def test_each_round_another_contender_begins(together: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[tuple[str, int]] = []

    @contextmanager
    def servers(models: Sequence[tuple[Contender, Workload, int]], *_: object) -> Iterator[list[Silent]]:
        yield [Silent(f"{contender.batch_size} {workload.name}", contender) for contender, workload, _ in models]

    @contextmanager
    def server(contender: Contender, workload: Workload, *_: object) -> Iterator[Silent]:
        yield Silent(f"{contender.batch_size} {workload.name}", contender)

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
