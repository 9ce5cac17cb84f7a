"""Messages over a socket."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest

from serving.protocol import (
    Decoder,
    Inference,
    Load,
    PredictionItem,
    ProtocolError,
    Reply,
    ReplyDecoder,
    encode_inference,
    encode_load,
    encode_reply,
)
from serving.worker.modes.connection import Connection, items_of
from tests.serving.worker.frontend import Peer, rest

LOAD = Load("model", "/models/model", handler="handler.py")
ASKED = Inference((rest("1", b"x" * 300_000), rest("2", b"y")))
NEXT = {"ts_stream_next": "true"}


@pytest.fixture
def pair() -> Iterator[tuple[Connection, Peer]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield Connection(ours), Peer(theirs)


def test_messages_in_order_and_then_the_end(pair: tuple[Connection, Peer]) -> None:
    connection, frontend = pair
    data = encode_load(LOAD) + encode_inference(Inference()) + encode_inference(ASKED)

    def send() -> None:
        frontend.sock.sendall(data)
        frontend.sock.shutdown(socket.SHUT_WR)

    sender = threading.Thread(target=send)
    sender.start()
    assert [connection.receive() for _ in range(4)] == [LOAD, Inference(), ASKED, None]
    sender.join()


def test_a_message_in_pieces(pair: tuple[Connection, Peer]) -> None:
    connection, frontend = pair
    data = encode_inference(Inference((rest("1", b"body"),)))
    for byte in data[:-1]:
        frontend.sock.sendall(bytes([byte]))
        assert connection.receive_now() is None
    frontend.sock.sendall(data[-1:])
    assert connection.receive_now() == Inference((rest("1", b"body"),))
    assert connection.receive_now() is None


def test_the_bytes_that_came_before() -> None:
    """The prefork process has read the first message, and perhaps a part of the next."""
    data = encode_load(LOAD) + encode_inference(ASKED)
    decoder = Decoder()
    decoder.feed(data[:100])
    assert decoder.next_message() == LOAD
    ours, theirs = socket.socketpair()
    with ours, theirs:
        sender = threading.Thread(target=theirs.sendall, args=(data[100:],))
        sender.start()
        assert Connection(ours, decoder).receive() == ASKED
        sender.join()


def test_the_frontend_closes(pair: tuple[Connection, Peer]) -> None:
    connection, frontend = pair
    frontend.sock.sendall(encode_load(LOAD)[:-1])  # a cut message is the end, too
    frontend.close()
    with pytest.raises(EOFError):
        connection.receive_now()
    assert connection.receive() is None
    # Something may go to the dead socket before its end is seen.
    assert not connection.send(Reply(200, "late"))
    assert not connection.send_load_reply(200, "late")
    connection.close()
    assert connection.receive() is None


def test_what_is_no_message(pair: tuple[Connection, Peer]) -> None:
    connection, frontend = pair
    frontend.sock.sendall(b"GET / HTTP/1.1\r\n")
    for receive in (connection.receive, connection.receive_now):
        with pytest.raises(ProtocolError):
            receive()


def test_replies(pair: tuple[Connection, Peer]) -> None:
    connection, frontend = pair
    reply = Reply(200, "ok", (PredictionItem("1", b"body", 201, "Größe", "text/ü", {"a": "ä"}),))
    assert connection.send_load_reply(507, "too large")
    assert connection.send(reply)
    assert frontend.reply() == Reply(507, "too large")
    assert frontend.reply() == reply


def test_the_parts_of_a_streamed_answer() -> None:
    items = (PredictionItem("1", b"one", headers=NEXT), PredictionItem("2", b"two", headers=NEXT))
    assert tuple(items_of(encode_reply(Reply(200, "part", items)))) == items


def test_a_part_larger_than_the_frontend_takes_is_replaced_on_the_way() -> None:
    large = PredictionItem("1", b"x" * 7_000_000, headers=NEXT)
    frame = encode_reply(Reply(200, "part", (large,)), max_response_size=10_000_000)
    (item,) = items_of(frame)
    assert item == large
    decoder = ReplyDecoder()
    decoder.feed(encode_reply(Reply(200, "part", (item,))))
    reply = decoder.next_message()
    assert reply is not None
    assert (reply.items[0].status, reply.items[0].headers) == (507, NEXT)


@pytest.mark.parametrize(
    ("frame", "text"),
    [
        (b"", "cut short"),
        (encode_reply(Reply(200, "part", (PredictionItem("1", b"one"),)))[:-1], "cut short"),
        (b"\0\0\0\1\xff\xff\xff\xfe", "a part of the answer cannot be sent: "),
        # What TorchServe's functions make of a value that they cannot encode.
        (encode_reply(Reply(503, "Unsupported", (PredictionItem("1", b"error", 503),))), "not serializable"),
        (
            encode_reply(Reply(200, "part", (PredictionItem("1", b"", headers={"ts_stream_next": "false"}),))),
            "not serial",
        ),
    ],
)
def test_what_is_no_part_of_an_answer(frame: bytes, text: str) -> None:
    """It would end the answer, or the connection."""
    with pytest.raises(ValueError, match=text):
        items_of(frame)
