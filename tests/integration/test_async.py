"""``asyncCommunication: true`` under the real frontend, and the same handler under TorchServe's own worker.

Not everything is asked of the stock worker: an error there goes to all requests that it has ever got, it never gives
up a request, and the frontend keeps each request with its content.
"""

from __future__ import annotations

import http.client
import json
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from .conftest import OPEN, Sandbox, Server, usual_frontend
from .support import (
    Answer,
    ask,
    at_once,
    describe,
    grpc,
    model_log,
    pack,
    predict,
    prediction_request,
    ready,
    wait_until,
)

pytestmark = pytest.mark.hides("torchvision")

HANDLER = """
import asyncio
import json
import time

from ts.handler_utils.utils import send_intermediate_predict_response
from ts.service import PredictionException


class Handler:
    def initialize(self, context):
        time.sleep(0.3)  # the frontend loses a worker of TorchServe that has loaded within 100 ms
        self.loop = asyncio.get_event_loop()
        self.loop.run_until_complete(asyncio.sleep(0))
        self.events = {}
        self.inside = 0

    def event(self, name):
        return self.events.setdefault(name, asyncio.Event())

    async def handle(self, data, context):
        if context.get_request_header(0, "describe") == "True":
            return [{"what": "told"}]
        body = data[0].get("body")
        if isinstance(body, (bytes, bytearray)):
            if len(body) > 1000:
                return [str(len(body))]
            body = json.loads(bytes(body))
        if "of" in body:  # answers when so many are here
            self.inside += 1
            if self.inside == body["of"]:
                self.inside = 0
                self.event("full").set()
            await self.event("full").wait()
        if "after" in body:
            await self.event(body["after"]).wait()
        for number in range(body.get("parts", 0)):
            part = f"part {number} of {body['name']}\\n"
            send_intermediate_predict_response([part], context.request_ids, "part", 200, context)
            await self.event(body.get("between", "full")).wait()
        if "raise" in body:
            raise PredictionException("as wished", body["raise"])
        if "fail" in body:
            raise KeyError("secret")
        if "block" in body:
            time.sleep(600)
        if "hang" in body:
            await self.hang()
        context.set_response_header(0, "x-name", body["name"])
        self.event(body["name"]).set()
        return [{"name": body["name"], "loop": asyncio.get_running_loop() is self.loop}]

    async def hang(self):
        await asyncio.sleep(600)
"""
BROKEN = "import a_module_that_is_not_there\n"
CONFIG = (
    "minWorkers: 1\nmaxWorkers: 1\nbatchSize: 1\nasyncCommunication: true\nparallelType: custom\nparallelLevel: 1\n"
)


@pytest.fixture(scope="module")
def ours(shared_sandbox: Sandbox) -> Server:
    models = [pack(shared_sandbox, "aside", "handler.py", {"handler.py": HANDLER}, CONFIG)]
    models.append(
        pack(shared_sandbox, "hurried", "handler.py", {"handler.py": HANDLER}, CONFIG + "responseTimeout: 1\n")
    )
    # Little memory, so that it is seen if the frontend keeps what has been answered.
    config = shared_sandbox.file("small.properties", "vmargs=-Xmx160m\n")
    return shared_sandbox.start(*models, name="ours", options=("--ts-config", config, *OPEN))


@pytest.fixture(scope="module")
def stock(shared_sandbox: Sandbox) -> Server:
    model = pack(shared_sandbox, "aside", "handler.py", {"handler.py": HANDLER}, CONFIG)
    for _ in range(2):
        started = shared_sandbox.torchmar(
            *("start", model, "--model-store", shared_sandbox.store, "--port", "auto", "--name", "stock"),
            *("-q", "--stock-worker", "--timeout", "60"),
        )
        if started.code == 0:  # the frontend loses TorchServe's asynchronous worker now and then
            return shared_sandbox.server("stock")
    return shared_sandbox.start(model, name="stock", options=("--stock-worker",))


# That TorchServe's worker gives the very answers which are expected here is shown by the slow tests.
@pytest.fixture(params=["ours", pytest.param("stock", marks=pytest.mark.slow)])
def either(request: pytest.FixtureRequest) -> Server:
    found: Server = request.getfixturevalue(request.param)
    return found


