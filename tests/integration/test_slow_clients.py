"""A thousand clients that are too slow: by their heads, their bodies, their reading. Others notice nothing."""

from __future__ import annotations

import resource
import socket
import statistics
import threading
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

import psutil
import pytest

from .conftest import OPEN, Sandbox, Server
from .support import ask, pack

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.hides("torch"),
    pytest.mark.parametrize("frontend", ["python"], scope="module"),
]

SLOW = 1000
LARGE = "def handle(data, context):\n    return [b'x' * int(bytes(row['body']).decode()) for row in data or []]\n"
BODY = b"POST /predictions/large HTTP/1.1\r\nhost: x\r\ncontent-length: "
STARTS = (b"POST /predictions/large HTTP/1.1\r\nx-a: ", BODY + b"100000\r\n\r\n", BODY + b"7\r\n\r\n1000000")


@pytest.fixture
def descriptors() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < SLOW + 200:
        pytest.skip(f"this user may open {hard} files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, SLOW + 200), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def times(server: Server, count: int = 100) -> list[float]:
    found = []
    for _ in range(count):
        begun = time.monotonic()
        answer = ask(server.inference, "/predictions/large", b"10")
        assert (answer.status, answer.body) == (200, b"x" * 10)
        found.append(time.monotonic() - begun)
    return sorted(found)


@pytest.mark.usefixtures("descriptors")
def test_a_thousand_slow_clients_do_not_delay_the_others(sandbox: Sandbox) -> None:
    archive = pack(sandbox, "large", "large.py", {"large.py": LARGE}, "minWorkers: 1\nmaxWorkers: 1\nbatchSize: 8\n")
    config = sandbox.file("slow.properties", f"job_queue_size={SLOW}\n")
    server = sandbox.start(archive, options=("--ts-config", config, *OPEN))
    alone = times(server)
    place, frontend = urlsplit(server.inference), psutil.Process(server.pid)
    socks: list[socket.socket] = []
    ended = threading.Event()

    def drip() -> None:
        """Send a byte, or read one, of each connection once a second."""
        while not ended.wait(1.0):
            for number, sock in enumerate(list(socks)):
                try:
                    sock.recv(1) if number % 3 == 2 else sock.send(b"1")
                except OSError:
                    continue  # it was sent away, or there is nothing yet

    thread = threading.Thread(target=drip)
    thread.start()
    try:
        for number in range(SLOW):
            sock = socket.socket()
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.settimeout(30)
            sock.connect((place.hostname, place.port))
            sock.sendall(STARTS[number % 3])
            sock.setblocking(False)
            socks.append(sock)
        time.sleep(3)  # until the large answers have left the worker
        assert len([one for one in frontend.net_connections() if one.status == psutil.CONN_ESTABLISHED]) >= SLOW
        beside = times(server)
    finally:
        ended.set()
        thread.join()
        for sock in socks:
            sock.close()
    print(
        f"alone {statistics.median(alone):.4f} s, {alone[-2]:.4f} s; beside {statistics.median(beside):.4f} s, "
        f"{beside[-2]:.4f} s; the frontend takes {frontend.memory_info().rss >> 20} MiB"
    )
    assert statistics.median(beside) < 3 * statistics.median(alone) + 0.02
    assert beside[-2] < 1.0
