"""The common parts of this package's tests: frames by hand, every way to cut them, and messages at random."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterable
from struct import pack
from types import ModuleType
from typing import Any

import pytest
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
    encode_reply,
)
from serving.protocol.reader import Reader

END = b"\xff\xff\xff\xff"


def lp(data: bytes | str) -> bytes:
    """Encode length and bytes, as every string goes over the wire."""
    data = data.encode() if isinstance(data, str) else data
    return pack("!i", len(data)) + data


def is_cut(reader: Reader[Any]) -> bool:
    """Return whether the bytes so far end within a message: then one more would be read as a part of it."""
    replies = isinstance(reader, ReplyDecoder)
    probe: Any = Reply(200, "") if replies else Inference()
    reader.feed(encode_reply(probe) if replies else encode_inference(probe))
    try:
        return reader.next_message() != probe
    except ProtocolError:
        return True


def outcome(reader: Reader[Any], pieces: Iterable[bytes]) -> tuple[list[Any], tuple[str, str, int] | None, bool]:
    """Return all messages of these pieces, the error that ended them, and whether a message was cut."""
    messages: list[Any] = []
    try:
        for piece in pieces:
            reader.feed(piece)
            while (message := reader.next_message()) is not None:
                messages.append(message)
    except ProtocolError as error:
        return messages, (error.expected, error.found, error.offset), True
    return messages, None, is_cut(reader)


def received(reader: Reader[Any], data: bytes, most: int) -> tuple[list[Any], tuple[str, str, int] | None, bool]:
    """Return as `outcome`, with ``data`` received into the reader's own buffers, at most ``most`` bytes at a time."""
    messages: list[Any] = []
    try:
        while data:
            buffer = reader.get_buffer()
            count = min(len(buffer), len(data), most)
            buffer[:count] = data[:count]
            del buffer
            reader.advance(count)
            data = data[count:]
            while (message := reader.next_message()) is not None:
                messages.append(message)
    except ProtocolError as error:
        return messages, (error.expected, error.found, error.offset), True
    return messages, None, is_cut(reader)


def one_by_one(data: bytes) -> list[bytes]:
    return [data[i : i + 1] for i in range(len(data))]


def assert_frame(
    message: Any, frame: bytes, encode: Callable[[Any], bytes], reader: Callable[[], Reader[Any]] = Decoder
) -> None:
    """Check that the bytes are the message, and the message the bytes; also byte by byte, and cut in two anywhere."""
    assert outcome(reader(), [frame]) == ([message], None, False)
    assert encode(message) == frame
    assert outcome(reader(), one_by_one(frame)) == ([message], None, False)
    assert received(reader(), frame, 1) == ([message], None, False)
    for cut in range(1, len(frame)):
        assert outcome(reader(), [frame[:cut]]) == ([], None, True)
        assert outcome(reader(), [frame[:cut], frame[cut:]]) == ([message], None, False)


def through_stock(stock: ModuleType, frame: bytes) -> Any:
    """Return what the stock backend makes of a frame, read from a real socket."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        sender = threading.Thread(target=ours.sendall, args=(frame,))
        sender.start()
        result = stock.retrieve_msg(theirs)
        sender.join()
        theirs.setblocking(False)
        with pytest.raises(BlockingIOError):
            theirs.recv(1)
    return result


# Lone surrogates are not text: they cannot be written as UTF-8.
TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)
BODY = st.binary(max_size=100).map(bytearray)

parameters = st.builds(Parameter, name=TEXT, value=BODY, content_type=TEXT)
requests = st.builds(
    Request,
    request_id=TEXT,
    headers=st.dictionaries(TEXT, TEXT, max_size=4),
    parameters=st.lists(parameters, max_size=3).map(tuple),
)
inferences = st.builds(Inference, requests=st.lists(requests, max_size=4).map(tuple))
# A handler equal to the path, and an empty envelope, are what the wire has for "none".
loads = st.builds(
    Load,
    model_name=TEXT,
    model_path=TEXT.map(lambda text: "/" + text),
    batch_size=st.integers(1, 2**31 - 1),
    handler=st.none() | TEXT.filter(lambda text: not text.startswith("/")),
    gpu_id=st.none() | st.integers(0, 2**31 - 1),
    envelope=st.none() | TEXT.filter(bool),
    limit_max_image_pixels=st.booleans(),
)

# What Netty accepts as it is.
NAME = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E, exclude_characters="=:;,"), min_size=1, max_size=9)
VALUE = st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=20)
items = st.builds(
    PredictionItem,
    request_id=TEXT,
    body=BODY,
    status=st.integers(200, 999),
    phrase=VALUE,
    content_type=VALUE,
    headers=st.dictionaries(NAME, VALUE, max_size=4),
)
replies = st.builds(Reply, code=st.integers(200, 999), message=TEXT, items=st.lists(items, max_size=4).map(tuple))
