"""How a model is asked for an OpenAI client: as by any other one, by requests of the archive's own form."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Collection, Sequence
from typing import Any, Final, TypeVar

from archive_tool import json_text
from serving.answers import decode
from serving.frontend.apps.answers import JSON, new_id
from serving.frontend.apps.exchange import Exchange, parts_of, whole_body
from serving.frontend.apps.inputs import deadline_of, priority_of
from serving.frontend.apps.openai.errors import NOT_FOR_THIS, ParameterError
from serving.frontend.apps.openai.parameters import SHORT
from serving.frontend.engine import Answer, Answering, Call
from serving.frontend.errors import InternalError
from serving.protocol import Parameter, Request

T = TypeVar("T")

EVENTS: Final = "text/event-stream"
# What says of the client's body, or of the answer that it takes, what is not so of ours.
_OTHERS: Final = frozenset(
    {"accept", "content-encoding", "content-length", "content-type", "expect", "transfer-encoding"}
)
_MOST_MESSAGE: Final = 2_000
#: Requests of one client's request that are under way at once.
_AT_ONCE: Final = 32


class Asked:
    """The model that a request names.

    Attributes:
        name: as the client has it.
        task: what its archive records that it is for; empty where it says nothing.

    Args:
        engine: that has it.
        http: the client's request.
        name: of the model, or ``NAME/VERSION``.
        most: bytes of its answers.

    Raises:
        ModelNotFoundError, VersionNotFoundError: nothing of that name.
    """

    def __init__(self, engine: Answering, http: Exchange, name: str, most: int) -> None:
        self.name = name
        self._model, _, version = name.partition("/")
        self._version = version or None
        self.task = engine.describe(self._model, self._version)[0].task
        self._engine, self._most = engine, most
        self._deadline, self._priority = deadline_of(http), priority_of(http)
        self._headers = {key: value for key, value in http.named_headers().items() if key.lower() not in _OTHERS}

    def must_be_for(self, tasks: Collection[str], answers: str) -> None:
        """Refuse a model that is for something else.

        Args:
            tasks: that are right, beside that of an archive which says nothing.
            answers: what the route answers with.

        Raises:
            ParameterError: it is.
        """
        if self.task and self.task not in tasks:
            raise ParameterError(
                "model",
                f"the model {self.name} is for {self.task} and answers no {answers}: ask /predictions/{self.name}",
                NOT_FOR_THIS,
            )

    def refused(self, answers: str, wanted: str) -> ParameterError:
        """Make an error of an answer that is none of those which the route translates."""
        return ParameterError(
            "model", f"the model {self.name} answers no {answers}: its answer is not {wanted}", NOT_FOR_THIS
        )

    async def answer(self, body: bytes, content_type: str = JSON) -> Answer:
        """Ask it; of a streamed answer this is the first part.

        Raises:
            FrontendError: it cannot be asked, or answers with an error.
        """
        headers = {**self._headers, "content-type": content_type, "content-length": str(len(body))}
        request = Request(new_id(), headers, (Parameter("body", body, content_type.partition(";")[0]),))
        answer = await self._engine.predict(Call(self._model, self._version, request, self._deadline, self._priority))
        if answer.status >= 400:
            raise InternalError(_message(await whole_body(answer, self._most)), status=answer.status)
        return answer

    async def whole(self, body: bytes, content_type: str = JSON) -> Any:
        """Ask it, and read its whole answer: JSON if that is what it is.

        Raises:
            FrontendError: it cannot be asked, or answers with an error.
        """
        answer = await self.answer(body, content_type)
        whole = await whole_body(answer, self._most)
        if len(whole) <= SHORT:
            return decode(whole, answer.content_type)
        return await asyncio.to_thread(decode, whole, answer.content_type)

    async def events(self, body: bytes) -> AsyncGenerator[Any, None]:
        """Ask it for server-sent events, and give what each of them holds; an answer in one piece is one event.

        Raises:
            FrontendError: it cannot be asked, or answers with an error, or its stream breaks off.
        """
        answer = await self.answer(body)
        if answer.rest is None and not answer.content_type.startswith(EVENTS):
            yield decode(bytes(answer.body), answer.content_type)
            return
        parts = parts_of(answer.body, answer.rest)
        async with contextlib.aclosing(parts), contextlib.aclosing(events(parts, self._most)) as all_:
            async for event in all_:
                yield event


async def events(parts: AsyncIterator[bytes | bytearray], most: int) -> AsyncGenerator[Any, None]:
    """Read server-sent events, whose data is JSON.

    Args:
        parts: of the stream, which end anywhere.
        most: bytes of one event.

    Raises:
        InternalError: one is longer, or its data is no JSON.
    """
    unread = bytearray()
    async for part in parts:
        looked = max(0, len(unread) - 1)
        unread += part.replace(b"\r", b"")
        while (end := unread.find(b"\n\n", looked)) >= 0:
            event = bytes(unread[:end])
            del unread[: end + 2]
            looked = 0
            if (data := _data(event)) is not None:
                yield data
        if len(unread) > most:
            raise InternalError(f"the model's stream has an event of more than {most} bytes")
    if (data := _data(bytes(unread))) is not None:
        yield data


def _data(event: bytes) -> Any:
    lines = [line[5:] for line in event.split(b"\n") if line.startswith(b"data:")]
    data = b"\n".join(lines).strip()
    if data in (b"", b"[DONE]"):
        return None
    try:
        return json_text.loads(data)
    except json_text.NotJsonError as error:
        raise InternalError(f"the model's stream has an event that is not JSON: {error}") from error


def _message(body: bytes) -> str:
    """Return what a handler says of its failure."""
    told = decode(body[: 1 << 20])
    if isinstance(told, dict) and isinstance(told.get("message"), str):
        return str(told["message"])
    return (told if isinstance(told, str) else body.decode("utf-8", "replace")).strip()[:_MOST_MESSAGE]


async def all_of(works: Sequence[Callable[[], Awaitable[T]]]) -> list[T]:
    """Do several things, a few at a time; when one fails the others stop."""
    places = asyncio.Semaphore(_AT_ONCE)

    async def placed(work: Callable[[], Awaitable[T]]) -> T:
        async with places:
            return await work()

    tasks = [asyncio.ensure_future(placed(work)) for work in works]
    try:
        return await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        raise
