"""Answers compared with labels."""

from __future__ import annotations

import json
from typing import Any

import pytest

from serving.batch.scores import Scores, value_of


@pytest.mark.parametrize(
    ("answer", "value"),
    [
        (7, 7),
        ("cat", "cat"),
        ([0.1, 0.7, 0.2], 1),
        ([3.5], 3.5),
        ({"cat": 0.2, "dog": 0.8}, "dog"),
        ({"label": "dog", "score": 0.8}, "dog"),
        ([{"label": "dog", "score": 0.8}, {"label": "cat", "score": 0.2}], "dog"),
        ({"prediction": [2.5]}, 2.5),
        ({"class": {"a": 1, "b": 2}}, "b"),
        (None, None),
        ([], None),
        ({}, None),
        ({"a": 1}, None),
        (["a", "b"], None),
        ({"a": "b", "c": 1}, None),
    ],
)
def test_the_value_of_an_answer(answer: Any, value: Any) -> None:
    assert value_of(answer) == value


def test_accuracy_of_classes() -> None:
    scores = Scores()
    for label, answer in (("3", 3), (3, "3"), ("3", {"3": 0.9, "4": 0.1}), ("cat ", "cat"), ("dog", "cat"), (1, [])):
        scores.take(label, answer)
    assert scores.result == {"compared": 5, "notComparable": 1, "accuracy": 0.8, "correct": 4}


def test_the_error_of_quantities() -> None:
    scores = Scores()
    for label, answer in (("3", 3), ("2.5", 3), (1, [0.5])):
        scores.take(label, answer)
    assert scores.result == {"compared": 3, "notComparable": 0, "meanAbsoluteError": pytest.approx(1 / 3)}


def test_nothing_compared() -> None:
    assert Scores().result == {"compared": 0, "notComparable": 0}


def test_scores_go_on_from_what_was_written() -> None:
    scores = Scores()
    scores.take(1, 2.5)
    again = Scores.restored(json.loads(json.dumps(scores.state)))
    again.take(1, 1)
    assert again.result["meanAbsoluteError"] == 0.75
    for wrong in (None, {}, {**scores.state, "more": 1}, {**scores.state, "error": "x"}):
        with pytest.raises(ValueError, match="no scores"):
            Scores.restored(wrong)


@pytest.mark.parametrize(("label", "answer"), [("1" * 400, 3), ("3", 10**400), ("0.5", 10**400), (-1e308, 1e308)])
def test_numbers_that_no_float_can_hold_are_compared_as_texts(label: Any, answer: Any) -> None:
    scores = Scores()
    scores.take(label, answer)
    scores.take(str(answer), answer)
    assert scores.result == {"compared": 2, "notComparable": 0, "accuracy": 0.5, "correct": 1}
    json.dumps(scores.state, allow_nan=False)


def test_errors_that_no_float_can_hold_are_no_mean() -> None:
    scores = Scores()
    for _ in range(3):
        scores.take(0.5, 1e308)
    assert scores.result == {"compared": 3, "notComparable": 0, "accuracy": 0.0, "correct": 0}
