"""The folders for sockets and extracted models."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from serving.control.runtime_folder import make_runtime_folder, remove_runtime_folder


def test_a_temporary_folder_that_is_too_long_for_sockets_is_avoided(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = tmp_path / ("x" * 100)
    deep.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(deep))
    folder = make_runtime_folder()
    try:
        assert len(str(folder)) < 90
        assert folder.stat().st_mode & 0o077 == 0
        assert list(deep.iterdir()) == []
    finally:
        folder.rmdir()


def test_nothing_is_removed_but_what_was_made(tmp_path: Path) -> None:
    made, other, aim = make_runtime_folder(), tmp_path / "other", tmp_path / "aim"
    (made / "sockets").mkdir()
    for folder in (other, aim):
        folder.mkdir()
    link = tmp_path / "torchmar-link"
    link.symlink_to(aim)
    for folder in (made, other, link, tmp_path / "torchmar-gone"):
        remove_runtime_folder(folder)
    assert not made.exists()
    assert other.is_dir()
    assert link.is_symlink()
    assert aim.is_dir()
