"""What a handler gives, as bytes."""

from __future__ import annotations

import io
import json
import sys
from collections import OrderedDict
from enum import Enum
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.worker import bodies

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=9), inner, max_size=5),
    max_leaves=20,
)


class Text(str):
    __slots__ = ()


class Data(bytes):
    __slots__ = ()


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"raw\xff", b"raw\xff"),
        (bytearray(b"raw"), b"raw"),
        (memoryview(b"raw"), b"raw"),
        (Data(b"raw"), b"raw"),
        ("größer", "größer".encode()),
        (Text("text"), b"text"),
        ("\ud800!", b"?!"),
        ("", b""),
        (None, b"null"),
        (True, b"true"),
        (3, b"3"),
        (2.5, b"2.5"),
        ([1, 2], b"[\n  1,\n  2\n]"),
        ((1,), b"[\n  1\n]"),
        ([], b"[]"),
        ({"a": {"b": None}}, b'{\n  "a": {\n    "b": null\n  }\n}'),
        (OrderedDict(a=1), b'{\n  "a": 1\n}'),
        ({1: 2}, b'{\n  "1": 2\n}'),
        ({"ü": "ü"}, b'{\n  "\\u00fc": "\\u00fc"\n}'),
        ([float("nan"), float("inf")], b"[\n  NaN,\n  Infinity\n]"),
        (float("-inf"), b"-Infinity"),
    ],
)
def test_the_forms_of_torchserve(value: Any, expected: bytes) -> None:
    assert bytes(bodies.encode(value)) == expected


@settings(deadline=None)
@given(JSON)
def test_json_is_pythons_own_with_two_blanks(value: Any) -> None:
    body = bytes(bodies.encode(value))
    if not isinstance(value, str):
        assert body == json.dumps(value, indent=2).encode()


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.arange(3), [0, 1, 2]),
        (np.float32(0.5), 0.5),
        (np.array(7), 7),
        (np.bool_(True), True),
        ({"scores": np.ones((2, 1)), "label": np.str_("cat")}, {"scores": [[1.0], [1.0]], "label": "cat"}),
        ([np.int64(1), {"deep": [np.array([True])]}], [1, {"deep": [[True]]}]),
    ],
)
def test_numpy_in_json(value: Any, expected: Any) -> None:
    assert json.loads(bytes(bodies.encode(value))) == expected


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (object(), "object: an object of type object is not JSON serializable"),
        ([1, {"a": object()}], "list: an object of type object is not JSON serializable"),
        ({1, 2}, "set: an object of type set is not JSON serializable"),
        ({(1, 2): 3}, "dict: keys must be str, int, float, bool or None, not tuple"),
        ([b"bytes"], "list: an object of type bytes is not JSON serializable"),
        (Enum("E", "A"), "type E"),
    ],
)
def test_what_cannot_be_sent(value: Any, text: str) -> None:
    with pytest.raises(bodies.BodyError) as raised:
        bodies.encode(value)
    assert text in str(raised.value)


def test_what_holds_itself() -> None:
    value: list[Any] = []
    value.append(value)
    with pytest.raises(bodies.BodyError, match="list: Circular reference"):
        bodies.encode(value)
    deep: list[Any] = []
    for _ in range(sys.getrecursionlimit() * 2):
        deep = [deep]
    with pytest.raises(bodies.BodyError, match="list: "):
        bodies.encode(deep)


def test_tensors() -> None:
    torch = pytest.importorskip("torch")
    tensor = torch.tensor([[1.5, 2.5]], requires_grad=True)
    saved = bodies.encode(tensor)
    assert torch.equal(torch.load(io.BytesIO(saved)), tensor)
    assert json.loads(bytes(bodies.encode({"scores": tensor}))) == {"scores": [[1.5, 2.5]]}
    assert json.loads(bytes(bodies.encode([torch.tensor(3), torch.tensor(True)]))) == [3, True]
