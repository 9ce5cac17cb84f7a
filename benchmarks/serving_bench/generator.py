"""A small load generator over keep-alive HTTP/1.1, for machines without wrk; it runs as a process of its own.

``python generator.py --url http://127.0.0.1:8080/predictions/mnist --connections 8 --seconds 5 digit.png ...`` posts
the files in turn over each connection, always one request in flight a connection, and prints one line of JSON.

The standard library only, one thread, and as little as possible for each answer: on a small machine the generator takes
its processor time from the server it measures.
"""

from __future__ import annotations

import argparse
import gc
import json
import re
import selectors
import socket
import sys
import time
from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

DRAIN_S = 10.0  # for the answers that are under way when the time is over
_BUFFER = 1 << 16
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d+)")
_CHUNKED = re.compile(rb"\r\ntransfer-encoding:[ \t]*chunked")
_NO_BODY = (204, 304)


class BadAnswerError(Exception):
    """The bytes that came back are not one HTTP/1.1 answer with a length."""


class AnswerReader:
    """A reader that finds the end of one answer after the other, in whatever portions the bytes arrive.

    No pipelining: nothing may follow an answer before the next request is sent.
    """

    __slots__ = ("_held", "_missing", "_status")

    def __init__(self) -> None:
        self._held = b""
        self._missing = 0  # bytes of the body still to come; below 0: chunks
        self._status = 0

    def feed(self, data: bytes) -> int:
        """Take in bytes.

        Returns:
            The status of the answer that is complete now, 0 while one is not.

        Raises:
            BadAnswerError: the bytes are not an answer, or more than one.
        """
        if not self._status:
            if self._held:
                data = self._held + data
            end = data.find(b"\r\n\r\n") + 4
            if end < 4:
                self._held = data
                return 0
            self._held = b""
            self._status, self._missing = read_head(data[:end])
            data = data[end:]
        if self._missing < 0:
            self._held += data
            left = after_chunks(self._held)
            if left is None:
                return 0
            self._missing = -left
            self._held = b""
        else:
            self._missing -= len(data)
        if self._missing > 0:
            return 0
        if self._missing < 0:
            raise BadAnswerError(f"{-self._missing} bytes after the end of an answer")
        status, self._status = self._status, 0
        return status


def read_head(head: bytes) -> tuple[int, int]:
    """Read the status and the body's length, -1 for chunks, of a head with its empty line.

    Raises:
        BadAnswerError: it is not one of HTTP/1.1, or names no length.
    """
    status = head[9:12]
    if not head.startswith(b"HTTP/1.1 ") or not status.isdigit():
        raise BadAnswerError(f"not an HTTP/1.1 answer: {head[:40]!r}")
    head = head.lower()
    if found := _LENGTH.search(head):
        return int(status), int(found[1])
    if _CHUNKED.search(head):
        return int(status), -1
    if int(status) in _NO_BODY:
        return int(status), 0
    raise BadAnswerError("an answer without a length")


def after_chunks(body: bytes) -> int | None:
    """Return how many bytes follow a chunked body; None while it is not complete. Trailers are not expected.

    Raises:
        BadAnswerError: a chunk's size is not a hexadecimal number.
    """
    position = 0
    while (line := body.find(b"\r\n", position)) >= 0:
        try:
            size = int(body[position:line].split(b";")[0], 16)
        except ValueError:
            raise BadAnswerError(f"not the size of a chunk: {body[position:line][:40]!r}") from None
        position = line + 2 + size + 2
        if position > len(body):
            return None
        if size == 0:
            return len(body) - position
    return None


