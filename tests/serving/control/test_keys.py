from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from archive_tool.errors import InputError
from serving.control.keys import (
    Key,
    _expired,
    current_key,
    current_keys,
    given_keys,
    key_in_file,
    without_given,
    write_given,
)
from serving.control.state import StateFolder

from .test_state import record


def test_without_a_key_file_no_key_is_needed(tmp_path: Path) -> None:
    assert current_key(record(), StateFolder("default", tmp_path), "inference") is None


@pytest.mark.parametrize("text", ["", "[]", "{", '{"inference": {"key": "k"}}'])
def test_a_file_of_another_form_holds_no_management_key(tmp_path: Path, text: str) -> None:
    state = StateFolder("default", tmp_path)
    state.create()
    state.keys.write_text(text)
    assert current_key(record(), state, "management") is None


@pytest.mark.parametrize("key", ["", "a b", "a\r\nHost: x", "\0", "\u00e9", "\ud800", "x" * 5000])
def test_a_damaged_key_is_none(tmp_path: Path, key: str) -> None:
    """It could not go into a header, or would be more than one."""
    state = StateFolder("default", tmp_path)
    state.create()
    good = {"key": "k" * 20, "expiration time": "2999-01-01T00:00:00Z"}
    state.keys.write_text(json.dumps({"management": good | {"key": key}, "inference": good, "API": good}))
    assert current_key(record(), state, "management") is None
    assert [one.kind for one in current_keys(record(), state)] == ["inference", "API"]
    with pytest.raises(InputError, match="no key for the management API"):
        key_in_file(state.keys, "management", None)


def test_a_valid_key_is_used_as_it_is(tmp_path: Path) -> None:
    state = StateFolder("default", tmp_path)
    state.create()
    later = (datetime.now(timezone.utc) + timedelta(hours=1)).isoformat()
    state.keys.write_text(json.dumps({"inference": {"key": "abc", "expiration time": later}}))
    assert current_key(record(), state, "inference") == "abc"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2000-01-01T00:00:00.123456789Z", True),
        ("2000-01-01T00:00:00Z", True),
        ("2999-01-01T00:00:00.123456789Z", False),
        ("", False),
        ("never", False),
    ],
)
def test_javas_times_are_read(text: str, expected: bool) -> None:
    assert _expired({"expiration time": text}) is expected


LATER = (datetime.now(timezone.utc) + timedelta(hours=1)).isoformat()
THREE = {
    "management": {"key": "of-m", "expiration time": LATER},
    "inference": {"key": "of-i", "expiration time": LATER},
    "API": {"key": "of-all"},
}


def test_all_keys(tmp_path: Path) -> None:
    state = StateFolder("default", tmp_path)
    state.create()
    assert current_keys(record(), state) == ()
    state.keys.write_text(json.dumps(THREE))
    assert current_keys(record(), state) == (
        Key("inference", "of-i", LATER),
        Key("management", "of-m", LATER),
        Key("API", "of-all", ""),
    )


def test_a_key_alone_and_a_key_file_of_torchserves(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("  abc-_1=\n")
    assert key_in_file(file, "inference", None) == "abc-_1="
    file.write_text(json.dumps(THREE))
    assert [key_in_file(file, kind, None) for kind in ("inference", "management")] == ["of-i", "of-m"]
    file.write_text(json.dumps({"inference": {"key": "old", "expiration time": "2000-01-01T00:00:00Z"}}))
    assert key_in_file(file, "inference", None) == "old"  # no server is known that could renew it
    assert key_in_file(file, "inference", "http://127.0.0.1:1") == "old"  # there is no key to renew it with
    with pytest.raises(InputError, match="no key for the management API"):
        key_in_file(file, "management", None)


@pytest.mark.parametrize("content", [b"", b"\n", b"two words", b"a\nb", "schlüssel".encode(), b"\xff", b"x" * 70000])
def test_what_is_no_key_is_not_sent_and_not_shown(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "key"
    file.write_bytes(content)
    with pytest.raises(InputError, match=r"not a key|cannot be read") as caught:
        key_in_file(file, "inference", None)
    assert "two" not in str(caught.value)


def test_a_file_without_an_end_is_no_key() -> None:
    with pytest.raises(InputError, match="not a key"):
        key_in_file(Path("/dev/zero"), "inference", None)


def test_keys_are_given_by_the_environment_or_by_files_that_it_names(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text("management-0123456789\n")
    given = {"TORCHMAR_INFERENCE_KEY": "inference-0123456789", "TORCHMAR_MANAGEMENT_KEY_FILE": str(file)}
    found = given_keys({**given, "TORCHMAR_INFERENCE": "http://elsewhere"})
    assert found == {"inference": "inference-0123456789", "management": "management-0123456789"}
    assert given_keys({}) == {}
    assert without_given({**given, "HOME": "/"}) == {"HOME": "/"}
    write_given(tmp_path / "keys", found)
    assert json.loads((tmp_path / "keys").read_text()) == found
    assert (tmp_path / "keys").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"TORCHMAR_INFERENCE_KEY": "short"}, "can be guessed"),
        ({"TORCHMAR_INFERENCE_KEY": ""}, "holds nothing"),
        ({"TORCHMAR_MANAGEMENT_KEY": "two words that are long"}, "more than one word"),
        ({"TORCHMAR_INFERENCE_KEY_FILE": "/nowhere/at/all"}, "cannot be read"),
        ({"TORCHMAR_INFERENCE_KEY": "x" * 20, "TORCHMAR_INFERENCE_KEY_FILE": "x"}, "both set"),
    ],
)
def test_a_given_key_that_protects_nothing_is_refused_and_not_shown(environ: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        given_keys(environ)
    assert "short" not in str(error.value)
