"""The fixture torchmar_server, as the author of a handler uses it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from .conftest import PYTHON_FIRST, Sandbox

ROOT = Path(__file__).resolve().parents[2]
TESTS = """
from pathlib import Path

import pytest

from serving.client import ManagementClient
from serving.errors import ModelApiOffError, ReplyError


def test_answers(torchmar_server):
    server = torchmar_server("model_store/echo.mar", workers=2)
    assert server.predict("echo", {"a": 1}).answer == {"version": "1.0", "body": "{'a': 1}"}
    assert server.predict("echo", "text").answer["body"] == "text"
    assert server.predict("echo", b"x").answer["body"] == "bytearray(b'x')"
    assert server.predict("echo", b"[1]", "application/json").answer["body"] == "[1]"
    assert server.predict("other", b"x").status == 404
    Path("address").write_text(f"{server.inference} {server.management}")
    assert Path(server.log_folder, "model_log.log").exists()


def test_the_same_server(torchmar_server):
    server = torchmar_server(Path("model_store/echo.mar"), workers=2)
    assert Path("address").read_text() == f"{server.inference} {server.management}"
    assert server.client.ping()
    (model,) = server.models.describe("echo")
    assert model.min_workers == 2
    with pytest.raises(ModelApiOffError):
        server.models.unregister("echo")
    for wrong in ((), ("model_store/echo.mar", "model_store/../model_store/echo.mar")):
        with pytest.raises(ValueError, match="at least one archive"):
            torchmar_server(*wrong)


def test_a_server_that_takes_models(torchmar_server):
    server = torchmar_server("model_store/echo.mar", model_api=True)
    assert f"{server.inference} {server.management}" != Path("address").read_text()
    server.models.register("echo.mar", name="again")
    assert server.predict("again", "text").answer["body"] == "text"
    server.models.unregister("again")
    with ManagementClient.at(server.management) as keyless:
        with pytest.raises(ReplyError, match="Token Authorization failed"):
            keyless.models()
"""


@pytest.mark.parametrize("frontend", PYTHON_FIRST)
@pytest.mark.hides("torch")  # no handler here needs it
def test_a_server_for_tests(sandbox: Sandbox, echo: str) -> None:
    sandbox.build("echo", echo)
    sandbox.file("config.properties", "inference_address=nonsense\n")  # not for this server
    sandbox.file("test_mine.py", TESTS)
    done = sandbox.run(
        sys.executable,
        # An author's tests may take every warning for an error.
        *("-m", "pytest", "-q", "-W", "error", "-p", "serving.pytest_plugin", "-p", "no:cacheprovider", "test_mine.py"),
        f"--basetemp={sandbox.temp / 'pytest'}",
        env={
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
            "PYTHONPATH": os.pathsep.join([str(ROOT), sandbox.env["PYTHONPATH"]]),
        },
    ).ok()
    assert "3 passed" in done.out
    assert not sandbox.leftovers()