def percentile(ordered: Sequence[float], share: float) -> float:
    """Return the nearest-rank percentile of sorted values; 0 of none."""
    if not ordered:
        return 0.0
    rank = -(-len(ordered) * share // 1)  # rounded up
    return ordered[min(len(ordered), max(1, int(rank))) - 1]


def request_bytes(url: str, body: bytes) -> bytes:
    """Encode one POST request."""
    parts = urlsplit(url)
    head = (
        f"POST {parts.path or '/'} HTTP/1.1\r\nHost: {parts.netloc}\r\n"
        f"Content-Type: application/octet-stream\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


@dataclass
class Tally:
    """The answers seen.

    Attributes:
        latencies: seconds from the first byte sent to the last byte received, of answers within the time.
        statuses: answers within the time, by status.
        broken: connections that ended, and answers that did not come or could not be read.
    """

    latencies: array[float] = field(default_factory=lambda: array("d"))
    statuses: Counter[int] = field(default_factory=Counter)
    broken: int = 0

    def document(self, seconds: float) -> dict[str, float]:
        """Return the figures, in milliseconds and in good answers a second."""
        ordered = sorted(self.latencies)
        good = self.statuses[200]
        return {
            "requests": len(ordered),
            "seconds": seconds,
            "rps": good / seconds,
            "p50_ms": percentile(ordered, 0.50) * 1e3,
            "p99_ms": percentile(ordered, 0.99) * 1e3,
            "max_ms": (ordered[-1] if ordered else 0.0) * 1e3,
            "errors": self.broken + len(ordered) - good,
        }


class Connection:
    """One connection with at most one request in flight."""

    __slots__ = ("address", "reader", "rest", "sent_at", "socket", "turn")

    def __init__(self, address: tuple[str, int], turn: int) -> None:
        self.address = address
        self.turn = turn
        self.connect()

    def connect(self) -> None:
        """Open the connection, or open it anew."""
        self.socket = socket.create_connection(self.address, timeout=10.0)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        self.reader = AnswerReader()
        self.rest = b""  # of the request, as far as the socket did not take it at once
        self.sent_at = 0.0

    def send(self, request: bytes) -> bool:
        """Send a request, or what is left of it; False if some still is."""
        try:
            sent = self.socket.send(request)
        except BlockingIOError:
            sent = 0
        self.rest = b"" if sent == len(request) else request[sent:]
        return not self.rest


class Load:
    """A load that keeps every connection busy until the time is over.

    Args:
        url: where to post.
        bodies: sent in turn.
    """

    def __init__(self, url: str, bodies: Sequence[bytes], connections: int) -> None:
        parts = urlsplit(url)
        address = (parts.hostname or "127.0.0.1", parts.port or 80)
        self.requests = [request_bytes(url, body) for body in bodies]
        self.selector = selectors.DefaultSelector()
        self.connections = [Connection(address, turn) for turn in range(connections)]
        self.tally = Tally()

    def run(self, seconds: float) -> dict[str, float]:
        """Send for so long and return the figures."""
        for connection in self.connections:
            self.selector.register(connection.socket, selectors.EVENT_READ, connection)
        begin = time.perf_counter()
        end = begin + seconds
        for connection in self.connections:
            self._next(connection)
        waiting = len(self.connections)
        while waiting and (left := end + DRAIN_S - time.perf_counter()) > 0:
            for key, events in self.selector.select(left):
                connection = key.data
                if events & selectors.EVENT_WRITE:
                    self._send(connection, connection.rest)
                if events & selectors.EVENT_READ and not self._receive(connection, end):
                    self._close(connection)
                    waiting -= 1
        self.tally.broken += waiting
        self.selector.close()
        return self.tally.document(seconds)

    def _next(self, connection: Connection) -> None:
        connection.turn = turn = (connection.turn + 1) % len(self.requests)
        connection.sent_at = time.perf_counter()
        self._send(connection, self.requests[turn])

    def _send(self, connection: Connection, request: bytes) -> None:
        unfinished = bool(connection.rest)
        try:
            done = connection.send(request)
        except OSError:
            return  # the socket is readable then, and shows the same
        if done == unfinished:
            events = selectors.EVENT_READ if done else selectors.EVENT_READ | selectors.EVENT_WRITE
            self.selector.modify(connection.socket, events, connection)

    def _receive(self, connection: Connection, end: float) -> bool:
        """Read what has come; False once the connection has nothing more to do."""
        try:
            data = connection.socket.recv(_BUFFER)
            if not data:
                raise BadAnswerError("the server closed the connection")
            status = connection.reader.feed(data)
        except BlockingIOError:
            return True
        except (OSError, BadAnswerError):
            return self._again(connection, end)
        if not status:
            return True
        now = time.perf_counter()
        if now >= end:
            return False
        self.tally.latencies.append(now - connection.sent_at)
        self.tally.statuses[status] += 1
        self._next(connection)
        return True

    def _again(self, connection: Connection, end: float) -> bool:
        self.tally.broken += 1
        if time.perf_counter() >= end:
            return False
        self._close(connection)
        try:
            connection.connect()
        except OSError:
            return False
        self.selector.register(connection.socket, selectors.EVENT_READ, connection)
        self._next(connection)
        return True

    def _close(self, connection: Connection) -> None:
        if connection.socket.fileno() >= 0:
            self.selector.unregister(connection.socket)
            connection.socket.close()


def main() -> int:
    """Send the load and print the figures."""
    parser = argparse.ArgumentParser(description="A small load generator over keep-alive HTTP/1.1.")
    parser.add_argument("--url", required=True)
    parser.add_argument("--connections", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("files", nargs="+", type=Path, help="bodies, posted in turn")
    options = parser.parse_args()
    load = Load(options.url, [path.read_bytes() for path in options.files], options.connections)
    gc.disable()  # nothing here makes cycles
    print(json.dumps(load.run(options.seconds)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
