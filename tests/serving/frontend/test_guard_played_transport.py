"""How requests are read and answers written, seen by a played transport: each read, and each system call."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from serving.frontend.entrance import App, Receive, Scope, Send
from serving.frontend.guard import PART_BYTES, guarded


class PlayedTransport:
    """Take down what is written, each system call by itself."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.closing = False

    def write(self, data: bytes) -> None:
        self.sent.append(bytes(data))

    def close(self) -> None:
        self.closing = True

    def is_closing(self) -> bool:
        return self.closing

    def get_extra_info(self, name: str) -> None: ...

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


def sent_for(app: App, parser: str, data: bytes) -> list[bytes]:
    """Return what is written to a played transport when this comes."""
    transport = PlayedTransport()

    async def answer() -> None:
        config = uvicorn.Config(app, http=guarded(parser), ws="none", lifespan="off", log_config=None)
        config.load()
        made: Any = config.http_protocol_class
        state = ServerState()
        protocol = made(config=config, server_state=state, app_state={}, _loop=asyncio.get_running_loop())
        protocol.connection_made(transport)
        protocol.data_received(data)
        await asyncio.gather(*state.tasks)
        protocol.transport.close()

    asyncio.run(answer())
    return [part for part in transport.sent if part]


def test_a_body_is_read_as_it_comes_and_what_follows_in_parts_played_transport(parser: str) -> None:
    """Only of a body it is known that it becomes no more than bytes."""
    read: list[int] = []
    length, most = 1_000_000, 256 * 1024
    one = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % length + bytes(length)
    data = one + one + b"GET / HTTP/1.1\r\nhost: x\r\n\r\n" * 5000

    async def come() -> list[int]:
        state = ServerState()
        config = uvicorn.Config(one_piece, http=guarded(parser), ws="none", lifespan="off", log_config=None)
        config.load()

        class Watched(config.http_protocol_class):  # type: ignore[misc, name-defined]
            def _read(self, data: bytes) -> None:
                read.append(len(data))
                super()._read(data)

        protocol: Any = Watched(config=config, server_state=state, app_state={}, _loop=asyncio.get_running_loop())
        protocol.connection_made(PlayedTransport())
        for at in range(0, len(data), most):
            protocol.data_received(data[at : at + most])
        for task in state.tasks:
            task.cancel()
        return read

    asyncio.run(come())
    first = one.index(bytes(8)) + length
    at, sizes = 0, []
    for size in read:
        sizes += [size] if at < first else []
        at += size
    assert sum(sizes) == first
    assert len(sizes) <= 6  # its head with a part, and as few more as have come
    assert max(read) <= most
    assert not [size for size in read[len(sizes) :] if size > PART_BYTES]


async def one_piece(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with a head and a body, or with three parts of one."""
    if scope["method"] == "POST":
        await receive()
    parts = [b"a", b"b", b"c"] if scope["path"] == "/parts" else [b"abc"]
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"3")]})
    for part in parts:
        await send({"type": "http.response.body", "body": part, "more_body": part is not parts[-1]})


def test_a_whole_answer_leaves_in_one_piece_played_transport() -> None:
    (whole,) = sent_for(one_piece, "httptools", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert whole == b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabc"
    (last,) = sent_for(one_piece, "httptools", b"GET / HTTP/1.0\r\nHost: x\r\n\r\n")
    assert last == b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\nconnection: close\r\n\r\nabc"


def test_an_answer_in_parts_leaves_as_they_come_played_transport(parser: str) -> None:
    head, *rest = sent_for(one_piece, parser, b"GET /parts HTTP/1.1\r\nHost: x\r\n\r\n")
    assert head.endswith(b"\r\n\r\n")
    assert rest == [b"a", b"b", b"c"]


@pytest.mark.parametrize(
    "headers",
    [
        [(b"content-length", b"4")],
        [(b"content-length", b"3"), (b"x", b"1\r\nset-cookie: 2")],
        [(b"content-length", b"3"), (b"x\r\ny", b"1")],
    ],
    ids=["length", "value", "name"],
)
def test_an_answer_with_a_fault_is_not_sent_played_transport(parser: str, headers: list[tuple[bytes, bytes]]) -> None:
    async def faulty(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"abc"})

    sent = b"".join(sent_for(faulty, parser, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"))
    assert b"set-cookie" not in sent
    assert b"\r\ny" not in sent
    assert not sent.endswith(b"abc") or b"content-length: 4" in sent  # cut: less than it says


def test_a_head_without_a_body_is_not_kept_played_transport(parser: str) -> None:
    (head,) = sent_for(one_piece, parser, b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert head.endswith(b"\r\n\r\n")


def test_who_waits_for_a_sign_to_send_gets_it_at_once_played_transport(parser: str) -> None:
    head = b"POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 0\r\n\r\n"
    sign, *whole = sent_for(one_piece, parser, head)
    assert sign.startswith(b"HTTP/1.1 100 ")
    assert b"".join(whole).endswith(b"\r\n\r\nabc")


def test_two_answers_on_a_connection_are_two_writes_played_transport() -> None:
    request = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"

    async def twice(scope: Scope, receive: Receive, send: Send) -> None:
        await one_piece(scope, receive, send)
        await asyncio.sleep(0.05)  # the one behind it is done as well before the connection ends

    assert [part.endswith(b"\r\n\r\nabc") for part in sent_for(twice, "httptools", 2 * request)] == [True, True]
