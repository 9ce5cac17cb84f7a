from __future__ import annotations

from struct import pack
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.protocol import (
    Decoder,
    Inference,
    Load,
    Parameter,
    PredictionItem,
    ProtocolError,
    Reply,
    ReplyDecoder,
    Request,
    encode_inference,
    encode_load,
    encode_reply,
)
from serving.protocol import limits as L
from serving.protocol.reader import Reader

from .helpers import END, assert_frame, inferences, loads, lp, one_by_one, outcome, received, replies

LOAD = (
    b"L"
    b"\x00\x00\x00\x05mnist"
    b"\x00\x00\x00\x09/tmp/a1b2"
    b"\x00\x00\x00\x08"
    b"\x00\x00\x00\x0fservice:predict"
    b"\x00\x00\x00\x01"
    b"\x00\x00\x00\x04json"
    b"\x00"
)
LOAD_WITHOUT = (
    b"L"
    b"\x00\x00\x00\x05mnist"
    b"\x00\x00\x00\x09/tmp/a1b2"
    b"\x00\x00\x00\x01"
    b"\x00\x00\x00\x09/tmp/a1b2"
    b"\xff\xff\xff\xff"
    b"\x00\x00\x00\x00"
    b"\x01"
)
INFERENCE = (
    b"I"
    b"\x00\x00\x00\x02r1"
    b"\x00\x00\x00\x04Host\x00\x00\x00\x05local"
    b"\x00\x00\x00\x08url_path\x00\x00\x00\x00"
    b"\xff\xff\xff\xff"
    b"\x00\x00\x00\x04body\x00\x00\x00\x09image/png\x00\x00\x00\x04\x89PNG"
    b"\xff\xff\xff\xff"
    b"\x00\x00\x00\x03r\xc3\xa9"
    b"\xff\xff\xff\xff"
    b"\x00\x00\x00\x01a\x00\x00\x00\x00\x00\x00\x00\x011"
    b"\x00\x00\x00\x01b\x00\x00\x00\x00\x00\x00\x00\x00"
    b"\xff\xff\xff\xff"
    b"\xff\xff\xff\xff"
)
REPLY = (
    b"\x00\x00\x00\xc8"
    b"\x00\x00\x00\x02ok"
    b"\x00\x00\x00\x02r1"
    b"\x00\x00\x00\x09text/html"
    b"\x00\x00\x00\xc9"
    b"\x00\x00\x00\x07Cr\xc3\xa9\xc3\xa9e"
    b"\x00\x00\x00\x02\x00\x00\x00\x01k\x00\x00\x00\x01v\x00\x00\x00\x01l\x00\x00\x00\x00"
    b"\x00\x00\x00\x02\x00\xff"
    b"\xff\xff\xff\xff"
)


def test_load() -> None:
    message = Load("mnist", "/tmp/a1b2", 8, "service:predict", 1, "json", False)
    assert_frame(message, LOAD, encode_load)


# A manifest without a handler: the frontend sends the path a second time. No GPU is -1, no envelope an empty string.
def test_load_of_a_model_without_handler_gpu_and_envelope() -> None:
    assert_frame(Load("mnist", "/tmp/a1b2"), LOAD_WITHOUT, encode_load)


def test_inference() -> None:
    message = Inference(
        (
            Request("r1", {"Host": "local", "url_path": ""}, (Parameter("body", bytearray(b"\x89PNG"), "image/png"),)),
            Request("ré", {}, (Parameter("a", bytearray(b"1")), Parameter("b", bytearray()))),
        )
    )
    assert_frame(message, INFERENCE, encode_inference)


def test_an_empty_batch_and_a_request_without_parameters() -> None:
    assert_frame(Inference(), b"I\xff\xff\xff\xff", encode_inference)
    message = Inference((Request("r1", {"a": "b"}),))
    assert_frame(message, b"I" + lp("r1") + lp("a") + lp("b") + END * 3, encode_inference)


def test_reply() -> None:
    item = PredictionItem("r1", b"\x00\xff", 201, "Créée", "text/html", {"k": "v", "l": ""})
    assert_frame(Reply(200, "ok", (item,)), REPLY, encode_reply, ReplyDecoder)


