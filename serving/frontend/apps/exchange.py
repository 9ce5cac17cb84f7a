"""A request and its response: what an application says about HTTP, over ASGI."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Mapping
from typing import Any, TypeVar

from serving.frontend.apps.answers import (
    BODILESS,
    JSON,
    Headers,
    answer_headers,
    error_body,
    json_body,
    new_id,
    our_headers,
    sendable,
    status_of,
)
from serving.frontend.apps.routing import NO_METHOD, segments_of
from serving.frontend.engine import Answer
from serving.frontend.entrance import Receive, Scope, Send
from serving.frontend.errors import FrontendError, InternalError, MethodNotAllowedError
from serving.frontend.guard import NAMES
from serving.frontend.meters import Responses

T = TypeVar("T")

_log = logging.getLogger(__name__)

_ID_MOST = 128
# Most answers are there before it pays to look for a client that has gone.
_LOOK_AFTER_S = 0.05
# How long the rest of a body that nobody wants is read, so that the client sees the answer and not a broken connection.
_LINGER_S = 2.0


class ClientGoneError(Exception):
    """Nobody waits for the answer."""


class Exchange:
    """A request and its response.

    Attributes:
        method: of the request.
        segments: of its path, decoded, as TorchServe splits it.
        headers: by their names in small letters; of equal ones the last.
        request_id: the client's own, where it has a usable one.
        own_id: whether it is the client's.
        arrived: by the loop's clock.
    """

    __slots__ = (
        "_asked",
        "_begun",
        "_constant",
        "_meters",
        "_read",
        "_receive",
        "_send",
        "arrived",
        "headers",
        "loop",
        "method",
        "own_id",
        "request_id",
        "scope",
        "segments",
    )

    def __init__(
        self, scope: Scope, receive: Receive, send: Send, constant: tuple[tuple[bytes, bytes], ...], meters: Responses
    ) -> None:
        self.scope = scope
        self._receive, self._send = receive, send
        self._constant, self._meters = constant, meters
        self.loop = asyncio.get_running_loop()
        self.arrived = self.loop.time()
        self.method: str = scope["method"]
        self.segments = segments_of(scope["path"])
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        given = self.headers.get(b"x-request-id", b"")
        self.own_id = 0 < len(given) <= _ID_MOST and given.isascii() and given.decode().isprintable()
        self.request_id = given.decode() if self.own_id else new_id()
        self._read = not self.has_body
        self._asked = self._begun = False

    # ---- the request -------------------------------------------------------------------------------------------------

    @property
    def has_body(self) -> bool:
        """Whether the client sends one."""
        return self.headers.get(b"content-length", b"0") != b"0" or b"transfer-encoding" in self.headers

    @property
    def query(self) -> bytes:
        """What stands behind the question mark."""
        return bytes(self.scope["query_string"])

    def header(self, name: bytes) -> str:
        """Return a header; empty where it is not there."""
        return self.headers.get(name, b"").decode("latin-1")

    def named_headers(self) -> dict[str, str]:
        """Return the headers with the names that the client gave them; of equal ones the last."""
        pairs = self.scope["headers"]
        names = self.scope.get(NAMES)
        if names is None:
            return {name.decode("latin-1"): value.decode("latin-1") for name, value in pairs}
        return {name.decode("latin-1"): pair[1].decode("latin-1") for name, pair in zip(names, pairs, strict=True)}

    @property
    def complete(self) -> bool:
        """Whether the whole body has been read."""
        return self._read

    async def part(self) -> bytes:
        """Read the next part of the body; to be asked until it is complete.

        Raises:
            ClientGoneError: it ends early.
        """
        self._asked = True
        message = await self._receive()
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        self._read = not message.get("more_body", False)
        return message.get("body", b"")  # type: ignore[no-any-return]

    async def unless_gone(self, work: Coroutine[Any, Any, T]) -> T:
        """Do what the client waits for, and stop when it has gone.

        Raises:
            ClientGoneError: it has gone.
        """
        with _Watch(self.loop, self._receive, _LOOK_AFTER_S):
            return await work

    # ---- the response ------------------------------------------------------------------------------------------------

    async def json(self, document: Any, status: int = 200) -> None:
        """Answer with a document."""
        await self._whole(status, json_body(document))

    async def text(self, body: bytes, content_type: str) -> None:
        """Answer with a text."""
        await self._whole(200, body, content_type=content_type)

    async def empty(self) -> None:
        """Answer with a line's end, as TorchServe does where it has nothing to say."""
        await self._whole(200, b"\n")

    async def fail(self, error: FrontendError) -> None:
        """Answer with an error; where a part of another answer has left, end the connection."""
        if self._begun:
            raise error
        # A worker's own status may be none, or one that has no body.
        status = status_of(error.status)
        await self._whole(500 if status in BODILESS else status, error_body(error), error.headers)

    async def answer(self, answer: Answer, most: int) -> None:
        """Give a model's answer.

        Args:
            most: bytes of a streamed answer that are kept for a client of HTTP/1.0, which knows no chunks.
        """
        status = status_of(answer.status)
        headers = answer_headers(answer, self.request_id, self._constant)
        body: bytes | bytearray
        if answer.rest is None or status in BODILESS:
            if answer.rest is not None:
                await close_parts(answer.rest)
            body = b"" if status in BODILESS else answer.body
        elif self.scope["http_version"] == "1.0":
            body = await whole_body(answer, most)
        else:
            await self._stream(status, headers, answer.body, answer.rest)
            return
        if status not in BODILESS:
            headers.append((b"content-length", b"%d" % len(body)))
        await self._start(status, headers, answer.counted)
        await self._send({"type": "http.response.body", "body": body})

    async def _stream(
        self, status: int, headers: Headers, first: bytes | bytearray, rest: AsyncIterator[bytes | bytearray]
    ) -> None:
        try:
            with _Watch(self.loop, self._receive, 0.0):
                await self._start(status, headers)
                await self._part(first)
                async for part in rest:
                    await self._part(part)
                await self._send({"type": "http.response.body", "body": b""})
        finally:
            await close_parts(rest)

    async def _part(self, part: bytes | bytearray) -> None:
        if part:
            await self._send({"type": "http.response.body", "body": part, "more_body": True})

    async def _whole(
        self, status: int, body: bytes, extra: Mapping[str, str] | None = None, content_type: str = JSON
    ) -> None:
        headers = our_headers(self.request_id, self._constant, len(body), content_type)
        headers += [(name.lower().encode(), sendable(value)) for name, value in (extra or {}).items()]
        if not self._read:
            await self._drop_rest()
        if not self._read:
            # What the client still sends of this request must not be taken for its next one.
            headers.append((b"connection", b"close"))
        await self._start(status, headers)
        await self._send({"type": "http.response.body", "body": body})

    async def _start(self, status: int, headers: Headers, counted: int = 0) -> None:
        self._begun = True
        self._meters.responded(counted or status)
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def _drop_rest(self) -> None:
        if not self._asked and self.headers.get(b"expect", b"").lower() == b"100-continue":
            return  # it waits, and is told at once

        async def drop() -> None:
            while not self._read:
                await self.part()

        with contextlib.suppress(ClientGoneError, asyncio.TimeoutError):
            await asyncio.wait_for(drop(), _LINGER_S)


