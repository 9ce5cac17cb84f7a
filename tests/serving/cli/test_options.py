from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from archive_tool.errors import InputError
from serving.cli import options
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


def test_servers_of_other_names_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{free.getsockname()[1]}"
    monkeypatch.setattr(options, "USUAL_ADDRESSES", {"inference": nobody, "management": nobody})
    assert address_of("default", "management", None) == (nobody, None)
    state = StateFolder("mine")
    state.create()
    state.write(record(name="mine"))
    for name in ("default", "other"):
        with pytest.raises(NotRunningError) as raised:
            address_of(name, "management", None)
        assert raised.value.hint == "running: mine; name one with --name"


LATER = "2999-01-01T00:00:00Z"
KEYS = {kind: {"key": f"of-{kind}", "expiration time": LATER} for kind in ("inference", "management")}


@pytest.fixture
def mine() -> StateFolder:
    """Return a server of ours that asks for keys."""
    state = StateFolder("mine")
    state.create()
    state.write(record(name="mine"))
    state.keys.write_text(json.dumps(KEYS))
    return state


def test_the_keys_of_a_known_server_are_found_by_its_name_and_by_its_address(
    mine: StateFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHMAR_TOKEN", "of-another")
    assert address_of("mine", "management", None) == (record().management, "of-management")
    assert address_of("default", "management", record().management) == (record().management, "of-management")
    same = record().inference.replace("127.0.0.1", "localhost") + "/"
    assert address_of("default", "inference", same) == (same, "of-inference")
    monkeypatch.setenv("TORCHMAR_INFERENCE", record().inference)
    assert address_of("default", "inference", None) == (record().inference, "of-inference")
    # The program that has its address now need not be it.
    mine.write(record(name="mine", started=1.0))
    assert address_of("default", "inference", None) == (record().inference, "of-another")


def test_the_key_of_another_server_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = "http://127.0.0.1:5"
    monkeypatch.setenv("TORCHMAR_TOKEN", "of-env\n")
    assert address_of("default", "management", elsewhere) == (elsewhere, "of-env")
    file = tmp_path / "key_file.json"
    file.write_text(json.dumps(KEYS))
    assert address_of("default", "management", elsewhere, file) == (elsewhere, "of-management")
    assert address_of("default", "inference", elsewhere, file) == (elsewhere, "of-inference")
    monkeypatch.setenv("TORCHMAR_TOKEN", "two words")
    with pytest.raises(InputError, match="not a key: TORCHMAR_TOKEN"):
        address_of("default", "management", elsewhere)


def test_a_file_wins_over_what_is_known(mine: StateFolder, tmp_path: Path) -> None:
    assert mine.keys.exists()
    (tmp_path / "key").write_text("of-file")
    assert address_of("mine", "management", None, tmp_path / "key") == (record().management, "of-file")