def test_reply_without_items() -> None:
    assert_frame(Reply(507, "no"), b"\x00\x00\x01\xfb\x00\x00\x00\x02no\xff\xff\xff\xff", encode_reply, ReplyDecoder)


@pytest.mark.parametrize("size", [0, 10, 200_000])
@pytest.mark.parametrize("cut", [5, 60, 100_000])
def test_a_value_is_a_bytearray_of_its_own_however_it_came(size: int, cut: int) -> None:
    frame = encode_inference(Inference((Request("1", {}, (Parameter("b", bytes(size)),) * 2),)))
    [[message], *_] = outcome(Decoder(), [frame[:cut], frame[cut:]])
    values = [parameter.value for parameter in message.requests[0].parameters]
    assert [type(value) for value in values] == [bytearray, bytearray]
    values[0] += b"x"
    assert [len(value) for value in values] == [size + 1, size]


def test_of_equal_headers_the_last_one_stands() -> None:
    frame = b"I" + lp("1") + lp("a") + lp("1") + lp("A") + lp("2") + lp("a") + lp("3") + END * 3
    assert outcome(Decoder(), [frame])[0] == [Inference((Request("1", {"a": "3", "A": "2"}),))]


# A client chooses the bytes of its headers. They must not end the worker, nor give a handler text that it cannot print.
@given(name=st.binary(max_size=10), value=st.binary(max_size=10))
def test_odd_bytes_in_headers_become_replacement_characters(name: bytes, value: bytes) -> None:
    frame = b"I" + lp("1") + lp(name) + lp(value) + END * 3
    expected = {name.decode("utf-8", "replace"): value.decode("utf-8", "replace")}
    assert outcome(Decoder(), [frame]) == ([Inference((Request("1", expected),))], None, False)
    next(iter(expected)).encode()


I32 = pack("!i", -2)
WRONG = {
    "command": (b"X", "a command", 0),
    "lower case command": (b"l" + LOAD[1:], "a command", 0),
    "load: negative length": (b"L" + I32, "the length of a model's name, 0 to 65536", 1),
    "load: END as a length": (b"L" + END, "the length of a model's name, 0 to 65536", 1),
    "load: long name": (b"L" + pack("!i", 65_537), "the length of a model's name, 0 to 65536", 1),
    "load: long path": (b"L" + lp("m") + pack("!i", 2**31 - 1), "the length of a model's path", 6),
    "load: name not UTF-8": (b"L" + lp(b"m\xff"), "a model's name in UTF-8", 6),
    "load: no batch": (b"L" + lp("m") + lp("/p") + pack("!i", 0), "a batch size, 1 or more", 12),
    "load: handler": (b"L" + lp("m") + lp("/p") + pack("!i", 1) + I32, "the length of a handler", 16),
    "load: envelope": (LOAD[:-9] + I32, "the length of an envelope", 50),
    "request id": (b"I" + I32, "the length of a request id or a header", 1),
    "second request id": (b"I" + lp("1") + END * 2 + I32, "the length of a request id or a header", 14),
    "request id not UTF-8": (b"I" + lp(b"1\x80") + END * 3, "a request id in UTF-8", 6),
    "header name": (b"I" + lp("1") + I32, "the length of a request id or a header", 6),
    "header value": (b"I" + lp("1") + lp("a") + I32, "the length of a request id or a header", 11),
    "no header value": (b"I" + lp("1") + lp("a") + END * 3, "the value of a header", 11),
    "parameter name": (b"I" + lp("1") + END + I32, "the length of a part of a parameter", 10),
    "parameter name not UTF-8": (
        b"I" + lp("1") + END + lp(b"a\xff") + lp("") + lp("") + END * 2,
        "a parameter's name in UTF-8",
        15,
    ),
    "content type not UTF-8": (
        b"I" + lp("1") + END + (lp("a") + lp("b") + lp("c")) + lp("a") + lp(b"\xff") + lp("") + END * 2,
        "a content type in UTF-8",
        34,
    ),
    "no content type": (b"I" + lp("1") + END + lp("a") + END * 3, "the rest of a parameter", 15),
    "no value": (b"I" + lp("1") + END + lp("a") + lp("b") + END * 3, "the rest of a parameter", 20),
    "value": (b"I" + lp("1") + END + lp("a") + lp("b") + I32, "the length of a part of a parameter", 20),
}


