"""A small real HTTP server, with models of its own."""

from __future__ import annotations

import itertools
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from serving.bench.loads import Place
from serving.bench.targets import Target
from serving.client import Address


class Answering(BaseHTTPRequestHandler):
    """Models: good, slow (0.25 s), silent, bad (503), close, closing (answers, and closes), parts, nonsense, key.

    The last one takes the key of ten requests. An answer takes 0.01 s: a load that is answered at once takes both
    processors.
    """

    protocol_version = "HTTP/1.1"
    server: Server

    def setup(self) -> None:
        super().setup()
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.server.connections += 1

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        number = next(self.server.numbers)
        self.server.seen[body[:20]] += 1
        self.server.heard = {name.lower(): value for name, value in self.headers.items()}
        kind = self.path.split("/")[2]
        if kind == "slow":
            time.sleep(0.25)
        elif kind == "silent":
            self.server.released.wait(20)
        else:
            time.sleep(0.01)
        if kind == "key" and number <= 10:
            kind = "good"
        getattr(self, f"answer_{kind}", self.answer_good)()

    def answer_good(self, status: int = 200, answer: bytes = b"7", **headers: str) -> None:
        self.send_response(status)
        self.send_header("Server-Timing", "queue;dur=1.5, worker;dur=4, batch;desc=2")
        self.send_header("Content-Length", str(len(answer)))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(answer)

    def answer_bad(self) -> None:
        self.answer_good(503, b'{"code": 503, "message": "no worker <b>here</b>"}')

    def answer_key(self) -> None:
        self.answer_good(400, b'{"code": 400, "type": "InvalidKeyException", "message": "Token Authorization failed."}')

    def answer_close(self) -> None:
        self.close_connection = True

    def answer_closing(self) -> None:
        self.answer_good(Connection="close")

    def answer_nonsense(self) -> None:
        self.wfile.write(b"220 this is a mail server\r\n\r\n")

    def answer_parts(self) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for part in (b"a", b"bc", b""):
            self.wfile.write(b"%x\r\n%b\r\n" % (len(part), part))
            time.sleep(0.03)

    def log_message(self, *arguments: object) -> None:
        return


class Server(ThreadingHTTPServer):
    """Notes what was sent."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answering)
        self.numbers = itertools.count(1)
        self.seen: Counter[bytes] = Counter()
        self.heard: dict[str, str] = {}
        self.connections = 0
        self.released = threading.Event()

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: clients here leave in the middle of an answer."""

    @property
    def place(self) -> Place:
        return Place("127.0.0.1", self.server_port)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def requests(self, model: str, *bodies: bytes) -> tuple[bytes, ...]:
        return Target(Address(self.address), model).requests((body, "text/plain") for body in bodies or (b"x",))


@contextmanager
def answering() -> Iterator[Server]:
    """Yield a server that runs."""
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield running
        running.released.set()
        running.shutdown()
        thread.join()
