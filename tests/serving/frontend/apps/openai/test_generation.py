"""The archive's form of written text: answers and events, with the odd ones."""

from __future__ import annotations

from typing import Any

import pytest

from serving.frontend.apps.openai.generation import Following, text_of
from serving.frontend.errors import InternalError


def token(text: str, **more: Any) -> dict[str, Any]:
    return {"token": {"id": 1, "text": text, "logprob": -1, **more}, "generated_text": None, "details": None}


def test_an_answer_without_details_is_a_text() -> None:
    for answer in ([{"generated_text": "a"}], {"generated_text": "a", "details": None}):
        piece = text_of(answer)
        assert piece is not None
        assert (piece.text, piece.finish, piece.prompt_tokens, piece.written_tokens) == ("a", "stop", 0, 0)


@pytest.mark.parametrize(
    ("reason", "finish"), [("length", "length"), ("eos_token", "stop"), ("stop_sequence", "stop"), ("time", "length")]
)
def test_why_a_text_ends(reason: str, finish: str) -> None:
    piece = text_of({"generated_text": "a", "details": {"finish_reason": reason}})
    assert piece is not None
    assert piece.finish == finish


@pytest.mark.parametrize("answer", [None, [], [1], "text", {"text": "a"}, [{"generated_text": 3}], [{}, {}]])
def test_other_answers_are_none(answer: Any) -> None:
    assert text_of(answer) is None
    assert Following().piece(answer) is None


def test_what_the_events_lack_comes_at_the_end() -> None:
    following = Following()
    pieces = [following.piece(event) for event in (token("a"), token(""), token("</s>", special=True))]
    assert [piece.text for piece in pieces if piece] == ["a", "", ""]
    end = following.piece({"token": None, "generated_text": "ab\ufffd", "details": {"finish_reason": "length"}})
    assert end is not None
    assert (end.text, end.finish) == ("b\ufffd", "length")


def test_what_has_left_is_not_taken_back() -> None:
    following = Following()
    following.piece(token("stop here"))
    end = following.piece(token("x") | {"generated_text": "stop"})
    assert end is not None
    assert (end.text, end.finish) == ("x", "stop")


def test_an_event_may_be_a_failure() -> None:
    with pytest.raises(InternalError, match="no place"):
        Following().piece({"error": "no place", "error_type": "TooLargeError"})
