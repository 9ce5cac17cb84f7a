"""The surroundings of a handler, and what is left of them."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from serving.local.surroundings import surroundings


def test_as_the_frontend_has_it_and_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a_module_of_a_model.py").write_text("X = 1\n")
    monkeypatch.setenv("TS_IPEX_ENABLE", "true")
    monkeypatch.setattr(sys, "argv", ["program", "--option"])
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    ours = sys.modules["serving.worker"]
    before = Path.cwd(), list(sys.path), dict(os.environ)
    with suppress(KeyError), surroundings(tmp_path, "modules"):
        assert Path.cwd() == tmp_path
        assert sys.path[:2] == ["modules", str(tmp_path)]
        assert sys.argv == ["program"]
        assert os.environ["TS_DECODE_INPUT_REQUEST"] == "true"
        assert os.environ["TS_IPEX_ENABLE"] == "false"
        __import__("a_module_of_a_model")
        del sys.modules["serving.worker"]
        raise KeyError  # also after an error
    assert (Path.cwd(), list(sys.path), dict(os.environ)) == before
    assert sys.argv == ["program", "--option"]
    assert "a_module_of_a_model" not in sys.modules
    assert sys.modules["serving.worker"] is ours
    assert not sys.dont_write_bytecode
    assert not (tmp_path / "__pycache__").exists()


def test_other_modules_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = tmp_path / "library"
    library.mkdir()
    (library / "a_library_of_models.py").write_text("X = 1\n")
    (tmp_path / "model").mkdir()
    monkeypatch.syspath_prepend(str(library))
    with surroundings(tmp_path / "model"):
        assert str(tmp_path / "model") == sys.path[0]
        __import__("a_library_of_models")
    assert sys.modules.pop("a_library_of_models").X == 1
