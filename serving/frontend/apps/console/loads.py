"""The pages of load tests: what is to be sent, and how it goes and went."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Sequence
from typing import Final

from starlette.datastructures import FormData
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from archive_tool.errors import TorchmarError
from serving.bench import report
from serving.bench.session import MOST_CONNECTIONS
from serving.bench.targets import Target
from serving.client import Address
from serving.frontend.apps.console.app import Around, numbered, posted, version_of
from serving.frontend.apps.console.given import given
from serving.frontend.apps.console.pages import link
from serving.frontend.apps.console.shown.figures import MOST_MODELS, all_of
from serving.frontend.apps.console.shown.load_tests import MOST_RATE, MOST_S, SEARCHED, LoadTest, LoadTests, Wanted
from serving.frontend.apps.console.sources import Served
from serving.frontend.errors import BadRequestError, FrontendError

_LEAST: Final = 0.1  # of a rate, and of seconds
_LEAST_MS, _MOST_MS = 0.001, 3_600_000.0
# For which a page waits for the models of a server.
_LISTING_S: Final = 3.0
_NUMBER: Final = re.compile(r"[0-9]{1,9}(\.[0-9]{1,6})?")


class Loads:
    """The pages of load tests.

    Args:
        shared: what all pages share.
    """

    def __init__(self, shared: Around) -> None:
        self._shared = shared
        self._tests = LoadTests(shared.source.about.lock)
        self._listing: asyncio.Future[list[Served] | None] | None = None

    @property
    def routes(self) -> Sequence[BaseRoute]:
        """Paths below the console's."""
        start = posted(self._shared, self._start, self._shared.source.about.most)
        paths = ("/load/{name}", "/load/{name}/{version}")
        return [
            Route("/load", self._page, methods=["GET"]),
            Route("/load", posted(self._shared, self._stop), methods=["POST"]),
            Route("/events/load", self._events, methods=["GET"]),
            *(Route(path, self._form, methods=["GET"]) for path in paths),
            *(Route(path, start, methods=["POST"]) for path in paths),
        ]

    def end(self) -> None:
        """End the test under way with the server."""
        self._tests.end()

    # ---- how it goes -----------------------------------------------------------------------------------------------

    async def _page(self, request: Request) -> Response:
        served, test = await self._served(), self._tests.last
        return self._shared.pages.page(request, "load.html", served=served, test=test, report=report)

    async def _served(self) -> list[Served] | None:
        """Return the models; None where the server does not say them: a test is seen, and stopped, all the same."""

        async def ask() -> list[Served] | None:
            with contextlib.suppress(FrontendError, TorchmarError):
                source = self._shared.source
                return await all_of(source, (await source.names())[:MOST_MODELS])
            return None

        if self._listing is None or self._listing.done():  # one for all who wait: each has a thread
            self._listing = asyncio.ensure_future(ask())
        await asyncio.wait({self._listing}, timeout=_LISTING_S)
        return self._listing.result() if self._listing.done() else None

    async def _events(self, request: Request) -> Response:
        test = self._tests.last
        return numbered(self._shared, request, None if test is None else test.told, "over")

    # ---- what can be done ------------------------------------------------------------------------------------------

    async def _form(self, request: Request) -> Response:
        one, _ = await version_of(self._shared.source, request)
        contents = await self._shared.archives.contents(one.of.url)
        return self._shared.pages.page(
            request,
            "load_form.html",
            one=one,
            contents=contents,
            chosen=request.query_params.get("sample", "0"),
            typed="",
            under_way=self._tests.under_way,
            most={"connections": MOST_CONNECTIONS, "rate": MOST_RATE, "seconds": MOST_S, "searched": MOST_S / SEARCHED},
        )

    async def _start(self, request: Request, form: FormData) -> Response:
        self._tests.refuse_second()
        one, _ = await version_of(self._shared.source, request)
        wanted = _wanted(form)
        sent = await given(self._shared.archives, one, form)
        source, version = self._shared.source, request.path_params.get("version")
        key = await source.inference_key()
        target = Target(Address(source.about.inference), one.of.name, version, token=key)
        self._tests.start(LoadTest(target, sent, wanted))
        return RedirectResponse(link("load"), 303)

    async def _stop(self, request: Request, form: FormData) -> Response:  # noqa: ARG002
        await self._tests.stop()
        return RedirectResponse(link("load"), 303)


def _wanted(form: FormData) -> Wanted:
    """Read how much is to be sent.

    Raises:
        BadRequestError: it cannot be, or is too much.
    """
    slo = _number(form, "slo", _LEAST_MS, _MOST_MS) if _text(form, "slo") else None
    loop = _text(form, "loop")
    if loop not in ("connections", "rate"):
        raise BadRequestError("loop: connections or rate is wanted")
    if loop == "rate":
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
    text = _text(form, name)
    if not _NUMBER.fullmatch(text) or not least <= float(text) <= most:
        raise BadRequestError(f"{name}: a number is wanted, {least:g} to {most:g}")
    return float(text)


def _text(form: FormData, name: str) -> str:
    given = form.get(name)
    return given.strip() if isinstance(given, str) else ""
