from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.protocol import PredictionItem, Reply, ReplyDecoder, encode_reply, fit, sanitise
from serving.protocol.items import byte_length
from serving.protocol.limits import MAX_HEADERS, MAX_RESPONSE_HEADER, MAX_RESPONSE_SIZE

from .helpers import items

# Written anew from Netty 4.1's validation: nothing here uses the patterns under test.
SEPARATORS = set("=:;,")


def netty_accepts_name(name: str) -> bool:
    return name != "" and all(0x20 < ord(char) < 0x7F and char not in SEPARATORS for char in name)


def netty_accepts_value(value: str) -> bool:
    return not set(value) & set("\r\n\0\v\f")


ANY = st.text(max_size=20) | st.text("ab\r\n\0\t\v\f :=;,é\ud800", max_size=10)
odd_items = st.builds(
    PredictionItem,
    request_id=st.just("1"),
    body=st.binary(max_size=10),
    status=st.integers(-(2**40), 2**40) | st.integers(-1, 1001),
    phrase=ANY,
    content_type=ANY,
    headers=st.dictionaries(ANY, ANY, max_size=4),
)


# Whatever an item holds, what is sent of it is accepted by Netty, and it is sent.
@given(odd_items)
def test_a_sanitised_item_holds_nothing_that_netty_refuses(item: PredictionItem) -> None:
    clean = sanitise(item)
    assert 200 <= clean.status <= 999
    assert netty_accepts_value(clean.phrase)
    assert netty_accepts_value(clean.content_type)
    assert all(map(netty_accepts_name, clean.headers))
    assert all(map(netty_accepts_value, clean.headers.values()))
    assert (clean.request_id, clean.body) == (item.request_id, item.body)
    assert sanitise(clean) is clean
    decoder = ReplyDecoder()
    decoder.feed(encode_reply(Reply(200, "", (item,))))
    reply = decoder.next_message()
    assert reply is not None
    [sent] = reply.items
    assert sent.status == clean.status
    assert list(sent.headers) == list(clean.headers)


# What Netty takes is not touched, and not even copied: the caller sees by identity that nothing was changed.
@given(items)
def test_a_good_item_is_returned_itself(item: PredictionItem) -> None:
    assert sanitise(item) is item
    assert fit(item) is item


def test_controls_become_blanks_and_bad_headers_go() -> None:
    item = PredictionItem(
        "1",
        b"x",
        -1,
        "Not\r\nFound",
        "text/plain\n",
        {"X Y": "1", "": "2", "Set-Cookie:": "3", "é": "4", "X-Ok": "a\r\nb\tc", "X-é": "5", "Grüße": "6"},
    )
    assert sanitise(item) == PredictionItem("1", b"x", 500, "Not  Found", "text/plain ", {"X-Ok": "a  b\tc"})


def test_a_tab_in_a_value_is_legal() -> None:
    item = PredictionItem("1", b"", headers={"a": "b\tc"})
    assert sanitise(item) is item


@pytest.mark.parametrize(
    ("status", "expected"), [(200, 200), (999, 999), (199, 500), (100, 500), (0, 500), (-1, 500), (1000, 500)]
)
def test_only_a_final_status_of_three_digits_is_sent(status: int, expected: int) -> None:
    assert sanitise(PredictionItem("1", b"", status)).status == expected


@pytest.mark.parametrize(("size", "kept"), [(MAX_RESPONSE_SIZE, True), (MAX_RESPONSE_SIZE + 1, False)])
def test_a_body_over_the_limit_becomes_an_error_that_names_it(size: int, kept: bool) -> None:
    item = PredictionItem("1", bytes(size), 200, "Fine", "image/png", {"a": "b"})
    small = fit(item)
    if kept:
        assert small is item
        return
    assert (small.request_id, small.status, small.phrase, small.content_type) == ("1", 507, "", "application/json")
    assert json.loads(bytes(small.body)) == {
        "code": 507,
        "type": "ResponseTooLarge",
        "message": "the answer has 6553501 bytes, max_response_size in config.properties allows 6553500",
    }
    assert fit(small) is small


# The frontend ends a stream, and finds a sequence, by these headers; those about the lost body would lie.
def test_the_error_keeps_the_headers_that_steer_the_frontend() -> None:
    headers = {"ts_stream_next": "true", "Content-Encoding": "gzip", "content-type": "image/png", "X-Model": "m"}
    small = fit(PredictionItem("1", bytes(1000), headers=headers), 500)
    assert small.headers == {"ts_stream_next": "true", "X-Model": "m"}


def test_the_error_itself_keeps_within_a_tiny_limit() -> None:
    assert fit(PredictionItem("1", bytes(21)), 20) == PredictionItem("1", b"", 507, "", "application/json")


def test_lengths_are_of_bytes() -> None:
    assert fit(PredictionItem("1", b"", phrase="é" * 50), 100).phrase == "é" * 50
    assert fit(PredictionItem("1", b"", phrase="é" * 51), 100).phrase == ""
    assert fit(PredictionItem("1", b"", content_type="é" * 51), 100).content_type == ""
    wide = memoryview(bytes(800)).cast("d")
    assert (len(wide), byte_length(wide)) == (100, 800)
    assert fit(PredictionItem("1", wide), 799).status == 507


def test_headers_over_the_frontends_constants_are_left_out() -> None:
    long = "x" * (MAX_RESPONSE_HEADER + 1)
    item = PredictionItem("1", b"", headers={"a": long, long: "b", "c": "d", "e": "f" * MAX_RESPONSE_HEADER})
    assert set(fit(item).headers) == {"c", "e"}
    many = {str(i): "" for i in range(MAX_HEADERS + 1)}
    assert len(fit(PredictionItem("1", b"", headers=many)).headers) == MAX_HEADERS


# What is sent is within the frontend's limits whatever the item, so that its own decoder takes it.
@given(item=odd_items, size=st.integers(0, 300), limit=st.integers(10, 200))
def test_a_fitted_reply_is_accepted_by_a_frontend_of_that_limit(item: PredictionItem, size: int, limit: int) -> None:
    item = replace(item, body=bytes(size))
    decoder = ReplyDecoder(max_response_size=limit)
    decoder.feed(encode_reply(Reply(200, "m" * size, (item, item)), max_response_size=limit))
    reply = decoder.next_message()
    assert reply is not None
    assert len(reply.items) == 2
    assert not re.search(r"[\r\n]", reply.items[0].phrase)
