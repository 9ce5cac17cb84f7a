from __future__ import annotations

import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
import yaml

from benchmarks import scale
from benchmarks.scale_bench import entrants, loops, report, roles
from benchmarks.scale_bench.entrants import KINDS, Entrant
from benchmarks.scale_bench.results import Load, Loops, Results, readings, targets
from benchmarks.serving_bench import servers
from benchmarks.serving_bench.driver import Figures
from benchmarks.serving_bench.servers import Server
from benchmarks.serving_bench.workloads import Workload, noop

RAY, PYTHON, BY_HAND = Entrant("ray", 1), Entrant("python", 1), Entrant("two-hops", 1)


def test_an_entrant_is_a_kind_and_a_number_of_replicas() -> None:
    assert Entrant.parse("ray:2") == Entrant("ray", 2)
    assert Entrant.parse(" two-hops:1 ").label == "two-hops, 1 replica"
    usual = scale.parse(["--driver", "bundled"]).entrants
    assert {one.kind for one in usual} == set(KINDS) - {"two-hops-tuned"}
    assert [one.kind for one in usual if not one.is_ray] == ["python", "python"]


@pytest.mark.parametrize("text", ["", "ray", "ray:0", "ray:x", "other:1", "ray:-1"])
def test_anything_else_is_no_entrant(text: str) -> None:
    with pytest.raises(ValueError, match="not an entrant"):
        Entrant.parse(text)


@pytest.mark.parametrize(
    "arguments", [["--entrants", "x"], ["--connections", "1,x"], ["--parts", "load,x"], ["--seconds", "0"]]
)
def test_a_wrong_option_is_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        scale.parse([*arguments, "--driver", "bundled"])
    assert caught.value.code == 2
    assert "error:" in capsys.readouterr().err


def test_quick_changes_only_what_was_not_said() -> None:
    options = scale.parse(["--quick", "--seconds", "3", "--driver", "bundled"])
    assert (options.rounds, options.seconds, options.warm_up) == (1, 3.0, 1.0)


def test_the_archives_of_all_say_the_same() -> None:
    for kind in KINDS:
        contender = Entrant(kind, 2).contender
        config = yaml.safe_load(contender.model_config(contender.workers))
        assert (config["minWorkers"], config["maxWorkers"], config["batchSize"]) == (2, 2, 32)
        assert config["backend"] == {"threads": 1}


def test_a_cluster_is_apart_from_any_other_of_the_machine(tmp_path: Path) -> None:
    environ = entrants.ray_environment({"RAY_ADDRESS": "10.0.0.1:6379", "HOME": "/h"}, tmp_path)
    assert "RAY_ADDRESS" not in environ
    assert environ["HOME"] == "/h"
    assert environ["RAY_TMPDIR"] == str(tmp_path)
    files = [value for name, value in environ.items() if name.startswith("RAY_SERVE_HAPROXY_") and "/" in value]
    assert len(files) == 5
    assert all(Path(value).is_relative_to(tmp_path) for value in files)
    assert environ["RAY_SERVE_HAPROXY_STATS_PORT"] != environ["RAY_SERVE_HAPROXY_METRICS_PORT"]


@pytest.mark.parametrize(
    ("name", "words", "role"),
    [
        ("haproxy", ["/x/haproxy", "-f", "haproxy.cfg"], "haproxy"),
        ("python", ["python", "-m", "serving.frontend", "--config", "x"], "frontend"),
        ("ray::ServeRepli", ["ray::ServeReplica:mnist--1.0:model"], "replica"),
        ("ray::ServeRepli", ["ray::ServeReplica:front:Front"], "front"),
        ("ray::ServeContr", ["ray::ServeController.run_control_loop"], "controller"),
        ("ray::HAProxyMan", ["ray::HAProxyManager"], "manager"),
        ("ray::ProxyActor", ["ray::ProxyActor"], "proxy"),
        ("ray::DashboardA", ["ray::DashboardAgent"], "agent"),
        ("ray-dashboard-J", ["ray-dashboard-JobHead-0 (/v/bin/python)"], "dashboard"),
        ("ray::Registry", ["ray::Registry"], "actor"),
        ("gcs_server", ["/s/ray/core/src/ray/gcs/gcs_server", "--log_dir=x"], "gcs"),
        ("raylet", ["/s/ray/core/src/ray/raylet/raylet", "--raylet_socket_name=x"], "raylet"),
        ("python", ["/v/bin/python", "-u", "/s/ray/dashboard/agent.py", "--node-id=x"], "agent"),
        ("python", ["/v/bin/python", "/a/model_service_worker.py", "--sock-type", "unix"], "worker"),
        ("python", ["/v/bin/python", "x.py"], "other"),
        ("kernel", [], "other"),
    ],
)
def test_a_process_is_known_by_its_title_or_program(name: str, words: list[str], role: str) -> None:
    assert roles.role(name, words) == role


