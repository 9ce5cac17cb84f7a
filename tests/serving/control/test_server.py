"""The behaviour that needs no frontend; tests/integration/test_lifecycle.py starts real ones."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from archive_tool.errors import InputError
from serving.control import StartOptions, StateFolder, start, stop
from serving.control.configuration.java import torchserve_home, worker_home
from serving.control.configuration.vmargs import STOCK_HOME
from serving.control.server import _home, _make_runtime_folder
from serving.errors import NotRunningError

from .configuration.test_vmargs import make_home


@pytest.fixture
def other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the path of another program's home, relative to the working folder."""
    monkeypatch.chdir(tmp_path)
    make_home(tmp_path / "other")
    return "other"


def test_our_worker_is_the_default() -> None:
    assert _home(StartOptions(), None, "") == worker_home()


def test_a_home_of_the_configuration_wins_and_vmargs_over_the_key(tmp_path: Path, other: str) -> None:
    assert _home(StartOptions(), other, "") == tmp_path / other
    assert _home(StartOptions(), None, other) == tmp_path / other
    assert _home(StartOptions(), STOCK_HOME, other) == worker_home()


def test_the_command_line_wins_over_the_configuration(other: str) -> None:
    options = StartOptions(stock_worker=True)
    assert _home(options, other, other) == _home(options, "nowhere", "") == torchserve_home()


def test_a_timeout_that_is_no_number_is_refused_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.properties").write_text("default_response_timeout=soon\n")
    state = StateFolder("default", tmp_path)
    with pytest.raises(InputError, match="default_response_timeout=soon"):
        start(StartOptions(model_store=tmp_path, port="auto"), state)
    assert not state.logs.exists()


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
