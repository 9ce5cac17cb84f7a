"""The pages of load tests: what is to be sent, and how it goes and went."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from datetime import datetime
from typing import Any, Final

from starlette.datastructures import FormData
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from serving.bench import report
from serving.bench.session import MOST_CONNECTIONS
from serving.bench.targets import Target
from serving.client import Address
from serving.frontend.apps.console.app import Around, numbered, posted, version_of
from serving.frontend.apps.console.given import Given, given
from serving.frontend.apps.console.pages import language_of, link
from serving.frontend.apps.console.shown.figures import MOST_MODELS, all_of
from serving.frontend.apps.console.shown.load_tests import MOST_RATE, MOST_S, SEARCHED, LoadTest, LoadTests, Wanted
from serving.frontend.apps.console.shown.said import said
from serving.frontend.errors import BadRequestError, ConflictError

_LEAST: Final = 0.1  # of a rate, and of seconds
_LEAST_MS, _MOST_MS = 0.001, 3_600_000.0
_NUMBER: Final = re.compile(r"[0-9]{1,9}(\.[0-9]{1,6})?")
#: What a form proposes.
_FIRST: Final = Wanted(8, None, 10.0, None)


class Loads:
    """The pages of load tests.

    Args:
        shared: what all pages share.
    """

    def __init__(self, shared: Around) -> None:
        self._shared = shared
        self._tests = LoadTests()

    @property
    def routes(self) -> Sequence[BaseRoute]:
        """Paths below the console's."""
        start = posted(self._shared, self._start, self._shared.source.about.most)
        paths = ("/load/{name}", "/load/{name}/{version}")
        return [
            Route("/load", self._page, methods=["GET"]),
            Route("/load", posted(self._shared, self._stop_or_repeat), methods=["POST"]),
            Route("/events/load", self._events, methods=["GET"]),
            *(Route(path, self._form, methods=["GET"]) for path in paths),
            *(Route(path, start, methods=["POST"]) for path in paths),
        ]

    def end(self) -> None:
        """End the test under way with the server."""
        self._tests.end()

    # ---- how it goes -----------------------------------------------------------------------------------------------

    async def _page(self, request: Request) -> Response:
        source, test = self._shared.source, self._tests.last
        served = await all_of(source, (await source.names())[:MOST_MODELS])
        begun = datetime.fromtimestamp(test.begun).astimezone() if test else None
        return self._shared.pages.page(request, "load.html", served=served, test=test, report=report, begun=begun)

    async def _events(self, request: Request) -> Response:
        test, language = self._tests.last, language_of(request)
        if test is None:
            return numbered(self._shared, request, None, "over")

        async def told(after: int) -> AsyncGenerator[tuple[int, dict[str, Any]], None]:
            async with aclosing(test.told(after)) as seconds:
                async for number, second in seconds:
                    yield number, {**second, "load": said(language, second["load"]) or second["load"]}

        return numbered(self._shared, request, told, "over")

    # ---- what can be done ------------------------------------------------------------------------------------------

    async def _form(self, request: Request) -> Response:
        one, _ = await version_of(self._shared.source, request)
        contents = await self._shared.archives.contents(one.of.url)
        last = self._tests.last
        # Who has tested this model wants much of it again.
        before = last if last is not None and last.target.model == one.of.name else None
        sent = before.sent if before else Given(b"", "", "", sample="0")
        return self._shared.pages.page(
            request,
            "load_form.html",
            one=one,
            contents=contents,
            chosen=request.query_params.get("sample", sent.sample),
            typed=sent.text or "",
            kind=sent.named,
            wanted=before.wanted if before else _FIRST,
            under_way=self._tests.under_way,
            most={"connections": MOST_CONNECTIONS, "rate": MOST_RATE, "seconds": MOST_S, "searched": MOST_S / SEARCHED},
        )

    async def _start(self, request: Request, form: FormData) -> Response:
        self._tests.refuse_second()
        one, _ = await version_of(self._shared.source, request)
        wanted = _wanted(form)
        sent = await given(self._shared.archives, one, form)
        return await self._begin(one.of.name, request.path_params.get("version"), sent, wanted)

    async def _begin(self, name: str, version: str | None, sent: Given, wanted: Wanted) -> Response:
        source = self._shared.source
        key = await source.inference_key()
        target = Target(Address(source.about.inference), name, version, token=key)
        self._tests.start(LoadTest(target, sent, wanted))
        return RedirectResponse(link("load"), 303)

    async def _stop_or_repeat(self, request: Request, form: FormData) -> Response:  # noqa: ARG002
        if not form.get("again"):
            await self._tests.stop()
            return RedirectResponse(link("load"), 303)
        self._tests.refuse_second()
        if (last := self._tests.last) is None:
            raise ConflictError("there was no load test yet")
        return await self._begin(last.target.model, last.target.version, last.sent, last.wanted)


def _wanted(form: FormData) -> Wanted:
    """Read how much is to be sent.

    Raises:
        BadRequestError: it cannot be, or is too much.
    """
    slo = _number(form, "slo", _LEAST_MS, _MOST_MS) if form.get("slo") else None
    if form.get("loop") == "rate":
        rate = _number(form, "rate", _LEAST, MOST_RATE)
        return Wanted(None, rate, _number(form, "seconds", _LEAST, MOST_S), slo)
    connections = _number(form, "connections", 1, MOST_CONNECTIONS)
    if connections != int(connections):
        raise BadRequestError("connections: a whole number is wanted")
    most = MOST_S / SEARCHED if slo is not None else MOST_S
    return Wanted(int(connections), None, _number(form, "seconds", _LEAST, most), slo)


def _number(form: FormData, name: str, least: float, most: float) -> float:
    """Read a number.

    Raises:
        BadRequestError: it is none, or out of bounds.
    """
    given = form.get(name)
    text = given.strip() if isinstance(given, str) else ""
    if not _NUMBER.fullmatch(text) or not least <= float(text) <= most:
        raise BadRequestError(f"{name}: a number is wanted, {least:g} to {most:g}")
    return float(text)
