from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from benchmarks.serving_bench.generator import (
    AnswerReader,
    BadAnswerError,
    Load,
    after_chunks,
    percentile,
    read_head,
    request_bytes,
)

PLAIN = b"HTTP/1.1 200 OK\r\nx-request-id: 1\r\nContent-Length: 5\r\nconnection: keep-alive\r\n\r\nhello"
EMPTY = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n"
NO_BODY = b"HTTP/1.1 204 No Content\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n10;x=y\r\n0123456789abcdef\r\n0\r\n\r\n"


@pytest.mark.parametrize(("answer", "status"), [(PLAIN, 200), (EMPTY, 503), (NO_BODY, 204), (CHUNKED, 200)])
def test_an_answer_is_complete_at_its_last_byte_in_whatever_portions_it_comes(answer: bytes, status: int) -> None:
    reader = AnswerReader()
    assert reader.feed(answer) == status
    portions = [reader.feed(answer[index : index + 1]) for index in range(len(answer))]
    assert portions == [0] * (len(answer) - 1) + [status]
    for cut in range(1, len(answer)):
        assert (reader.feed(answer[:cut]), reader.feed(answer[cut:])) == (0, status)


@pytest.mark.parametrize("answer", [PLAIN, EMPTY, NO_BODY, CHUNKED])
def test_nothing_may_follow_an_answer(answer: bytes) -> None:
    with pytest.raises(BadAnswerError, match="1 bytes after"):
        AnswerReader().feed(answer + b"H")


@pytest.mark.parametrize(
    "head",
    [b"HTTP/1.0 200 OK\r\n\r\n", b"HTTP/1.1 2x0 OK\r\n\r\n", b"\r\n\r\n", b"HTTP/1.1 200 OK\r\nother: 1\r\n\r\n"],
)
def test_a_head_without_status_or_length_is_refused(head: bytes) -> None:
    with pytest.raises(BadAnswerError):
        read_head(head)


def test_the_size_of_a_chunk_is_hexadecimal() -> None:
    assert after_chunks(b"A\r\n0123456789\r\n0\r\n\r\nHT") == 2
    assert after_chunks(b"A\r\n0123456789\r\n0\r\n") is None
    with pytest.raises(BadAnswerError, match="size of a chunk"):
        after_chunks(b"zz\r\n")


def test_percentiles_are_values_that_occurred() -> None:
    values = [float(number) for number in range(1, 101)]
    assert percentile(values, 0.5) == 50.0
    assert percentile(values, 0.99) == 99.0
    assert percentile(values, 1.0) == 100.0
    assert percentile([7.0], 0.01) == 7.0
    assert percentile([], 0.5) == 0.0


def test_a_request_names_host_path_and_length() -> None:
    request = request_bytes("http://127.0.0.1:8080/predictions/m", b"\x00abc")
    head, _, body = request.partition(b"\r\n\r\n")
    assert head.splitlines()[:2] == [b"POST /predictions/m HTTP/1.1", b"Host: 127.0.0.1:8080"]
    assert b"Content-Length: 4" in head.splitlines()
    assert body == b"\x00abc"


class _Answering(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.seen.add(len(body))  # type: ignore[attr-defined]
        if self.path == "/close":
            self.close_connection = True
            return
        answer = str(len(body)).encode()
        self.send_response(200 if self.path == "/good" else 503)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *arguments: Any) -> None:
        return


@pytest.fixture
def server() -> Iterator[ThreadingHTTPServer]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Answering) as running:
        running.seen = set()  # type: ignore[attr-defined]
        threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
        yield running
        running.shutdown()


def _run(server: ThreadingHTTPServer, path: str, bodies: list[bytes], connections: int) -> dict[str, float]:
    return Load(f"http://127.0.0.1:{server.server_port}{path}", bodies, connections).run(0.3)


def test_every_connection_is_kept_busy_with_each_body_in_turn(server: ThreadingHTTPServer) -> None:
    # The second body is more than a socket takes at once.
    found = _run(server, "/good", [b"x" * 10, b"y" * 8_000_000], 3)
    assert server.seen == {10, 8_000_000}  # type: ignore[attr-defined]
    assert found["requests"] >= 6
    assert found["errors"] == 0
    assert found["rps"] == found["requests"] / 0.3
    assert 0 < found["p50_ms"] <= found["p99_ms"] <= found["max_ms"]


def test_other_answers_than_200_are_errors_and_no_throughput(server: ThreadingHTTPServer) -> None:
    found = _run(server, "/bad", [b"x"], 2)
    assert found["requests"] == found["errors"] > 0
    assert found["rps"] == 0


def test_a_connection_that_the_server_closes_is_an_error_and_opened_anew(server: ThreadingHTTPServer) -> None:
    found = _run(server, "/close", [b"x"], 1)
    assert found["requests"] == 0
    assert found["errors"] > 1