def test_what_ended_children_took_counts() -> None:
    code = (
        "import subprocess, sys, time\n"
        "subprocess.run([sys.executable, '-c', 'import time\\nwhile time.process_time() < 0.3: pass'])\n"
        "print(flush=True)\nsys.stdin.read()"
    )
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe) as process:
        assert process.stdout is not None
        process.stdout.readline()
        taken, number = roles.processor([psutil.Process(process.pid)])
        process.communicate()
    assert 0.25 < taken["other"] < 10
    assert number == {"other": 1}
    assert roles.since(taken, roles.Taken({"other": 0.25})) == {"other": taken["other"] - 0.25}


def results(**rates: float) -> Results:
    """Return results of one round of the no-op at 8 connections; the fewer requests/s, the more processor for each."""
    found = Results({}, (PYTHON, RAY, BY_HAND), {"noop": "no-op"}, (8,))
    for one in found.entrants:
        if (rps := rates.get(one.kind.replace("-", "_"))) is not None:
            figures = Figures(int(rps), 1.0, rps, 1.0, 2.0, 3.0, 0)
            found.loads.append(Load(0, "noop", one, 8, figures, {"haproxy": 0.1, "replica": 100 / rps}, 5.0))
    return found


def test_targets_are_met_or_not_or_not_measured() -> None:
    met = [target.met for target in targets(results(ray=1000, two_hops=20))]
    assert met == [True, True, True, None]
    measured = [target.measured for target in targets(results(ray=100, two_hops=100))]
    assert measured == [pytest.approx(1.1), pytest.approx(1.05), pytest.approx(1.0), None]
    found = results()
    found.titles["resnet18"] = "resnet18"
    two = Entrant("ray", 2)
    found.loads.append(Load(0, "resnet18", two, 8, Figures(30, 1.0, 30.0, 1.0, 2.0, 3.0, 0), {}, 5.0))
    found.loops += [Loops(number, "resnet18", 2, batch, 20.0 * batch) for number in (0, 1) for batch in (1, 2)]
    assert [target.measured for target in targets(found)][3] == pytest.approx(0.75)


def test_the_reading_is_of_the_figures() -> None:
    [said] = readings(results(python=200, ray=100, two_hops=10))
    assert said.startswith("no-op, 1 replica, 8 connections: on Ray Serve there are 0.50 of our frontend's requests/s")
    assert "with 1.83 of the processor a request; 10.0 of those of two hops written by hand" in said
    assert list(readings(results(python=200))) == []


def test_the_report_has_every_table() -> None:
    found = results(python=200, ray=100, two_hops=10)
    found.loops.append(Loops(0, "resnet18", 2, 1, 40.0))
    found.front_ms.append(2.5)
    found.problems.append("round 1, noop, two-hops: it did not start")
    text = report.markdown(found)
    assert "- round 1, noop, two-hops: it did not start" in text
    assert "| ray, 1 replica | 100 (0.50) | 1.00 (1.00) | 2.00 (1.00) | 1.10 (1.83) | 1.05 (1.83) | 5.00 | 0 |" in text
    assert "| ray, 1 replica | 0.10 | 1.00 |" in text
    assert "| 2 processes | 40.0 |" in text
    assert "took 2.50 ms" in text
    assert found.document()["loads"][1]["entrant"] == "ray, 1 replica"


