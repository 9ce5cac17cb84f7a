"""The rules that TorchServe's frontend sets its workers, as far as the frontend cannot be made to show them.

A test plays the frontend. The others, and what all are for, are in test_worker_rules.py.
"""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest

from serving.control.configuration.ports import choose_free
from serving.protocol import Inference, Request
from tests.serving.worker.frontend import ONLY_TENSORS, WITHOUT_TORCH

from .conftest import Sandbox
from .direct import PLAIN, Worker, request
from .support import wait_until

# Importing torch takes each worker seconds.
pytestmark = [pytest.mark.timeout(400), pytest.mark.hides("torch")]


@pytest.fixture
def start(sandbox: Sandbox) -> Iterator[Callable[..., Worker]]:
    started: list[Worker] = []

    def begin(text: str, files: Mapping[str, str] | None = None, **more: Any) -> Worker:
        started.append(Worker(sandbox, {"handler.py": text, **(files or {})}, **more))
        return started[-1]

    yield begin
    for worker in started:
        worker.close()


# ---- 1: listens, then prints its pid, then that it has started -----------------------------------------------------


@pytest.mark.parametrize("kind", ["unix", "tcp"])
def test_rule_1_listens_then_tells_its_pid_then_that_it_has_started(start: Callable[..., Worker], kind: str) -> None:
    port = choose_free("127.0.0.1", 1)[0]
    worker = start(PLAIN, port=port if kind == "tcp" else None)
    wait_until(lambda: len(worker.lines) >= 2, "two lines")
    assert re.fullmatch(r"\[PID\]\d+", worker.lines[0])
    assert int(worker.lines[0][5:]) == worker.process.pid
    assert worker.lines[1] == "Torch worker started."
    if kind == "unix":
        worker.loaded()
    else:
        socket.create_connection(("127.0.0.1", port), 10).close()


# ---- 2: ends with its connection ---------------------------------------------------------------------------------


def test_rule_2_ends_when_the_connection_does(start: Callable[..., Worker]) -> None:
    for before in (lambda worker: worker.connect(), lambda worker: worker.loaded()):
        worker = start(PLAIN)
        before(worker)
        worker.sock.close()
        assert worker.process.wait(60) == 0


def test_rule_2_ends_with_the_frontend_while_the_handler_is_at_work(start: Callable[..., Worker]) -> None:
    worker = start("import time\ndef handle(data, context):\n    time.sleep(600 if data else 0)\n").loaded()
    worker.send(Inference((request(0),)))
    time.sleep(0.5)
    assert worker.process.stdin is not None
    worker.process.stdin.close()  # as when Java is killed
    worker.sock.close()
    assert worker.process.wait(60) in (0, -9)  # it ends its process group, which it is in


def test_rule_2_goes_on_when_nobody_reads_its_output(start: Callable[..., Worker]) -> None:
    worker = start("def handle(data, context):\n    print('x' * 100_000)\n    return data and ['y']\n")
    worker.loaded()
    worker.stop_reading()
    for number in range(3):
        assert worker.ask(request(number)).items[0].body == b"y"


# ---- 3: one frame for each message, every id answered, never another -----------------------------------------------

RESULTS = {
    "as it should be": ("[1, 2, 3]", 200),
    # Each alone is right.
    "one for all": ("[1]", 200),
    "too few": ("[]", 503),
    "too many": ("[1, 2, 3, 4]", 503),
    "no list": ("'abc'", 503),
    "nothing": ("None", 503),
    "one that is no json": ("[1, object(), 3]", 200),
    "error": ("[][1]", 503),
    "no memory": ("(_ for _ in ()).throw(MemoryError())", 507),
}


@pytest.fixture(scope="module")
def obedient(shared_sandbox: Sandbox) -> Iterator[Worker]:
    """Yield a worker whose handler returns what its first request asks for."""
    handler = "def handle(data, context):\n    return None if data is None else eval(data[0]['body'])\n"
    files = {"handler.py": handler, **WITHOUT_TORCH}
    worker = Worker(shared_sandbox, files).loaded()
    yield worker
    worker.close()


@pytest.mark.parametrize(("result", "status"), RESULTS.values(), ids=RESULTS.keys())
def test_rule_3_every_request_is_answered_once(obedient: Worker, result: str, status: int) -> None:
    worker, wish = obedient, (result.encode(), "text/plain")
    reply = worker.ask(*(request(number, *wish) for number in range(3)))
    assert reply.code == 200
    assert [item.request_id for item in reply.items] == ["id-0", "id-1", "id-2"]
    assert reply.items[0].status == reply.items[2].status == status
    assert worker.is_silent()
    alone = worker.ask(request(7, *wish))
    assert alone.code != 200 or [item.request_id for item in alone.items] == ["id-7"]
    assert worker.is_silent()


def test_rule_3_parts_for_others_are_not_sent(start: Callable[..., Worker]) -> None:
    """A handler that keeps the ids of an earlier batch and streams to them."""
    worker = start(
        "from ts.handler_utils.utils import send_intermediate_predict_response\n"
        "def handle(data, context):\n"
        "    if data is None:\n        return None\n"
        "    ids = {**context.request_ids, **{0: 'id-of-yesterday'}} if len(data) == 1 else context.request_ids\n"
        "    send_intermediate_predict_response(['part'] * len(data), ids, 'part', 200, context)\n"
        "    return ['end'] * len(data)\n",
        ONLY_TENSORS,
    ).loaded()
    worker.send(Inference((request(0), request(1))))
    first, last = worker.receive(), worker.receive()
    assert first is not None
    assert last is not None
    assert [item.request_id for item in (*first.items, *last.items)] == ["id-0", "id-1"] * 2
    reply = worker.ask(request(2))
    assert [item.request_id for item in reply.items] == ["id-2"]
    assert "ts_stream_next" not in reply.items[0].headers
    assert worker.is_silent()


