"""The pages on which one reads: the logs, and the APIs."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from archive_tool import json_text
from archive_tool.errors import ArchiveError
from serving.frontend.apps.console.app import OUT, Around
from serving.frontend.apps.console.gate import SESSION
from serving.frontend.apps.console.shown import logs
from serving.frontend.apps.console.shown.apis import MOST_SAMPLE, Asking, document_of
from serving.frontend.apps.console.shown.figures import MOST_MODELS, all_of
from serving.frontend.apps.console.sources import Served

_MOST_MODEL, _MOST_MARK = 256, 200
#: Looks without news after which a stream says that it is still there: so it is noticed when its reader has gone.
_SILENT: Final = 15


class Reading:
    """The pages of logs and APIs.

    Args:
        shared: what all pages share.
    """

    def __init__(self, shared: Around) -> None:
        self._shared = shared

    @property
    def routes(self) -> Sequence[BaseRoute]:
        """Paths below the console's."""
        return [
            Route("/logs", self._logs, methods=["GET"]),
            Route("/logs/events", self._events, methods=["GET"]),
            Route("/docs", self._apis, methods=["GET"]),
            Route("/openapi.json", self._document, methods=["GET"]),
        ]

    # ---- logs ------------------------------------------------------------------------------------------------------

    async def _logs(self, request: Request) -> Response:
        wanted = _wanted(request)
        folder = self._shared.source.about.logs
        rows = await asyncio.to_thread(logs.rows, logs.following(folder, wanted))
        names = await self._shared.source.names()
        return self._shared.pages.page(request, "logs.html", events=rows, wanted=wanted, names=names, folder=folder)

    async def _events(self, request: Request) -> Response:
        followed = logs.following(self._shared.source.about.logs, _wanted(request))
        watch, gate, session = self._shared.watch, self._shared.gate, request.scope[SESSION]

        async def events() -> AsyncIterator[str]:
            # In place of the page's: what came since it was made is among them, and after a broken connection, too.
            yield f"event: anew\ndata: {json.dumps(await asyncio.to_thread(logs.rows, followed))}\n\n"
            silent = 0
            while not watch.ended:
                if not await gate.is_in(session):
                    yield OUT
                    return
                await asyncio.sleep(logs.EVERY_S)
                found = await asyncio.to_thread(logs.rows, followed)
                silent = 0 if found else silent + 1
                if found:
                    yield f"data: {json.dumps(found)}\n\n"
                elif silent % _SILENT == 0:
                    yield ": nothing new\n\n"

        return StreamingResponse(events(), media_type="text/event-stream")

    # ---- APIs ------------------------------------------------------------------------------------------------------

    async def _apis(self, request: Request) -> Response:
        document = await self._openapi()
        return self._shared.pages.page(request, "docs.html", document=document, routes=_by_address(document))

    async def _document(self, request: Request) -> Response:  # noqa: ARG002
        return Response(json_text.dumps(await self._openapi()), media_type="application/json")

    async def _openapi(self) -> dict[str, Any]:
        source = self._shared.source
        served = await all_of(source, (await source.names())[:MOST_MODELS])
        return document_of(await source.apis(), [await self._asking(one) for one in served])

    async def _asking(self, one: Served) -> Asking:
        contents = await self._shared.archives.contents(one.of.url)
        samples: list[tuple[str, bytes | int]] = []
        for about in contents.samples[: Asking.MOST]:
            if (size := contents.size_of(about.input)) > MOST_SAMPLE:
                samples.append((about.content_type or "", size))
                continue
            try:
                samples.append((about.content_type or "", await self._shared.archives.body(contents, about)))
            except ArchiveError:
                continue
        return Asking(one.of.name, one.of.version, one.of.default, contents.record, tuple(samples))


def _wanted(request: Request) -> logs.Filter:
    given = request.query_params
    return logs.Filter(given.get("model", "")[:_MOST_MODEL], given.get("id", "").strip()[:_MOST_MARK])


def _by_address(document: Mapping[str, Any]) -> dict[str, list[tuple[str, str, dict[str, Any]]]]:
    """Return the operations of a document by the address that they are asked at: path, method, and what it says."""
    found: dict[str, list[tuple[str, str, dict[str, Any]]]] = {}
    for path, item in document["paths"].items():
        address = item["servers"][0]["url"] if item.get("servers") else ""
        for method, operation in item.items():
            if isinstance(operation, dict) and "responses" in operation:
                found.setdefault(address, []).append((path, method, operation))
    return found
