"""A worker that was started by a test, which plays the frontend: it sends the messages and looks at the bytes."""

from __future__ import annotations

import os
import select
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Mapping
from pathlib import Path

from serving.control.configuration.java import WORKER_SCRIPT, worker_home
from serving.protocol import Inference, Load, Parameter, Reply, ReplyDecoder, Request, encode_inference, encode_load

from .conftest import Sandbox
from .support import wait_until

PLAIN = "def handle(data, context):\n    return None if data is None else [str(row) for row in data]\n"


class Worker:
    """A worker that was started as the frontend starts it, and the frontend's side of its socket.

    Attributes:
        lines: of its standard output.
    """

    def __init__(
        self,
        box: Sandbox,
        files: Mapping[str, str],
        *,
        handler: str | None = "handler.py",
        port: int | None = None,
        asynchronous: bool = False,
        **environ: str,
    ) -> None:
        self.folder = Path(box.root, f"model-{time.monotonic_ns()}")
        for name, text in files.items():
            box.file(f"{self.folder.name}/{name}", textwrap.dedent(text))
        self.load = Load("direct", str(self.folder), 4, handler)
        self.path = box.temp / f".ts.sock.{9000 + int(environ.get('LOCAL_RANK', '0'))}"
        where = ("--port", str(port)) if port else ("--sock-name", box.temp / ".ts.sock.9000")
        command = [sys.executable, worker_home() / WORKER_SCRIPT, "--sock-type", "tcp" if port else "unix", *where]
        command += ["--metrics-config", worker_home() / "ts" / "configs" / "metrics.yaml"]
        self.process = subprocess.Popen(
            [*map(str, command), *(["--async"] if asynchronous else [])],
            cwd=self.folder,
            env=box.env | {"PYTHONPATH": os.pathsep.join([str(self.folder), box.env["PYTHONPATH"]]), **environ},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        self.lines: list[str] = []
        self._enough = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self._decoder = ReplyDecoder()
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)

    def _read(self) -> None:
        assert self.process.stdout is not None
        pipe, data = self.process.stdout.fileno(), b""
        while not self._enough.is_set():
            if not select.select([pipe], [], [], 0.05)[0]:
                continue
            if not (piece := os.read(pipe, 65536)):
                break
            *lines, data = (data + piece).split(b"\n")
            self.lines += [line.decode() for line in lines]
        self.process.stdout.close()

    def is_read(self) -> bool:
        """Return whether there may be more output."""
        return self._reader.is_alive()

    def stop_reading(self) -> None:
        """Close the other end of its output."""
        self._enough.set()
        self._reader.join()

    def connect(self) -> Worker:
        wait_until(lambda: "Torch worker started." in self.lines, "the start")
        self.sock.connect(str(self.path))
        self.sock.settimeout(60)
        return self

    def send(self, message: Load | Inference) -> None:
        self.sock.sendall(encode_load(message) if isinstance(message, Load) else encode_inference(message))

    def receive(self) -> Reply | None:
        """Return the next frame; None at the end of the stream."""
        while (reply := self._decoder.next_message()) is None:
            data = self.sock.recv(65536)
            if not data:
                return None
            self._decoder.feed(data)
        return reply

    def ask(self, *requests: Request) -> Reply:
        self.send(Inference(requests))
        reply = self.receive()
        assert reply is not None
        return reply

    def loaded(self) -> Worker:
        self.connect().send(self.load)
        reply = self.receive()
        assert reply is not None
        assert reply.code == 200, (reply, self.lines)
        return self

    def is_silent(self, seconds: float = 0.5) -> bool:
        """Return whether nothing more comes for a while, and the connection stays."""
        return not select.select([self.sock], [], [], seconds)[0]

    def close(self) -> None:
        self.sock.close()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.path.unlink(missing_ok=True)  # as the frontend does
        self.stop_reading()
        assert self.process.stdin is not None
        self.process.stdin.close()


def request(number: int, value: bytes = b"", kind: str = "", **headers: str) -> Request:
    return Request(f"id-{number}", headers or {"Host": "x"}, (Parameter("body", value, kind),))
