from __future__ import annotations

import array
from types import ModuleType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.protocol import (
    Inference,
    Load,
    Parameter,
    PredictionItem,
    Reply,
    ReplyDecoder,
    Request,
    encode_inference,
    encode_load,
    encode_load_reply,
    encode_reply,
)

from .helpers import TEXT, assert_frame, inferences, loads, outcome, through_stock


def stock_reply(stock: ModuleType, reply: Reply) -> bytes:
    """Return the frame that the stock backend makes for these items, set through its own Context as a handler would."""
    from ts.context import Context, RequestProcessor

    context = Context("m", "/m", None, len(reply.items), None, "0", True)
    context.request_processor = [RequestProcessor({}) for _ in reply.items]
    for index, item in enumerate(reply.items):
        context.set_response_status(item.status, item.phrase, index)
        for name, value in item.headers.items():
            context.set_response_header(index, name, value)
    ids = {index: item.request_id for index, item in enumerate(reply.items)}
    bodies = [item.body for item in reply.items]
    return bytes(stock.create_predict_response(bodies, ids, reply.message, reply.code, context))


ASCII = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=20)
TOKEN = st.text("abcdefghijklmnopqrstuvwxyz-_0123456789", min_size=1, max_size=12)
ascii_items = st.builds(
    PredictionItem,
    request_id=ASCII,
    body=st.binary(max_size=50),
    status=st.integers(200, 999),
    phrase=ASCII,
    headers=st.dictionaries(
        TOKEN.filter(lambda name: name not in ("content-type", "ts_stream_next")), ASCII, max_size=4
    ),
)


# For ASCII, where the stock backend counts characters and means bytes, our frames are its frames, byte for byte.
@settings(deadline=None)
@given(items=st.lists(ascii_items, max_size=4), code=st.integers(200, 999), message=TEXT)
def test_reply_frames_are_the_stock_backends(
    stock: ModuleType, items: list[PredictionItem], code: int, message: str
) -> None:
    reply = Reply(code, message, tuple(items))
    assert encode_reply(reply) == stock_reply(stock, reply)


def test_a_content_type_goes_as_a_field_and_as_a_header_like_the_stock_backends(stock: ModuleType) -> None:
    item = PredictionItem("1", b"{}", 200, "", "application/json", {"content-type": "application/json"})
    reply = Reply(200, "Prediction success", (item,))
    assert encode_reply(reply) == stock_reply(stock, reply)


@pytest.mark.parametrize(("code", "message"), [(200, "loaded model m"), (507, "System out of memory"), (500, "é")])
def test_load_reply_frames_are_the_stock_backends(stock: ModuleType, code: int, message: str) -> None:
    assert encode_load_reply(code, message) == bytes(stock.create_load_model_response(code, message))


def test_error_frames_are_the_stock_backends(stock: ModuleType) -> None:
    reply = Reply(503, "Prediction failed", (PredictionItem("1", b"error", 503), PredictionItem("2", b"error", 503)))
    theirs = stock.create_predict_response(None, {0: "1", 1: "2"}, "Prediction failed", 503)
    assert encode_reply(reply) == bytes(theirs)


# What we send as a frontend, the stock backend reads as the same message, to the last byte.
@given(inferences)
@settings(max_examples=50, deadline=None)
def test_the_stock_backend_reads_our_inference(stock: ModuleType, message: Inference) -> None:
    command, batch = through_stock(stock, encode_inference(message))
    assert command == b"I"
    for request, theirs in zip(message.requests, batch, strict=True):
        assert theirs["requestId"].decode() == request.request_id
        assert {h["name"].decode(): h["value"].decode() for h in theirs["headers"]} == request.headers
        assert [p["name"] for p in theirs["parameters"]] == [p.name for p in request.parameters]
        assert [p["contentType"] for p in theirs["parameters"]] == [p.content_type for p in request.parameters]


