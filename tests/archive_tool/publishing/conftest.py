"""Modules of a user's, written anew for each test and forgotten after it."""

import importlib
import sys
import textwrap

import pytest


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Write files into a folder of the search path; return a function that imports one of them."""
    root = tmp_path / "project"
    root.mkdir()
    known = set(sys.modules)

    def write(files, module=None):
        for name, text in files.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(textwrap.dedent(text))
        importlib.invalidate_caches()
        return importlib.import_module(module) if module else root

    monkeypatch.syspath_prepend(str(root))
    yield write
    for name in set(sys.modules) - known:
        if str(getattr(sys.modules[name], "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.fixture
def store(tmp_path):
    """Return an empty model store."""
    path = tmp_path / "store"
    path.mkdir()
    return path