# ---- 4: bytes are counted, and nothing is sent that the frontend cannot ---------------------------------------------


def test_rule_4_lengths_are_those_of_bytes(start: Callable[..., Worker]) -> None:
    worker = start(
        "def handle(data, context):\n"
        "    if data is None:\n        return None\n"
        "    context.set_response_status(200, 'größer', 0)\n"
        "    context.set_response_content_type(0, 'text/größer')\n"
        "    context.set_response_header(0, 'x-größe', 'ß')\n"
        "    context.set_response_header(0, 'x-size', 'ß')\n"
        "    return ['größer', 'next']\n"
    ).loaded()
    first, second = worker.ask(request(0), request(1)).items
    assert (first.phrase, first.content_type, bytes(first.body).decode()) == ("größer", "text/größer", "größer")
    assert dict(first.headers) == {"content-type": "text/größer", "x-size": "ß"}
    assert (second.request_id, second.body) == ("id-1", b"next")


# ---- 7: loading --------------------------------------------------------------------------------------------------


def test_rule_7_a_load_that_fails_is_told_in_the_log_then_the_worker_ends(start: Callable[..., Worker]) -> None:
    """With an answer the frontend would not take back the registration: it would be interrupted in killing us."""
    worker = start("import no_such_module\n")
    worker.connect().send(worker.load)
    assert worker.receive() is None
    assert worker.process.wait(60) == 1
    wait_until(lambda: not worker.is_read(), "the whole output")
    text = "\n".join(worker.lines)
    traceback, found, _ = text.partition(
        "\nFailed to load model direct: ModuleNotFoundError: No module named 'no_such_module'\n"
    )
    assert found
    assert "Traceback (most recent call last):" in traceback  # first, as readers of TorchServe's logs expect


def test_rule_7_a_load_without_memory(start: Callable[..., Worker]) -> None:
    """Clients see its status, so it has an answer."""
    worker = start("def handle(data, context):\n    raise MemoryError('weights')\n")
    worker.connect().send(worker.load)
    reply = worker.receive()
    assert reply is not None
    assert reply.code == 507
    worker.sock.close()
    assert worker.process.wait(60) == 1


def test_rule_7_asynchronous_workers_answer_late_and_stay(start: Callable[..., Worker]) -> None:
    worker = start("async def handle(data, context):\n    return ['x']\n", asynchronous=True)
    worker.connect()
    begin = time.monotonic()
    worker.send(worker.load)
    reply = worker.receive()
    assert reply is not None
    assert reply.code == 200
    assert time.monotonic() - begin >= 0.1
    assert bytes(worker.ask(request(0)).items[0].body) == b"x"


@pytest.mark.slow  # waits; tests/serving/worker/modes/test_asynchronous.py has it for a moment
def test_rule_7_asynchronous_workers_stay_when_they_cannot_load(start: Callable[..., Worker]) -> None:
    worker = start("import no_such_module\n", asynchronous=True)
    worker.connect().send(worker.load)
    reply = worker.receive()
    assert reply is not None
    assert reply.code == 500
    assert worker.is_silent(6.0)
    assert worker.process.poll() is None
    worker.sock.close()
    worker.process.wait(60)


# ---- 8: ranks ----------------------------------------------------------------------------------------------------


def test_rule_8_another_rank_listens_elsewhere_and_never_answers(start: Callable[..., Worker]) -> None:
    worker = start(
        "from ts.handler_utils.utils import send_intermediate_predict_response as send\n"
        "def handle(data, context):\n"
        "    if data is None:\n        return None\n"
        "    print('handled', data)\n"
        "    send(['part'], context.request_ids, 'part', 200, context)\n"
        "    return ['x']\n",
        ONLY_TENSORS,
        LOCAL_RANK="1",
    )
    assert worker.path.name == ".ts.sock.9001"
    worker.loaded()
    worker.send(Inference((request(0),)))
    wait_until(lambda: any(line.startswith("handled") for line in worker.lines), "the handler's work")
    assert worker.is_silent(1.0)


# ---- 9: what goes in and out ---------------------------------------------------------------------------------------


def test_rule_9_without_decoding(start: Callable[..., Worker]) -> None:
    worker = start(PLAIN, TS_DECODE_INPUT_REQUEST="false").loaded()
    assert worker.ask(request(0, b"{}", "application/json")).items[0].body == b"{'body': bytearray(b'{}')}"


# ---- 10: what may be missing ---------------------------------------------------------------------------------------


def test_rule_10_batches_and_requests_without_content(start: Callable[..., Worker]) -> None:
    worker = start(PLAIN).loaded()
    empty = worker.ask()
    assert (empty.code, empty.items) == (200, ())
    assert worker.ask(Request("bare")).items[0].body == b"{}"


def test_rule_10_a_function_is_told_of_the_load_without_data_or_manifest(start: Callable[..., Worker]) -> None:
    worker = start(
        "def handle(data, context):\n"
        "    if data is None:\n        context.seen = ['load']\n        return None\n"
        "    return [context.seen + [context.manifest, context.model_yaml_config]]\n"
    ).loaded()
    assert json.loads(worker.ask(request(0)).items[0].body) == ["load", None, {}]


def test_rule_10_a_handler_that_is_not_named(start: Callable[..., Worker]) -> None:
    """The frontend then sends the path of the model in its place."""
    worker = start(PLAIN, handler=None)
    worker.connect().send(worker.load)
    assert worker.receive() is None
    wait_until(lambda: any("the manifest names no handler" in line for line in worker.lines), "the reason")