@given(loads)
@settings(max_examples=50, deadline=None)
def test_the_stock_backend_reads_our_load(stock: ModuleType, load: Load) -> None:
    command, theirs = through_stock(stock, encode_load(load))
    assert command == b"L"
    assert theirs.pop("gpu", None) == load.gpu_id
    assert {key: value.decode() if isinstance(value, bytearray) else value for key, value in theirs.items()} == {
        "modelName": load.model_name,
        "modelPath": load.model_path,
        "batchSize": load.batch_size,
        "handler": load.model_path if load.handler is None else load.handler,
        "envelope": load.envelope or "",
        "limitMaxImagePixels": load.limit_max_image_pixels,
    }


def test_the_stock_backend_reads_an_empty_batch_and_a_large_one(stock: ModuleType) -> None:
    assert through_stock(stock, encode_inference(Inference())) == (b"I", [])
    large = Inference(tuple(Request(str(i), {}, (Parameter("body", bytes(300_000)),)) for i in range(4)))
    _, batch = through_stock(stock, encode_inference(large))
    assert [request["parameters"][0]["value"] for request in batch] == [bytearray(300_000)] * 4


# The stock backend writes the number of characters here, and the frontend loses its place in the stream.
def test_lengths_are_of_bytes_and_not_of_characters() -> None:
    item = PredictionItem("ü", "größe".encode(), 200, "schön", "text/ä", {"x": "ö"})
    frame = (
        b"\x00\x00\x00\xc8"
        b"\x00\x00\x00\x02\xc3\xbc"
        b"\x00\x00\x00\x02\xc3\xbc"
        b"\x00\x00\x00\x07text/\xc3\xa4"
        b"\x00\x00\x00\xc8\x00\x00\x00\x06sch\xc3\xb6n"
        b"\x00\x00\x00\x01\x00\x00\x00\x01x\x00\x00\x00\x02\xc3\xb6"
        b"\x00\x00\x00\x07gr\xc3\xb6\xc3\x9fe"
        b"\xff\xff\xff\xff"
    )
    assert_frame(Reply(200, "ü", (item,)), frame, encode_reply, ReplyDecoder)


@pytest.mark.parametrize(
    "body",
    [
        b"\x01\x00\x02\x00",
        bytearray(b"\x01\x00\x02\x00"),
        memoryview(b"\x01\x00\x02\x00"),
        memoryview(array.array("h", [1, 2])),
        memoryview(b"\x01-\x00-\x02-\x00-")[::2],
        memoryview(b"\x01\x00\x02\x00").cast("B", (2, 2)),
    ],
    ids=["bytes", "bytearray", "view", "view of shorts", "view with strides", "view of two dimensions"],
)
def test_a_body_is_any_bytes(body: bytes | bytearray | memoryview) -> None:
    [[reply], *_] = outcome(ReplyDecoder(), [encode_reply(Reply(200, "", (PredictionItem("1", body),)))])
    assert reply.items[0].body == b"\x01\x00\x02\x00"


def test_a_lone_surrogate_becomes_a_question_mark() -> None:
    item = PredictionItem("1", b"", 200, "\ud800", "a\udfff", {"k": "v\ud800"})
    [[reply], *_] = outcome(ReplyDecoder(), [encode_reply(Reply(200, "\ud800", (item,)))])
    assert reply == Reply(200, "?", (PredictionItem("1", b"", 200, "?", "a?", {"k": "v?"}),))


@pytest.mark.parametrize("code", [-1, 0, 100, 1000, -(2**40), 2**40])
def test_a_code_that_is_no_answer_becomes_500(code: int) -> None:
    [[reply], *_] = outcome(ReplyDecoder(), [encode_reply(Reply(code, "m"))])
    assert reply == Reply(500, "m")


def test_a_message_over_the_limit_is_cut_between_characters() -> None:
    [[reply], *_] = outcome(ReplyDecoder(), [encode_reply(Reply(500, "é" * 100), max_response_size=101)])
    assert reply.message == "é" * 50