@pytest.mark.parametrize(("frame", "expected", "offset"), WRONG.values(), ids=WRONG)
def test_what_is_no_message_is_an_error_that_says_what_and_where(frame: bytes, expected: str, offset: int) -> None:
    messages, error, _ = outcome(Decoder(), [encode_inference(Inference()), frame])
    assert messages == [Inference()]
    assert error is not None
    assert (error[0][: len(expected)], error[2]) == (expected, offset)
    assert outcome(Decoder(), one_by_one(frame)) == ([], error, True)
    assert received(Decoder(), frame, 7) == ([], error, True)


WRONG_REPLIES = {
    "message length": (pack("!ii", 200, -1), "the length of a message", 4),
    "message over the limit": (pack("!ii", 200, 101), "the length of a message, 0 to 100", 4),
    "message not UTF-8": (pack("!i", 200) + lp(b"\xff"), "a message in UTF-8", 8),
    "request id": (pack("!iii", 200, 0, -3), "the length of a request id", 8),
    "content type": (pack("!iiii", 200, 0, 0, 101), "the length of a content type, 0 to 100", 12),
    "phrase": (pack("!iiiiii", 200, 0, 0, 0, 200, -1), "the length of a reason phrase", 20),
    "number of headers": (pack("!iiiiiii", 200, 0, 0, 0, 200, 0, -1), "the number of headers, 0 to 100", 24),
    "too many headers": (pack("!iiiiiii", 200, 0, 0, 0, 200, 0, 101), "the number of headers, 0 to 100", 24),
    "header": (
        pack("!iiiiiiii", 200, 0, 0, 0, 200, 0, 1, 6_500_001),
        "the length of a header's name, 0 to 6500000",
        28,
    ),
    "body": (pack("!iiiiiiii", 200, 0, 0, 0, 200, 0, 0, 101), "the length of a body, 0 to 100", 28),
}


@pytest.mark.parametrize(("frame", "expected", "offset"), WRONG_REPLIES.values(), ids=WRONG_REPLIES)
def test_a_reply_that_the_frontend_refuses_is_an_error(frame: bytes, expected: str, offset: int) -> None:
    messages, error, _ = outcome(ReplyDecoder(max_response_size=100), [frame])
    assert messages == []
    assert error is not None
    assert (error[0][: len(expected)], error[2]) == (expected, offset)
    assert outcome(ReplyDecoder(max_response_size=100), one_by_one(frame)) == ([], error, True)


def test_the_counts_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.protocol.decode.MAX_BATCH", 2)
    monkeypatch.setattr("serving.protocol.decode.MAX_HEADERS", 2)
    monkeypatch.setattr("serving.protocol.decode.MAX_PARAMETERS", 2)
    request, header, parameter = lp("1") + END + END, lp("a") + lp("b"), lp("a") + lp("b") + lp("c")
    full = b"I" + lp("1") + header * 2 + END + parameter * 2 + END + request + END
    assert outcome(Decoder(), [full])[1:] == (None, False)
    for frame in (
        b"I" + request * 3 + END,
        b"I" + lp("1") + header * 3 + END * 3,
        b"I" + lp("1") + END + parameter * 3 + END * 2,
    ):
        messages, error, _ = outcome(Decoder(), [frame])
        assert messages == []
        assert error is not None
        assert error[0].startswith("the end of")
        assert outcome(Decoder(), one_by_one(frame)) == ([], error, True)


