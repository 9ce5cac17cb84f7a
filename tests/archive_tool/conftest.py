"""Inputs of builds, made anew for each test; archives made by hand, for what no honest tool would write."""

from __future__ import annotations

import io
import os
import pickle
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from archive_tool.cli import entry

ROOT = Path(__file__).resolve().parents[2]

HANDLER = """\
class Handler:
    def initialize(self, context):
        self.context = context

    def handle(self, data, context):
        return [len(row.get("body")) for row in data]
"""
MODEL = """\
from torch import nn


class Net(nn.Module):
    def forward(self, x):
        return x
"""
MANIFEST = b'{"runtime": "python", "model": {"modelName": "m", "handler": "h.py"}}'


@pytest.fixture(autouse=True)
def _fixed_environment(monkeypatch):
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    monkeypatch.delenv("NO_COLOR", raising=False)


@pytest.fixture
def work(tmp_path, monkeypatch):
    """Make a folder the current one, with a handler, a model file, weights and an empty model store."""
    monkeypatch.chdir(tmp_path)
    Path("h.py").write_text(HANDLER)
    Path("model.py").write_text(MODEL)
    with zipfile.ZipFile("weights.pt", "w") as archive:
        for name in ("data.pkl", "version", "data/0"):
            content = os.urandom(200)
            archive.writestr(f"weights/{name}", pickle.dumps(content) if name == "data.pkl" else content)
    Path("store").mkdir()
    return tmp_path


@pytest.fixture
def options(work):
    """Return the options of an ordinary build in `work`."""
    return {
        "model_name": "m",
        "handler": "h.py",
        "serialized_file": "weights.pt",
        "model_file": "model.py",
        "export_path": "store",
    }


@pytest.fixture
def make_zip(tmp_path):
    """Write a zip from names and bytes; a value may also be a (ZipInfo, bytes) pair."""

    def make(members, name="made.mar"):
        path = tmp_path / name
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for member, data in members:
                archive.writestr(member, data)
        return path

    return make


@pytest.fixture
def make_tar(tmp_path):
    """Write a tar.gz from names (or TarInfo) and bytes."""

    def make(members, name="made.tar.gz"):
        path = tmp_path / name
        with tarfile.open(path, "w:gz") as archive:
            for member, data in members:
                info = member if isinstance(member, tarfile.TarInfo) else tarfile.TarInfo(member)
                info.size = len(data) if info.type in (tarfile.REGTYPE, tarfile.GNUTYPE_SPARSE) else 0
                archive.addfile(info, io.BytesIO(data))
        return path

    return make


@pytest.fixture
def torchmar(capsys):
    """Run the command line in this process: a process each time would take most of the time."""

    def run(*arguments):
        code = entry.main([*map(str, arguments)])
        out, err = capsys.readouterr()
        return SimpleNamespace(returncode=code, stdout=out, stderr=err)

    return run


@pytest.fixture
def torchmar_process():
    """Run the command line in its own process, in whatever folder and environment."""

    def run(*arguments, **more):
        environment = {**os.environ, "PYTHONPATH": str(ROOT), **more.pop("env", {})}
        return subprocess.run(
            [sys.executable, "-m", "archive_tool", *map(str, arguments)],
            capture_output=True,
            text=True,
            env=environment,
            timeout=120,
            **more,
        )

    return run
