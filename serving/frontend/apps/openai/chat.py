"""``POST /v1/chat/completions``: messages in, the next one out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from serving.frontend.apps.openai import generation
from serving.frontend.apps.openai.errors import UNSUPPORTED, ParameterError
from serving.frontend.apps.openai.generation import Piece, Token, Wanted
from serving.frontend.apps.openai.parameters import Given
from serving.frontend.apps.parameters import shown

#: What ids begin with, and what the objects are called.
ID: Final = "chatcmpl-"
WHOLE: Final = "chat.completion"
CHUNK: Final = "chat.completion.chunk"
ANSWERS: Final = "chats"
_ROLES: Final = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
_MOST_TOP: Final = 20


def understand(document: dict[str, Any]) -> Wanted:
    """Understand a request.

    Raises:
        ParameterError: it is not what it must be.
    """
    given = Given(document)
    messages = given.take("messages")
    if not isinstance(messages, list) or not messages:
        raise given.wrong("messages", 'a list such as [{"role": "user", "content": "..."}]')
    prompt = [_message(one, f"messages[{index}]") for index, one in enumerate(messages)]
    most = generation.tokens_of(given, "max_completion_tokens", "max_tokens")
    wanted, top = given.flag("logprobs") or False, given.whole("top_logprobs", 0, _MOST_TOP)
    if top and not wanted:
        raise ParameterError("top_logprobs", "top_logprobs needs logprobs: true")
    return generation.understand(given, [{"messages": prompt}], most, (top or 0) if wanted else None)


def _message(value: Any, where: str) -> dict[str, str]:
    if not isinstance(value, dict):
        raise ParameterError(where, f"{where} must be an object with role and content, not {shown(value)}")
    given = Given(value, where)
    role = given.text("role")
    if role not in _ROLES:
        raise ParameterError(
            f"{where}.role", f"{where}.role is {shown(role)}: supported are {', '.join(_ROLES)}", UNSUPPORTED
        )
    content = given.take("content")
    text = "".join(_part(part, f"{where}.content") for part in content) if isinstance(content, list) else content
    if not isinstance(text, str):
        raise given.wrong("content", "a text, or a list of parts of the type text")
    for unheard in ("name", "refusal", "annotations"):  # templates have no place for them
        given.take(unheard)
    given.end()
    return {"role": _ROLES[role], "content": text}


def _part(value: Any, where: str) -> str:
    if isinstance(value, dict) and value.get("type") == "text" and isinstance(value.get("text"), str):
        return str(value["text"])
    kind = value.get("type") if isinstance(value, dict) else value
    raise ParameterError(where, f"{where} has a part of the type {shown(kind)}: supported is text", UNSUPPORTED)


def whole_choice(index: int, piece: Piece, wanted: Wanted) -> dict[str, Any]:
    """Return a text as an answer has it."""
    message = {"role": "assistant", "content": piece.text, "refusal": None}
    logprobs = _logprobs(piece.tokens) if wanted.top is not None else None
    return {"index": index, "message": message, "logprobs": logprobs, "finish_reason": piece.finish}


def first_choice(index: int) -> dict[str, Any] | None:
    """Return what a stream has before a text."""
    return _chunk(index, {"role": "assistant", "content": ""})


def next_choice(index: int, piece: Piece, written: str, wanted: Wanted) -> dict[str, Any]:  # noqa: ARG001
    """Return a piece as a stream has it.

    Args:
        index: of its text.
        piece: what is new.
        written: of the text until now.
        wanted: by the request.
    """
    return _chunk(index, {"content": piece.text}, _logprobs(piece.tokens) if wanted.top is not None else None)


def last_choice(index: int, finish: str) -> dict[str, Any]:
    """Return what a stream has after a text."""
    return _chunk(index, {}, finish=finish)


def _chunk(index: int, delta: dict[str, Any], logprobs: Any = None, finish: str | None = None) -> dict[str, Any]:
    return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}


def _logprobs(tokens: Sequence[Token]) -> dict[str, Any]:
    return {
        "content": [
            {**_about(one.text, one.logprob), "top_logprobs": [_about(*other) for other in one.top]} for one in tokens
        ],
        "refusal": None,
    }


def _about(text: str, logprob: float | None) -> dict[str, Any]:
    return {"token": text, "logprob": logprob, "bytes": list(text.encode("utf-8", "replace"))}
