"""The behaviour that needs no frontend; tests/integration/test_lifecycle.py starts real ones."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from archive_tool.errors import InputError
from serving.control import StartOptions, StateFolder, start, stop
from serving.errors import NotRunningError


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
