from __future__ import annotations

from pathlib import Path

import pytest

from serving.cli.options import address_of
from serving.control import StateFolder
from serving.errors import NotRunningError
from tests.serving.control.test_state import record


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TORCHMAR_STATE_HOME", str(tmp_path))
    return tmp_path


def test_a_given_address_wins() -> None:
    assert address_of("default", "inference", "http://x:1") == ("http://x:1", None)


def test_the_named_server_is_found() -> None:
    state = StateFolder("mine")
    state.create()
    state.write(record())
    assert address_of("mine", "management", None) == (record().management, None)


def test_without_a_server_of_ours_the_usual_address_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    assert address_of("default", "inference", None) == ("http://127.0.0.1:8080", None)
    monkeypatch.setenv("TORCHMAR_MANAGEMENT", "http://127.0.0.1:5")
    assert address_of("default", "management", None) == ("http://127.0.0.1:5", None)


def test_a_name_that_nobody_has_is_an_error() -> None:
    with pytest.raises(NotRunningError, match="no server 'other' is running"):
        address_of("other", "inference", None)
