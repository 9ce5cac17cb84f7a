"""A client's deadline: the model's default answer at it, what the handler knows of it, and what Java makes of both."""

from __future__ import annotations

import json
import re
import socket
from http.client import BadStatusLine, HTTPResponse
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from serving.protocol import ATTEMPT, DEADLINE

from .conftest import FRONTENDS, Sandbox, Server
from .support import Answer, ask, pack, predict, register

both = pytest.mark.parametrize("frontend", FRONTENDS)
pythons = pytest.mark.parametrize("frontend", ["python"])

SLOW = """
import time


class Slow:
    def initialize(self, context):
        pass

    def handle(self, data, context):
        time.sleep(float(bytes(data[0]["body"])))
        return ["the model's"]
"""

TELL = """
class Tell:
    def initialize(self, context):
        pass

    def handle(self, data, context):
        known = getattr(context, "deadline", "unknown"), getattr(context, "attempt", "unknown")
        return [{"known": known, "headers": sorted(context.get_all_request_header(0))}]
"""
DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "handlers.md"


def within(server: Server, model: str, body: str, seconds: float) -> Answer:
    return predict(server, model, body, **{"x-request-timeout-seconds": str(seconds)})


def metric(server: Server, *parts: str) -> float:
    """Return the sum of the series whose lines have all of these parts."""
    lines = ask(server.record["metrics"], "/metrics").text().splitlines()
    found = [line for line in lines if line[0] != "#" and all(part in line for part in parts)]
    return sum(float(line.rpartition(" ")[2]) for line in found)


@both
def test_the_default_answer_is_sent_at_the_deadline(light_server: Server, frontend: str) -> None:
    server = light_server
    files = {"slow.py": SLOW, "none.json": '{"label": null}'}
    pack(server.sandbox, "slow", "slow.py", files, config="default_answer: none.json\n")
    assert register(server, "slow.mar", "slow").status == 200
    before = metric(server, "Requests5XX")
    late = within(server, "slow", "0.7", 0.2)
    assert (late.status, within(server, "slow", "0", 60).text()) == (200, "the model's")
    if frontend == "java":  # which looks neither at the one nor at the other
        assert (late.text(), late.header("x-default-answer")) == ("the model's", None)
        return
    assert (late.text(), late.header("x-default-answer")) == ('{"label": null}', "deadline")
    assert late.header("content-type") == "application/json"
    assert metric(server, "torchmar_default_answers_total{", '"slow"', '"deadline"') == 1
    assert metric(server, "torchmar_requests_dropped_total{", '"slow"', '"deadline"') == 1
    assert metric(server, "Requests5XX") == before + 1
    assert ask(server.inference, "/models/slow/invoke", "0", {"x-request-timeout-seconds": "60"}).status == 200


@pythons
def test_the_documents_handler_stops_in_time(light_server: Server) -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    (code,) = re.findall(r"^## Deadlines\n.*?^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    pack(light_server.sandbox, "pi", "pi.py", {"pi.py": code})
    assert register(light_server, "pi.mar", "pi").status == 200
    hurried = within(light_server, "pi", "", 0.5).json()
    assert 0 < hurried["darts"] < 20_000_000  # which take seconds
    assert 3 < hurried["pi"] < 3.3


def raw(server: Server, head: str) -> bytes | None:
    """Send a head of any form; return the body of a good answer."""
    parts = urlsplit(server.inference)
    with socket.create_connection((parts.hostname, parts.port), 60) as sock:
        sock.sendall(f"GET /predictions/tell HTTP/1.1\r\nHost: here\r\n{head}\r\n".encode())
        try:
            with HTTPResponse(sock) as answer:
                answer.begin()
                return answer.read() if answer.status == 200 else None
        except (ConnectionResetError, BadStatusLine):
            return None


@both
def test_no_client_can_say_what_the_frontend_says(light_server: Server, frontend: str) -> None:
    pack(light_server.sandbox, "tell", "tell.py", {"tell.py": TELL})
    assert register(light_server, "tell.mar", "tell").status == 200
    names = [f"{blank}{name}" for name in (DEADLINE, ATTEMPT) for blank in ("", " ", "\t", "x\r\n ")]
    for head in (*(f"{name}: 5\r\n" for name in names), f"Tail: 1\r\n\t{DEADLINE}: 5\r\n", ""):
        answer = raw(light_server, head)
        if answer is not None:
            told = json.loads(answer)
            assert told["known"] == [None, 1], head
            assert not [name for name in told["headers"] if ":" in name], head
    assert answer is not None  # the last of them is a good one
    # A field of a form has its content type among the headers, under its name.
    form = f'--x\r\nContent-Disposition: form-data; name="{DEADLINE}"\r\n\r\n5\r\n--x--\r\n'
    asked = predict(light_server, "tell", form, **{"Content-Type": "multipart/form-data; boundary=x"})
    assert asked.json()["known"] == [None, 1]
    assert within(light_server, "tell", "", 60).json()["known"][0] is None or frontend == "python"


@pythons
@pytest.mark.slow  # a server of its own
def test_torchserves_own_worker_is_not_disturbed(sandbox: Sandbox) -> None:
    pack(sandbox, "tell", "tell.py", {"tell.py": TELL})
    server = sandbox.start("tell.mar", options=("--stock-worker", "--workers", "1"))
    assert within(server, "tell", "", 60).json()["known"] == ["unknown", "unknown"]
