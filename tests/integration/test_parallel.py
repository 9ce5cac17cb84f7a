"""Workers that are no plain process: two ranks under torchrun, and one in an environment of its own."""

from __future__ import annotations

import zipfile
from pathlib import Path

import psutil
import pytest

from .conftest import FRONTENDS, OPEN, Sandbox, Server
from .support import ask, at_once, describe, is_alive, model_log, pack, ready, scale, session, wait_until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.parametrize("frontend", FRONTENDS),
    pytest.mark.hides("torchvision"),
]

LONG_S = 240.0
RANKS = """
import torch
import torch.distributed as dist


class Ranks:
    def initialize(self, context):
        dist.init_process_group("gloo")
        self.rank = dist.get_rank()

    def handle(self, data, context):
        total = torch.ones(1) * (self.rank + 1)
        if KIND == "tp":
            dist.all_reduce(total)
        return [{"rank": self.rank, "world": dist.get_world_size(), "total": int(total)} for _ in data]
"""
PARALLEL = "minWorkers: 1\nmaxWorkers: 1\nparallelType: %s\ntorchrun: {nproc-per-node: 2}\nstartupTimeout: 300\n"


def ranks(server: Server) -> list[psutil.Process]:
    """Return the processes that torchrun has started, each in a session of its own."""
    launchers = {one.pid for one in session(server) if "torchrun" in " ".join(one.cmdline())}
    return [one for one in server.sandbox.processes() if one.ppid() in launchers]


@pytest.mark.parametrize("kind", ["pp", "tp"])
def test_two_ranks_under_torchrun_are_one_worker(sandbox: Sandbox, kind: str) -> None:
    """Requests go to the first of pp, and to both of tp; the first answers. Both are replaced when one dies."""
    files = {"ranks.py": f"KIND = {kind!r}\n{RANKS}"}
    server = sandbox.start(pack(sandbox, "ranks", "ranks.py", files, PARALLEL % kind), options=OPEN)
    expected = {"rank": 0, "world": 2, "total": 3 if kind == "tp" else 1}
    answers = at_once([lambda: ask(server.inference, "/predictions/ranks", b"x", timeout=LONG_S) for _ in range(8)])
    assert [(answer.status, answer.json()) for answer in answers] == [(200, expected)] * 8
    before = {process.pid for process in ranks(server)}
    assert len(before) == 2
    psutil.Process(max(before)).kill()
    wait_until(lambda: len(ranks(server)) == 2 and not before & {one.pid for one in ranks(server)}, "others", LONG_S)
    wait_until(lambda: ready(server, "ranks"), "the worker", LONG_S)
    wait_until(lambda: ask(server.inference, "/predictions/ranks", b"x").json() == expected, "an answer", LONG_S)
    last = ranks(server)
    assert scale(server, "ranks", 0).status == 200
    wait_until(lambda: not any(is_alive(one.pid) for one in last), "the end of both")
    wait_until(lambda: not any("torchrun" in " ".join(one.cmdline()) for one in session(server)), "that of torchrun")


OWN = """
import sys

import torch
import torchmar_test_package


class Own:
    def initialize(self, context):
        pass

    def handle(self, data, context):
        package = torchmar_test_package.__file__
        return [{"prefix": sys.prefix, "package": package, "torch": torch.__version__}] * len(data)
"""


def wheel(folder: Path) -> Path:
    """Write a package that no index has."""
    path = folder / "torchmar_test_package-1.0-py3-none-any.whl"
    info = "torchmar_test_package-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("torchmar_test_package.py", "")
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: torchmar-test-package\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return path


@pytest.mark.parametrize("own", [True, False], ids=["its own environment", "beside its files"])
def test_requirements_are_installed_for_the_model_alone(sandbox: Sandbox, own: bool) -> None:
    requirements = f"torchmar-test-package @ {wheel(sandbox.root).as_uri()}\n"
    files = {"own.py": OWN, "requirements.txt": requirements}
    config = f"minWorkers: 1\nmaxWorkers: 1\nuseVenv: {str(own).lower()}\nstartupTimeout: 300\n"
    archive = pack(sandbox, "own", "own.py", files, config, requirementsFile="requirements.txt")
    settings = sandbox.file("own.properties", "install_py_dep_per_model=true\n")
    server = sandbox.start(archive, options=("--ts-config", settings, *OPEN))
    answer = ask(server.inference, "/predictions/own", b"x", timeout=LONG_S).json()
    folder = server.record["runtime_folder"]
    assert answer["package"].startswith(folder)
    assert answer["prefix"].startswith(folder) == own
    assert answer["torch"]
    assert describe(server, "own")["useVenv"] is own


def test_requirements_that_cannot_be_installed_are_told(sandbox: Sandbox) -> None:
    files = {"own.py": OWN, "requirements.txt": "no-such-package @ file:///no/such/wheel-1.0-py3-none-any.whl\n"}
    archive = pack(sandbox, "own", "own.py", files, "useVenv: true\n", requirementsFile="requirements.txt")
    settings = sandbox.file("own.properties", "install_py_dep_per_model=true\n")
    server = sandbox.start(options=("--ts-config", settings, *OPEN))
    answer = ask(server.management, f"/models?url={archive}&initial_workers=1&synchronous=true", "", timeout=LONG_S)
    assert answer.status == 400
    said = answer.json()["message"].replace("for model own", "for own")  # Java's words
    assert "Custom pip package installation failed for own" in said, model_log(server)
    left = server.sandbox.env["TORCHMAR_FRONTEND"] == "java"  # which keeps the model, without a worker
    assert ask(server.management, "/models/own").status == (200 if left else 404)
