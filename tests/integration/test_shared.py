"""Shared mode: one process behind all workers of a model."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from .conftest import OPEN, PYTHON_FIRST, Sandbox, Server
from .support import (
    Answer,
    ask,
    at_once,
    describe,
    model_log,
    pack,
    predict,
    ready,
    register,
    scale,
    session,
    wait_until,
)

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.hides("torchvision"),
    pytest.mark.parametrize("frontend", PYTHON_FIRST, scope="module"),
]

HANDLER = """
import os
import time

import torch


class Handler:
    def initialize(self, context):
        print("loaded", context.model_name, flush=True)
        self.calls = 0
        self.batch_size = context.system_properties["batch_size"]

    def handle(self, data, context):
        self.calls += 1
        call = self.calls
        wishes = [row["body"] for row in data]
        for wish in wishes:
            if "print" in wish:
                print(wish["print"])
            time.sleep(wish.get("sleep", 0))
        if any("raise" in wish for wish in wishes):
            raise ValueError("as wished")
        for index, wish in enumerate(wishes):
            context.set_response_header(index, "x-number", str(wish["number"]))
            if "status" in wish:
                context.set_response_status(wish["status"], "As wished", index)
        told = {"batch": len(data), "call": call, "pid": os.getpid(), "limit": self.batch_size}
        told["threads"] = torch.get_num_threads()
        return [object() if "object" in wish else {**told, "number": wish["number"]} for wish in wishes]
