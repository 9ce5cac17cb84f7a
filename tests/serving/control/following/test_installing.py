"""Pip under a frontend; a child with pip's command line plays it, under this process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from serving.control.following import waiting
from serving.control.following.installing import installing

from .test_waiting import Frontend, version, wait


@contextmanager
def pip(folder: Path) -> Iterator[None]:
    command = [sys.executable, "-c", "input()", "-m", "pip", "install", "-U", "-t", str(folder), "-r"]
    child = subprocess.Popen([*command, str(folder / "needs.txt")], stdin=subprocess.PIPE)
    try:
        deadline = time.monotonic() + 30
        while installing(os.getpid()) is None and time.monotonic() < deadline:
            time.sleep(0.02)  # between fork and exec it has our command line
        yield
    finally:
        child.communicate(b"\n")


def test_the_model_whose_requirements_are_installed(tmp_path: Path) -> None:
    assert installing(os.getpid()) is None
    with pip(tmp_path):
        assert installing(os.getpid()) == "installing the requirements of needs.txt"
        (tmp_path / "MAR-INF").mkdir()
        manifest = {"runtime": "python", "model": {"modelName": "cats", "handler": "h.py"}}
        (tmp_path / "MAR-INF" / "MANIFEST.json").write_text(json.dumps(manifest))
        assert installing(os.getpid()) == "installing the requirements of cats"
    assert installing(os.getpid()) is None


def test_a_start_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "_LONG_START_S", 0.0)
    told: list[str] = []
    frontend = Frontend([None, None, [version("cats", ready=1)]], pid=os.getpid())
    with pip(tmp_path):
        wait(tmp_path, frontend, "cats", told=told)
    assert told == ["installing the requirements of needs.txt"] * 2


def test_a_frontend_that_has_gone() -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    assert installing(gone.pid) is None
