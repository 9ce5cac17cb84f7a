"""``POST /v1/completions``: texts in, what follows them out."""

from __future__ import annotations

from typing import Any, Final

from serving.frontend.apps.openai import generation
from serving.frontend.apps.openai.errors import UNSUPPORTED, ParameterError
from serving.frontend.apps.openai.generation import Piece, Wanted
from serving.frontend.apps.openai.parameters import Given

#: What ids begin with, and what the objects are called.
ID: Final = "cmpl-"
WHOLE: Final = "text_completion"
CHUNK: Final = "text_completion"
ANSWERS: Final = "completions"
#: Tokens where a request does not say how many, as at OpenAI.
_TOKENS: Final = 16
_MOST_TOP: Final = 5


def understand(document: dict[str, Any]) -> Wanted:
    """Understand a request.

    Raises:
        ParameterError: it is not what it must be.
    """
    given = Given(document)
    texts = texts_of(given, "prompt", generation.MOST_TEXTS)
    most = generation.tokens_of(given, "max_tokens") or _TOKENS
    top = given.whole("logprobs", 0, _MOST_TOP)
    return generation.understand(given, [{"inputs": text} for text in texts], most, top)


def texts_of(given: Given, name: str, most: int) -> list[str]:
    """Return a member that is a text or a list of them.

    Raises:
        ParameterError: it is none, or an empty one, or has more than the most; or it has numbers of tokens.
    """
    value = given.take(name)
    texts = value if isinstance(value, list) else [value]
    if texts and all(type(one) is int or isinstance(one, list) for one in texts):
        raise ParameterError(
            name, f"{name} has numbers of tokens, which only the model's own tokenizer knows: send texts", UNSUPPORTED
        )
    if not texts or not all(isinstance(one, str) and one for one in texts):
        raise given.wrong(name, "a text that is not empty, or a list of such texts")
    if len(texts) > most:
        raise ParameterError(name, f"{name} has {len(texts)} texts: at most {most} at once")
    return texts


def whole_choice(index: int, piece: Piece, wanted: Wanted) -> dict[str, Any]:
    """Return a text as an answer has it."""
    return next_choice(index, piece, "", wanted) | {"finish_reason": piece.finish}


def first_choice(index: int) -> dict[str, Any] | None:  # noqa: ARG001
    """Return what a stream has before a text: nothing."""
    return None


def next_choice(index: int, piece: Piece, written: str, wanted: Wanted) -> dict[str, Any]:
    """Return a piece as a stream has it.

    Args:
        index: of its text.
        piece: what is new.
        written: of the text until now.
        wanted: by the request.
    """
    logprobs = _logprobs(piece, len(written)) if wanted.top is not None else None
    return {"index": index, "text": piece.text, "logprobs": logprobs, "finish_reason": None}


def last_choice(index: int, finish: str) -> dict[str, Any]:
    """Return what a stream has after a text."""
    return {"index": index, "text": "", "logprobs": None, "finish_reason": finish}


def _logprobs(piece: Piece, offset: int) -> dict[str, Any]:
    offsets = []
    for token in piece.tokens:
        offsets.append(offset)
        offset += len(token.text)
    return {
        "tokens": [token.text for token in piece.tokens],
        "token_logprobs": [token.logprob for token in piece.tokens],
        "top_logprobs": [dict(token.top) for token in piece.tokens],
        "text_offset": offsets,
    }
