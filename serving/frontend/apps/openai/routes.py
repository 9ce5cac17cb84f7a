"""Which of OpenAI's routes there are, and their answers, whole or as server-sent events."""

from __future__ import annotations

import contextlib
import json
import time
import uuid
from collections.abc import AsyncGenerator, Sequence
from functools import partial
from types import ModuleType
from typing import Any, Final

from archive_tool import json_text
from serving.frontend.apps.answers import JSON
from serving.frontend.apps.bodies import read_body
from serving.frontend.apps.exchange import Exchange
from serving.frontend.apps.openai import chat, completions, embeddings, generation
from serving.frontend.apps.openai.asking import EVENTS, Asked, all_of
from serving.frontend.apps.openai.errors import FormedError, ParameterError
from serving.frontend.apps.openai.generation import Following, Piece, Wanted
from serving.frontend.apps.openai.parameters import document_of
from serving.frontend.apps.openai.streams import merged
from serving.frontend.apps.routing import NO_METHOD
from serving.frontend.engine import Answer, Answering, ModelState
from serving.frontend.errors import FrontendError, MethodNotAllowedError, ResourceNotFoundError, UnavailableError
from serving.frontend.settings import Settings

_TASKS: Final = frozenset({"text-generation"})
#: What stands behind ``/v1``, and what OpenAI has there beside it.
_POSTED: Final[dict[tuple[str, ...], ModuleType]] = {
    ("chat", "completions"): chat,
    ("completions",): completions,
    ("embeddings",): embeddings,
}
_MISSING: Final = frozenset(
    {"assistants", "audio", "batches", "chat", "conversations", "files", "fine_tuning", "images", "moderations"}
    | {"realtime", "responses", "threads", "uploads", "vector_stores", "videos"}
)


def is_asked(http: Exchange) -> bool:
    """Whether a request is for one of OpenAI's routes, of which some are not served."""
    match http.segments:
        case ["v1", "models"]:
            return http.method == "GET"
        case ["v1", "models", name]:
            return http.method == "GET" and ":" not in name
        case ["v1", *rest] if tuple(rest) in _POSTED:
            return True
        case ["v1", first, *rest]:
            return first in _MISSING and rest[-1:] != ["predict"]  # TorchServe's way to ask a model called v1
    return False


class OpenAi:
    """These routes over an engine.

    Args:
        engine: that answers.
        settings: of the server.
    """

    def __init__(self, engine: Answering, settings: Settings) -> None:
        self._engine = engine
        self._most, self._most_answer = settings.max_request_size, settings.max_response_size

    async def answer(self, http: Exchange) -> None:
        """Answer a request.

        Raises:
            FrontendError: what is then the answer.
        """
        match http.segments[1:]:
            case ["models"]:
                await self._list(http)
            case ["models", name]:
                await self._describe(http, name)
            case route if (form := _POSTED.get(tuple(route))) is not None:
                if http.method != "POST":
                    raise MethodNotAllowedError(NO_METHOD)
                body = await read_body(http, self._most)
                wanted = form.understand(await document_of(body))
                # Each text is a request of its own, with the whole prompt.
                if form is not embeddings and wanted.count > 1 and wanted.count * len(body) > self._most:
                    raise ParameterError(
                        "n", f"{wanted.count} times {len(body)} bytes are more than {self._most} (max_request_size)"
                    )
                asked = Asked(self._engine, http, wanted.model, self._most_answer)
                if form is embeddings:
                    asked.must_be_for((embeddings.TASK,), embeddings.ANSWERS)
                    await http.text(await http.unless_gone(embeddings.answer(asked, wanted)), JSON)
                else:
                    asked.must_be_for(_TASKS, form.ANSWERS)
                    await self._write(http, asked, wanted, form)
            case route:
                served = ", ".join("/v1/" + "/".join(one) for one in _POSTED)
                raise ResourceNotFoundError(f"/v1/{'/'.join(route)} is not served here; there are {served}")

    # ---- models ------------------------------------------------------------------------------------------------------

    async def _list(self, http: Exchange) -> None:
        names = [name for name, _ in self._engine.names()]
        entries = [_entry(self._engine.describe(name, None)[0]) for name in names]
        await http.json({"object": "list", "data": entries, "models": names})

    async def _describe(self, http: Exchange, name: str) -> None:
        (state, *_) = self._engine.describe(name, None)
        if not any(worker.ready for worker in state.workers):
            raise UnavailableError(f"Model with name {name} is not ready.")
        await http.json({**_entry(state), "name": name, "ready": True})

    # ---- texts -------------------------------------------------------------------------------------------------------

    async def _write(self, http: Exchange, asked: Asked, wanted: Wanted, form: Any) -> None:
        if wanted.stream:
            chunks = _events(asked, wanted, form)
            first = await http.unless_gone(_first(chunks))
            await http.answer(Answer(200, "", f"{EVENTS}; charset=utf-8", {}, first, chunks), self._most_answer)
            return
        answers = await http.unless_gone(all_of([partial(asked.whole, body) for body in wanted.bodies()]))
        pieces = [generation.text_of(one) for one in answers]
        texts = [piece for piece in pieces if piece is not None]
        if len(texts) < len(pieces):
            raise asked.refused(form.ANSWERS, generation.FORM)
        document = {
            **_head(form.ID, form.WHOLE, wanted),
            "choices": [form.whole_choice(index, piece, wanted) for index, piece in enumerate(texts)],
            "usage": _usage(texts, wanted),
        }
        await http.text(json_text.dumps(document), JSON)


