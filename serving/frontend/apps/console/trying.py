"""The page on which a model is asked: with a picture, a sound, a text, JSON, or a sample of its archive."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, Final

from starlette.datastructures import FormData
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from archive_tool.errors import TorchmarError
from serving.frontend.apps.console.app import Around, posted, version_of
from serving.frontend.apps.console.given import Given, given
from serving.frontend.apps.console.pages import ALONE
from serving.frontend.apps.console.shown import drawing
from serving.frontend.apps.console.shown.calls import Calls, calls
from serving.frontend.apps.console.sources import Asked, Served
from serving.frontend.apps.exchange import parts_of
from serving.frontend.errors import FrontendError, TooLargeError

# Between the parts of a streamed answer, which cannot hold it, and the page's.
_END: Final = b"\0"


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
            request, "try.html", one=one, contents=contents, chosen=chosen, answer=None, typed="", kind=""
        )

    async def _ask(self, request: Request, form: FormData) -> Response:
        one, _ = await version_of(self._shared.source, request)
        version = request.path_params.get("version")
        sent = await given(self._shared.archives, one, form)
        begun = time.perf_counter()
        try:
            asked = await self._shared.source.predict(one.of.name, version, sent.body, sent.content_type)
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
                "answer": await asyncio.to_thread(drawing.drawn, body, asked.content_type, sent.body),
                "parts": parts,
                "streamed": asked.rest is not None,
                "milliseconds": spent,
                "total": max(spent, drawing.total(parts), 1e-6),
                "calls": self._calls(one, version, sent),
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
        more: dict[str, Any] = {"chosen": form.get("sample") or "", "typed": sent.text or "", "kind": sent.named}
        return self._shared.pages.page(request, "try.html", one=one, contents=contents, **found, **more)

    def _calls(self, one: Served, version: str | None, sent: Given) -> Calls:
        about = self._shared.source.about
        where, named = about.inference, (sent.file, sent.content_type, sent.text)
        return calls(where, one.of.name, version, *named, keyed=about.keyed)

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


async def _stream(asked: Asked, most: int, last: Callable[[bytes], Awaitable[bytes]]) -> AsyncIterator[bytes]:
    """Yield the parts of an answer as they come, and behind an end mark what is to be shown of the whole."""
    body = bytearray()
    async with contextlib.aclosing(parts_of(asked.body, asked.rest)) as parts:
        async for part in parts:
            if len(body) <= most:
                body += part
            yield bytes(part).replace(_END, b"")
    yield await last(bytes(body[:most]))
