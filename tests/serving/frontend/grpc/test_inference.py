"""The inference API with a played engine behind a real server."""

from __future__ import annotations

import json
import threading
import time
from typing import Any

import grpc
import pytest

from serving.frontend.engine import Priority
from serving.frontend.grpc import inference
from tests.serving.frontend.listening_app import wait_for

from .client import Client, outcome
from .conftest import Reached


def test_ping(server: Reached, call: Client) -> None:
    assert call("Ping").health == '{\n  "status": "Healthy"\n}'
    server.engine.engine.healthy = False
    assert call("Ping").health == '{\n  "status": "Unhealthy"\n}'
    server.engine.engine.healthy = True


def test_a_prediction(server: Reached, call: Client) -> None:
    answer = call("Predictions", model_name="echo", model_version="2.0", input={"a": b"\xff\0", "b": b""})
    echo = json.loads(answer.prediction)
    assert (echo["version"], echo["row"]) == ("2.0", {"a": ["bytearray", "\xff\0"], "b": ["bytearray", ""]})
    asked = server.engine.calls[-1]
    # By this a worker knows that it is asked over gRPC.
    assert asked.request.headers == {}
    assert {one.content_type for one in asked.request.parameters} == {""}
    assert (asked.version, asked.priority) == ("2.0", Priority.NORMAL)
    assert json.loads(call("Predictions", model_name="echo").prediction)["version"] == "1.0"
    assert server.engine.calls[-1].version is None
    assert server.engine.calls[-1].request.request_id != asked.request.request_id


@pytest.mark.parametrize("method", ["Predictions", "StreamPredictions"])
@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({}, "Parameter model_name is required.\nBadRequestException.()"),
        ({"model_name": "n"}, "Model not found: n\norg.pytorch.serve.archive.model.ModelNotFoundException"),
        ({"model_name": "echo", "model_version": "9"}, "Model version: 9 does not exist for model: echo\norg."),
        ({"model_name": "idle"}, 'Model "idle" has no worker to serve inference request.'),
    ],
)
def test_what_cannot_be_asked_is_internal(call: Client, method: str, fields: dict[str, str], text: str) -> None:
    code, found = call.outcome(method, **fields)
    assert code == "INTERNAL"
    assert found.startswith(text)


@pytest.mark.parametrize("method", ["Predictions", "StreamPredictions"])
def test_an_answer_that_is_an_error_has_its_status(call: Client, method: str) -> None:
    fields: Any = {"model_name": "echo", "input": {"mode": b"status:404"}}
    code, text = call.outcome(method, **fields)
    assert code == "NOT_FOUND"
    assert '"version": "1.0"' in text
    assert text.endswith("\norg.pytorch.serve.http.InternalServerException")
    assert call.outcome(method, model_name="echo", input={"mode": b"status:302"})[0] == "OK"


def test_a_stream(server: Reached, call: Client) -> None:
    parts = [one.prediction for one in call("StreamPredictions", model_name="stream")]
    assert parts == [b"part0", b"part1", b"part2", b"", b"last"]
    assert call("Predictions", model_name="stream").prediction == b"".join(parts)
    assert len(_all(call("StreamPredictions", model_name="echo"))) == 1
    answer = call("StreamPredictions", model_name="stream", input={"mode": b"break"})
    assert next(answer).prediction == b"part0"
    code, text = outcome(lambda: answer)
    assert (code, text.splitlines()[0]) == ("INTERNAL", "Worker died.")


def test_a_stream_whose_client_leaves_is_closed(server: Reached, call: Client) -> None:
    before = server.engine.closed
    answer = call("StreamPredictions", model_name="stream", input={"mode": b"endless"})
    assert next(answer).prediction == b"part0"
    answer.cancel()
    assert wait_for(lambda: server.engine.closed == before + 1)


def test_who_reads_nothing_is_given_up(server: Reached, call: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inference, "READING_S", 0.3)
    before = server.engine.closed
    answer = call("StreamPredictions", model_name="stream", input={"mode": b"endless"})
    assert wait_for(lambda: server.engine.closed == before + 1)
    code, text = outcome(lambda: answer)
    assert (code, text.splitlines()[0]) == ("FAILED_PRECONDITION", "nothing of the answer was read in 0.3 s")


def test_who_reads_nothing_of_a_conversation_is_given_up(
    server: Reached, call: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inference, "READING_S", 0.3)
    before = server.engine.cancelled, server.engine.closed
    talk = Conversation(call)
    talk.send(model_name="echo", sequence_id="s", input={"mode": b"wait"})
    talk.send(model_name="stream", sequence_id="s", input={"mode": b"endless"})
    assert wait_for(lambda: (server.engine.cancelled, server.engine.closed) == (before[0] + 1, before[1] + 1))
    code, text = outcome(lambda: talk.answers)
    assert (code, text.splitlines()[0]) == ("FAILED_PRECONDITION", "nothing of the answer was read in 0.3 s")
    talk.end()


def test_too_many_inputs(call: Client) -> None:
    """A worker would end with a message that has more than it knows how to hold."""
    inputs = {str(number): b"" for number in range(10_000)}
    assert call("Predictions", model_name="echo", input=inputs).prediction
    code, text = call.outcome("Predictions", model_name="echo", input=inputs | {"one": b"more"})
    assert (code, text.splitlines()[0][:43]) == ("INVALID_ARGUMENT", "the request has more than 10000 inputs; sen")


