from __future__ import annotations

import pytest

from serving.answers import decode, strict


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"7", 7),
        (b'{"a": 1}', {"a": 1}),
        (b"plain", "plain"),
        (b"\xff\xfe", b"\xff\xfe"),
        (b"", ""),
        (b"[" * 10_000, "[" * 10_000),
    ],
)
def test_an_answer_is_what_it_looks_like(body: bytes, expected: object) -> None:
    assert decode(body) == expected


@pytest.mark.parametrize("kind", ["application/x-npy", "application/safetensors", "application/octet-stream"])
def test_bytes_that_could_be_text_stay_bytes_if_they_are_said_to_be(kind: str) -> None:
    assert decode(b"\0\0[1]", kind) == b"\0\0[1]"
    assert decode(b"[1]", "application/json") == [1]


def test_numbers_that_json_does_not_have_are_null() -> None:
    assert strict({"a": [float("nan"), 1.5, {"b": float("-inf")}], "c": "NaN"}) == {
        "a": [None, 1.5, {"b": None}],
        "c": "NaN",
    }