# One bound holds for all that a client can choose: the frame. A field within it is never refused, whatever field it is.
def test_a_frame_is_bounded_as_a_whole() -> None:
    fields = lp("i" * 100) + lp("n" * 100) + lp("v" * 100) + END + lp("p" * 100) + lp("c" * 100) + lp("b" * 100)
    frame = b"I" + fields + END + END
    assert outcome(Decoder(max_frame=len(frame)), [frame])[1:] == (None, False)
    for size in range(101, len(frame) - 20, 50):
        messages, error, _ = outcome(Decoder(max_frame=size), [frame])
        assert messages == []
        assert error is not None
        assert outcome(Decoder(max_frame=size), one_by_one(frame)) == ([], error, True)
    # Each message has the whole bound.
    assert outcome(Decoder(max_frame=len(frame)), [frame * 3])[1:] == (None, False)


def assert_nothing_else(reader: Reader[Any], kinds: type | tuple[type, ...], data: bytes) -> None:
    messages, error, _ = outcome(reader, [data])
    assert all(isinstance(message, kinds) for message in messages)
    if error is not None:
        with pytest.raises(ProtocolError):
            reader.next_message()


# Any bytes are valid messages, or the beginning of one, or ProtocolError; nothing else is ever raised.
@given(st.binary(max_size=200))
@settings(max_examples=500, deadline=None)
def test_any_bytes_are_messages_or_a_protocol_error(data: bytes) -> None:
    for prefix in (b"", b"I", b"L", b"I" + lp("1"), b"I" + lp("1") + END):
        assert_nothing_else(Decoder(), (Load, Inference), prefix + data)
    for prefix in (b"", pack("!ii", 200, 0), pack("!iiiiii", 200, 0, 0, 0, 200, 0)):
        assert_nothing_else(ReplyDecoder(), Reply, prefix + data)


@st.composite
def damaged(draw: st.DrawFn, frames: st.SearchStrategy[bytes]) -> bytes:
    """Draw a valid frame with some bytes, or some ints, replaced, and an end cut off."""
    frame = bytearray(draw(frames))
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(0, len(frame) - 1))
        with_int = draw(st.booleans())
        frame[place : place + (4 if with_int else 1)] = (
            pack("!i", draw(st.sampled_from([-2, -1, 0, 1, 4, 100, 2**31 - 1])))
            if with_int
            else draw(st.binary(min_size=1, max_size=1))
        )
    return bytes(frame[: draw(st.integers(1, len(frame)))])


# The same for what is almost a message, where random bytes would never get; and every way to cut it agrees.
@given(damaged(inferences.map(encode_inference) | loads.map(encode_load)))
@settings(max_examples=500, deadline=None)
def test_damaged_messages_are_messages_or_a_protocol_error(data: bytes) -> None:
    assert_nothing_else(Decoder(), (Load, Inference), data)
    whole = outcome(Decoder(), [data])
    assert outcome(Decoder(), one_by_one(data)) == whole
    assert received(Decoder(), data, 3) == whole


@given(damaged(replies.map(encode_reply)))
@settings(max_examples=300, deadline=None)
def test_damaged_replies_are_replies_or_a_protocol_error(data: bytes) -> None:
    assert_nothing_else(ReplyDecoder(), Reply, data)
    assert outcome(ReplyDecoder(), one_by_one(data)) == outcome(ReplyDecoder(), [data])


# A message is its bytes: what was encoded is decoded, one message or many in a row, in one piece or byte by byte.
@given(st.lists(inferences | loads, max_size=3))
@settings(deadline=None)
def test_messages_survive_the_wire(messages: list[Inference | Load]) -> None:
    data = b"".join(encode_load(m) if isinstance(m, Load) else encode_inference(m) for m in messages)
    assert outcome(Decoder(), [data]) == (messages, None, False)
    assert outcome(Decoder(), one_by_one(data)) == (messages, None, False)


@given(st.lists(replies, max_size=3))
@settings(deadline=None)
def test_replies_survive_the_wire(messages: list[Reply]) -> None:
    data = b"".join(map(encode_reply, messages))
    assert outcome(ReplyDecoder(), [data]) == (messages, None, False)
    assert outcome(ReplyDecoder(), one_by_one(data)) == (messages, None, False)


def test_bounds_of_load_fields_are_inclusive() -> None:
    name = "n" * L.MAX_LOAD_FIELD
    assert outcome(Decoder(), [encode_load(Load(name, "/p"))]) == ([Load(name, "/p")], None, False)
