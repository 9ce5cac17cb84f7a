"""``POST /v1/embeddings``: texts in, vectors out."""

from __future__ import annotations

import asyncio
import base64
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from archive_tool import json_text
from serving.frontend.apps.openai.asking import Asked, all_of
from serving.frontend.apps.openai.completions import texts_of
from serving.frontend.apps.openai.parameters import SHORT, Given
from serving.frontend.errors import InternalError

ANSWERS: Final = "embeddings"
#: Archives that take several texts at once, in the Hub's form. Any other one is asked for each text by itself.
TASK: Final = "feature-extraction"
_MOST_TEXTS: Final = 2048
_FORM: Final = "a vector: a list of numbers"


@dataclass(frozen=True)
class Wanted:
    """What a request asks for."""

    model: str
    texts: Sequence[str]
    packed: bool


def understand(document: dict[str, Any]) -> Wanted:
    """Understand a request.

    Raises:
        ParameterError: it is not what it must be.
    """
    given = Given(document)
    wanted = Wanted(
        given.text("model"),
        texts_of(given, "input", _MOST_TEXTS),
        given.choice("encoding_format", "float", "base64") == "base64",
    )
    given.end()
    return wanted


async def answer(asked: Asked, wanted: Wanted) -> bytes:
    """Ask a model for vectors, and write what is answered.

    Raises:
        FrontendError: it cannot be asked, or fails, or answers something else.
    """
    if asked.task == TASK:
        body = json_text.dumps({"inputs": wanted.texts, "parameters": {"details": True}})
        found = await asked.whole(body)
    else:
        one = partial(asked.whole, content_type="text/plain; charset=utf-8")
        found = await all_of([partial(one, text.encode("utf-8", "replace")) for text in wanted.texts])
    vectors = [_vector(value) for value in found] if isinstance(found, list) else []
    if len(vectors) != len(wanted.texts) or any(vector is None for vector in vectors):
        raise asked.refused(ANSWERS, _FORM)
    tokens = sum(_tokens(value) for value in found)
    written = [vector for vector in vectors if vector is not None]
    if sum(map(len, written)) <= SHORT // 16:  # characters that a number has, about
        return _written(wanted, written, tokens)
    return await asyncio.to_thread(_written, wanted, written, tokens)


def _vector(value: Any) -> list[float] | None:
    vector = value.get("embedding") if isinstance(value, dict) else value
    if isinstance(vector, list) and vector and all(type(number) in (float, int) for number in vector):
        return vector
    return None


def _tokens(value: Any) -> int:
    tokens = value.get("tokens") if isinstance(value, dict) else None
    return tokens if type(tokens) is int else 0


def _written(wanted: Wanted, vectors: Sequence[list[float]], tokens: int) -> bytes:
    for index, vector in enumerate(vectors):
        if not all(map(math.isfinite, vector)):
            raise InternalError(f"the vector of input[{index}] has numbers that are not finite")
    entries = [
        {"object": "embedding", "index": index, "embedding": _packed(vector) if wanted.packed else vector}
        for index, vector in enumerate(vectors)
    ]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return json_text.dumps({"object": "list", "data": entries, "model": wanted.model, "usage": usage})


def _packed(vector: list[float]) -> str:
    """Write a vector in 32 bits each, the low byte first, and in base64."""
    try:
        return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
    except (OverflowError, struct.error) as error:
        raise InternalError(f"a vector has numbers that are too large for 32 bits: {error}") from error
