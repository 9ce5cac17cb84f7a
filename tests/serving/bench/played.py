"""A played server: it reads requests as one does, and answers them as none should."""

from __future__ import annotations

import contextlib
import functools
import gzip
import itertools
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from serving.bench.loads import Place
from serving.bench.targets import Target
from serving.client import Address

GOOD: Final = b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n7"
CHUNKED: Final = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
_PLENTY: Final = bytes(1 << 20)

Part = bytes | float
"""Bytes to be sent, or seconds of silence."""


def with_length(head: bytes, body: bytes) -> bytes:
    return b"%b\r\ncontent-length: %d\r\n\r\n%b" % (head, len(body), body)


def again(part: bytes, pause: float = 0.0) -> Iterator[Part]:
    """Send a part as long as somebody takes it."""
    while True:
        yield part
        if pause:
            yield pause


def slowly(answer: bytes, pause: float) -> Iterator[Part]:
    for index in range(len(answer)):
        yield answer[index : index + 1]
        yield pause


@functools.cache
def bomb() -> bytes:
    return with_length(b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip", gzip.compress(bytes(200 << 20), 1))


#: Manners by name; each makes the parts of an answer, after which the connection stays open, or is closed after None.
MANNERS: Final[dict[str, Callable[[], Iterator[Part | None]]]] = {
    "good": lambda: iter([GOOD]),
    "never answers": lambda: iter([]),
    "byte by byte": lambda: slowly(GOOD, 0.03),
    "a body byte by byte": lambda: itertools.chain(
        [b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n"], again(b"7", 0.03)
    ),
    "headers without end": lambda: itertools.chain([b"HTTP/1.1 200 OK\r\n"], again(b"x-a: b\r\n" * 1000)),
    "a header without end": lambda: itertools.chain([b"HTTP/1.1 200 OK\r\nx-a: "], again(b"b" * 9999)),
    "a body without end": lambda: itertools.chain([CHUNKED], again(b"4000\r\n" + bytes(0x4000) + b"\r\n")),
    "chunks of a byte without end": lambda: itertools.chain([CHUNKED], again(b"1\r\n7\r\n" * 10_000)),
    "trailers without end": lambda: itertools.chain([CHUNKED, b"0\r\n"], again(b"x-a: b\r\n" * 1000)),
    "a size without end": lambda: itertools.chain([CHUNKED], again(b"0" * 9999)),
    "a terabyte": lambda: itertools.chain(
        [b"HTTP/1.1 200 OK\r\ncontent-length: 1099511627776\r\n\r\n"], again(_PLENTY)
    ),
    "no length": lambda: iter([b"HTTP/1.1 200 OK\r\n\r\n7", None]),
    "more than it says": lambda: iter([b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n77"]),
    "more than it says, later": lambda: iter([GOOD, 0.02, b"7777"]),
    "less than it says": lambda: iter([b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n7"]),
    "closes midway": lambda: iter([b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n7", 0.01, None]),
    "closes in a head": lambda: iter([b"HTTP/1.1 200 O", 0.01, None]),
    "closes at once": lambda: iter([None]),
    "a chunk of no size": lambda: iter([CHUNKED, b"x\r\n7\r\n0\r\n\r\n"]),
    "a chunk of less than nothing": lambda: iter([CHUNKED, b"-1\r\n7\r\n0\r\n\r\n"]),
    "a chunk that is longer than it says": lambda: iter([CHUNKED, b"1\r\n7770\r\n\r\n"]),
    "a chunk that is longer, in two": lambda: iter([CHUNKED, b"1\r\n7", 0.02, b"7", 0.02, b"70\r\n\r\n"]),
    "trailers": lambda: iter([CHUNKED, b"1\r\n7\r\n0\r\nx-sum: 1\r\n", 0.02, b"x-a: b\r\n\r\n"]),
    "no HTTP": lambda: iter([b"220 mail.example\r\n\r\n"]),
    "HTTP/1.0": lambda: iter([b"HTTP/1.0 200 OK\r\ncontent-length: 1\r\n\r\n7", None]),
    "another place": lambda: iter([with_length(b"HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/", b"there")]),
    "hints before": lambda: iter(
        [b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: a\r\n\r\n", 0.02, GOOD]
    ),
    "hints without end": lambda: again(b"HTTP/1.1 103 Early Hints\r\nlink: a\r\n\r\n" * 100),
    "another protocol": lambda: iter([b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\n\r\n"]),
    "compressed": lambda: iter([bomb()]),
    "nothing, of a length": lambda: iter([b"HTTP/1.1 204 No Content\r\ncontent-length: 5\r\n\r\n"]),
    "deep": lambda: iter([with_length(b"HTTP/1.1 503 No", b"[" * 5000)]),
    "half a character": lambda: iter([with_length(b"HTTP/1.1 503 No", b'{"message": "\\ud800 \\u001b[2J\\r"}')]),
    "escapes": lambda: iter([with_length(b"HTTP/1.1 503 \x1b[2J\x9b2J", b"\x1b[2J\x9b2J\r\x08 \xff")]),
}


class Played:
    """A server of one manner.

    Attributes:
        manner: of every answer.
        before: answers that are good before it.
        connections: that came.
    """

    def __init__(self, manner: str, before: int) -> None:
        self.manner, self.before, self.connections = manner, before, 0
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._open: set[socket.socket] = set()
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._take)]
        self._threads[0].start()

    @property
    def place(self) -> Place:
        return Place("127.0.0.1", self._socket.getsockname()[1])

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.place.port}"

    def requests(self, *bodies: bytes) -> tuple[bytes, ...]:
        return Target(Address(self.address), "m").requests((body, "text/plain") for body in bodies or (b"x",))

    def close(self) -> None:
        self._over.set()
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        for one in list(self._open):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        for thread in list(self._threads):
            thread.join()

    def _take(self) -> None:
        while True:
            try:
                one, _ = self._socket.accept()
            except OSError:
                return
            self.connections += 1
            self._open.add(one)
            self._threads = [thread for thread in self._threads if thread.is_alive()]
            self._threads.append(threading.Thread(target=self._serve, args=(one,)))
            self._threads[-1].start()

    def _serve(self, one: socket.socket) -> None:
        with one, contextlib.suppress(OSError):
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while _read_request(one):
                manner = "good" if self.before > 0 else self.manner
                self.before -= 1
                for part in MANNERS[manner]():
                    if part is None:
                        return
                    if isinstance(part, float):
                        self._over.wait(part)
                    else:
                        one.sendall(part)
                    if self._over.is_set():
                        return
        self._open.discard(one)


def _read_request(one: socket.socket) -> bool:
    held = b""
    while b"\r\n\r\n" not in held:
        data = one.recv(65536)
        if not data:
            return False
        held += data
    head, _, body = held.partition(b"\r\n\r\n")
    lines = head.lower().split(b"\r\n")
    length = next((int(line[15:]) for line in lines if line.startswith(b"content-length:")), 0)
    while len(body) < length:
        data = one.recv(65536)
        if not data:
            return False
        body += data
    return True


@contextmanager
def played(manner: str, before: int = 0) -> Iterator[Played]:
    """Yield a server of a manner, after so many good answers."""
    server = Played(manner, before)
    try:
        yield server
    finally:
        server.close()