class App:
    """An application: what its routes have in common.

    Args:
        constant: headers that every response has.
        meters: what counts the responses.
    """

    def __init__(self, constant: tuple[tuple[bytes, bytes], ...], meters: Responses) -> None:
        self._constant, self._meters = constant, meters

    async def route(self, http: Exchange) -> None:
        """Answer a request.

        Raises:
            FrontendError: what is then the answer.
        """
        raise NotImplementedError

    def in_form(self, http: Exchange, error: FrontendError) -> FrontendError:  # noqa: ARG002 (for those that have one)
        """Return an error in the form in which it is answered: TorchServe's, where a route has none of its own."""
        return error

    @staticmethod
    async def describe_api(http: Exchange, document: dict[str, Any]) -> None:
        """Answer what asks for the API's description: ``/api-description``, or ``OPTIONS /`` and nothing else of it.

        Raises:
            MethodNotAllowedError: something else is asked of ``/``.
        """
        if not http.segments and (http.method != "OPTIONS" or http.scope["path"] != "/"):
            raise MethodNotAllowedError(NO_METHOD)
        await http.json(document)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, whatever happens.

        Raises:
            FrontendError: a stream that has begun cannot go on: the connection must end without an end mark.
        """
        if scope["type"] != "http":
            raise ValueError(f"only HTTP is served here, not {scope['type']}")
        http = Exchange(scope, receive, send, self._constant, self._meters)
        try:
            await self.route(http)
        except FrontendError as error:
            await http.fail(self.in_form(http, error))
        except ClientGoneError:
            return
        except Exception:
            _log.exception("%s %r failed", http.method, scope["path"])
            failure = InternalError(f"the server failed; its log has the reason, beside {http.request_id}")
            await http.fail(self.in_form(http, failure))


class _Watch:
    """Ends what goes on when the client goes, which is looked for after a time.

    It stands in the way of every request, hence a class and no generator, which takes four times as long.
    """

    __slots__ = ("_after", "_gone", "_loop", "_receive", "_task", "_timer", "_watcher")

    def __init__(self, loop: asyncio.AbstractEventLoop, receive: Receive, after: float) -> None:
        self._loop, self._receive, self._after = loop, receive, after
        self._watcher: asyncio.Task[None] | None = None
        self._gone = False

    def __enter__(self) -> None:
        self._task = asyncio.current_task()
        self._timer = self._loop.call_later(self._after, self._begin)

    def _begin(self) -> None:
        self._watcher = self._loop.create_task(self._watch())

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._gone = True
        if self._task is not None:
            self._task.cancel()

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        self._timer.cancel()
        if self._watcher is not None:
            self._watcher.cancel()
        if self._gone and kind is asyncio.CancelledError:
            raise ClientGoneError from None


async def close_parts(parts: AsyncIterator[bytes | bytearray]) -> None:
    """Take no more of a streamed answer."""
    if isinstance(parts, AsyncGenerator) or hasattr(parts, "aclose"):
        await parts.aclose()


async def parts_of(
    first: bytes | bytearray, rest: AsyncIterator[bytes | bytearray] | None
) -> AsyncGenerator[bytes | bytearray, None]:
    """Yield the parts of an answer; who leaves them early lets the engine know.

    Args:
        first: part of it, or all of it.
        rest: the further parts; None where there are none.
    """
    try:
        yield first
        if rest is not None:
            async for part in rest:
                yield part
    finally:
        if rest is not None:
            await close_parts(rest)


async def whole_body(answer: Answer, most: int) -> bytes:
    """Read an answer to its end.

    Raises:
        InternalError: it has more bytes than at most.
    """
    if answer.rest is None:
        return bytes(answer.body)
    body = bytearray()
    async with contextlib.aclosing(parts_of(answer.body, answer.rest)) as parts:
        async for part in parts:
            body += part
            if len(body) > most:
                raise InternalError(f"the streamed answer has more than {most} bytes, which is too much for one piece")
    return bytes(body)