def test_a_stream_that_is_too_long_for_one_message(server: Reached, call: Client) -> None:
    """It is not kept without bound."""
    before = server.engine.closed
    code, text = call.outcome("Predictions", model_name="stream", input={"mode": b"endless"})
    assert (code, "too much for one piece" in text) == ("INTERNAL", True)
    assert server.engine.closed == before + 1


def test_a_call_that_is_cancelled_is_not_computed_for(server: Reached, call: Client) -> None:
    before = server.engine.cancelled
    pending = call.callable("Predictions").future(
        call.request("Predictions", model_name="echo", input={"mode": b"wait"}), timeout=60
    )
    count = len(server.engine.calls)
    assert wait_for(lambda: len(server.engine.calls) > count - 1)
    time.sleep(0.1)
    pending.cancel()
    assert wait_for(lambda: server.engine.cancelled == before + 1)


def test_the_deadline_is_the_calls(server: Reached, call: Client) -> None:
    before = server.engine.cancelled
    code, _ = call.outcome("Predictions", model_name="echo", input={"mode": b"wait"}, timeout=0.3)
    assert code == "DEADLINE_EXCEEDED"
    assert wait_for(lambda: server.engine.cancelled == before + 1)

    async def now() -> float:
        import asyncio

        return asyncio.get_running_loop().time()

    call("Predictions", model_name="echo", timeout=50)
    left = server.engine.calls[-1].deadline - server.do(now())
    assert 0 < left < 51
    call("Predictions", model_name="echo", timeout=None)
    assert server.engine.calls[-1].deadline is None


def test_the_priority_is_in_the_metadata(server: Reached, call: Client) -> None:
    call("Predictions", model_name="echo", metadata=[("x-request-priority", "high")])
    assert server.engine.calls[-1].priority == Priority.HIGH
    code, text = call.outcome("Predictions", model_name="echo", metadata=[("x-request-priority", "top")])
    assert code == "INVALID_ARGUMENT"
    assert "must be high, normal, low, not 'top'" in text


# ---- sequences -------------------------------------------------------------------------------------------------------


class Conversation:
    """Requests of a StreamPredictions2, each sent when a test says so."""

    def __init__(self, call: Client) -> None:
        self._call = call
        self._come = threading.Condition()
        self._requests: list[Any] = []
        self._ended = False
        self.answers = call.callable("StreamPredictions2")(self._all(), timeout=60)

    def _all(self) -> Any:
        while True:
            with self._come:
                self._come.wait_for(lambda: self._requests or self._ended)
                if not self._requests:
                    return
                request = self._requests.pop(0)
            yield request

    def send(self, **fields: Any) -> None:
        with self._come:
            self._requests.append(self._call.request("StreamPredictions2", **fields))
            self._come.notify()

    def end(self) -> None:
        with self._come:
            self._ended = True
            self._come.notify()


def test_a_sequence(server: Reached, call: Client) -> None:
    talk = Conversation(call)
    for number in range(3):
        talk.send(model_name="echo", sequence_id="s", input={"n": b"%d" % number})
        answer = next(talk.answers)
        assert not answer.HasField("status")
        assert json.loads(answer.prediction)["row"]["n"][1] == str(number)
        wanted = {"ts_request_sequence_id": "s", "ts_request_sequence_end": "true"}
        assert server.engine.calls[-1].request.headers == wanted
    talk.end()
    assert list(talk.answers) == []


def test_an_error_does_not_end_the_stream(call: Client) -> None:
    talk = Conversation(call)
    for fields, code, reason in (
        ({"model_name": "echo"}, 13, b"BadRequestException.()"),
        ({"sequence_id": "s"}, 13, b"BadRequestException.()"),
        ({"model_name": "n", "sequence_id": "s"}, 13, b"archive.model.ModelNotFoundException"),
        ({"model_name": "echo", "sequence_id": "s", "input": {"mode": b"status:404"}}, 5, b"InternalServerException"),
    ):
        talk.send(**fields)
        answer = next(talk.answers)
        (detail,) = answer.status.details
        assert (answer.status.code, answer.prediction) == (code, b"")
        assert detail.type_url == "type.googleapis.com/google.rpc.ErrorInfo"
        assert detail.value.endswith(reason)
    talk.send(model_name="stream", sequence_id="s")
    assert [next(talk.answers).prediction for _ in range(5)] == [b"part0", b"part1", b"part2", b"", b"last"]
    talk.end()
    assert list(talk.answers) == []


def test_the_end_of_the_requests_cuts_no_answer(call: Client) -> None:
    talk = Conversation(call)
    for n in range(20):
        talk.send(model_name="echo", sequence_id="s", input={"mode": b"sleep:0.2", "n": b"%d" % n})
    talk.end()
    rows = [json.loads(answer.prediction)["row"]["n"][1] for answer in talk.answers]
    assert sorted(map(int, rows)) == list(range(20))


def test_who_leaves_a_conversation_is_not_computed_for(server: Reached, call: Client) -> None:
    before = server.engine.cancelled
    talk = Conversation(call)
    for _ in range(3):
        talk.send(model_name="echo", sequence_id="s", input={"mode": b"wait"})
    talk.send(model_name="echo", sequence_id="s")
    next(talk.answers)
    talk.answers.cancel()
    talk.end()
    assert wait_for(lambda: server.engine.cancelled == before + 3)


def test_a_message_that_is_none_ends_the_conversation(call: Client) -> None:
    code, text = call.outcome("StreamPredictions2", b"\xff")
    assert (code, "PredictionsRequest" in text) == ("INVALID_ARGUMENT", True)


def _all(answer: Any) -> list[Any]:
    return list(answer) if isinstance(answer, grpc.Future) and hasattr(answer, "__next__") else [answer]
