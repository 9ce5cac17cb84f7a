"""Clients that keep their connections and send ahead, while models come and go and workers die: nothing is lost."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from itertools import count
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from .conftest import OPEN, Sandbox, Server
from .support import ask, describe, is_alive, pack, ready, register, session, wait_until

# Only this frontend promises it.
pytestmark = [pytest.mark.hides("torch"), pytest.mark.parametrize("frontend", ["python"], scope="module")]

SECONDS = float(os.environ.get("TORCHMAR_CHANGE_S", "3"))
CLIENTS = 8
ECHO = """
import os
import time


class Echo:
    def initialize(self, context):
        self.version = context.manifest["model"]["modelVersion"]

    def handle(self, data, context):
        time.sleep(0.002)
        return [{"version": self.version, "body": bytes(row["body"]).decode(), "pid": os.getpid()} for row in data]
"""
SHARED = "backend: {mode: shared}\nminWorkers: 2\nmaxWorkers: 2\n"
RESENT = "backend: {retry: true}\nbatchSize: 4\nminWorkers: 2\nmaxWorkers: 2\n"


class Line:
    """A connection that is kept, on which any number of requests are sent before the first answer is read."""

    def __init__(self, address: str) -> None:
        parts = urlsplit(address)
        self._sock = socket.create_connection((parts.hostname, parts.port), 60)
        self._replies = self._sock.makefile("rb")

    def ask(self, path: str, bodies: list[str]) -> list[tuple[int, bytes]]:
        heads = (f"POST {path} HTTP/1.1\r\nHost: here\r\nContent-Length: {len(body)}\r\n\r\n{body}" for body in bodies)
        self._sock.sendall("".join(heads).encode())
        return [self._answer() for _ in bodies]

    def _answer(self) -> tuple[int, bytes]:
        status = self._replies.readline().split()
        assert status, "the connection was cut"
        length = 0
        while (line := self._replies.readline()) not in (b"\r\n", b""):
            name, _, value = line.lower().partition(b":")
            assert (name, value.strip()) != (b"connection", b"close"), "the connection is to be closed"
            if name == b"content-length":
                length = int(value)
        body = self._replies.read(length)
        assert len(body) == length, "the answer was cut"
        return int(status[1]), body

    def close(self) -> None:
        self._replies.close()
        self._sock.close()


@contextmanager
def clients(server: Server, paths: Callable[[int], str]) -> Iterator[Counter[tuple[str, int]]]:
    """Keep clients at work, every second of which sends ahead; gives how often each path had each status.

    Args:
        paths: of the request of a number.
    """
    stop = threading.Event()
    found: Counter[tuple[str, int]] = Counter()
    lock = threading.Lock()

    def client(number: int) -> None:
        ahead = 5 if number % 2 else 1
        with closing(Line(server.inference)) as line:
            for turn in count():
                if stop.is_set():
                    return
                path = paths(turn)
                bodies = [f"client {number} turn {turn} of {one}" for one in range(ahead)]
                for body, (status, content) in zip(bodies, line.ask(path, bodies), strict=True):
                    if status == 200 and path != "/ping":
                        assert json.loads(content)["body"] == body
                    with lock:
                        found[path, status] += 1

    with ThreadPoolExecutor(CLIENTS) as pool:
        running = [pool.submit(client, number) for number in range(CLIENTS)]
        try:
            yield found
        finally:
            stop.set()
        for one in running:
            one.result()


@pytest.fixture(scope="module")
def server(shared_sandbox: Sandbox) -> Server:
    box = shared_sandbox
    for number in range(3):
        pack(box, f"m{number}", "echo.py", {"echo.py": ECHO}, modelName="m", modelVersion=f"{number}.0")
    pack(box, "hardy", "echo.py", {"echo.py": ECHO}, RESENT)
    return box.start(options=OPEN)


def test_no_request_is_cut_while_versions_come_and_go(server: Server) -> None:
    assert register(server, "m0.mar", "m").status == 200
    old, rounds = 0, 0
    targets = ["/predictions/m", "/predictions/m/1.0", "/predictions/m", "/ping"]
    with clients(server, lambda turn: targets[turn % len(targets)]) as found:
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            new = (old + 1) % 3
            assert register(server, f"m{new}.mar", "m").status == 200
            path = f"/models/m/{new}.0?min_worker=2&max_worker=2&synchronous=true"
            assert ask(server.management, path, method="PUT").status == 200
            assert ask(server.management, f"/models/m/{new}.0/set-default", method="PUT").status == 200
            path = f"/models/m/{new}.0?min_worker=1&max_worker=1"
            assert ask(server.management, path, method="PUT").status == 202
            assert ask(server.management, f"/models/m/{old}.0", method="DELETE").status == 200
            old, rounds = new, rounds + 1
    assert rounds > 0
    assert {status for path, status in found if path == "/predictions/m"} == {200}
    # Where a version is named, it is there or it is not.
    assert {status for path, status in found if path == "/predictions/m/1.0"} <= {200, 404}
    assert found["/predictions/m", 200] > 100
    assert ask(server.management, "/models/m", method="DELETE").status == 200


def test_every_request_is_answered_while_workers_are_killed(server: Server) -> None:
    assert register(server, "hardy.mar", "hardy", workers=2).status == 200
    kills = 0
    with clients(server, lambda _turn: "/predictions/hardy") as found:
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            if pids := [worker["pid"] for worker in describe(server, "hardy")["workers"] if worker["pid"] > 0]:
                try:
                    os.kill(random.choice(pids), signal.SIGKILL)
                    kills += 1
                except ProcessLookupError:
                    pass
            time.sleep(0.4)
    assert kills > 2
    text = Path(server.record["log_folder"], "ts_log.log").read_text()
    failed = sum(times for (_, status), times in found.items() if status != 200)
    # One that was alone with two workers when they were killed looks like their murderer.
    assert failed == text.count("too many workers died of it"), found
    assert found["/predictions/hardy", 200] > 50
    wait_until(lambda: len(ready(server, "hardy")) == 2, "both workers")


def test_nothing_is_left_of_a_frontend_that_was_killed(sandbox: Sandbox) -> None:
    archives = [pack(sandbox, "plain", "echo.py", {"echo.py": ECHO}, "minWorkers: 2\nmaxWorkers: 2\n")]
    archives.append(pack(sandbox, "shared", "echo.py", {"echo.py": ECHO}, SHARED))
    server = sandbox.start(*archives, options=OPEN)
    workers = [pid for name in ("plain", "shared") for pid in ready(server, name)]
    assert len(workers) == 4
    os.kill(server.pid, signal.SIGKILL)
    wait_until(lambda: not session(server), "the end of all processes")
    assert not any(is_alive(pid) for pid in workers)
    assert not list(sandbox.temp.rglob(".ts.sock*"))
    assert sandbox.torchmar("stop").code == 7
    assert sandbox.leftovers() == []
