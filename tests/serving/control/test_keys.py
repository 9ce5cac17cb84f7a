from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from serving.control.keys import _expired, current_key
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
