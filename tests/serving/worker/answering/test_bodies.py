"""A handler's values, as bytes."""

from __future__ import annotations

import io
import json
import logging
from collections import OrderedDict
from collections.abc import Callable
from enum import Enum
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.worker.answering import bodies

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
    for _ in range(100_000):  # some versions of Python write more than their recursion limit says
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


def test_names_of_numpy_and_torch_like_values() -> None:
    torch = pytest.importorskip("torch")
    value = {np.int64(2): np.float32(0.5), np.bool_(True): 2, np.float32(2.5): 3, np.str_("a"): 4, torch.tensor(7): 5}
    assert json.loads(bytes(bodies.encode(value))) == {"2": 0.5, "true": 2, "2.5": 3, "a": 4, "7": 5}
    assert bytes(bodies.encode({np.int64(1): 2})) == bytes(bodies.encode({1: 2}))
    deep = [{"deep": ({np.uint8(3): {np.int8(-1): np.arange(2)}},)}]
    assert json.loads(bytes(bodies.encode(deep))) == [{"deep": [{"3": {"-1": [0, 1]}}]}]
    assert json.loads(bytes(bodies.encode(np.array([{np.int64(1): 2}], dtype=object)))) == [{"1": 2}]


@pytest.mark.parametrize(
    "key",
    [np.datetime64("2026-01-01"), np.complex64(1), np.bytes_(b"a"), (1, 2)],
)
def test_names_that_json_does_not_have(key: Any) -> None:
    with pytest.raises(bodies.BodyError, match="dict: keys must be str, int, float, bool or None, not"):
        bodies.encode({key: 1})


@pytest.mark.filterwarnings("ignore")  # of torch's, about layouts that it gives up
def test_tensors_of_every_layout() -> None:
    torch = pytest.importorskip("torch")
    dense = torch.tensor([[0.0, 1.0], [2.0, 0.0]])
    for tensor in (dense.to_sparse(), dense.to_sparse_csr(), dense.to_mkldnn(), dense.bfloat16(), dense.t().t()):
        assert json.loads(bytes(bodies.encode({"scores": tensor}))) == {"scores": dense.tolist()}
    quantized = torch.quantize_per_tensor(torch.tensor([1.0, 2.0]), 0.5, 0, torch.qint8)
    assert json.loads(bytes(bodies.encode([quantized]))) == [[1.0, 2.0]]
    for layout in (torch.strided, torch.jagged):
        nested = torch.nested.nested_tensor([torch.ones(1), torch.ones(2)], layout=layout)
        assert json.loads(bytes(bodies.encode([nested]))) == [[[1.0], [1.0, 1.0]]]


@pytest.mark.filterwarnings("ignore:Sparse invariant checks:UserWarning")  # of torch, where a sparse tensor is made
def test_tensors_without_numbers_are_named() -> None:
    torch = pytest.importorskip("torch")
    with pytest.raises(bodies.BodyError, match="list: a Tensor on the device meta has no numbers"):
        bodies.encode([torch.empty(2, device="meta")])
    huge = torch.sparse_coo_tensor(torch.tensor([[0], [0]]), torch.tensor([1.0]), (10**9, 10**9))
    with pytest.raises(
        bodies.BodyError, match=r"a Tensor of torch\.float32 and the layout torch\.sparse_coo cannot be"
    ):
        bodies.encode([huge])
    with pytest.raises(bodies.BodyError, match="list: an object of type complex is not JSON serializable"):
        bodies.encode([torch.tensor([1 + 1j])])


class Unreadable(Exception):
    def __str__(self) -> str:
        raise OSError("secret")


class BadDict(dict[Any, Any]):
    def items(self) -> Any:
        raise KeyError("secret")


class BadList(list[Any]):
    def __iter__(self) -> Any:
        raise Unreadable


class BadClass:
    @property
    def __class__(self) -> Any:
        raise Unreadable


class BadText(str):
    __slots__ = ()

    def encode(self, *_: Any) -> Any:  # type: ignore[override]
        raise OSError("secret")


@pytest.mark.parametrize(
    ("make", "text"),  # pytest would read the values
    [
        (lambda: BadDict(a=1), "BadDict: reading it raised KeyError"),
        (lambda: BadList([1]), "BadList: reading it raised Unreadable"),
        (lambda: {np.int64(1): BadList([1])}, "dict: reading it raised Unreadable"),
        (BadClass, "BadClass: reading it raised Unreadable"),
        (lambda: [BadClass()], "list: reading it raised Unreadable"),
    ],
)
def test_objects_that_fail_when_they_are_read(
    make: Callable[[], Any], text: str, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(bodies.BodyError) as raised:
        bodies.encode(make())
    assert str(raised.value) == text  # not what the exception says: that is for the log
    assert caplog.records[-1].exc_info


def test_a_text_of_a_class_of_its_own_is_a_text() -> None:
    assert bodies.encode(BadText("text")) == b"text"


def test_lone_surrogates() -> None:
    assert bytes(bodies.encode({"a": "\ud800"})) == b'{\n  "a": "\\ud800"\n}'
    assert bytes(bodies.encode({"\udfff": 1})) == b'{\n  "\\udfff": 1\n}'
    with pytest.raises(bodies.BodyError, match=r"^str: 'utf-8' codec can't encode character '.udc80' in position 1"):
        bodies.encode("a\udc80")


def test_lack_of_memory_is_not_the_answers_own() -> None:
    class Hungry(list[Any]):
        def __iter__(self) -> Any:
            raise MemoryError

    with pytest.raises(MemoryError):
        bodies.encode(Hungry([1]))


def test_the_log_tells_of_numbers_that_json_does_not_have(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = 0.0
    monkeypatch.setattr(bodies.time, "monotonic", lambda: now)
    monkeypatch.setattr(bodies, "_no_numbers", bodies._NoNumbers())
    caplog.set_level(logging.WARNING)
    bodies.encode({"Infinity": 'a "NaN" in a text'})
    assert not caplog.messages
    now = 100.0
    assert bodies.encode([1.5, float("nan")]) == b"[\n  1.5,\n  NaN\n]"
    bodies.encode(float("inf"))
    assert caplog.messages == [
        "An answer holds NaN, which many readers of JSON refuse; it is sent as TorchServe sends it"
    ]
    now = 200.0
    bodies.encode(float("-inf"))
    assert "An answer holds Infinity" in caplog.messages[-1]
    assert len(caplog.messages) == 2
