"""torchmar batch on the command line, with real workers. Nothing here needs torch, so they start without it."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

import archive_tool
from archive_tool.cli import entry

ROOT = Path(__file__).resolve().parents[3]
HANDLER = """
import os, time

def handle(data, context):
    if data is None:
        return None
    time.sleep(PAUSE)
    found = []
    for row in data:
        body = row["body"]
        if body == {"die": True}:
            print("about to die", flush=True)
            os.kill(os.getpid(), 9)
        x = body.get("x") if isinstance(body, dict) else None
        found.append({"label": x, "was": body if isinstance(body, dict) else len(body), "batch": len(data)})
    return found
"""


class Place:
    """A folder with a model, and the command run in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.temporary = folder / "t"
        self.temporary.mkdir()
        (folder / "hidden").mkdir()
        (folder / "hidden" / "torch.py").write_text("raise ImportError('torch is hidden from this test')\n")
        self.environment = {
            **os.environ,
            "PYTHONPATH": f"{folder / 'hidden'}:{ROOT}",
            "TMPDIR": str(self.temporary),
        }

    def build(self, name: str = "m", config: str = "", source: str = HANDLER, pause: float = 0.0) -> str:
        (self.folder / f"{name}.py").write_text(source.replace("PAUSE", str(pause)))
        options: dict[str, Any] = {}
        if config:
            (self.folder / "config.yaml").write_text(config)
            options["config_file"] = self.folder / "config.yaml"
        handler = str(self.folder / f"{name}.py")
        archive_tool.build(model_name=name, handler=handler, export_path=self.folder, **options)
        return f"{name}.mar"

    def rows(self, name: str, rows: list[Any]) -> str:
        (self.folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
        return name

    def start(self, *words: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "archive_tool", "batch", *words]
        pipe = subprocess.PIPE
        return subprocess.Popen(
            command, cwd=self.folder, env=self.environment, stdout=pipe, stderr=pipe, text=True, start_new_session=True
        )

    def run(self, *words: str) -> tuple[int, str, str]:
        with self.start(*words) as process:
            out, err = process.communicate(timeout=120)
        return process.returncode, out, err

    def lines(self, name: str) -> list[Any]:
        return [json.loads(line) for line in (self.folder / name).read_text().splitlines()]

    def processes(self) -> list[psutil.Process]:
        """Workers that live: their sockets are below our temporary folder."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.status() != psutil.STATUS_ZOMBIE and any(
                    str(self.temporary) in word for word in process.cmdline()
                ):
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def assert_nothing_is_left(self) -> None:
        deadline = time.monotonic() + 30
        while left := self.processes():
            assert time.monotonic() < deadline, left
            time.sleep(0.05)
        assert list(self.temporary.glob("torchmar-*")) == []


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    found = Place(tmp_path)
    yield found
    assert found.processes() == []


def test_rows_of_all_kinds(place: Place) -> None:
    archive = place.build(config="batchSize: 4\n")
    place.rows("a.jsonl", [{"x": n, "y": n % 9} for n in range(10)])
    (place.folder / "b.csv").write_text("x,y\n1,2\n1\n")
    (place.folder / "c.png").write_bytes(b"\x89PNG")
    code, out, err = place.run(
        archive, "a.jsonl", "b.csv", "c.png", "--output", "o.jsonl", "--workers", "2", "--labels", "y"
    )
    assert (code, out) == (10, "accuracy 0.8182 (9 of 11 rows)\n"), err
    rows = place.lines("o.jsonl")
    assert [(row["source"], row["row"]) for row in rows] == [
        *(("a.jsonl", n) for n in range(1, 11)),
        ("b.csv", 2),
        ("c.png", None),
    ]
    assert [row["answer"]["was"] for row in rows] == [*({"x": n} for n in range(10)), {"x": 1}, 4]
    assert 1 < max(row["answer"]["batch"] for row in rows) <= 4
    assert place.lines("o.jsonl.failures.jsonl") == [
        {"source": "b.csv", "row": 3, "status": None, "error": "it has 1 fields, but there are 2 columns", "input": "1"}
    ]
    assert re.search(r"o\.jsonl: 13 rows, 1 failed; 13 of them in .* \(batches of up to 4, 2 workers\)\n", err)
    assert "error: 1 of 13 rows failed\n  at: o.jsonl.failures.jsonl\n  hint: " in err
    place.assert_nothing_is_left()


@pytest.mark.slow
def test_a_row_that_kills_its_worker_is_a_failure_and_the_next_ones_are_answered(place: Place) -> None:
    archive = place.build()
    place.rows("a.jsonl", [{"x": 1}, {"die": True}, *({"x": n} for n in range(5))])
    code, out, err = place.run(archive, "a.jsonl", "--output", "o.jsonl", "--workers", "1", "--json", "--log", "log")
    assert code == 10, err
    assert len(place.lines("o.jsonl")) == 6
    (failure,) = place.lines("o.jsonl.failures.jsonl")
    assert (failure["row"], failure["input"]) == (2, {"die": True})
    assert failure["error"].startswith("Worker died: it was killed")
    document = json.loads(out)
    assert document["rowsPerSecond"] > 0
    assert document == {
        "rows": 7,
        "failed": 1,
        "output": "o.jsonl",
        "failures": "o.jsonl.failures.jsonl",
        "rowsPerSecond": document["rowsPerSecond"],
    }
    assert (place.folder / "log").read_text() == "about to die\n"
    place.assert_nothing_is_left()


@pytest.mark.parametrize("kills", [2, pytest.param(12, marks=pytest.mark.slow)])
def test_killed_at_any_moment_it_goes_on_and_no_row_is_lost_or_doubled(place: Place, kills: int) -> None:
    count = 450 * kills
    archive = place.build(config="batchSize: 4\n", pause=0.02)
    place.rows("a.jsonl", [{"x": n} for n in range(count)])
    words = (archive, "a.jsonl", "--output", "o.jsonl", "--workers", "2")
    chance = random.Random(kills)
    checkpoint = place.folder / "o.jsonl.partial" / "checkpoint.json"
    done = killed = 0
    while killed < kills:
        with place.start(*words) as process:
            deadline = time.monotonic() + 60
            # At the start, too: only most of the kills wait until something is certain.
            wanted = done + 1 if chance.random() < 0.8 else 0
            while rows_in(checkpoint) < wanted and process.poll() is None:
                assert time.monotonic() < deadline
                time.sleep(0.005)
            time.sleep(chance.random() * 0.9)
            process.kill()
            _, err = process.communicate()
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL, err
        killed += 1
        done = rows_in(checkpoint)
        deadline = time.monotonic() + 30
        while place.processes():  # they see that their owner has gone
            assert time.monotonic() < deadline
            time.sleep(0.05)
    else:
        code, _, err = place.run(*words)
        assert code == 0, err
        assert f"going on after {done} rows" in err
    assert killed >= kills // 2
    assert [(row["row"], row["answer"]["was"]) for row in place.lines("o.jsonl")] == [
        (n + 1, {"x": n}) for n in range(count)
    ]
    assert not checkpoint.parent.exists()
    place.assert_nothing_is_left()


def rows_in(checkpoint: Path) -> int:
    try:
        return int(json.loads(checkpoint.read_text())["rows"])
    except OSError:
        return 0


@pytest.mark.parametrize("whole_group", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_ctrl_c_ends_it_in_order_and_says_how_to_go_on(place: Place, whole_group: bool) -> None:
    archive = place.build(pause=0.02)
    place.rows("a.jsonl", [{"x": n} for n in range(150)])
    words = (archive, "a.jsonl", "--output", "o.csv", "--workers", "1")
    with place.start(*words) as process:
        deadline = time.monotonic() + 60
        while rows_in(place.folder / "o.csv.partial" / "checkpoint.json") == 0:
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.01)
        # A terminal sends it to the workers, too.
        (os.killpg if whole_group else os.kill)(process.pid, signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    found = re.fullmatch(r"stopped after (\d+) rows; the same command goes on there\n+", err)
    assert found, err
    place.assert_nothing_is_left()
    assert not (place.folder / "o.csv").exists()
    code, _, err = place.run(*words)
    assert code == 0, err
    assert f"going on after {found[1]} rows" in err
    assert len((place.folder / "o.csv").read_text().splitlines()) == 151
    assert not (place.folder / "o.csv.failures.jsonl").exists()


@pytest.mark.slow
def test_labels(place: Place) -> None:
    source = "def handle(data, context):\n    return [row['body']['x'] * FACTOR for row in data or []]\n"
    classes, prices = (
        place.build(name, source=source.replace("FACTOR", factor)) for name, factor in (("c", "1"), ("p", "0.5"))
    )
    (place.folder / "a.csv").write_text("x,y\n1,1\n2,2\n3,0\n4,4\n")
    words = ("a.csv", "--labels", "y", "--workers", "1", "-q", "--output")
    assert place.run(classes, *words, "c.jsonl") == (0, "accuracy 0.7500 (3 of 4 rows)\n", "")
    assert place.run(prices, *words, "p.jsonl") == (0, "mean absolute error 1.25 (of 4 rows)\n", "")
    (place.folder / "a.tsv").write_text("x\ty\n1\t1\n2\t3\n")
    (place.folder / "s.csv").write_text("x;y\n1;1\n")
    assert place.run(classes, "a.tsv", *words[1:], "t.jsonl") == (0, "accuracy 0.5000 (1 of 2 rows)\n", "")
    found = place.run(classes, "s.csv", "--delimiter", ";", *words[1:], "s.jsonl")
    assert found == (0, "accuracy 1.0000 (1 of 1 rows)\n", "")
    (place.folder / "labels.txt").write_text("1\n2\n3\n")
    place.rows("b.jsonl", [{"x": 1}, {"x": 2}, {"x": 7}])
    code, out, _ = place.run(
        classes, "b.jsonl", "--labels", "labels.txt", "--workers", "1", "--output", "l.jsonl", "--json"
    )
    assert (code, json.loads(out)["scores"]["accuracy"]) == (0, pytest.approx(2 / 3))


@pytest.mark.slow
def test_a_model_that_cannot_be_loaded(place: Place) -> None:
    archive = place.build(source="import nothing_of_that_name\n\ndef handle(data, context):\n    return data\n")
    place.rows("a.jsonl", [1])
    code, _, err = place.run(archive, "a.jsonl", "--output", "o.jsonl")
    assert code == 6
    assert "the model m cannot be loaded: " in err
    assert "nothing_of_that_name" in err
    assert not list(place.folder.glob("o.jsonl*"))
    place.assert_nothing_is_left()


@pytest.mark.slow
def test_a_folder_is_served_where_it_is(place: Place) -> None:
    archive = place.build()
    with archive_tool.open_archive(place.folder / archive) as opened:
        opened.extract(place.folder / "model")
    place.rows("a.jsonl", [{"x": 1}])
    assert place.run("model", "a.jsonl", "--output", "o.jsonl", "--workers", "1", "-q") == (0, "", "")
    assert len(place.lines("o.jsonl")) == 1
    assert (place.folder / "model" / "MAR-INF").is_dir()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("m.mar", "in", "--output", "in/o.jsonl"), "the output in/o.jsonl is in the input in"),
        (("m.mar", "in/a.jsonl", "--output", "in/a.jsonl"), "is in the input"),
        (("m.mar", "in", "--output", "gone/o.jsonl"), "gone does not exist"),
        (("m.mar", "in", "--output", "o.txt"), "answers are written as .jsonl"),
        (("s.mar", "in", "--output", "o.jsonl"), "s.mar answers sequences of requests"),
        (("b.mar", "in", "--output", "o.jsonl", "--batch-size", "8"), "b.mar has batchSize: 4 in its configuration"),
        (("in", "in", "--output", "o.jsonl"), ""),
    ],
)
def test_what_cannot_be_done_is_said_before_anything_is_written(
    place: Place, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], said: str
) -> None:
    monkeypatch.chdir(place.folder)
    place.build()
    place.build("s", config="sequenceBatching: true\nsequenceMaxIdleMSec: 1000\n")
    place.build("b", config="batchSize: 4\n")
    (place.folder / "in").mkdir()
    place.rows("in/a.jsonl", [1])
    assert entry.main(["batch", *words]) in (1, 3)
    assert said in capsys.readouterr().err
    assert not list(place.folder.glob("o.*"))
    assert (place.folder / "in" / "a.jsonl").read_text() == "1\n"


def test_wrong_usage(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "m.mar").touch()
    for words in (
        [],
        [str(tmp_path / "m.mar")],
        [str(tmp_path / "m.mar"), str(tmp_path)],
        [str(tmp_path / "m.mar"), str(tmp_path / "gone"), "--output", "o.jsonl"],
        [str(tmp_path / "m.mar"), str(tmp_path), "--output", "o.jsonl", "--format", "xml"],
        [str(tmp_path / "m.mar"), str(tmp_path), "--output", "o.jsonl", "--workers", "0"],
        [str(tmp_path / "m.mar"), str(tmp_path), "--output", "o.jsonl", "--delimiter", "ab"],
        [str(tmp_path / "m.mar"), str(tmp_path), "--output", "o.jsonl", "--delimiter", '"'],
        [str(tmp_path / "m.mar"), str(tmp_path), "--output", "o.jsonl", "--address", "auto"],
    ):
        assert entry.main(["batch", *words]) == 2
