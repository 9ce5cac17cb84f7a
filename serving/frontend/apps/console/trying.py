"""The page on which a model is asked: with a picture, a sound, a text, JSON, or a sample of its archive."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from starlette.datastructures import FormData, UploadFile
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from archive_tool.building.samples import content_type_of
from archive_tool.errors import TorchmarError
from serving.answers import decode
from serving.frontend.apps.console.app import Around, posted, version_of
from serving.frontend.apps.console.shown import drawing
from serving.frontend.apps.console.shown.calls import Calls, calls
from serving.frontend.apps.console.sources import Asked, Served
from serving.frontend.apps.exchange import parts_of
from serving.frontend.errors import BadRequestError, FrontendError, TooLargeError

#: Header of a script that wants the answer alone, and not the page around it.
ALONE: Final = "x-torchmar-alone"
_MOST_NAME: Final = 200
# Between the parts of a streamed answer, which cannot hold it, and the page's.
_END: Final = b"\0"


@dataclass(frozen=True)
class Given:
    """What is sent to a model.

    Attributes:
        body: of the request.
        content_type: of it.
        file: name that stands for it in a command.
        text: what was typed; None for a file.
    """

    body: bytes
    content_type: str
    file: str
    text: str | None = None


class Trying:
    """The page on which a model is asked.

    Args:
        shared: what all pages share.
    """

    def __init__(self, shared: Around) -> None:
        self._shared = shared

    @property
    def routes(self) -> Sequence[BaseRoute]:
        """Paths below the console's."""
        answer = posted(self._shared, self._ask, self._shared.source.about.most)
        paths = ("/try/{name}", "/try/{name}/{version}")
        return [
            *(Route(path, self._page, methods=["GET"]) for path in paths),
            *(Route(path, answer, methods=["POST"]) for path in paths),
        ]

    async def _page(self, request: Request) -> Response:
        one, _ = await version_of(self._shared.source, request)
        contents = await self._shared.archives.contents(one.of.url)
        chosen = request.query_params.get("sample", "")
        return self._shared.pages.page(
            request, "try.html", one=one, contents=contents, chosen=chosen, answer=None, typed=""
        )

    async def _ask(self, request: Request, form: FormData) -> Response:
        one, _ = await version_of(self._shared.source, request)
        version = request.path_params.get("version")
        given = await self._given(one, form)
        begun = time.perf_counter()
        try:
            asked = await self._shared.source.predict(one.of.name, version, given.body, given.content_type)
        except FrontendError as error:
            asked = Asked(error.status, "text/plain", "", error.message.encode())
        except TorchmarError as error:
            asked = Asked(getattr(error, "status", 0), "text/plain", "", error.message.encode())
        alone = ALONE in request.headers

        async def values(body: bytes) -> dict[str, Any]:
            spent = 1000 * (time.perf_counter() - begun)
            parts = drawing.timings(asked.timing)
            return {
                "code": asked.status,
                "answer": await asyncio.to_thread(drawing.drawn, body, asked.content_type, given.body),
                "parts": parts,
                "milliseconds": spent,
                "total": max(spent, drawing.total(parts), 1e-6),
                "calls": self._calls(one, version, given),
            }

        if alone and asked.rest is not None:

            async def last(body: bytes) -> bytes:
                return _END + self._shared.pages.text(request, "answer.html", **await values(body)).encode()

            stream = _stream(asked, self._shared.source.about.most_answer, last)
            return StreamingResponse(stream, media_type="text/plain", headers={"x-torchmar-answer": "stream"})
        found = await values(await self._whole(asked))
        if alone:
            return HTMLResponse(self._shared.pages.text(request, "answer.html", **found))
        contents = await self._shared.archives.contents(one.of.url)
        more: dict[str, Any] = {"chosen": form.get("sample") or "", "typed": given.text or ""}
        return self._shared.pages.page(request, "try.html", one=one, contents=contents, **found, **more)

    def _calls(self, one: Served, version: str | None, given: Given) -> Calls:
        about = self._shared.source.about
        where, named = about.inference, (given.file, given.content_type, given.text)
        return calls(where, one.of.name, version, *named, keyed=about.keyed)

    async def _given(self, one: Served, form: FormData) -> Given:
        """Read what is to be sent: a file, else what was typed, else a sample.

        Raises:
            BadRequestError: there is nothing of it.
        """
        kind = form.get("kind")
        named = kind.strip() if isinstance(kind, str) and kind.isprintable() and kind.isascii() else ""
        file, text, sample = form.get("file"), form.get("text"), form.get("sample")
        if isinstance(file, UploadFile) and file.filename:
            body = await file.read()
            name = file.filename[:_MOST_NAME]
            return Given(body, named or _type_of(file.content_type, name), name)
        if isinstance(text, str) and text:
            text = text.replace("\r\n", "\n")
            json = isinstance(await asyncio.to_thread(decode, text.encode()), dict | list)
            return Given(text.encode(), named or ("application/json" if json else "text/plain"), "input.txt", text)
        if isinstance(sample, str) and sample.isdecimal() and len(sample) < 6:
            found = await self._shared.archives.sample(one.of.url, int(sample))
            if found is not None:
                about, body = found
                return Given(body, named or about.content_type or "", about.input.rpartition("/")[2])
        raise BadRequestError("choose a file or a sample, or write something")

    async def _whole(self, asked: Asked) -> bytes:
        """Read an answer to its end.

        Raises:
            TooLargeError: it has more than max_response_size bytes.
        """
        if asked.rest is None:
            return asked.body
        most, body = self._shared.source.about.most_answer, bytearray()
        async with contextlib.aclosing(parts_of(asked.body, asked.rest)) as parts:
            async for part in parts:
                body += part
                if len(body) > most:
                    raise TooLargeError(f"the answer has more than {most} bytes (max_response_size)")
        return bytes(body)


def _type_of(told: str | None, name: str) -> str:
    """Return the type of a file: what the browser says, unless it knows nothing."""
    return told if told and told != "application/octet-stream" else content_type_of(name)


async def _stream(asked: Asked, most: int, last: Callable[[bytes], Awaitable[bytes]]) -> AsyncIterator[bytes]:
    """Yield the parts of an answer as they come, and behind an end mark what is to be shown of the whole."""
    body = bytearray()
    async with contextlib.aclosing(parts_of(asked.body, asked.rest)) as parts:
        async for part in parts:
            if len(body) <= most:
                body += part
            yield bytes(part).replace(_END, b"")
    yield await last(bytes(body[:most]))
