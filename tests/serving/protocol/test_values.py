from __future__ import annotations

import json
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.protocol import Inference, Parameter, Request, decode_value, decoding_enabled, encode_inference

from .helpers import through_stock

CASES = [
    (b'{"a": [1, 2.5, null]}', "application/json", {"a": [1, 2.5, None]}),
    (b"NaN", "text/plain", "NaN"),
    ("café".encode(), "text/plain", "café"),
    (b"<a/>", "text/xml", "<a/>"),
    (b"x", "textual", "x"),
    (b"x", "Text/plain", bytearray(b"x")),
    (b"{}", "Application/json", bytearray(b"{}")),
    (b"{}", "application/json; charset=utf-8", bytearray(b"{}")),
    (b"{}", "", bytearray(b"{}")),
    (b"\x89PNG", "image/png", bytearray(b"\x89PNG")),
    (b"", "application/octet-stream", bytearray()),
    (b"", "text/plain", ""),
]
UNDECODABLE = [
    (b"{", "application/json"),
    (b"", "application/json"),
    (b'"\xff"', "application/json"),
    (b"\xef\xbb\xbf{}", "application/json"),
    ("{}".encode("utf-16"), "application/json"),
    (b"[" * 100_000, "application/json"),
    (b"\xff", "text/plain"),
]


@pytest.mark.parametrize(("value", "content_type", "expected"), CASES)
def test_what_a_handler_gets(value: bytes, content_type: str, expected: Any) -> None:
    got, problem = decode_value(bytearray(value), content_type)
    assert (got, type(got), problem) == (expected, type(expected), None)


@pytest.mark.parametrize(("value", "content_type"), UNDECODABLE)
def test_what_cannot_be_decoded_stays_the_same_bytearray_and_says_why(value: bytes, content_type: str) -> None:
    raw = bytearray(value)
    got, problem = decode_value(raw, content_type)
    assert got is raw
    assert isinstance(problem, ValueError | RecursionError)


@pytest.mark.parametrize("content_type", ["application/json", "text/plain"])
def test_nothing_is_decoded_when_it_is_switched_off(content_type: str) -> None:
    raw = bytearray(b"1")
    assert decode_value(raw, content_type, decode=False) == (raw, None)


@pytest.mark.parametrize(
    ("setting", "expected"),
    [(None, True), ("true", True), ("True", False), ("false", False), ("", False), ("1", False)],
)
def test_only_unset_and_true_switch_it_on(setting: str | None, expected: bool) -> None:
    assert decoding_enabled(setting) is expected


# For any bytes and type the handler gets what the stock backend would hand it, of the same type.
@given(
    value=st.binary(max_size=20)
    | st.recursive(st.none() | st.integers() | st.text(), st.lists).map(json.dumps).map(str.encode),
    content_type=st.sampled_from(["application/json", "text/plain", "text", "image/png", "", "application/JSON"]),
    setting=st.sampled_from([None, "true", "false", "True"]),
)
@settings(deadline=None)
def test_decoding_is_the_stock_backends(
    stock: ModuleType, value: bytes, content_type: str, setting: str | None
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        if setting is None:
            patch.delenv("TS_DECODE_INPUT_REQUEST", raising=False)
        else:
            patch.setenv("TS_DECODE_INPUT_REQUEST", setting)
        batch = Inference((Request("1", {}, (Parameter("body", value, content_type),)),))
        _, [request] = through_stock(stock, encode_inference(batch))
    expected = request["parameters"][0]["value"]
    got, _ = decode_value(bytearray(value), content_type, decode=decoding_enabled(setting))
    assert (got, type(got)) == (expected, type(expected))
