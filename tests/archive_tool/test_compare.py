"""Answers beside those that were expected."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archive_tool.compare import difference, json_difference


@pytest.mark.parametrize(
    ("expected", "actual"),
    [
        (b'{"a": [1, 2.0], "b": null}', b'{\n  "b": null,\n  "a": [1.00001, 2]\n}'),
        (b"7", b"7.0"),
        (b"0.0", b"0.0000005"),
        (b"NaN", b"NaN"),
        (b"[Infinity]", b"[Infinity]"),
        (b"cat\n", b"cat"),
        (b"\xff\x00", b"\xff\x00"),
        (b"", b""),
    ],
)
def test_equal(expected, actual):
    assert difference(expected, actual) is None


@pytest.mark.parametrize(
    ("expected", "actual", "words"),
    [
        (b"7", b"8", "$ is 8, 7 was expected"),
        (b"1.0", b"1.001", "$ is 1.001, 1.0 was expected"),
        (b"0", b"0.00001", "$ is 1e-05, 0 was expected"),
        (b'{"a": {"b": [1, 2]}}', b'{"a": {"b": [1, 3]}}', "$.a.b[1] is 3, 2 was expected"),
        (b'{"a": 1}', b'{"b": 1}', "$.a is missing; $.b was not expected"),
        (b"[1]", b"[1, 2]", "$ has 2 items, 1 were expected"),
        (b"[1]", b'{"a": 1}', '$ is {"a": 1}, [1] was expected'),
        (b"true", b"1", "$ is 1, true was expected"),
        (b"1", b"true", "$ is true, 1 was expected"),
        (b"null", b"0", "$ is 0, null was expected"),
        (b'"a"', b'"b"', '$ is "b", "a" was expected'),
        (b'"1"', b"1", '$ is 1, "1" was expected'),
        (b"[1]", b"cat", 'expected JSON, got "cat"'),
        (b"cat", b"dog", 'expected "cat", got "dog"'),
        (b"\xff", b"\xfe\xff", "expected 1 bytes that are no text, got 2 bytes that are no text"),
        (b"[1, 2, 3, 4, 5]", b"[0, 0, 0, 0, 0]", "$[0] is 0, 1 was expected; $[1] is 0, 2 was expected; "
         "$[2] is 0, 3 was expected; and 2 more"),
        (b'"' + b"x" * 100 + b'"', b'"y"', '$ is "y", "' + "x" * 56 + "... was expected"),
        (b"1" + b"0" * 400, b"1.0", "$ is 1.0, 1"),
        (b"NaN", b"1", "$ is 1, NaN was expected"),
        (b"[" * 5000 + b"]" * 5000, b"[]", None),
    ],
)  # fmt: skip
def test_different(expected, actual, words):
    found = difference(expected, actual)
    assert found is not None
    assert words is None or found.startswith(words)


def test_the_tolerance():
    assert difference(b"100", b"101", relative=0.02) is None
    assert difference(b"100", b"101", relative=0.005) is not None
    assert difference(b"0", b"0.1", absolute=0.2) is None
    assert json_difference([0.0], [0.1], absolute=0.2) is None


def test_deep_values():
    deep = []
    for _ in range(100_000):
        deep = [deep]
    assert json_difference(deep, deep) == "nested too deep to be compared"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(JSON, JSON)
def test_any_json(one, other):
    """A value equals itself, and the two directions agree."""
    assert difference(json.dumps(one).encode(), json.dumps(one, indent=2).encode()) is None
    there, back = json_difference(one, other), json_difference(other, one)
    assert (there is None) == (back is None)
