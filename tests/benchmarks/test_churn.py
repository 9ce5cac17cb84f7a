from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import cast

import psutil
import pytest

from benchmarks import churn
from benchmarks.churn_bench import models, rounds, watchdog
from benchmarks.churn_bench.rounds import HangError, Rounds, Tally
from benchmarks.churn_bench.watchdog import Watchdog
from benchmarks.soak_bench.processes import Member
from serving.control.state import ServerRecord


def test_every_model_has_an_archive(tmp_path: Path) -> None:
    store = models.build(tmp_path)
    found = sorted(path.stem for path in store.glob("*.mar"))
    assert found == sorted(name for names in models.SETS for name in names)


def test_the_command_line() -> None:
    options = churn.parse(["--rounds", "7", "--busy", "0"])
    assert (options.rounds, options.busy, options.server_rounds) == (7, 0, 100)
    for wrong in (["--rounds", "0"], ["--busy", "-1"], ["--minutes", "0"], ["--server-rounds", "0"]):
        with pytest.raises(SystemExit):
            churn.parse(wrong)


class Played(Rounds):
    """Rounds against no server."""

    statuses: dict[str, int] = {}  # noqa: RUF012

    def _register(self, model: str) -> int:
        return self.statuses.get(model, 200)

    def _unregister(self, model: str) -> int:
        return 200

    def _predict(self, model: str) -> int:
        return 200

    def _kill(self, after_s: float) -> int:
        self._tally.kills["thin"] += 1
        return 0


def play(count: int, kind: type[Rounds] = Played) -> Tally:
    tally = Tally()
    played = kind(tally, seed=1, say=lambda _text: None)
    for _ in range(count):
        played.play(cast("ServerRecord", None))
    return tally


def test_what_fails_without_a_kill_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounds, "_MAX_PAUSE_S", 0.0)
    tally = play(40)
    assert (tally.rounds, tally.failures) == (40, [])
    assert 0 < tally.kills["thin"] < 20
    monkeypatch.setattr(Played, "statuses", {"b2": 500})
    monkeypatch.setattr(rounds, "_KILL_SHARE", 0.0)
    tally = play(40)
    assert len(tally.failures) == 20
    assert tally.failures[0].endswith("b2 was registered and asked: (500, 200)")


def test_an_answer_that_does_not_come(monkeypatch: pytest.MonkeyPatch) -> None:
    class Hanging(Played):
        def _register(self, model: str) -> int:
            signal.sigtimedwait([], 0.3)
            return 200

    monkeypatch.setattr(rounds, "ANSWER_S", 0.05)
    with pytest.raises(HangError, match="round 0: no answer within 0"):
        play(1, Hanging)


def test_the_report() -> None:
    tally = Tally(3, Counter(thin=2), Counter({("register", 200): 11, ("register", 0): 1}), [], {"register": 1.25})
    text = churn.report(tally, [], 120.0)
    assert text.startswith("# Churn: all held\n\n3 rounds in 2 minutes. Killed processes: 2 thin.\n")
    assert "| register | 1 with no status, 11 with 200 | 1.2 |" in text
    assert churn.report(tally, ["this"], 1.0).startswith("# Churn: SOMETHING DID NOT HOLD")
    assert churn.report(tally, ["this"], 1.0).endswith("\n- this")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="it reads /proc")
def test_the_watchdog_tells_where_a_process_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "")
    monkeypatch.setattr(watchdog, "_WAIT_S", 0.1)
    watching = Watchdog(tmp_path, torch=False)
    code = "import time\ndef hanging():\n    print(flush=True)\n    time.sleep(1000)\nhanging()"
    with (
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process,
        subprocess.Popen(["sleep", "1000"]) as deaf,
    ):
        assert process.stdout is not None
        process.stdout.readline()
        found = [Member(psutil.Process(one.pid), role) for one, role in ((process, "thin"), (deaf, "other"))]
        monkeypatch.setattr(watchdog, "members", lambda _leader: found)
        text = watching.dump(os.getpid()).read_text()
        assert text.count(" in hanging\n") == 2
        assert f"---- other {deaf.pid}" in text
        assert text.count("waits in") >= 4
        assert process.poll() is None
        assert deaf.poll() is None  # a signal that it does not know would have ended it
        process.kill()
        deaf.kill()
    with pytest.raises(ImportError, match="not here"):
        exec((tmp_path / "prepared" / "torch.py").read_text())
