"""A client's deadline: the model's default answer at it, and what Java makes of the same archive."""

from __future__ import annotations

import pytest

from .conftest import FRONTENDS, Server
from .support import Answer, ask, pack, predict, register

pytestmark = pytest.mark.parametrize("frontend", FRONTENDS)

SLOW = """
import time


class Slow:
    def initialize(self, context):
        pass

    def handle(self, data, context):
        time.sleep(float(bytes(data[0]["body"])))
        return ["the model's"]
"""


def within(server: Server, model: str, body: str, seconds: float) -> Answer:
    return predict(server, model, body, **{"x-request-timeout-seconds": str(seconds)})


def metric(server: Server, *parts: str) -> float:
    """Return the sum of the series whose lines have all of these parts."""
    lines = ask(server.record["metrics"], "/metrics").text().splitlines()
    found = [line for line in lines if line[0] != "#" and all(part in line for part in parts)]
    return sum(float(line.rpartition(" ")[2]) for line in found)


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
