"""The served models are written down, and served again."""

from __future__ import annotations

from pathlib import Path

import pytest

from .conftest import FRONTENDS, PYTHON_FIRST, Sandbox
from .support import ask, describe, kill, predict, wait_until

pytestmark = pytest.mark.hides("torch")

OPEN = "enable_model_api=true\ndisable_token_authorization=true\n"


@pytest.mark.parametrize("frontend", PYTHON_FIRST)
def test_what_was_registered_survives_kill_9(sandbox: Sandbox, echo: str) -> None:
    box = sandbox
    for number in ("1.0", "10.0", "2.0"):
        box.build("iris", echo, "-v", number)
        (box.store / "iris.mar").rename(box.store / f"iris-{number}.mar")
    box.build("late", echo, "--config-file", box.file("c.yaml", "minWorkers: 1\nmaxWorkers: 1\n"))
    elsewhere = box.file("elsewhere/far.mar", (box.store / "late.mar").read_bytes())
    config = box.file("open.properties", f"{OPEN}allowed_urls=file://{elsewhere.parent}/.*\n")
    started = box.torchmar(
        *("start", "iris-1.0.mar", "iris-10.0.mar", "iris-2.0.mar", "--model-store", box.store),
        *("--port", "auto", "--ts-config", config),
    ).ok()
    assert "iris 10.0 is ready: 1 worker, the default version\n" in started.out
    assert "/predictions/iris " in started.out
    server = box.server()
    assert predict(server, "iris").json()["version"] == "10.0"

    # The archive says one worker; and over the API, as any client may, not with torchmar.
    assert "with 2 initial workers" in box.torchmar("register", "late.mar", "--workers", "2").ok().out
    refused = box.torchmar("register", "late.mar", "--model-name", "other", "--response-timeout", "30")
    assert refused.code == 1
    assert "responseTimeout" in refused.err
    assert box.torchmar("register", f"file://{elsewhere}", "--model-name", "fetched").ok()
    ask(server.management, "/models/late?min_worker=3&max_worker=3&synchronous=true", method="PUT", timeout=150.0)
    kill(server.pid)

    restored = box.torchmar("start", "--restore", "--port", "auto").ok()
    assert "restored from the snapshot " in restored.out
    server = box.server()
    assert describe(server, "late")["minWorkers"] == 3
    wait_until(lambda: server.ready_workers("late") == 3, "three workers")
    assert predict(server, "fetched").status == 200
    assert predict(server, "iris").json()["version"] == "10.0"
    assert predict(server, "iris/2.0").json()["version"] == "2.0"


@pytest.mark.slow  # four servers
def test_a_snapshot_as_the_configuration_unless_the_command_line_says_otherwise(sandbox: Sandbox, echo: str) -> None:
    box = sandbox
    box.build("first", echo)
    box.build("second", echo)
    server = box.start("first.mar", options=("--workers", "2"))
    logs = Path(server.record["log_folder"])
    box.torchmar("stop").ok()
    snapshot = box.file("snapshot.cfg", max((logs / "config").glob("*-shutdown.cfg")).read_bytes())

    named = box.torchmar("start", "second.mar", "--port", "auto", "--ts-config", snapshot).ok()
    assert "warning: model_snapshot of the configuration is not restored" in named.err
    assert [row["name"] for row in box.torchmar("models", "--json").json()] == ["second"]
    box.torchmar("stop").ok()

    # A start that fails costs nothing of what the last run has left.
    (box.store / "second.mar").rename(box.store / "away.mar")
    assert box.torchmar("start", "--restore", "--port", "auto").code == 1
    (box.store / "away.mar").rename(box.store / "second.mar")
    started = box.torchmar("start", "--port", "auto", "--ts-config", snapshot).ok()
    assert "restored from the snapshot " in started.out
    assert describe(box.server(), "first")["minWorkers"] == 2
    assert "second" not in started.out


@pytest.mark.slow  # four servers
@pytest.mark.parametrize("frontend", FRONTENDS)
def test_each_frontend_restores_what_the_other_has_written(sandbox: Sandbox, echo: str, frontend: str) -> None:
    box, (other,) = sandbox, set(FRONTENDS) - {frontend}
    config = box.file("c.yaml", "batchSize: 2\nresponseTimeout: 77\n")
    for number in ("1.0", "2.0"):
        box.build("iris", echo, "-v", number, "--config-file", config)
        (box.store / "iris.mar").rename(box.store / f"iris-{number}.mar")
    box.start("iris-1.0.mar", "iris-2.0.mar")
    box.torchmar("scale", "iris", "--min-workers", "2", "--version", "1.0").ok()
    box.torchmar("set-default", "iris", "1.0").ok()
    keys = ("version", "default", "batch_size", "max_batch_delay_ms", "response_timeout_s", "min_workers")
    before = sorted([row[key] for key in keys] for row in box.torchmar("models", "iris", "--json").json())
    box.torchmar("stop").ok()

    started = box.torchmar("start", "--restore", "--port", "auto", "--frontend", other).ok()
    assert "restored from the snapshot " in started.out
    assert box.server().record["frontend"] == other
    assert before == sorted([row[key] for key in keys] for row in box.torchmar("models", "iris", "--json").json())
    assert predict(box.server(), "iris").json()["version"] == "1.0"
