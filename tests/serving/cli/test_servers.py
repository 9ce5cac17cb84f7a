from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from serving.cli.servers import env, start, stop


@pytest.mark.parametrize("port", ["0", "65532", "x", "-1", "80.5"])
def test_a_port_that_is_none_is_refused(port: str) -> None:
    done = CliRunner().invoke(start, ["--port", port])
    assert done.exit_code == 2
    assert "neither 'auto' nor a port" in done.output


def test_env_prints_a_line_for_the_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JAVA_HOME", raising=False)
    done = CliRunner().invoke(env)
    name, _, value = done.output.strip().removeprefix("export ").partition("=")
    assert name == "JAVA_HOME"
    assert (Path(value) / "bin" / "java").exists()


def test_stopping_all_of_none_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHMAR_STATE_HOME", str(tmp_path))
    done = CliRunner().invoke(stop, ["--all"])
    assert "no server is running" in str(done.exception)
