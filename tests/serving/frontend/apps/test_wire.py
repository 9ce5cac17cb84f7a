"""Raw sockets against the real server over a played engine: what clients do to a connection."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from serving.frontend.apps import exchange
from serving.frontend.guard import Patience

from .conftest import Served, served

_HEAD = b"POST /predictions/echo HTTP/1.1\r\nHost: localhost\r\n"
_LAST = b"GET /ping HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


def _until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _statuses(answer: bytes) -> list[int]:
    return [int(part[:3]) for part in answer.split(b"HTTP/1.1 ")[1:]]


def test_played_engine_pipelined_requests_are_answered_in_order(server: Served) -> None:
    asked = b"".join(
        _HEAD + b"X-Request-Id: id-%d\r\nContent-Length: 1\r\nx-mode: status:%d\r\n\r\n%d" % (n, 200 + n, n)
        for n in range(9)
    )
    answer = server.raw(asked + _LAST)
    assert _statuses(answer) == [*range(200, 209), 200]
    for n in range(9):
        assert b"x-request-id: id-%d\r\n" % n in answer


def test_played_engine_an_error_does_not_end_a_connection(server: Served) -> None:
    missing = b"POST /predictions/none HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\nab"
    nowhere = b"POST /nowhere/at/all HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\nab"
    assert _statuses(server.raw(missing + nowhere + _LAST)) == [404, 404, 200]


def test_played_engine_expect_continue_is_told_before_the_body(server: Served) -> None:
    with socket.create_connection(("127.0.0.1", server.inference), timeout=20) as peer:
        peer.sendall(_HEAD + b"Connection: close\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n")
        assert peer.recv(65536) == b"HTTP/1.1 100 Continue\r\n\r\n"
        peer.sendall(b"abc")
        answer = b"".join(iter(lambda: peer.recv(65536), b""))
    assert _statuses(answer) == [200]
    assert server.engine.calls[-1].request.parameters[0].value == b"abc"


@pytest.mark.parametrize("target", [b"/predictions/echo", b"/nowhere"])
def test_played_engine_expect_continue_is_not_told_for_what_is_refused(server: Served, target: bytes) -> None:
    length = b"99999999" if target == b"/predictions/echo" else b"3"
    asked = b"POST %b HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: %b\r\n\r\n" % (target, length)
    before = time.monotonic()
    answer = server.raw(asked)
    assert _statuses(answer) == [413 if length != b"3" else 404]
    assert b"connection: close\r\n" in answer
    assert time.monotonic() - before < exchange._LINGER_S


def test_played_engine_a_body_in_chunks(server: Served) -> None:
    with server.client() as client:
        answer = client.post("/predictions/echo", content=iter([b"ab", b"", b"cde"]))
    seen = answer.json()
    assert seen["row"] == {"body": ["bytearray", "abcde"]}
    assert seen["headers"]["content-length"] == "5"
    assert not {name for name in seen["headers"] if name.lower() == "transfer-encoding"}


def test_played_engine_a_large_body_gets_its_answer_although_it_is_not_read(tmp_path: Path) -> None:
    with served(tmp_path, max_request_size="1000") as server:
        for content in (b"x" * 3_000_000, iter([b"x" * 1_000_000] * 3)):
            answer = httpx.post(f"http://127.0.0.1:{server.inference}/predictions/echo", content=content, timeout=30)
            assert answer.status_code == 413
            assert "max_request_size" in answer.json()["message"]
    assert not server.engine.calls


def test_played_engine_head_has_the_headers_alone(server: Served) -> None:
    answer = server.raw(b"HEAD /predictions/echo HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    head, _, body = answer.partition(b"\r\n\r\n")
    assert _statuses(answer) == [200]
    assert b"content-length: " in head
    assert body == b""
    assert _statuses(server.raw(b"HEAD /predictions/stream HTTP/1.1\r\nHost: x\r\n\r\n" + _LAST)) == [200, 200]


def test_played_engine_sees_names_as_the_client_wrote_them(server: Served) -> None:
    server.raw(_HEAD + b"Connection: close\r\nX-My-Header: a\r\nx-MY-header: b\r\nX-My-Header: c\r\n\r\n")
    headers = server.engine.calls[-1].request.headers
    assert headers["X-My-Header"] == "c"
    assert headers["x-MY-header"] == "b"
    assert headers["Host"] == "localhost"


def test_played_engine_does_not_see_what_stands_behind_a_body(server: Served) -> None:
    server.raw(
        _HEAD + b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nexplain: True\r\nX-T: 1\r\n\r\n"
    )
    assert server.engine.calls[-1].request.headers.keys() == {
        *("Host", "Connection", "content-length", "explain", "url_path")
    }


@pytest.fixture
def hasty(tmp_path: Path) -> Iterator[Served]:
    """Serve with times that a test can wait for."""
    with served(tmp_path, patience=Patience(0.3, 0.3, 0.3, 1024, 0.3)) as found:
        yield found


@pytest.mark.parametrize("start", [b"", b"GET /pi", b"GET /ping HTTP/1.1\r\nHost: x\r\nX: "])
def test_played_engine_a_slow_head_is_cut_off(hasty: Served, start: bytes) -> None:
    assert _statuses(hasty.raw(start)) == ([408] if start else [])


def test_played_engine_a_slow_body_is_cut_off_and_others_are_not_held_up(hasty: Served) -> None:
    slow = [socket.create_connection(("127.0.0.1", hasty.inference), timeout=20) for _ in range(50)]
    for peer in slow:
        peer.sendall(_HEAD + b"Content-Length: 100\r\n\r\nabc")
    with hasty.client() as client:
        assert client.get("/ping").status_code == 200
    for peer in slow:
        with peer:
            answer = b"".join(iter(lambda: peer.recv(65536), b""))  # noqa: B023
            assert _statuses(answer) == [408]
    assert not hasty.engine.calls


def test_played_engine_a_request_that_waits_behind_another_one_is_not_late(hasty: Served) -> None:
    asked = b"POST /predictions/stream HTTP/1.1\r\nHost: x\r\n\r\n"
    with socket.create_connection(("127.0.0.1", hasty.inference), timeout=20) as peer:
        peer.sendall(_HEAD + b"x-mode: sleep:0.8\r\n\r\n" + asked + _LAST[:20])
        time.sleep(0.6)
        peer.sendall(_LAST[20:])
        answer = b"".join(iter(lambda: peer.recv(65536), b""))
    assert _statuses(answer) == [200, 200, 200]


def test_played_engine_a_huge_head_is_refused_while_it_comes(server: Served) -> None:
    with socket.create_connection(("127.0.0.1", server.inference), timeout=20) as peer:
        sent = 0
        with contextlib.suppress(ConnectionError):
            peer.sendall(b"GET /ping HTTP/1.1\r\n")
            while sent < 50_000_000:
                peer.sendall(b"X-%d: " % sent + b"x" * 10_000 + b"\r\n")
                sent += 10_000
    assert sent < 20_000_000


@pytest.mark.parametrize(
    "broken",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET / HTTP/1.1\r\nbad header\r\n\r\n",
        _HEAD + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        _HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        _HEAD + b"Transfer-Encoding: gzip, chunked, gzip\r\n\r\n",
    ],
)
def test_played_engine_what_is_no_http_is_told_so_in_json(server: Served, broken: bytes) -> None:
    head, _, body = server.raw(broken).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert json.loads(body) == {"code": 400, "type": "BadRequestException", "message": "Invalid HTTP message."}


def test_played_engine_requests_before_what_is_no_http_are_answered(server: Served) -> None:
    """And then that is told so, however many they are: the client would wait for an answer."""
    slow = _HEAD + b"x-mode: sleep:0.2\r\n\r\n"
    for before in (1, 3):
        answer = server.raw(before * slow + b"garbage\r\n\r\n")
        assert _statuses(answer) == [200] * before + [400]
        assert answer.endswith(b"}\n")


def test_played_engine_another_protocol_is_not_offered(hasty: Served) -> None:
    asked = b"GET /ping HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\r\n"
    assert _statuses(hasty.raw(asked)) == [200]


def test_played_engine_a_client_that_leaves_is_not_computed_for(server: Served) -> None:
    with socket.create_connection(("127.0.0.1", server.inference)) as peer:
        peer.sendall(_HEAD + b"x-mode: wait\r\nContent-Length: 1\r\n\r\na")
        _until(lambda: bool(server.engine.calls))
        time.sleep(2 * exchange._LOOK_AFTER_S)
    _until(lambda: server.engine.cancelled == 1)
    assert not server.meters.statuses


def test_played_engine_a_client_that_leaves_a_stream_ends_it(server: Served) -> None:
    with socket.create_connection(("127.0.0.1", server.inference)) as peer:
        peer.sendall(b"GET /predictions/stream HTTP/1.1\r\nHost: x\r\nx-mode: endless\r\n\r\n")
        assert peer.recv(100)
    _until(lambda: server.engine.closed == 1)


@pytest.mark.parametrize("mode", [b"endless", b"large"])
def test_played_engine_a_client_that_does_not_read_is_left(hasty: Served, mode: bytes) -> None:
    target = b"stream" if mode == b"endless" else b"echo"
    with socket.socket() as peer:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        peer.connect(("127.0.0.1", hasty.inference))
        peer.sendall(b"GET /predictions/%b HTTP/1.1\r\nHost: x\r\nx-mode: %b\r\n\r\n" % (target, mode))
        time.sleep(1.5)
        if mode == b"endless":
            _until(lambda: hasty.engine.closed == 1)
        found = 0
        with contextlib.suppress(ConnectionError):
            while part := peer.recv(65536):
                found += len(part)
    assert found < 20_000_000


def test_played_engine_a_client_that_reads_slowly_is_served(hasty: Served) -> None:
    with socket.create_connection(("127.0.0.1", hasty.inference), timeout=20) as peer:
        peer.sendall(_HEAD + b"Connection: close\r\nx-mode: large\r\n\r\n")
        found = 0
        while part := peer.recv(65536):
            found += len(part)
            time.sleep(0.001)
    assert found > 20_000_000


def test_played_engine_a_stream_that_breaks_has_no_end(server: Served) -> None:
    answer = server.raw(b"GET /predictions/stream HTTP/1.1\r\nHost: x\r\nx-mode: break\r\n\r\n")
    assert _statuses(answer) == [200]
    assert answer.endswith(b"5\r\npart0\r\n")


def test_played_engine_a_stream_for_a_client_that_knows_no_chunks(server: Served) -> None:
    head, _, body = server.raw(b"GET /predictions/stream HTTP/1.0\r\n\r\n").partition(b"\r\n\r\n")
    assert body == b"part0part1part2last"
    assert b"chunked" not in head


def test_a_bug_of_ours_is_a_500_with_an_id(server: Served) -> None:
    answer = server.raw(_HEAD + b"Connection: close\r\nx-mode: fail\r\nX-Request-Id: here\r\n\r\n")
    assert _statuses(answer) == [500]
    assert b"beside here" in answer
