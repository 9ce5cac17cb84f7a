"""The worker that runs, however the server is started."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from serving.control.configuration.java import WORKER_SCRIPT, java_home, worker_home
from serving.control.configuration.ports import choose_free

from .conftest import BIN, ROOT, Sandbox, Server

# Importing torch takes seconds.
light = pytest.mark.hides("torch")

TIMEOUT = """
import os
def handle(data, context):
    return [os.environ.get("TORCHMAR_RESPONSE_TIMEOUT", "untold")] * len(data or [])
"""


def scripts(sandbox: Sandbox) -> set[str]:
    """Return the worker scripts that run in a sandbox."""
    lines = [argument for process in sandbox.processes() for argument in process.cmdline()]
    return {argument for argument in lines if argument.endswith(WORKER_SCRIPT.name)}


def test_torchmars_by_default(light_server: Server) -> None:
    """It gets the time that the configuration gives an answer."""
    box = light_server.sandbox
    box.build("told", TIMEOUT)
    box.torchmar("register", "told.mar").ok()
    assert light_server.record["worker"] == "torchmar"
    assert scripts(box) == {str(worker_home() / WORKER_SCRIPT)}
    assert light_server.curl("/predictions/told") == (200, "77")


# TorchServe's when asked for: in test_compatibility.py, which has a server with it.


@pytest.mark.slow  # a server more
@light
@pytest.mark.parametrize(
    "line", ["vmargs=-Dmodel_server_home=mine", pytest.param("model_server_home=mine", marks=pytest.mark.slow)]
)
def test_anothers_when_the_configuration_names_it(sandbox: Sandbox, echo: str, line: str) -> None:
    sandbox.build("echo", echo)
    shutil.copytree(worker_home(), sandbox.root / "mine")
    (sandbox.root / "mine" / WORKER_SCRIPT).unlink()
    (sandbox.root / "mine" / WORKER_SCRIPT).symlink_to(worker_home() / WORKER_SCRIPT)  # it finds its package by that
    server = sandbox.start("echo.mar", options=("--ts-config", sandbox.file("mine.properties", f"{line}\n")))
    assert server.record["worker"] == str(sandbox.root / "mine")
    assert scripts(sandbox) == {str(sandbox.root / "mine" / WORKER_SCRIPT)}
    assert server.curl("/predictions/echo")[0] == 200


@pytest.fixture
def stock(sandbox: Sandbox) -> Iterator[Sandbox]:
    """Yield a sandbox with the repository's configuration on free ports."""
    text = (ROOT / "config.properties").read_text()
    for usual, free in zip((8080, 8081, 8082, 7070, 7071), choose_free("127.0.0.1", 5), strict=True):
        text = text.replace(str(usual), str(free))
    sandbox.file("config.properties", text)
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


# With the repository's configuration: in test_scenarios.py.


@pytest.mark.slow  # a server more
@light
def test_torchmars_under_the_stock_command_with_the_variable(stock: Sandbox, echo: str) -> None:
    stock.build("echo", echo)
    text = (stock.root / "config.properties").read_text()
    config = stock.file("own.properties", "".join(f"{x}\n" for x in text.splitlines() if not x.startswith("vmargs")))
    stock.env["TS_MODEL_SERVER_HOME"] = stock.torchmar("home").ok().out.rstrip("\n")
    start_stock(stock, config)
    assert scripts(stock) == {str(worker_home() / WORKER_SCRIPT)}
