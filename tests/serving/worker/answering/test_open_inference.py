from __future__ import annotations

import json
from typing import Any

import pytest

from serving.protocol import DEADLINE, Parameter, PredictionItem, Request
from serving.worker.answering.open_inference import is_model_infer, problem, readable
from serving.worker.answering.replies import Failure, reply_to
from serving.worker.modes.in_flight import last_items

ASKED = {"id": "mine", "model_name": "net", "inputs": []}
GOOD = {"id": "mine", "model_name": "net", "model_version": "1.0", "outputs": []}


def request(content: Any = None, **changes: Any) -> Request:
    body = json.dumps(ASKED if content is None else content).encode()
    return Request("a", **{"parameters": (Parameter("body", bytearray(body), "application/json"),), **changes})


def item(content: Any, status: int = 200) -> PredictionItem:
    return PredictionItem("a", json.dumps(content).encode(), status)


PLAIN = Parameter("body", b"{}")


@pytest.mark.parametrize(
    ("asked", "is_one"),
    [
        (request(), True),
        (request(headers={DEADLINE: "1.5"}), True),
        (request(headers={"Host": "x"}), False),
        (request(parameters=()), False),
        (request(parameters=(PLAIN,)), False),  # gRPC's own Predictions
        (request(parameters=(PLAIN, PLAIN)), False),
        (request(parameters=(Parameter("data", b"{}", "application/json"),)), False),
    ],
)
def test_which_requests_came_so(asked: Request, is_one: bool) -> None:
    assert is_model_infer(asked) is is_one
    bad = item({"code": 400, "message": "why"}, 400)
    assert problem(asked, bad) == ("why" if is_one else None)
    assert (readable(asked, bad) is bad) is not is_one


def test_a_whole_response_stays_as_it_is() -> None:
    good = item(GOOD)
    assert readable(request(), good) is good
    assert reply_to([request()], [good]).items == (good,)


@pytest.mark.parametrize("missing", sorted(GOOD))
def test_a_response_that_lacks_something_is_an_error(missing: str) -> None:
    answer = item({key: value for key, value in GOOD.items() if key != missing})
    found = json.loads(bytes(readable(request(), answer).body))
    assert found.keys() == GOOD.keys()
    (output,) = found["outputs"]
    assert (output["name"], output["datatype"], output["shape"]) == ("error", "BYTES", [1])
    assert output["data"][0].endswith(f"it lacks {missing}")
    reply = reply_to([request()], [answer])
    assert (reply.code, reply.items) == (500, ())
    assert reply.message.endswith(f"it lacks {missing}")


@pytest.mark.parametrize("asked", [ASKED, {}, [], "x"])
def test_an_error_among_answers_is_one_that_the_frontend_can_read(asked: Any) -> None:
    requests = [request(asked), request(asked)]
    failure = Failure(400, "a shape")
    reply = reply_to(requests, [item(GOOD), failure])
    first, second = reply.items
    assert bytes(first.body) == json.dumps(GOOD).encode()
    found = json.loads(bytes(second.body))
    wanted = asked if isinstance(asked, dict) else {}
    names = {key: wanted.get(key, "") for key in ("id", "model_name", "model_version")}
    assert {key: found[key] for key in names} == names
    assert found["outputs"][0]["data"] == ["a shape"]
    assert second.headers == {"ts_stream_next": "false"}
    (last,) = last_items(requests[1], failure, streamed=False)
    assert json.loads(bytes(last.body)) == found


def test_alone_an_error_has_its_code() -> None:
    reply = reply_to([request()], [Failure(404, "no such thing")])
    assert (reply.code, reply.message) == (404, "no such thing")
    reply = reply_to([request()], [item({"code": 400, "message": "why"}, 400)])
    assert (reply.code, reply.message) == (400, "why")
    # In the modes where the frontend takes no code, it reads this.
    (only,) = reply_to([request()], [Failure(404, "no such thing")], items_only=True).items
    assert b"no such thing" in bytes(only.body)
    assert b"outputs" in bytes(only.body)
    (only,) = reply_to([request()], [Failure(200, "")]).items  # TorchServe's way to say nothing
    assert b"it lacks id" in bytes(only.body)


def test_what_cannot_be_read_of_a_request_is_left_out() -> None:
    asked = request(parameters=(Parameter("body", b"\xff{", "application/json"),))
    assert json.loads(bytes(readable(asked, item({})).body))["id"] == ""