"""
WORKERS = 8


def config(backend: str, workers: int = WORKERS) -> str:
    return f"minWorkers: {workers}\nmaxWorkers: {workers}\nbackend: {{mode: shared, {backend}}}\n"


@pytest.fixture(scope="module")
def server(shared_sandbox: Sandbox) -> Server:
    files = {"handler.py": HANDLER}
    archives = [
        pack(shared_sandbox, "plain", "handler.py", files, config("threads: 1")),
        pack(shared_sandbox, "small", "handler.py", files, config("max_batch_size: 3")),
        pack(shared_sandbox, "patient", "handler.py", files, config("max_batch_size: 2, max_batch_delay_ms: 30000", 2)),
        pack(shared_sandbox, "twins", "handler.py", files, config("processes: 2", 4)),
        pack(shared_sandbox, "strict", "handler.py", files, config("isolate_errors: false")),
    ]
    return shared_sandbox.start(*archives, options=OPEN)


def send(server: Server, model: str, number: int = 0, **wish: Any) -> Answer:
    return predict(server, model, json.dumps({"number": number, **wish}), Content_Type="application/json")


def held(server: Server, model: str, *wishes: dict[str, Any]) -> list[Answer]:
    """Return answers to requests that come while another one runs, and so make a batch."""

    def later(number: int, wish: dict[str, Any]) -> Answer:
        time.sleep(0.3)
        return send(server, model, number, **wish)

    calls = [lambda n=n, wish=wish: later(n, wish) for n, wish in enumerate(wishes)]
    return at_once([lambda: send(server, model, 99, sleep=1), *calls])[1:]


def test_one_process_for_all_workers(server: Server) -> None:
    answers = at_once([lambda n=n: send(server, "plain", n, sleep=0.05) for n in range(3 * WORKERS)])
    assert [answer.json()["number"] for answer in answers] == list(range(3 * WORKERS))
    assert [answer.header("x-number") for answer in answers] == [str(number) for number in range(3 * WORKERS)]
    assert len({answer.json()["pid"] for answer in answers}) == 1
    assert len(set(ready(server, "plain"))) == WORKERS
    # The model was loaded once, and the workers' own pids are other processes.
    assert model_log(server).count("loaded plain") == 1
    assert answers[0].json()["pid"] not in ready(server, "plain")


def test_waiting_requests_make_a_batch(server: Server) -> None:
    answers = held(server, "plain", *[{} for _ in range(WORKERS - 1)])
    assert [answer.json()["batch"] for answer in answers] == [WORKERS - 1] * (WORKERS - 1)
    assert len({answer.json()["call"] for answer in answers}) == 1


def test_no_batch_is_larger_than_its_limit(server: Server) -> None:
    answers = held(server, "small", *[{} for _ in range(7)])
    sizes = sorted(answer.json()["batch"] for answer in answers)
    assert sizes == [1, 3, 3, 3, 3, 3, 3]
    assert answers[0].json()["limit"] == 3


def test_a_bad_request_fails_alone(server: Server) -> None:
    wishes: list[dict[str, Any]] = [{}, {"raise": 1}, {"status": 404}, {"object": 1}, {}]
    answers = held(server, "plain", *wishes)
    assert [answer.status for answer in answers] == [200, 503, 404, 503, 200]
    assert "under the id" in answers[1].text()
    assert "Unsupported model output data type" in answers[3].text()
    assert [answers[index].json()["number"] for index in (0, 4)] == [0, 4]


def test_errors_are_not_isolated_where_the_model_does_not_want_it(server: Server) -> None:
    answers = held(server, "strict", {}, {"raise": 1}, {})
    assert [answer.status for answer in answers] == [503] * 3


def test_one_request_does_not_wait_for_others(server: Server) -> None:
    assert send(server, "plain").json()["batch"] == 1


def test_a_delay_lets_a_batch_fill(server: Server) -> None:
    """It ends as soon as the batch is full; the two come one after the other."""

    def later() -> Answer:
        time.sleep(0.5)
        return send(server, "patient", 2)

    answers = at_once([lambda: send(server, "patient", 1), later])
    assert [answer.json()["batch"] for answer in answers] == [2, 2]


def test_several_processes(server: Server) -> None:
    answers = at_once([lambda n=n: send(server, "twins", n, sleep=0.4) for n in range(4)])
    assert len({answer.json()["pid"] for answer in answers}) == 2
    assert model_log(server).count("loaded twins") == 2


def test_settings_of_threads(server: Server) -> None:
    assert send(server, "plain").json()["threads"] == 1


def test_prints_reach_the_log(server: Server) -> None:
    send(server, "plain", print="said by the shared process ü")
    wait_until(lambda: "MODEL_LOG - said by the shared process ü" in model_log(server), "the line")


def test_scaling_neither_loads_nor_starts_a_process_with_the_model(server: Server) -> None:
    pid = send(server, "plain").json()["pid"]
    for workers in (2, 12, WORKERS):
        assert scale(server, "plain", workers).status == 200
        wait_until(lambda workers=workers: len(ready(server, "plain")) == workers, f"{workers} workers")
        assert send(server, "plain").json()["pid"] == pid
    assert model_log(server).count("loaded plain") == 1


def test_two_versions_have_a_process_each(server: Server) -> None:
    files = {"handler.py": HANDLER}
    box = server.sandbox
    pack(box, "second", "handler.py", files, config("threads: 1", 2), modelVersion="2.0")
    assert register(server, "second.mar", "plain").status == 200
    first = send(server, "plain").json()["pid"]
    second = ask(server.inference, "/predictions/plain/2.0", '{"number": 1}', {"Content-Type": "application/json"})
    assert second.json()["pid"] != first
    ask(server.management, "/models/plain/2.0", method="DELETE")
    wait_until(lambda: second.json()["pid"] not in {process.pid for process in session(server)}, "its end")
    assert send(server, "plain").json()["pid"] == first


def test_the_last_worker_takes_the_process_with_it(server: Server) -> None:
    pid = send(server, "twins").json()["pid"]
    assert scale(server, "twins", 0).status == 200
    wait_until(lambda: pid not in {process.pid for process in session(server)}, "its end")
    assert scale(server, "twins", 2).status == 200
    assert send(server, "twins").json()["pid"] != pid


def test_a_load_that_fails_is_told_all_workers(server: Server) -> None:
    handler = "import time\ntime.sleep(1)\nprint('trying')\nraise RuntimeError('no licence')\n"
    archive = pack(server.sandbox, "bad", "handler.py", {"handler.py": handler}, config("threads: 1", 4))
    before = {process.pid for process in session(server)}
    refused = register(server, archive, "bad")
    assert refused.status == 500
    wait_until(lambda: "Failed to load model bad: RuntimeError: no licence" in model_log(server), "the reason")
    wait_until(lambda: {process.pid for process in session(server)} <= before, "the end of its processes")
    # The four were one attempt; the frontend may have begun another.
    assert model_log(server).count("trying") <= 2
    wait_until(lambda: ask(server.management, "/models/bad").status == 404, "the end of the registration")


def test_a_wrong_section_is_refused_with_its_line(server: Server) -> None:
    text = "minWorkers: 1\nmaxWorkers: 1\nbackend:\n  mode: joint\n"
    archive = pack(server.sandbox, "wrong", "handler.py", {"handler.py": HANDLER}, text)
    assert register(server, archive, "wrong").status == 500
    wait_until(lambda: "Failed to load model wrong: " in model_log(server), "the reason")
    wait_until(lambda: "model-config.yaml:4" in model_log(server).partition("Failed to load model wrong: ")[2], "where")


def test_the_pids_that_the_frontend_shows_are_alive_and_differ(server: Server) -> None:
    pids = [worker["pid"] for worker in describe(server, "small")["workers"]]
    assert len(set(pids)) == WORKERS
    assert set(pids) <= {process.pid for process in session(server)}
