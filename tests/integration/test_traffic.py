"""Canary and shadow versions under load: shares are what was asked for, and no request is lost whatever changes."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from urllib.parse import urlsplit

import pytest

from .conftest import OPEN, Sandbox, Server
from .support import ask, describe, kill, pack, predict, ready, register, scale, wait_until

pytestmark = pytest.mark.hides("torch")

CLIENTS = 4
# As with handlers of the SDK: what a worker had that was killed is sent again.
RESENT = "backend: {retry: true}\n"
# It says which requests it saw; a shadow's answers are seen nowhere else. It takes its time, as a model does.
NOTED = """
import time


class Noted:
    def initialize(self, context):
        self.version = context.manifest["model"]["modelVersion"]

    def handle(self, data, context):
        time.sleep(0.004)
        bodies = [bytes(row["body"]).decode() for row in data]
        with open("FOLDER/" + self.version, "a") as file:
            file.writelines(body + "\\n" for body in bodies)
        return [{"version": self.version, "body": body} for body in bodies]
"""


def _packed(box: Sandbox, *versions: str) -> None:
    source = NOTED.replace("FOLDER", str(box.root))
    for version in versions:
        pack(box, f"m-{version}", "noted.py", {"noted.py": source}, RESENT, modelName="m", modelVersion=version)


def _share(server: Server, version: str, query: str) -> None:
    answer = ask(server.management, f"/models/m/{version}/traffic?{query}", method="PUT")
    assert answer.status == 200, answer.text()


@contextmanager
def _clients(server: Server) -> Iterator[Counter[str]]:
    """Keep clients at work on connections of their own; gives how often each version answered."""
    parts, stop = urlsplit(server.inference), threading.Event()
    found: Counter[str] = Counter()
    lock = threading.Lock()

    def client(number: int) -> None:
        with socket.create_connection((parts.hostname, parts.port), 60) as sock, sock.makefile("rb") as replies:
            turn = 0
            while not stop.is_set():
                turn += 1
                body = f"client {number} turn {turn}"
                head = f"POST /predictions/m HTTP/1.1\r\nHost: here\r\nContent-Length: {len(body)}\r\n\r\n"
                sock.sendall((head + body).encode())
                status, length = replies.readline().split()[1], 0
                while (line := replies.readline()) not in (b"\r\n", b""):
                    name, _, value = line.lower().partition(b":")
                    length = int(value) if name == b"content-length" else length
                content = replies.read(length)
                assert status == b"200", content
                answer = json.loads(content)
                assert answer["body"] == body
                with lock:
                    found[answer["version"]] += 1

    with ThreadPoolExecutor(CLIENTS) as pool:
        running = [pool.submit(client, number) for number in range(CLIENTS)]
        try:
            yield found
        finally:
            stop.set()
        for one in running:
            one.result()


def _more(found: Counter[str], least: int = 300) -> Counter[str]:
    """Return what is found from now on."""
    under_way = found.total() + 2 * CLIENTS  # was shared out before
    wait_until(lambda: found.total() >= under_way, "the answers that are under way")
    before = found.copy()
    wait_until(lambda: found.total() >= before.total() + least, "answers")
    return found - before


def _metric(server: Server, name: str, **labels: str) -> float:
    text = ask(str(server.record["metrics"]), "/metrics").text()
    for line in re.findall(rf"^{name}\{{(.*)\}} (.*)$", text, re.MULTILINE):
        if all(f'{label}="{value}"' in line[0] for label, value in labels.items()):
            return float(line[1])
    return 0.0


@pytest.mark.parametrize("frontend", ["python"])
def test_shares_promotion_and_shadow_under_load(sandbox: Sandbox) -> None:
    box = sandbox
    _packed(box, "1.0", "2.0", "3.0")
    server = box.start("m=m-1.0.mar", options=OPEN)
    for version in ("2.0", "3.0"):
        assert register(server, f"m-{version}.mar", "m").status == 200
    with _clients(server) as found:
        assert set(_more(found, 50)) == {"1.0"}
        said = box.torchmar("traffic", "m", "2.0", "--percent", "20").ok().out
        assert said == 'Version 2.0 of model "m" gets 20 % of the requests that name no version\n'
        shares = _more(found)
        assert set(shares) == {"1.0", "2.0"}
        assert 0.1 < shares["2.0"] / shares.total() < 0.32

        # Its worker is killed: the default version answers, and the canary again once it is there.
        os.kill(ready(server, "m/2.0")[0], signal.SIGKILL)
        wait_until(lambda: not ready(server, "m/2.0"), "the end of the canary")
        wait_until(lambda: ready(server, "m/2.0"), "the canary")
        assert _more(found)["2.0"] > 0

        # Promoted and rolled back.
        box.torchmar("set-default", "m", "2.0").ok()
        assert set(_more(found, 50)) == {"2.0"}
        assert "traffic" not in describe(server, "m")
        box.torchmar("set-default", "m", "1.0").ok()
        assert set(_more(found, 50)) == {"1.0"}

        box.torchmar("traffic", "m", "3.0", "--percent", "100", "--shadow").ok()
        assert set(_more(found)) == {"1.0"}
    labels = {"model_name": "m", "model_version": "3.0"}

    def copies(outcome: str) -> float:
        return _metric(server, "torchmar_shadow_requests_total", **labels, outcome=outcome)

    def seen(version: str) -> list[str]:
        return (box.root / version).read_text().splitlines()

    wait_until(lambda: copies("answered") == len(seen("3.0")), "the end of the last copy")
    assert len(seen("3.0")) > 20
    assert set(seen("3.0")) <= set(seen("1.0"))
    assert copies("failed") == 0
    assert _metric(server, "torchmar_shadow_seconds_count", **labels) == len(seen("3.0"))
    asked = [
        _metric(server, "ts_inference_requests_total", **labels | {"model_version": one}) for one in ("1.0", "3.0")
    ]
    assert asked == [len(seen("1.0")), 0]
    assert _metric(server, "torchmar_requests_dropped_total", model_name="m") == 0


@pytest.mark.slow  # three servers
@pytest.mark.parametrize("frontend", ["python"])
def test_a_header_sticks_through_kill_9_and_is_shown(sandbox: Sandbox) -> None:
    box = sandbox
    _packed(box, "1.0", "2.0")
    server = box.start("m=m-1.0.mar", options=OPEN)
    assert register(server, "m-2.0.mar", "m").status == 200
    box.torchmar("traffic", "m", "2.0", "--percent", "30", "--sticky-header", "X-User").ok()
    users = [f"u{number}" for number in range(40)]
    before = {user: predict(server, "m", "x", X_User=user).json()["version"] for user in users}
    assert set(before.values()) == {"1.0", "2.0"}
    assert "share          m 2.0: 30 % by x-user\n" in box.torchmar("status").ok().out
    assert "30 % by x-user" in box.torchmar("models").ok().out
    told = {"percent": 30, "shadow": False, "stickyHeaders": ["x-user"]}
    assert ask(server.management, "/models").json()["models"][0]["traffic"] == {"2.0": told}

    kill(server.pid)
    box.torchmar("start", "--restore", "--port", "auto", "--frontend", "python", *OPEN).ok()
    server = box.server()
    wait_until(lambda: ready(server, "m/2.0"), "the canary")
    assert {user: predict(server, "m", "x", X_User=user).json()["version"] for user in users} == before
    box.torchmar("traffic", "m", "2.0", "--percent", "60").ok()
    after = {user: predict(server, "m", "x", X_User=user).json()["version"] for user in users}
    assert all(after[user] == "2.0" for user in users if before[user] == "2.0")
    for arguments, reason in (
        (("1.0", "--percent", "5"), "version 1.0 is the default one of model m"),
        (("3.0", "--percent", "5"), "Model version: 3.0 does not exist for model: m"),
    ):
        refused = box.torchmar("traffic", "m", *arguments)
        assert refused.code == 9
        assert reason in refused.err
    box.torchmar("stop").ok()

    # TorchServe's frontend passes the shares over.
    box.torchmar("start", "--restore", "--port", "auto", "--frontend", "java", *OPEN).ok()
    server = box.server()
    assert {predict(server, "m", "x", X_User=user).json()["version"] for user in users[:10]} == {"1.0"}
    assert predict(server, "m/2.0", "x").json()["version"] == "2.0"
    assert scale(server, "m/2.0", 2).status == 200
    refused = box.torchmar("traffic", "m", "2.0", "--percent", "5")
    assert refused.code == 9
    assert "this server's frontend cannot share requests out between versions" in refused.err
    assert "torchmar start --frontend python" in refused.err
    # It would have taken the call for one of scaling.
    assert len(ready(server, "m/2.0")) == 2
    assert "share" not in box.torchmar("status").ok().out