def send(server: Server, name: str, model: str = "aside", **wish: Any) -> Answer:
    return predict(server, model, json.dumps({"name": name, **wish}), Content_Type="application/json")


def body(name: str) -> dict[str, Any]:
    return {"name": name, "loop": True}


# ---- with both workers -----------------------------------------------------------------------------------------------


def test_requests_run_side_by_side(either: Server) -> None:
    names = [f"guest {number}" for number in range(8)]
    got = at_once([lambda name=name: send(either, name, of=8) for name in names])  # type: ignore[misc]
    assert [answer.status for answer in got] == [200] * 8
    assert [answer.json() for answer in got] == [body(name) for name in names]
    assert [answer.header("x-name") for answer in got] == names


def test_an_answer_does_not_wait_for_earlier_requests(either: Server) -> None:
    """Each waits for the one after it."""
    calls = [lambda n=n: send(either, f"link {n}", **({} if n == 5 else {"after": f"link {n + 1}"})) for n in range(6)]  # type: ignore[misc]
    assert [answer.json() for answer in at_once(calls)] == [body(f"link {number}") for number in range(6)]


def test_parts_reach_the_client_as_they_are_sent(either: Server) -> None:
    connection = http.client.HTTPConnection(urlsplit(either.inference).netloc, timeout=60)
    wish = {"name": "stream", "parts": 2, "between": "released"}
    connection.request("POST", "/predictions/aside", json.dumps(wish), {"Content-Type": "application/json"})
    reply = connection.getresponse()
    assert reply.getheader("Transfer-Encoding") == "chunked"
    assert reply.read1() == b"part 0 of stream\n"
    assert send(either, "released").status == 200
    assert reply.read() == b"part 1 of stream\n" + json.dumps(body("stream"), indent=2).encode()
    connection.close()


def test_parts_with_curl(either: Server) -> None:
    wish = json.dumps({"name": "curl", "parts": 3, "between": "free"})
    send(either, "free")
    options = ("-N", "-H", "Content-Type: application/json", "-d", wish)
    parts = "".join(f"part {number} of curl\n" for number in range(3))
    assert either.curl("/predictions/aside", *options) == (200, parts + json.dumps(body("curl"), indent=2))


def test_a_description(either: Server) -> None:
    assert describe(either, "aside", "?customized=true")["customizedMetadata"] == {"what": "told"}


def test_grpc(either: Server) -> None:
    send(either, "open")
    wish = {"name": "call", "between": "open"}
    answer = grpc(either, "Predictions", prediction_request("aside", {"body": json.dumps(wish).encode()}))
    assert (answer.status, [json.loads(part) for part in answer.predictions]) == (0, [body("call")])
    wish["parts"] = 2  # type: ignore[assignment]
    answer = grpc(either, "StreamPredictions", prediction_request("aside", {"body": json.dumps(wish).encode()}))
    *parts, last = answer.predictions
    assert (answer.status, parts) == (0, [b"part 0 of call\n", b"part 1 of call\n"])
    assert json.loads(last) == body("call")


@pytest.mark.slow  # with TorchServe's worker, too
def test_both_answer_alike(ours: Server, stock: Server) -> None:
    assert send(ours, "same") == send(stock, "same")


# ---- with ours -------------------------------------------------------------------------------------------------------


def test_a_request_fails_alone(ours: Server) -> None:
    pid = ready(ours, "aside")
    wishes: list[dict[str, Any]] = [{}, {"raise": 418}, {"fail": True}, {}]
    calls = [lambda w=wish: send(ours, "one", of=4, **w) for wish in wishes]  # type: ignore[misc]
    fine, own, unknown, also_fine = at_once(calls)
    assert (fine.status, also_fine.status) == (200, 200)
    assert (own.status, own.json()["message"]) == (418, "as wished")
    assert unknown.status == 503
    error_id = unknown.json()["message"].split()[-1].rstrip(".")
    wait_until(
        lambda: error_id in model_log(ours) and "KeyError: 'secret'" in model_log(ours), "the log has the reason"
    )
    answer = grpc(ours, "Predictions", prediction_request("aside", {"body": b'{"name": "x", "raise": 418}'}))
    if usual_frontend() == "java":  # which passes on what an item holds as an answer
        assert json.loads(answer.predictions[0])["message"] == "as wished"
    else:
        assert (answer.status, answer.message.split("%0A")[0]) == (9, "as wished")
    assert ready(ours, "aside") == pid


