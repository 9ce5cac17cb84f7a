"""The end of a request of the asynchronous mode."""

from __future__ import annotations

import pytest

from serving.protocol import PredictionItem, Request
from serving.worker.answering.replies import Failure
from serving.worker.modes.in_flight import last_items
from tests.serving.worker.asynchronous import NEXT, error
from tests.serving.worker.frontend import grpc, rest

ITEM = PredictionItem("1", b"body", headers={"x": "y"})
END = PredictionItem("1", b"", headers={NEXT: "false"})


def test_an_http_answer_is_an_ordinary_one_and_then_the_end() -> None:
    assert last_items(rest("1"), ITEM, streamed=False) == (ITEM, END)


def test_what_the_handler_says_of_more_to_come_is_not_so() -> None:
    item = PredictionItem("1", b"body", headers={"x": "y", NEXT: "true"})
    assert last_items(rest("1"), item, streamed=False) == (ITEM, END)


@pytest.mark.parametrize(
    ("request_", "streamed"),
    [
        (rest("1"), True),
        (grpc("1"), False),
        (grpc("1"), True),
        (Request("1", {"describe": "True"}), False),
        (Request("1", {":deadline": "1"}), False),
    ],
    ids=["stream", "grpc", "grpc stream", "description", "grpc with a deadline"],
)
def test_all_others_end_with_their_last_item(request_: Request, streamed: bool) -> None:
    (item,) = last_items(request_, ITEM, streamed=streamed)
    assert item == PredictionItem("1", b"body", headers={NEXT: "false", "x": "y"})


def test_a_prediction_that_calls_itself_a_description_is_none() -> None:
    assert last_items(rest("1", describe="True"), ITEM, streamed=False) == (ITEM, END)


def test_a_failure_has_the_shape_of_the_frontends_errors() -> None:
    item, end = last_items(rest("1"), Failure(404, "not here"), streamed=False)
    assert error(item) == (404, "not here")
    assert end == END
    (last,) = last_items(rest("1"), Failure(404, "not here"), streamed=True)
    assert last.headers == {NEXT: "false"}