@pytest.mark.slow  # three processes that import torch
def test_loops_measure_together_and_say_why_they_fail(tmp_path: Path) -> None:
    workload = noop(tmp_path)
    archive = tmp_path / "store" / workload.build(tmp_path / "store", PYTHON.contender, 1)
    assert loops.measure(archive, workload.bodies, 2, 2, 0.05) > 0
    handler = tmp_path / "broken.py"
    handler.write_text("def handle(data, context):\n    raise ValueError('not today')\n")
    broken = Workload("noop", "", {"handler": handler}, workload.bodies, bytes.decode)
    archive = tmp_path / "other" / broken.build(tmp_path / "other", PYTHON.contender, 1)
    with pytest.raises(RuntimeError, match="not today"):
        loops.measure(archive, workload.bodies, 1, 1, 0.05)


def test_what_a_marked_process_has_started_belongs_to_the_server() -> None:
    """Ray's processes write a title over their environment."""
    code = (
        "import subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-c', 'input()'], env={}, stdin=subprocess.PIPE)\n"
        "print(child.pid, flush=True)\nsys.stdin.read()\nchild.communicate(b'\\n')"
    )
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", code], env={servers.MARK: "m-7"}, stdin=pipe, stdout=pipe) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert {process.pid for process in servers.marked_processes("m-7")} == {parent.pid, child}
        parent.communicate()
    assert servers.marked_processes("m-7") == []


def test_a_run_takes_turns_and_notes_who_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a played server: who is asked when, and that one that fails leaves the others their turns."""
    asked: list[str] = []

    @contextmanager
    def played(entrant: Entrant, workload: Workload, folder: Path, problems: list[str]) -> Iterator[Server]:
        asked.append(entrant.kind)
        if entrant.kind == "two-hops":
            raise servers.BenchmarkError("Ray gave up")
        server = Server(entrant.contender, workload.name, "http://127.0.0.1:1", None, "m-8", 0.0)
        monkeypatch.setattr(Server, "ask", lambda self, body: b"300")
        yield server

    monkeypatch.setattr(entrants, "serving", played)
    monkeypatch.setattr(scale.driver, "send", lambda *_: Figures(10, 1.0, 10.0, 1.0, 2.0, 3.0, 0))
    monkeypatch.setattr(scale.machine, "versions", lambda *_: "some")  # without Ray, too
    monkeypatch.setattr(roles, "processor", lambda _: (roles.Taken(), Counter[str]()))
    arguments = ["--workloads", "noop", "--parts", "load", "--entrants", "python:1,two-hops:1,python:2"]
    options = scale.parse([*arguments, "--rounds", "2", "--seconds", "0.01", "--driver", "bundled"])
    run = scale.prepare(options, tmp_path)
    run.rounds(options.rounds)
    assert asked == ["python", "two-hops", "python", "two-hops", "python", "python"]
    assert [problem.rpartition(": ")[2] for problem in run.results.problems] == ["Ray gave up"] * 2
    assert len(run.results.loads) == 2 * 2 * 2
    scale.write(run.results, tmp_path / "out", "some")
    assert "not measured" in (tmp_path / "out" / "some.md").read_text()


@pytest.mark.slow  # a cluster takes a minute
@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", ["two-hops", "ray"])
def test_an_entrant_on_ray_answers_and_leaves_no_process(kind: str, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    workload = noop(tmp_path)
    problems: list[str] = []
    with tempfile.TemporaryDirectory(prefix="tms-") as short:  # for sockets
        with entrants.serving(Entrant.parse(f"{kind}:1"), workload, Path(short, "s"), problems) as server:
            assert server.ask(workload.bodies[0].read_bytes()) == b"300"
            taken, number = roles.processor(servers.marked_processes(server.mark))
        assert number["controller"] == 1
        assert number["replica"] >= 1
        assert taken["replica"] > 0
    assert (problems, servers.marked_processes(server.mark)) == ([], [])
