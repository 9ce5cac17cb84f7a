"""From frames to what clients get."""

from __future__ import annotations

import json

import pytest

from serving.check.answers import Answers
from serving.errors import CheckError
from serving.protocol import Parameter, PredictionItem, Reply, Request

MORE = {"ts_stream_next": "true"}


def test_the_items_of_a_batch() -> None:
    answers = Answers(["a", "b"])
    items = PredictionItem("b", b"2", 404, "", "text/plain", {"x": "y"}), PredictionItem("a", b"1")
    assert answers.take(Reply(200, "", items)) == []
    assert (answers["a"].status, answers["a"].as_sent()) == (200, (b"1", ""))
    assert (answers["b"].status, answers["b"].as_sent()) == (404, (b"2", "text/plain"))
    assert answers["b"].headers == {"x": "y"}


def test_the_parts_of_streams() -> None:
    answers = Answers(["a", "b"])
    first = PredictionItem("a", b"1", 200, "", "text/a", MORE), PredictionItem("b", b"2", headers=MORE)
    assert answers.take(Reply(200, "", first)) == ["a", "b"]
    assert answers.take(Reply(200, "", (PredictionItem("b", b"3", 500, headers=MORE),))) == ["b"]
    assert answers.take(Reply(200, "", (PredictionItem("b", b"4"), PredictionItem("a", b"5")))) == []
    assert answers["a"].as_sent() == (b"15", "text/a")
    assert (answers["b"].status, answers["b"].as_sent()) == (200, (b"234", ""))  # the first part's status is sent


def test_a_worker_that_has_no_answer_yet() -> None:
    """In continuous batching; the frontend then sends the request as it was, and later without its content."""
    one = Request("a", {"x": "y"}, (Parameter("body", "", b"1"),))
    answers = Answers(["a"], continuous=True)
    assert answers.take(Reply(200, "", ())) == ["a"]
    assert answers.further(one) == one
    assert answers.take(Reply(200, "", (PredictionItem("a", b"1", headers=MORE),))) == ["a"]
    assert answers.further(one) == Request("a", {"x": "y"})
    assert answers.take(Reply(200, "", (PredictionItem("a", b"2"),))) == []
    assert answers["a"].as_sent() == (b"12", "")


def test_a_code_for_the_whole_message() -> None:
    answers = Answers(["a", "b"])
    assert answers.take(Reply(503, "no")) == []
    for one in ("a", "b"):
        body, kind = answers[one].as_sent()
        assert json.loads(body) == {"code": 503, "type": "InternalServerException", "message": "no"}
        assert (answers[one].status, kind) == (503, "application/json")


def test_answers_to_nothing_that_was_asked() -> None:
    for items in ((), (PredictionItem("a", b""), PredictionItem("c", b""))):
        with pytest.raises(CheckError, match="another request"):
            Answers(["a"]).take(Reply(200, "", items))