def test_connections_that_are_kept_carry_whole_answers(ours: Server) -> None:
    """The frame that makes the frontend forget a request must leave nothing in what its client gets."""
    send(ours, "pass")

    def client(number: int) -> int:
        connection = http.client.HTTPConnection(urlsplit(ours.inference).netloc, timeout=60)
        connection.connect()
        sock = connection.sock
        for turn in range(60):
            name = f"client {number} turn {turn}"
            parts = 2 if (number + turn) % 3 == 0 else 0
            wish = json.dumps({"name": name, "parts": parts, "between": "pass"})
            connection.request("POST", "/predictions/aside", wish, {"Content-Type": "application/json"})
            reply = connection.getresponse()
            content = "".join(f"part {part} of {name}\n" for part in range(parts))
            content += json.dumps(body(name), indent=2)
            assert (reply.status, reply.read().decode()) == (200, content)
            assert (reply.getheader("Transfer-Encoding"), reply.getheader("x-name")) == (
                ("chunked", None) if parts else (None, name)
            )
            if turn % 10 == 0:  # what the frontend answers by itself
                connection.request("GET", "/ping")
                assert json.loads(connection.getresponse().read())["status"] == "Healthy"
            assert connection.sock is sock
        connection.close()
        return 60

    assert at_once([lambda n=n: client(n) for n in range(6)]) == [60] * 6  # type: ignore[misc]


def test_the_frontend_forgets_what_has_been_answered(ours: Server) -> None:
    content = b"x" * 4_000_000  # 200 MB in all, of 160
    connection = http.client.HTTPConnection(urlsplit(ours.inference).netloc, timeout=60)
    for _ in range(50):
        connection.request("POST", "/predictions/aside", content, {"Content-Type": "application/octet-stream"})
        reply = connection.getresponse()
        assert (reply.status, reply.read()) == (200, b"4000000")
    connection.close()


def test_a_request_that_takes_too_long_fails_alone(ours: Server) -> None:
    pid = ready(ours, "hurried")
    hung, fine = at_once([lambda: send(ours, "late", "hurried", hang=True), lambda: send(ours, "fast", "hurried")])
    message = "The handler gave no answer within 1 s (responseTimeout in model-config.yaml)."
    assert (hung.status, hung.json()["message"], fine.status) == (500, message, 200)
    wait_until(lambda: "await asyncio.sleep(600)" in model_log(ours), "the log tells where it hangs")
    assert ready(ours, "hurried") == pid


def test_a_worker_whose_loop_hangs_is_replaced(ours: Server) -> None:
    (pid,) = ready(ours, "hurried")
    answer = send(ours, "blocks", "hurried", block=True)
    assert answer.status == 500
    # A request that came between the two workers is lost, in the frontend: none is sent before.
    wait_until(lambda: describe(ours, "hurried")["workers"][0]["pid"] not in (pid, -1), "there is another worker")
    time.sleep(1)
    answer = wait_until(
        lambda: ask(ours.inference, "/predictions/hurried", '{"name": "again"}', timeout=20), "it serves"
    )
    assert answer.json() == body("again")


def test_why_a_model_cannot_be_loaded(ours: Server, tmp_path: Path) -> None:
    archive = pack(ours.sandbox, "broken", "handler.py", {"handler.py": BROKEN}, CONFIG)
    begin = time.monotonic()
    refused = ours.sandbox.torchmar("register", archive, "--name", "ours")
    assert refused.code != 0
    assert "No module named 'a_module_that_is_not_there'" in refused.err
    assert time.monotonic() - begin < 30  # not the frontend's patience with a worker, 120 s
    assert ask(ours.management, "/models/broken").status == 404
    assert send(ours, "still").status == 200
