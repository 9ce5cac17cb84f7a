from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from serving.control.config import ModelSpec
from serving.control.java import Launch, environment, java_home, log_config, torchserve_home
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


def test_the_log_configuration_names_no_line_per_request() -> None:
    text = log_config().read_text()
    for logger in ("ACCESS_LOG", "MODEL_METRICS", "TS_METRICS"):
        assert f'<Logger name="{logger}" level="off"/>' in text


def test_the_command_names_models_store_and_runtime_folder(tmp_path: Path) -> None:
    command = Launch(
        config=tmp_path / "c", model_store=tmp_path, runtime_folder=tmp_path / "r", models=[ModelSpec("a", "b.mar")]
    ).command()
    assert command[-2:] == ["-m", "a=b.mar"]
    assert f"-Djava.io.tmpdir={tmp_path / 'r'}" in command
    assert "-ncs" in command


def test_what_would_override_the_command_line_is_dropped(tmp_path: Path) -> None:
    environ = {"TS_MODEL_SERVER_HOME": "/x", "TS_CONFIG_FILE": "/y", "TS_METRICS_MODE": "log", "KEPT": "1"}
    found = environment(tmp_path, environ, settings=["metrics_mode"])
    logs = {"LOG_LOCATION": str(tmp_path), "METRICS_LOCATION": str(tmp_path)}
    assert found == {"KEPT": "1", "PYTHONFAULTHANDLER": "1", **logs}
