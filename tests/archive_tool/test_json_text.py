"""JSON from elsewhere is read as every reader reads it, or refused before it costs anything."""

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archive_tool import json_text
from archive_tool.json_text import NotJsonError

REFUSED = {
    "twice": (b'{"a": 1, "a": 2}', 'the key "a" is there twice'),
    "twice below": (b'[{"b": {"a": 1, "\\u0061": 2}}]', 'the key "a" is there twice'),
    "utf-16": ('{"a": 1}'.encode("utf-16"), "not UTF-8"),
    "utf-32": ('{"a": 1}'.encode("utf-32"), "not UTF-8"),
    "a mark at the start": ('{"a": 1}'.encode("utf-8-sig"), "BOM"),
    "latin-1": ('{"ä": 1}'.encode("latin-1"), "not UTF-8"),
    "depth": (b"[" * 51 + b"]" * 51, "more than 50 parts within each other"),
    "depth of objects": (b'{"a":' * 51 + b"1" + b"}" * 51, "more than 50 parts within each other"),
    "endless depth": (b"[" * 100_000, "."),
    "damaged": (b"{", "."),
    "empty": (b"", "."),
}


@pytest.mark.parametrize("which", REFUSED)
def test_what_is_refused(which):
    text, reason = REFUSED[which]
    with pytest.raises(NotJsonError, match=reason):
        json_text.loads(text)


def test_what_is_read():
    assert json_text.loads(b"[" * 50 + b"]" * 50)
    assert json_text.loads('{"ä": [1, {"a": null}, {"a": 2.5}]}'.encode()) == {"ä": [1, {"a": None}, {"a": 2.5}]}


@pytest.mark.parametrize("part", [b"[]", b"{}", b"0", b'"x"'])
def test_too_much_is_refused_before_it_is_read(part, monkeypatch):
    monkeypatch.setattr(json_text, "MAX_PARTS", 100)
    monkeypatch.setattr(json_text, "MAX_VALUES", 200)
    assert len(json_text.loads(b"[" + b",".join([part] * 90) + b"]")) == 90
    monkeypatch.setattr(json_text.json, "loads", None)
    with pytest.raises(NotJsonError, match="more than"):
        json_text.loads(b"[" + b",".join([part] * 300) + b"]")
    with pytest.raises(NotJsonError, match="more than 10 bytes"):
        json_text.loads(b"[" + part * 10 + b"]", max_bytes=10)


@given(
    st.recursive(
        st.none() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
    )
)
def test_what_python_writes_is_read(value):
    assert json_text.loads(json.dumps(value).encode()) == value


@given(st.binary(max_size=60))
def test_any_bytes_are_a_value_or_our_error(data):
    with contextlib.suppress(NotJsonError):
        json_text.loads(data)


def test_a_lone_surrogate_is_written_as_its_escape():
    assert json_text.dumps({"a": "\ud800", "b": "é"}) == b'{"a": "\\ud800", "b": "\xc3\xa9"}'
    assert json.loads(json_text.dumps(["\ud800"])) == ["\ud800"]
