"""Commands that ask and change a server that runs."""

from __future__ import annotations

import re
import signal
import sys
import time

import psutil
import pytest

from .conftest import PYTHON_FIRST, Server

pytestmark = pytest.mark.parametrize("frontend", PYTHON_FIRST)

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


def test_what_programs_and_shells_ask_for(server: Server, echo: str) -> None:
    """--json, the log, completion, and standard input."""
    sandbox = server.sandbox
    sandbox.build("asked", echo.replace("return", "print('asked for', data[0])\n        return", 1))
    registered = sandbox.torchmar("register", "asked.mar", "--workers", "1", "--json").json()
    assert [(row["name"], row["version"], len(row["workers"])) for row in registered] == [("asked", "1.0", 1)]
    scaled = sandbox.torchmar("scale", "asked", "--min-workers", "2", "--json").json()
    assert [row["min_workers"] for row in scaled] == [2]

    # The memory is that of the table: of the process with the model, as it is now.
    (row,) = sandbox.torchmar("models", "asked", "--json").json()
    (figure,) = re.findall(r"(\d+) MB", sandbox.torchmar("models", "asked").ok().out)
    assert sum(worker["memory_bytes"] for worker in row["workers"]) / 1e6 == pytest.approx(float(figure), rel=0.2)

    piped = sandbox.run("sh", "-c", f"echo hello | {sys.executable} -m archive_tool predict asked - --json").json()
    assert piped[0]["file"] == "-"
    assert "hello" in str(piped[0]["answer"])
    logged = sandbox.torchmar("logs", "asked").ok().out
    assert "[PID]" in logged
    assert "asked_1.0-stdout" in logged

    def completed(*words: str) -> list[str]:
        typed = {"COMP_WORDS": " ".join(words), "COMP_CWORD": str(len(words) - 1)}
        program = ("-c", "import sys; from archive_tool.cli.entry import main; sys.exit(main())")
        asked = sandbox.run(sys.executable, *program, env={**typed, "_TORCHMAR_COMPLETE": "bash_complete"}).ok()
        return [line.partition(",")[2] for line in asked.out.splitlines()]

    assert completed("torchmar", "predict", "as") == ["asked"]
    assert completed("torchmar", "register", "as") == ["asked.mar"]
    assert completed("torchmar", "start", "--models", "x=as") == ["x=asked.mar"]
    assert completed("torchmar", "build", "--handler", "image_c") == ["image_classifier"]
    assert completed("torchmar", "traffic", "asked", "1") == ["1.0"]
    assert completed("torchmar", "unre") == ["unregister"]
