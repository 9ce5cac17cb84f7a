"""Whose worker runs, however the server is started."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from serving.control.java import WORKER_SCRIPT, java_home, torchserve_home, worker_home
from serving.control.ports import choose_free

from .conftest import BIN, ROOT, Sandbox

# Importing torch takes seconds; TorchServe's own worker cannot do without it.
light = pytest.mark.hides("torch")

TIMEOUT = """
import os
def handle(data, context):
    return [os.environ.get("TORCHMAR_RESPONSE_TIMEOUT", "untold")] * len(data or [])
"""


def scripts(sandbox: Sandbox) -> set[str]:
    """The worker scripts that run in a sandbox."""
    lines = [argument for process in sandbox.processes() for argument in process.cmdline()]
    return {argument for argument in lines if argument.endswith(WORKER_SCRIPT.name)}


@light
def test_torchmars_by_default(sandbox: Sandbox) -> None:
    sandbox.build("told", TIMEOUT)
    config = sandbox.file("mine.properties", "default_response_timeout=77\n")
    server = sandbox.start("told.mar", options=("--ts-config", config))
    assert server.record["worker"] == "torchmar"
    assert scripts(sandbox) == {str(worker_home() / WORKER_SCRIPT)}
    assert server.curl("/predictions/told") == (200, "77")


@pytest.mark.hides("torchvision")
def test_torchserves_when_asked_for(sandbox: Sandbox, echo: str) -> None:
    sandbox.build("echo", echo)
    # Whatever the configuration names.
    config = sandbox.file("mine.properties", "vmargs=-Dmodel_server_home=nowhere\n")
    server = sandbox.start("echo.mar", options=("--stock-worker", "--ts-config", config))
    assert server.record["worker"] == "torchserve"
    assert scripts(sandbox) == {str(torchserve_home() / WORKER_SCRIPT)}
    assert server.curl("/predictions/echo")[0] == 200


@pytest.mark.parametrize(
    "line", ["vmargs=-Dmodel_server_home=mine", pytest.param("model_server_home=mine", marks=pytest.mark.slow)]
)
def test_anothers_when_the_configuration_names_it(sandbox: Sandbox, echo: str, line: str) -> None:
    sandbox.build("echo", echo)
    shutil.copytree(torchserve_home() / "ts", sandbox.root / "mine" / "ts", ignore=shutil.ignore_patterns("frontend"))
    server = sandbox.start("echo.mar", options=("--ts-config", sandbox.file("mine.properties", f"{line}\n")))
    assert server.record["worker"] == str(sandbox.root / "mine")
    assert scripts(sandbox) == {str(sandbox.root / "mine" / WORKER_SCRIPT)}
    assert server.curl("/predictions/echo")[0] == 200


@pytest.fixture
def stock(sandbox: Sandbox) -> Iterator[Sandbox]:
    """A sandbox as a checkout: the repository's configuration on free ports, and the folder that it names."""
    text = (ROOT / "config.properties").read_text()
    for usual, free in zip((8080, 8081, 8082, 7070, 7071), choose_free("127.0.0.1", 5), strict=True):
        text = text.replace(str(usual), str(free))
    sandbox.file("config.properties", text)
    shutil.copytree(ROOT / "serving", sandbox.root / "serving", ignore=shutil.ignore_patterns("__pycache__"))
    sandbox.env |= {"JAVA_HOME": str(java_home()), "TEMP": str(sandbox.temp)}
    yield sandbox
    sandbox.run("torchserve", "--stop", "--foreground")


def start_stock(sandbox: Sandbox, config: Path) -> None:
    command = [BIN / "torchserve", "--start", "--ncs", "--ts-config", config, "--models", "echo.mar"]
    command += ["--model-store", sandbox.store]
    # The server keeps its standard output: a pipe would not end.
    with (sandbox.root / "torchserve.log").open("w") as log:
        subprocess.run(command, cwd=sandbox.root, env=sandbox.env, stdout=log, stderr=log, check=True)
    address = next(line for line in config.read_text().splitlines() if line.startswith("management_address="))
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        time.sleep(0.3)
        try:
            with urllib.request.urlopen(f"{address.partition('=')[2]}/models/echo", timeout=5) as reply:
                if any(worker["status"] == "READY" for worker in json.load(reply)[0]["workers"]):
                    return
        except OSError:
            continue
    pytest.fail((sandbox.root / "torchserve.log").read_text()[-3000:])


@light
def test_torchmars_under_the_stock_command_with_the_repositorys_configuration(stock: Sandbox, echo: str) -> None:
    stock.build("echo", echo)
    start_stock(stock, stock.root / "config.properties")
    assert scripts(stock) == {str(stock.root / "serving" / "worker" / "home" / WORKER_SCRIPT)}


@light
def test_torchmars_under_the_stock_command_with_the_variable(stock: Sandbox, echo: str) -> None:
    stock.build("echo", echo)
    text = (stock.root / "config.properties").read_text()
    config = stock.file("own.properties", "".join(f"{x}\n" for x in text.splitlines() if not x.startswith("vmargs")))
    stock.env["TS_MODEL_SERVER_HOME"] = stock.torchmar("home").ok().out.rstrip("\n")
    start_stock(stock, config)
    assert scripts(stock) == {str(worker_home() / WORKER_SCRIPT)}
