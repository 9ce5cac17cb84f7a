from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from serving.control.configuration import java
from serving.control.configuration.java import (
    WORKER_SCRIPT,
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
