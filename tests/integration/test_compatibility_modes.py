"""Forms of handlers, batches, streams and sequences on TorchServe's worker and on ours, under the same frontend.

No model here needs torch.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from .conftest import Server, usual_frontend
from .pairs import Pair, light_sandbox, servers, source
from .support import (
    Answer,
    ask,
    at_once,
    converse,
    grpc,
    model_log,
    pack,
    predict,
    prediction_request,
    ready,
    register,
    wait_until,
)

FORMS = {
    "form_name": "forms",
    "form_file": "forms.py",
    "form_path": "some/where/forms.py",
    "form_function": "forms:special",
    "form_file_function": "forms.py:special",
    "form_path_function": "where/forms.py:special",
}
# Each takes a worker of TorchServe's, which takes seconds: the rest is registered by the slow tests.
FEW = ("form_name", "form_file_function")
# A path alone has the handler that streams.
BATCHED = "batchSize: 4\nmaxBatchDelay: 2000\nminWorkers: 1\nmaxWorkers: 1\n"
JSON = {"Content_Type": "application/json"}
# A place in the batch for each sequence of the tests: until it is idle for ten seconds, it is nobody else's.
SEQUENCES = (
    "sequenceBatching: true\nbatchSize: 4\nmaxBatchDelay: 20\n"
    "sequenceMaxIdleMSec: 10000\nmaxNumSequence: 8\nmaxSequenceJobQueueSize: 8\n"
)
CONTINUOUS = "continuousBatching: true\nbatchSize: 2\nmaxBatchDelay: 20\n"


@pytest.fixture(scope="module")
def pair(request: pytest.FixtureRequest, java_options: str) -> Iterator[Pair]:
    box = light_sandbox(java_options)
    archives = [
        pack(box, "batch", "batch", source("batch"), BATCHED),
        pack(box, "streaming", "some/where/streaming.py", source("streaming")),
        pack(box, "sequence", "sequence.py", source("sequence"), SEQUENCES),
        pack(box, "continuous", "continuous.py", source("continuous"), CONTINUOUS),
        *(pack(box, name, form, source("forms")) for name, form in FORMS.items() if name in FEW),
    ]
    with servers(box, request, archives, box.file("config.properties", "default_response_timeout=60\n")) as started:
        yield started


@pytest.mark.parametrize(
    "name", [name if name in FEW else pytest.param(name, marks=pytest.mark.slow) for name in FORMS]
)
def test_functions(pair: Pair, name: str) -> None:
    if name not in FEW:
        archive = pack(pair.ours.sandbox, name, FORMS[name], source("forms"))
        pair.both(lambda server: register(server, archive, name))
    answer = pair.same(lambda server: predict(server, name, "x"))
    function = "special" if ":" in FORMS[name] else "handle"
    assert answer.json() == {"function": function, "loaded": function, "own": True}


def test_a_batch(pair: Pair) -> None:
    wishes = [
        {"number": 0},
        {"number": 1, "status": 404, "phrase": "None", "headers": {"x-a": "1"}},
        {"number": 2, "type": "text/x-json"},
        {"number": 3, "status": 201, "headers": {"x-a": "2", "x-b": "3"}},
    ]

    def ask_all(server: Server) -> list[Answer]:
        return batch(server, *wishes)

    answers = pair.same(ask_all)
    assert [answer.json() for answer in answers] == [{"batch": 4, "number": number} for number in range(4)]
    assert [answer.status for answer in answers] == [200, 404, 200, 201]


# ---- streams and sequences ---------------------------------------------------------------------------------------


def curl(server: Server, path: str, body: str) -> str:
    """Return head and body of an answer as they come over the wire, in its chunks, without its id and its times."""
    command = ("curl", "-sS", "-N", "--raw", "-i", "-m", "60", "-d", body, "-H", "Content-Type: text/plain")
    done = server.sandbox.run(*command, server.inference + path, timeout=90.0).ok()
    return re.sub(r"(x-request-id|server-timing): .*\n", "", done.out)


@pytest.mark.parametrize("parts", [0, 1, 3])
def test_a_stream(pair: Pair, parts: int) -> None:
    text = pair.same(lambda server: curl(server, "/predictions/streaming", str(parts)))
    head, _, body = text.partition("\n\n")
    assert [line for line in body.splitlines() if "part " in line] == [f"part {number} ü" for number in range(parts)]
    assert "the end" in body
    assert f"x-parts: {parts}" in head
    assert ("chunked" in head) == (parts > 0)


@pytest.mark.parametrize("parts", [1, 3])
def test_a_stream_over_grpc(pair: Pair, parts: int) -> None:
    request = prediction_request("streaming", {"parts": str(parts).encode()})
    answer = pair.same(lambda server: grpc(server, "StreamPredictions", request))
    assert answer.status == 0
    texts = [text.decode() for text in answer.predictions]
    assert texts == [f"part {number} ü\n" for number in range(parts)] + ["the end\n"]


def test_sequences(pair: Pair) -> None:
    def add(server: Server, sequence: str, body: str) -> Answer:
        headers = {"ts_request_sequence_id": sequence, "Content-Type": "text/plain"}
        return ask(server.inference, "/predictions/sequence", body, headers)

    def conversation(server: Server) -> list[Answer]:
        turns = [("a", "1"), ("b", "10"), ("a", "2"), ("b", "bad"), ("b", "20"), ("a", "3")]
        return [add(server, sequence, body) for sequence, body in turns]

    answers = pair.same(conversation)
    assert [answer.json()["sum"] for answer in answers if answer.status == 200] == [1, 10, 3, 30, 6]
    assert [answer.status for answer in answers] == [200, 200, 200, 400, 200, 200]
    assert answers[0].header("ts_request_sequence_id") == "a"


def test_a_sequence_that_the_frontend_names(pair: Pair) -> None:
    answers = pair.both(lambda server: predict(server, "sequence", "5", Content_Type="text/plain"))
    for answer in answers:
        assert answer.json() == {"sum": 5, "started": "true"}
        assert (answer.header("ts_request_sequence_id") or "").startswith("ts-seq-")


def test_a_sequence_over_grpc(pair: Pair) -> None:
    requests = [prediction_request("sequence", {"data": text}, "over grpc") for text in (b"1", b"2", b"3")]
    answers = pair.same(lambda server: converse(server, *requests))
    assert [json.loads(text)["sum"] for text in answers] == [1, 3, 6]


def test_continuous_batching(pair: Pair) -> None:
    def count(server: Server) -> list[str]:
        return at_once([lambda n=n: curl(server, "/predictions/continuous", str(n)) for n in (2, 5, 3)])

    texts = pair.same(count)
    for n, text in zip((2, 5, 3), texts, strict=True):
        assert re.findall(r"\d of \d", text) == [f"{step} of {n}" for step in range(1, n + 1)]


# ---- what differs on purpose -------------------------------------------------------------------------------------


def batch(server: Server, *wishes: dict[str, Any]) -> list[Answer]:
    """Return the answers to requests that make one batch."""

    def send(wish: dict[str, Any]) -> Answer:
        return predict(server, "batch", json.dumps(wish), **JSON)

    calls = [lambda wish=wish: send(wish) for wish in wishes]
    if server.record["frontend"] == "java":  # it holds a batch open until it is full
        return at_once(calls)
    with ThreadPoolExecutor(1) as pool:  # what waits for a busy worker is one
        busy = pool.submit(send, {"number": -1, "sleep": 1})
        time.sleep(0.4)
        answers = at_once(calls)
    assert busy.result().status == 200
    return answers


def test_differs_a_request_that_fails_does_not_fail_its_neighbours(pair: Pair) -> None:
    wishes = ({"number": 0}, {"number": 1, "raise": "this one"}, {"number": 2}, {"number": 3})
    stock, ours = pair.both(lambda server: batch(server, *wishes))
    assert [answer.status for answer in stock] == [503] * 4
    assert [answer.status for answer in ours] == [200, 503, 200, 200]
    # They ran again, one by one.
    assert ours[0].json() == {"batch": 1, "number": 0}
    assert "running its requests one by one" in model_log(pair.ours)


def test_differs_an_answer_that_cannot_be_sent_fails_alone_and_says_why(pair: Pair) -> None:
    wishes = ({"number": 0}, {"number": 1, "object": True}, {"number": 2}, {"number": 3})
    stock, ours = pair.both(lambda server: batch(server, *wishes))
    assert [answer.status for answer in stock] == [503] * 4
    assert stock[0].json()["message"] == "Unsupported model output data type."
    assert [answer.status for answer in ours] == [200, 503, 200, 200]
    assert ours[0].json() == {"batch": 4, "number": 0}
    assert ours[1].json()["message"].startswith("Unsupported model output data type. ")
    assert "object" in ours[1].json()["message"]


def test_differs_a_grpc_stream_of_a_handler_that_does_not_stream(pair: Pair) -> None:
    """TorchServe's worker is killed by it, by TorchServe's frontend."""
    request = prediction_request("form_name", {"data": b"x"})
    (before,) = ready(pair.stock, "form_name")
    stock, ours = pair.both(lambda server: grpc(server, "StreamPredictions", request))
    assert ours.status == 0
    assert len(ours.predictions) == 1
    if usual_frontend() == "python":
        assert (stock.status, len(stock.predictions), ready(pair.stock, "form_name")) == (0, 1, [before])
        return
    assert stock.status != 0
    wait_until(lambda: ready(pair.stock, "form_name") not in ([], [before]), "TorchServe's worker again")


def test_differs_a_load_failure_names_its_first_cause(pair: Pair) -> None:
    code = "import no_such_module\ndef handle(data, context):\n    return data\n"
    archive = pack(pair.ours.sandbox, "bad", "bad.py", {"bad.py": code})
    stock, ours = pair.both(lambda server: register(server, archive, "bad"))
    assert stock.status == ours.status == 500
    wait_until(lambda: "No module named 'no_such_module'" in model_log(pair.stock), "the traceback")
    wait_until(lambda: "hint: is no_such_module installed" in model_log(pair.ours), "the block")
    log = model_log(pair.ours).partition("Failed to load model bad: ")[2]
    assert log.startswith("ModuleNotFoundError: No module named 'no_such_module'")
    assert "in bad.py:1 (<module>)" in log
    assert "hint: is no_such_module installed" in log
    # TorchServe's worker looks for a built-in handler of that name, and complains that there is none.
    assert "ts.torch_handler.bad" in model_log(pair.stock)
    assert "ts.torch_handler.bad" not in model_log(pair.ours)
