"""What can be seen without a frontend; tests/integration/test_lifecycle.py starts real ones."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from archive_tool.errors import InputError
from serving.control import StartOptions, StateFolder, start, stop
from serving.control.java import log_config
from serving.control.server import STOCK_LOG_CONFIG, _absolute_log_config, _make_runtime_folder
from serving.errors import NotRunningError

ROOT = Path(__file__).resolve().parents[3]


def test_the_repositorys_log_configuration_is_found_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert _absolute_log_config(f"-Dlog4j.configurationFile={STOCK_LOG_CONFIG}").endswith(log_config().as_uri())
    assert (ROOT / STOCK_LOG_CONFIG).samefile(log_config())
    assert STOCK_LOG_CONFIG in (ROOT / "config.properties").read_text()


def test_a_log_configuration_of_the_user_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.xml").touch()
    assert _absolute_log_config("-Dlog4j.configurationFile=mine.xml").endswith((tmp_path / "mine.xml").as_uri())
    with pytest.raises(InputError, match=r"no such log configuration: other\.xml"):
        _absolute_log_config("-Dlog4j.configurationFile=other.xml")
    for option in ("-Xmx1g", "-Dlog4j.configurationFile=file:///x.xml"):
        assert _absolute_log_config(option) == option


def test_a_temporary_folder_that_is_too_long_for_sockets_is_avoided(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = tmp_path / ("x" * 100)
    deep.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(deep))
    folder = _make_runtime_folder()
    try:
        assert len(str(folder)) < 90
        assert folder.stat().st_mode & 0o077 == 0
        assert list(deep.iterdir()) == []
    finally:
        folder.rmdir()


def test_stop_without_start(tmp_path: Path) -> None:
    with pytest.raises(NotRunningError, match="no server 'default' is running"):
        stop(StateFolder("default", tmp_path))


def test_a_start_that_is_refused_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    temporary = tmp_path / "t"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    state = StateFolder("default", tmp_path)
    with pytest.raises(InputError, match="not a folder"):
        start(StartOptions(models=("a.mar",), port="auto"), state)
    assert state.record() is None
    assert list(temporary.iterdir()) == []
