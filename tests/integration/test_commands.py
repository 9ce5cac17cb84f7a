"""Commands that ask and change a server that runs."""

from __future__ import annotations

import re
import signal
import time

import psutil
import pytest

from .conftest import Server

SLOW = "import time\nprint('sleeping')\ntime.sleep(600)\ndef handle(data, context):\n    return data\n"


@pytest.fixture
def server(light_server: Server) -> Server:
    return light_server


def test_versions_side_by_side(server: Server, echo: str) -> None:
    sandbox = server.sandbox
    sandbox.build("echo", echo)
    source = sandbox.file("second.py", echo)
    sandbox.torchmar(
        "build", "--model-name", "echo", "-v", "2.0", "--handler", source, "--export-path", sandbox.root, "-q"
    ).ok()
    (sandbox.root / "echo.mar").rename(sandbox.store / "echo2.mar")
    sandbox.torchmar("register", "echo.mar").ok()
    sandbox.torchmar("register", "echo2.mar").ok()
    assert '"version": "1.0"' in server.curl("/predictions/echo")[1]
    assert '"version": "2.0"' in server.curl("/predictions/echo/2.0")[1]
    sandbox.torchmar("set-default", "echo", "2.0").ok()
    assert '"version": "2.0"' in server.curl("/predictions/echo")[1]
    rows = sandbox.torchmar("models", "echo", "--json").json()
    assert {row["version"]: row["default"] for row in rows} == {"1.0": False, "2.0": True}
    # The process with the model counts, and not only the one that the frontend has started.
    figures = re.findall(r"(\d+) MB", sandbox.torchmar("models", "echo").ok().out)
    started = [psutil.Process(worker["pid"]).memory_info().rss for row in rows for worker in row["workers"]]
    assert len(figures) == len(started) == 2
    assert all(float(figure) > 1.2 * size / 1e6 for figure, size in zip(figures, started, strict=True))
    sandbox.torchmar("unregister", "echo", "--version", "1.0").ok()
    assert [row["version"] for row in sandbox.torchmar("models", "echo", "--json").json()] == ["2.0"]
    refused = sandbox.torchmar("set-default", "echo", "7.0")
    assert refused.code == 9
    assert "7.0" in refused.err
    done = sandbox.run("curl", "-sS", f"{server.record['metrics']}/metrics").ok()
    assert "ts_inference_requests_total" in done.out


def test_unregister_removes_all_versions(server: Server, echo: str) -> None:
    sandbox = server.sandbox
    sandbox.build("first", echo)
    sandbox.build("second", echo, "-v", "2.0")
    for archive in ("first.mar", "second.mar"):
        sandbox.torchmar("register", archive, "--model-name", "m").ok()
    refused = sandbox.torchmar("unregister", "m", "--version", "1.0")
    assert refused.code == 9
    assert "torchmar set-default m" in refused.err
    sandbox.torchmar("unregister", "m").ok()
    assert sandbox.torchmar("models", "m").code == 9


def test_an_interrupted_prediction_ends_at_once(server: Server) -> None:
    sandbox = server.sandbox
    sandbox.build(
        "slow", "import time\ndef handle(data, context):\n    time.sleep(20 * bool(data))\n    return ['x']\n"
    )
    sandbox.torchmar("register", "slow.mar").ok()
    file = sandbox.file("x.txt", "x")
    with sandbox.popen("torchmar", "predict", "slow", file) as process:
        time.sleep(2)
        begin = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(40) == 143
        assert time.monotonic() - begin < 10


def test_a_registration_that_is_late_is_taken_back(server: Server) -> None:
    sandbox = server.sandbox
    sandbox.build("late", SLOW)
    late = sandbox.torchmar("register", "late.mar", "--timeout", "4")
    assert late.code == 9
    assert sandbox.torchmar("models", "late").code == 9
