from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import psutil
import pytest
import yaml

from benchmarks.serving_bench import servers
from benchmarks.serving_bench.contenders import Contender
from benchmarks.serving_bench.servers import MARK, Server, properties, proportional_kb, start_command
from serving.client import ManagementClient


@pytest.mark.parametrize(
    ("text", "contender", "label"),
    [
        ("stock", Contender("stock"), "stock"),
        ("stock-quiet", Contender("stock-quiet"), "stock quiet"),
        ("dedicated:2", Contender("dedicated", 2), "dedicated, 2 workers"),
        ("shared", Contender("shared", 16), "shared, 16 workers"),
        ("shared:1:32:2", Contender("shared", 1, 32, 2), "shared, batchSize 32 after 2 ms"),
        ("python-dedicated", Contender("python-dedicated", 1, 32), "python dedicated, batchSize 32"),
        ("python-dedicated:1:1", Contender("python-dedicated", 1, 1), "python dedicated"),
        ("python-shared", Contender("python-shared", 16, 32), "python shared, 16 workers, batchSize 32"),
        ("mosec", Contender("mosec", 1, 32, 0), "mosec, batchSize 32 after 0 ms"),
        ("mosec:1:32:1", Contender("mosec", 1, 32, 1), "mosec, batchSize 32 after 1 ms"),
        ("fastapi", Contender("fastapi"), "fastapi"),
    ],
)
def test_a_contender_is_a_kind_with_the_frontends_numbers(text: str, contender: Contender, label: str) -> None:
    assert Contender.parse(text) == contender
    assert contender.label == label


@pytest.mark.parametrize(
    "text", ["", "stok", "shared:0", "shared:x", "shared:1:2:3:4", "shared:", "shared:1:2:0", "mosec:0", "fastapi:1"]
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a contender"):
        Contender.parse(text)


def test_only_the_shared_archives_name_a_backend() -> None:
    dedicated = yaml.safe_load(Contender("dedicated").model_config(1))
    assert dedicated == {"minWorkers": 1, "maxWorkers": 1, "batchSize": 1}
    shared = yaml.safe_load(Contender("shared", 4, 32, 1).model_config(4))
    assert shared["backend"]["mode"] == "shared"
    assert (shared["minWorkers"], shared["batchSize"], shared["maxBatchDelay"]) == (4, 32, 1)
    assert yaml.safe_load(Contender("python-shared", 2, 32).model_config(2))["backend"] == shared["backend"]


def test_each_contender_is_started_by_its_own_command() -> None:
    commands = {
        kind: start_command(Contender(kind), ["m=m.mar"], Path("/f"))
        for kind in ("stock", "stock-quiet", "dedicated", "python-dedicated")
    }
    assert Path(commands["stock"][0]).name == "torchserve"
    assert "--stock-worker" in commands["stock-quiet"]
    assert Path(commands["dedicated"][0]).name == "torchmar"
    assert "--stock-worker" not in commands["dedicated"]
    assert "--frontend" not in commands["dedicated"]
    assert "--frontend python" in " ".join(commands["python-dedicated"])
    for command in commands.values():
        assert command[-6:] == [
            "--models",
            "m=m.mar",
            "--model-store",
            "/f/store",
            "--ts-config",
            "/f/config.properties",
        ]


def test_the_configuration_holds_addresses_and_one_worker() -> None:
    lines = properties(["http://a:1", "http://a:2", "http://a:3"], [4, 5]).splitlines()
    assert lines[:3] == ["inference_address=http://a:1", "management_address=http://a:2", "metrics_address=http://a:3"]
    assert "grpc_management_port=5" in lines
    assert not any("metrics_mode" in line or "log4j" in line for line in lines)


def test_the_proportional_memory_of_a_process() -> None:
    text = "0-1 ---p 00000000 00:00 0  [rollup]\nRss:  900 kB\nPss:   345 kB\nPss_Dirty: 20 kB\n"
    assert proportional_kb(text) == 345


@contextmanager
def marked(mark: str, *arguments: str) -> Iterator[psutil.Process]:
    """Yield a process of a server that takes processor time until it is told to wait."""
    code = "import sys, time\nwhile time.process_time() < 0.3: pass\nprint(flush=True)\nsys.stdin.read()"
    command = [sys.executable, "-c", code, *arguments]
    environ = {**os.environ, MARK: mark}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield psutil.Process(process.pid)
        assert process.stdin is not None
        process.stdin.close()


def test_processor_and_memory_of_a_server_are_those_of_all_its_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server(Contender("dedicated"), "m", "http://127.0.0.1:1", cast("ManagementClient", None), "m-1", 1.0)
    with marked("m-1") as first, marked("m-1"), marked("m-2"):
        taken = server.processor()
        assert taken.frontend_s == 0
        assert 0.5 < taken.others_s < 5
        monkeypatch.setattr(servers, "is_frontend", lambda process: process.pid == first.pid)
        apart, memory = server.processor(), server.memory()
    assert 0.25 < apart.frontend_s < taken.total_s
    assert apart.total_s == pytest.approx(taken.total_s, abs=0.1)
    assert apart.since(taken).others_s < -0.25
    assert (memory.processes, memory.frontend_mb > 1, memory.backend_mb > 1) == (1, True, True)


@pytest.mark.parametrize(
    ("name", "argv", "is_it"),
    [
        ("java", ["java", "-cp", "x"], True),
        ("python", ["python", "-m", "serving.frontend", "--config", "x"], True),
        ("python", ["python", "model_service_worker.py", "--prefork", "3", "serving.frontend"], False),
        ("python", [], False),
        ("mosec", ["/e/bin/mosec", "/t/config.json"], True),
        ("python", ["python", "-m", "benchmarks.serving_bench.peers.fastapi_app"], False),
    ],
)
def test_the_frontend_is_known_by_its_program(name: str, argv: list[str], is_it: bool) -> None:
    class Played:
        def name(self) -> str:
            return name

        def cmdline(self) -> list[str]:
            return argv

    assert servers.is_frontend(cast("psutil.Process", Played())) is is_it
