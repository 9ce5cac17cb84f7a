"""The measurement of candidates; the trials stand in for models, and one real trial is in test_trial.py."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from archive_tool.errors import TorchmarError
from serving.errors import CheckError
from serving.local import contest
from serving.local.contest import Budget, Candidate, Contest, Process, Row, TrialError, best

FACTS = {"sdk": True, "old": False, "module": True, "device": "cpu"}
BFLOAT16 = Candidate("bfloat16", {"dtype": "bfloat16"})


@pytest.fixture(autouse=True)
def _stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contest, "_SCRIPT", Path(__file__).with_name("stand_in.py"))


@pytest.fixture
def folder(tmp_path: Path) -> Callable[..., Path]:
    """Return a folder for the stand-in."""

    def make(section: str = "", **facts: Any) -> Path:
        place = tmp_path / f"folder{len(list(tmp_path.iterdir()))}"
        place.mkdir()
        (place / "model-config.yaml").write_text(section)
        (place / "facts.json").write_text(json.dumps(FACTS | facts))
        return place

    return make


@pytest.fixture
def start(tmp_path: Path, folder: Callable[..., Path]) -> Callable[..., Contest]:
    def begin(
        plain: Path | None = None, *, timeout: float = 60, batch: int = 4, rounds: int = 3, budget: float = math.inf
    ) -> Contest:
        scratch = tmp_path / "scratch"
        scratch.mkdir()
        (tmp_path / "in.json").write_text("1")
        inputs = [("in0", tmp_path / "in.json", "application/json")]
        settings = {"batch": batch, "rounds": rounds, "seconds": 0.01, "timeout": timeout, "budget": Budget(budget)}
        return Contest(scratch, plain or folder(), "cpu", inputs, **settings)  # type: ignore[arg-type]

    return begin


def gone(*pids: int) -> bool:
    deadline = time.monotonic() + 60
    while any(_lives(pid) for pid in pids):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


# ---- measuring -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_s", "candidates", "budget", "expected"),
    [
        (0.001, 4, math.inf, (8, 5)),
        (0.001, 4, 60, (8, 5)),  # a quick model has all it was asked for
        (1.0, 1, 75, (8, 3)),  # fewer rounds first
        (1.0, 1, 60, (4, 5)),  # then smaller batches, with the rounds there is time for
        (10.0, 4, 60, (1, 3)),  # what does not fit even so is begun all the same
    ],
)
def test_a_budget_is_shared(
    start: Callable[..., Contest],
    folder: Callable[..., Path],
    request_s: float,
    candidates: int,
    budget: float,
    expected: tuple[int, int],
) -> None:
    with start(folder(request=request_s), batch=8, rounds=5, budget=budget) as running:
        assert running.request == request_s
        running._loading = 0.0
        running.fit(candidates)
        assert (running.batch, running.rounds) == expected


@pytest.mark.slow  # waits
def test_a_candidate_that_does_not_fit_into_the_budget_says_so(
    start: Callable[..., Contest], folder: Callable[..., Path]
) -> None:
    with start(budget=20) as running:
        begin = time.monotonic()
        row = running.measure(BFLOAT16, folder("dtype: bfloat16", takes=600), 1)
    assert time.monotonic() - begin < 60
    assert row.problem == "not measured: the budget of 20 s was over"
    assert not row.is_faster


def test_the_rounds_that_there_was_time_for_count(
    start: Callable[..., Contest], folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with start(rounds=1000, budget=600) as running:
        take_turns = running._take_turns

        def late(process: Process, row: Row) -> None:
            running._budget._end = time.monotonic() + 3  # it took its time to load
            take_turns(process, row)
            running._budget._end += 60  # to say how it ended

        monkeypatch.setattr(running, "_take_turns", late)
        row = running.measure(BFLOAT16, folder("dtype: bfloat16", takes=0.05), 1)
    assert row.problem is None
    assert contest.LEAST_ROUNDS <= len(row.rounds) < 30
    assert row.is_faster


def test_a_candidate_takes_turns_with_the_plain_model(
    start: Callable[..., Contest], folder: Callable[..., Path]
) -> None:
    with start() as running:
        assert running.facts == FACTS
        row = running.measure(BFLOAT16, folder("dtype: bfloat16"), 1)
        assert row.rounds == [(2.0, 2.0)] * 3
        assert (row.latency, row.rate) == pytest.approx((0.0005, 2000))
        assert (running.row.latency, running.row.rate) == pytest.approx((0.001, 1000))
        assert (row.difference, row.agreement, row.problem, row.cache) == (0.01, 1.0, None, None)
        assert row.memory > 1 << 20
        assert running.row.memory > 1 << 20
        assert best([running.row, row]) is row


def test_what_is_compiled_is_kept(start: Callable[..., Contest], folder: Callable[..., Path]) -> None:
    with start() as running:
        row = running.measure(Candidate("c", {"dtype": "bfloat16", "compile": True}), folder("bfloat16"), 1)
        assert row.cache is not None
        assert row.cache[0].read_text() == "compiled"
        assert row.cache[1]["madeFor"] == {"torch": "2"}


@pytest.mark.parametrize(
    ("section", "facts", "problem"),
    [
        ("float16", {}, "it does not load"),
        ("channels_last", {}, "the process ended with the exit code 3: last words"),
        ("bfloat16", {"refuses": True}, "in0: status 400"),
        ("bfloat16", {"falls_back": True, "warnings": ["x", "optimize: it differs by 3"]}, "optimize: it differs by 3"),
        ("bfloat16", {"falls_back": True}, "the model cannot be run so"),
    ],
)
def test_what_goes_wrong_with_a_candidate_is_in_its_row(
    start: Callable[..., Contest], folder: Callable[..., Path], section: str, facts: dict[str, Any], problem: str
) -> None:
    with start() as running:
        row = running.measure(BFLOAT16, folder(section, **facts), 1)
        assert row.problem == problem
        assert not row.is_faster
        assert running.measure(BFLOAT16, folder("bfloat16"), 2).problem is None  # the others go on


def test_a_compiled_way_that_fell_back_to_another_is_none(
    start: Callable[..., Contest], folder: Callable[..., Path]
) -> None:
    said = "optimize: bfloat16, inductor fails with X. Serving bfloat16 from now on."
    with start() as running:
        candidate = Candidate("c", {"dtype": "bfloat16", "compile": True})
        assert running.measure(candidate, folder("bfloat16", warnings=[said]), 1).problem == said


@pytest.mark.slow  # waits
def test_a_candidate_that_takes_too_long_is_ended_with_all_it_started(
    start: Callable[..., Contest], folder: Callable[..., Path], tmp_path: Path
) -> None:
    with start() as running:
        running._timeout = 5.0
        row = running.measure(BFLOAT16, folder("freezing"), 1)
        assert row.problem == "no answer within 5 s"
    assert gone(*map(int, (tmp_path / "pids.txt").read_text().split()))


def test_a_plain_model_that_does_not_run_ends_it(start: Callable[..., Contest], folder: Callable[..., Path]) -> None:
    with pytest.raises(TorchmarError, match="the model cannot be run: it does not load"), start(folder("float16")):
        pass


def test_an_input_that_the_plain_model_refuses(start: Callable[..., Contest], folder: Callable[..., Path]) -> None:
    with pytest.raises(CheckError, match="the model refuses an input: in0: status 400"), start(folder(refuses=True)):
        pass


# ---- judging ---------------------------------------------------------------------------------------------------------


def row(*rounds: tuple[float, float], problem: str | None = None) -> Row:
    return Row(BFLOAT16, problem, 1.0, 1.0, rounds=list(rounds))


@pytest.mark.parametrize(
    ("rounds", "faster"),
    [
        ([(1.1, 1.1), (1.2, 1.1), (1.1, 1.2)], True),
        ([(2.0, 2.0), (2.0, 2.0), (0.9, 0.9)], False),  # not in every round
        ([(1.04, 1.04)] * 3, False),  # less than the margin
        ([(1.06, 1.06)] * 3, True),
        ([(3.0, 0.9)] * 3, False),  # slower in batches
        ([(3.0, 0.96)] * 3, True),
        ([(0.9, 3.0)] * 3, False),
        ([], False),
    ],
)
def test_faster_is_more_than_noise(rounds: list[tuple[float, float]], faster: bool) -> None:
    assert row(*rounds).is_faster is faster
    assert not row(*rounds, problem="it crashed").is_faster


@pytest.mark.parametrize(
    ("rounds", "doubt"),
    [
        ([(2.0, 2.0), (2.0, 2.0), (0.9, 0.9)], "faster by the medians, but slower in 1 of 3 rounds"),
        ([(3.0, 0.9)] * 3, "faster in all, but slower alone or in batches"),
        ([(1.04, 1.04)] * 3, None),
        ([(2.0, 2.0)] * 3, None),
        ([], None),
    ],
)
def test_why_what_looks_faster_does_not_count(rounds: list[tuple[float, float]], doubt: str | None) -> None:
    assert row(*rounds).doubt == doubt


def test_the_best_is_the_fastest_in_both() -> None:
    alone, both, none = row(*[(4.0, 1.0)] * 3), row(*[(2.5, 2.5)] * 3), row(*[(1.0, 1.0)] * 3)
    assert best([none, alone, both]) is both
    assert best([none]) is None
    assert both.speedups == (2.5, 2.5)


def test_a_row_as_json() -> None:
    assert row((2.0, 3.0), (2.0, 3.0), (4.0, 1.0)).to_dict() == {
        "name": "bfloat16",
        "optimize": {"dtype": "bfloat16"},
        "threads": None,
        "latencyMs": 1000.0,
        "requestsPerSecond": 1.0,
        "memory": None,
        "difference": None,
        "agreement": None,
        "latencySpeedup": 2.0,
        "throughputSpeedup": 3.0,
        "faster": True,
        "problem": None,
    }
    json.dumps(Row(BFLOAT16, difference=float("inf")).to_dict(), allow_nan=False)


# ---- the process -----------------------------------------------------------------------------------------------------


def test_a_process_ends_with_its_parent(tmp_path: Path) -> None:
    """Also with one that is killed: its socket ends."""
    program = f"""
import sys, time
from pathlib import Path
sys.path.insert(0, {str(Path(contest.__file__).parents[2])!r})
from serving.local import contest
contest._SCRIPT = Path({str(Path(__file__).with_name("stand_in.py"))!r})
process = contest.Process(Path({str(tmp_path)!r}), 60)
print(process.pid, flush=True)
time.sleep(600)
"""
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    try:
        pid = int(parent.stdout.readline())
        assert _lives(pid)
    finally:
        parent.send_signal(signal.SIGKILL)
        parent.wait()
        parent.stdout.close()
    assert gone(pid)


def test_a_process_that_was_killed(tmp_path: Path) -> None:
    with Process(tmp_path, 60) as process:
        os.kill(process.pid, signal.SIGKILL)
        with pytest.raises(TrialError, match="the process was killed"):
            process.ask("facts")