def _entry(state: ModelState) -> dict[str, Any]:
    started = min((worker.started for worker in state.workers), default=0.0)
    entry = {"id": state.name, "object": "model", "created": int(started), "owned_by": "torchmar"}
    return {**entry, "task": state.task} if state.task else entry


async def _first(chunks: AsyncGenerator[bytes, None]) -> bytes:
    """Return the first part of a stream: until then whatever fails has a status of its own."""
    return await anext(chunks)


async def _events(asked: Asked, wanted: Wanted, form: Any) -> AsyncGenerator[bytes, None]:
    """Ask for texts that come in parts, and write each part as it comes.

    Raises:
        FrontendError: before the first part; later ones are told in the stream.
    """
    head = _head(form.ID, form.CHUNK, wanted)
    usage: dict[str, Any] = {"usage": None} if wanted.usage else {}
    sources = [_pieces(asked, body, index, form) for index, body in enumerate(wanted.bodies())]
    begun = False
    written: dict[int, str] = {}
    ends: dict[int, Piece] = {}
    try:
        async with contextlib.aclosing(merged(sources)) as pieces:
            async for index, piece in pieces:
                choices = []
                if index not in written:
                    written[index] = ""
                    choices.append(form.first_choice(index))
                if piece.text or (piece.tokens and wanted.top is not None):
                    choices.append(form.next_choice(index, piece, written[index], wanted))
                    written[index] += piece.text
                if piece.finish is not None:
                    choices.append(form.last_choice(index, piece.finish))
                    ends[index] = piece
                for choice in choices:
                    if choice is not None:
                        begun = True
                        yield _event({**head, "choices": [choice], **usage})
        if wanted.usage:
            yield _event({**head, "choices": [], "usage": _usage([ends[index] for index in sorted(ends)], wanted)})
        yield b"data: [DONE]\n\n"
    except FrontendError as error:
        if not begun:
            raise
        yield _event(FormedError(error).document)


async def _pieces(asked: Asked, body: bytes, index: int, form: Any) -> AsyncGenerator[tuple[int, Piece], None]:
    following, ended = Following(), False
    async with contextlib.aclosing(asked.events(body)) as events:
        async for event in events:
            piece = None if ended else following.piece(event)
            if piece is None:
                raise asked.refused(form.ANSWERS, generation.FORM)
            yield index, piece
            ended = piece.finish is not None
    if not ended:
        raise asked.refused(form.ANSWERS, f"ended by an event with {generation.FORM}")


def _head(prefix: str, kind: str, wanted: Wanted) -> dict[str, Any]:
    return {"id": f"{prefix}{uuid.uuid4().hex}", "object": kind, "created": int(time.time()), "model": wanted.model}


def _event(document: Any) -> bytes:
    """Write an event in ASCII: readers differ in what ends a line beyond it."""
    return b"data: %b\n\n" % json.dumps(document).encode()


def _usage(texts: Sequence[Piece], wanted: Wanted) -> dict[str, int]:
    """Count tokens: those of each prompt once."""
    prompts = sum(text.prompt_tokens for text in texts[:: wanted.count])
    written = sum(text.written_tokens for text in texts)
    return {"prompt_tokens": prompts, "completion_tokens": written, "total_tokens": prompts + written}
