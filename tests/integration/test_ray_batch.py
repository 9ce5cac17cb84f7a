"""Batch jobs on Ray: real actors on two nodes of one machine. `make test-ray` runs it, in an environment with Ray."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

import archive_tool
from serving.frontend.ray import nodes as cache

pytest.importorskip("ray")

# Ray warns of itself where it is imported.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800), pytest.mark.filterwarnings("ignore")]

BIN = Path(sys.executable).parent
HANDLER = """
import os, time

def handle(data, context):
    answers = []
    for row in data or []:
        text = row["body"] if isinstance(row["body"], str) else bytes(row["body"]).decode()
        if text == "bad":
            context.set_response_status(422, "bad", idx=len(answers))
            answers.append("cannot")
            continue
        print("it says", text)
        time.sleep(0.02)
        answers.append({"text": text, "pid": os.getpid()})
    return answers
"""


class Place:
    """A folder of its own, with an archive in it; what is below is gone with the job."""

    def __init__(self, root: Path) -> None:
        self.root, self.out = root, root / "out.jsonl"
        (root / "h.py").write_text(HANDLER)
        (root / "c.yaml").write_text("backend: {retry: true}\n")
        archive_tool.build(
            model_name="echo", handler=str(root / "h.py"), config_file=str(root / "c.yaml"), export_path=root
        )

    def rows(self, count: int, name: str = "rows.jsonl") -> str:
        (self.root / name).write_text("".join(f'"row {number}"\n' for number in range(count)))
        return name

    def command(self, *arguments: str) -> list[str | Path]:
        return [BIN / "torchmar", "batch", "echo.mar", *arguments, "--output", "out.jsonl", "--ray"]

    def batch(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*arguments), cwd=self.root, capture_output=True, text=True, check=False, timeout=600
        )

    def answers(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.read_text().splitlines()]


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    with tempfile.TemporaryDirectory(prefix="tmb-", dir="/tmp") as folder:
        root = Path(folder)
        monkeypatch.setenv(cache.VARIABLE, str(root / "cache"))
        monkeypatch.setenv("TMPDIR", folder)
        (root / "hidden").mkdir()
        (root / "hidden" / "torch.py").write_text("raise ImportError('torch is hidden from this test')\n")
        monkeypatch.setenv("PYTHONPATH", str(root / "hidden"))
        yield Place(root)
        left = [one for one in psutil.process_iter(["cmdline"]) if folder in " ".join(one.info["cmdline"] or ())]
        assert not left, f"{left} are left running"
        assert [*root.glob("torchmar-*")] == []


def test_a_job_on_a_cluster_of_its_own_answers_as_one_without(place: Place) -> None:
    rows = place.rows(40)
    with (place.root / rows).open("a") as file:
        file.write('"bad"\nno JSON\n')
    done = place.batch(rows, "--workers", "2", "--log", "log.txt")
    assert done.returncode == 10, done.stderr
    assert "42 rows, 2 failed" in done.stderr
    assert "2 workers" in done.stderr
    assert [*place.root.glob("cache/run-*")] == []
    answers = place.answers()
    assert [one["answer"]["text"] for one in answers] == [f"row {number}" for number in range(40)]
    assert len({one["answer"]["pid"] for one in answers}) == 2
    failures = [json.loads(line) for line in (place.root / "out.jsonl.failures.jsonl").read_text().splitlines()]
    assert [(one["row"], one["status"]) for one in failures] == [(41, 422), (42, None)]
    said = (place.root / "log.txt").read_text()
    assert all(f"it says row {number}\n" in said for number in range(40))


def test_a_model_that_cannot_be_loaded_is_said_with_its_traceback(place: Place) -> None:
    (place.root / "h.py").write_text(f"raise OSError('no such disk')\n{HANDLER}")
    archive_tool.build(model_name="echo", handler=str(place.root / "h.py"), export_path=place.root, force=True)
    done = place.batch(place.rows(1), "--workers", "1")
    assert done.returncode == 6, done.stderr
    assert "the model echo cannot be loaded" in done.stderr
    assert "OSError: no such disk" in done.stderr
    assert not place.out.exists()


def rows_in(place: Place) -> int:
    try:
        return int(json.loads((place.root / "out.jsonl.partial" / "checkpoint.json").read_text())["rows"])
    except OSError:
        return 0


def until_rows(place: Place, job: subprocess.Popen[bytes], count: int) -> None:
    until = time.monotonic() + 300
    while rows_in(place) < count:
        assert job.poll() is None, job.communicate()
        assert time.monotonic() < until
        time.sleep(0.1)


@pytest.mark.parametrize("whole_group", [True, False])
def test_ctrl_c_ends_it_in_order_and_it_goes_on(place: Place, whole_group: bool) -> None:
    rows = place.rows(600)
    command = place.command(rows, "--workers", "1")
    with subprocess.Popen(command, cwd=place.root, stderr=subprocess.PIPE, start_new_session=True) as job:
        until_rows(place, job, 20)
        # A terminal sends it to Ray's processes, too.
        (os.killpg if whole_group else os.kill)(job.pid, signal.SIGINT)
        _, said = job.communicate(timeout=120)
    assert job.returncode == 130, said
    assert re.fullmatch(rb"stopped after \d+ rows; the same command goes on there\n+", said)
    done = place.batch(rows, "--workers", "1")
    assert done.returncode == 0, done.stderr
    assert "going on after" in done.stderr
    assert [one["answer"]["text"] for one in place.answers()] == [f"row {number}" for number in range(600)]


def actors_of(node: Any) -> list[psutil.Process]:
    raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
    return [child for child in raylet.children() if child.name().startswith("ray::_Worker")]


def test_no_row_is_lost_where_a_process_and_a_node_die(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_enable_worker_prestart", "0")
    cluster = Cluster()
    try:
        first = cluster.add_node(num_cpus=1, include_dashboard=False)
        second = cluster.add_node(num_cpus=1)
        ray.init(address=cluster.address, log_to_driver=False, logging_level="error")
        rows = place.rows(3000)
        with subprocess.Popen(
            place.command(rows, "--address", cluster.address),
            cwd=place.root,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as job:
            until_rows(place, job, 20)
            here = [actors_of(node) for node in (first, second)]
            assert [len(one) for one in here] == [1, 1], "SPREAD puts a worker on each node"
            here[0][0].kill()
            until_rows(place, job, rows_in(place) + 300)
            cluster.remove_node(second, allow_graceful=False)
            out, said = job.communicate(timeout=600)
        assert job.returncode == 0, said
        assert b"3000 rows, 0 failed" in said
        assert out == b"", "what Ray says of the node goes elsewhere"
        answers = place.answers()
        assert [one["answer"]["text"] for one in answers] == [f"row {number}" for number in range(3000)]
        assert len({one["answer"]["pid"] for one in answers}) == 3, "the killed one was started anew"
    finally:
        ray.shutdown()
        cluster.shutdown()


def test_wrong_usage(place: Place) -> None:
    done = subprocess.run(
        [BIN / "torchmar", "batch", "echo.mar", place.rows(1), "--output", "out.jsonl", "--address", "auto"],
        cwd=place.root,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "add --ray" in done.stderr
    done = place.batch("rows.jsonl", "--address", "auto")
    assert done.returncode != 0
    assert "cannot be joined" in done.stderr
