from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from archive_tool.errors import InputError
from serving.control.configuration import java
from serving.control.configuration.config import ModelSpec
from serving.control.configuration.java import (
    WORKER_SCRIPT,
    Launch,
    environment,
    java_home,
    log_config,
    torchserve_home,
    worker_home,
    worker_name,
)
from serving.errors import StartError


def test_the_bundled_runtime_runs() -> None:
    home = java_home({})
    done = subprocess.run([home / "bin" / "java", "-version"], capture_output=True, text=True, check=True)
    assert "version" in done.stderr


def test_java_home_wins(tmp_path: Path) -> None:
    java = tmp_path / "bin" / "java"
    java.parent.mkdir()
    java.touch(mode=0o755)
    assert java_home({"JAVA_HOME": str(tmp_path)}) == tmp_path


def test_a_wrong_java_home_is_named(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="has no bin/java") as caught:
        java_home({"JAVA_HOME": str(tmp_path)})
    assert "unset" in (caught.value.hint or "")


def test_the_frontend_is_found() -> None:
    assert (torchserve_home() / "ts" / "frontend" / "model-server.jar").is_file()


def test_our_worker_is_found() -> None:
    assert (worker_home() / WORKER_SCRIPT).is_file()
    assert worker_home().is_absolute()


def test_an_installation_without_our_worker_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(java, "WORKER_SCRIPT", Path("ts", "gone.py"))
    with pytest.raises(StartError, match="worker is not installed"):
        worker_home()
    assert worker_name(torchserve_home()) == "torchserve"


def test_a_worker_is_named_by_its_home(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(worker_home())
    assert worker_name(worker_home()) == worker_name(link) == "torchmar"
    assert worker_name(torchserve_home()) == "torchserve"
    assert worker_name(tmp_path) == str(tmp_path)


def test_the_log_configuration_names_no_line_per_request() -> None:
    text = log_config().read_text()
    for logger in ("ACCESS_LOG", "MODEL_METRICS", "TS_METRICS"):
        assert f'<Logger name="{logger}" level="off"/>' in text


def test_the_command_names_models_store_and_runtime_folder(tmp_path: Path) -> None:
    command = Launch(
        config=tmp_path / "c",
        model_store=tmp_path,
        runtime_folder=tmp_path / "r",
        home=tmp_path / "h",
        models=[ModelSpec("a", "b.mar")],
    ).command()
    assert command[-2:] == ["-m", "a=b.mar"]
    assert f"-Dmodel_server_home={tmp_path / 'h'}" in command
    assert command[command.index("-cp") + 1] == str(torchserve_home() / "ts" / "frontend" / "*")
    assert f"-Djava.io.tmpdir={tmp_path / 'r'}" in command
    assert "-ncs" not in command  # the frontend writes down its models; it reads none, for it has a configuration
    assert command[command.index("-f") + 1] == str(tmp_path / "c")


def test_snapshots_can_be_switched_off_and_plugins_are_found(tmp_path: Path) -> None:
    launch = Launch(config=tmp_path, model_store=tmp_path, runtime_folder=tmp_path, home=tmp_path)
    command = replace(launch, snapshots=False, plugins="/plugins/*").command()
    assert "-ncs" in command
    assert command[command.index("-cp") + 1] == f"{torchserve_home() / 'ts' / 'frontend' / '*'}:/plugins/*"


@pytest.mark.skipif(sys.platform != "linux", reason="Java is started plainly elsewhere")
def test_our_workers_script_starts_java_with_our_home_only(tmp_path: Path) -> None:
    launch = Launch(config=tmp_path / "c", model_store=tmp_path, runtime_folder=tmp_path, home=worker_home())
    command = launch.command()
    script = str(worker_home() / "ts" / "model_service_worker.py")
    assert command[:4] == [sys.executable, script, "--server", str(java_home() / "bin" / "java")]
    stock = replace(launch, home=torchserve_home()).command()
    assert stock[0] == str(java_home() / "bin" / "java")


def test_what_would_override_the_command_line_is_dropped(tmp_path: Path) -> None:
    environ = {"TS_MODEL_SERVER_HOME": "/x", "TS_CONFIG_FILE": "/y", "TS_METRICS_MODE": "log", "KEPT": "1"}
    found = environment(tmp_path, {"metrics_mode": "log"}, environ)
    logs = {"LOG_LOCATION": str(tmp_path), "METRICS_LOCATION": str(tmp_path)}
    assert found == {"KEPT": "1", "PYTHONFAULTHANDLER": "1", "TORCHMAR_RESPONSE_TIMEOUT": "120", **logs}


def test_the_workers_are_told_the_frontends_timeout(tmp_path: Path) -> None:
    found = environment(tmp_path, {"default_response_timeout": "30"}, {"TORCHMAR_RESPONSE_TIMEOUT": "5"})
    assert found["TORCHMAR_RESPONSE_TIMEOUT"] == "30"
    with pytest.raises(InputError, match="not a number of seconds: default_response_timeout=-1"):
        environment(tmp_path, {"default_response_timeout": "-1"}, {})
