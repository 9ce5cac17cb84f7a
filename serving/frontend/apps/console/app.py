"""The console as an application: who may see it, its pages by their paths, and what becomes of errors."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote, unquote, urlsplit

from starlette.applications import Starlette
from starlette.datastructures import FormData
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

from archive_tool.cli.output import human_size
from archive_tool.errors import TorchmarError
from serving.frontend.apps.console.beside import DOCS, PATH
from serving.frontend.apps.console.gate import HEADERS, MARK, SESSION, Gate, Session, set_cookie
from serving.frontend.apps.console.pages import AGAIN_MS, ALONE, HERE, LANGUAGE, Pages, link
from serving.frontend.apps.console.shown.contents import Archives
from serving.frontend.apps.console.shown.figures import Watch
from serving.frontend.apps.console.sources import Served, Source
from serving.frontend.apps.console.words import LANGUAGES
from serving.frontend.entrance import App, Message, Receive, Scope, Send
from serving.frontend.errors import (
    BadRequestError,
    FrontendError,
    OutOfResourcesError,
    TooLargeError,
    VersionNotFoundError,
)

# Bytes of a form beside a file's.
_FORM: Final = 1 << 16
_MOST_FIELDS: Final = 20
# Seconds in which a body that nobody wants is read.
_LINGER_S: Final = 2.0
_LOGIN, _LOGOUT, _STATIC = f"{PATH}/login", f"{PATH}/logout", f"{PATH}/static"
_EVENTS: Final = "text/event-stream"
#: Of a stream of events: the session that it was for has ended.
OUT: Final = "event: out\ndata: {}\n\n"

#: Answers a form.
Posted = Callable[[Request, FormData], Awaitable[Response]]


@dataclass(frozen=True)
class Around:
    """What all pages share."""

    source: Source
    gate: Gate
    pages: Pages
    watch: Watch
    archives: Archives


def around(source: Source) -> Around:
    """Make what the pages of a server share."""
    gate = Gate(source.is_key if source.about.keyed else None)
    pages = Pages({"about": source.about})
    return Around(source, gate, pages, Watch(source), Archives(source.about.store))


async def version_of(source: Source, request: Request) -> tuple[Served, Sequence[Served]]:
    """Find the version that a path names, the default one where it names none, and all of its model.

    Raises:
        VersionNotFoundError: there is none.
    """
    name, version = request.path_params["name"], request.path_params.get("version")
    served = await source.versions(name)
    for one in served:
        if version in (None, one.of.version):
            return one, served
    raise VersionNotFoundError(f"Model version: {version} does not exist for model: {name}")


class Console:
    """The console of a server.

    Args:
        shared: what its pages share.
        routes: of the pages, below the console's path.
    """

    def __init__(self, shared: Around, routes: Sequence[BaseRoute]) -> None:
        self._shared = shared
        own: list[BaseRoute] = [
            Route("/login", self._login_page, methods=["GET"]),
            Route("/login", posted(shared, self._login), methods=["POST"]),
            Route("/logout", posted(shared, self._logout), methods=["POST"]),
            Mount("/static", StaticFiles(directory=HERE / "static")),
        ]
        # Where nothing else is served, that is where one looks first.
        top = Route("/", lambda _: RedirectResponse(PATH), methods=["GET"])
        docs = Route(DOCS, lambda _: RedirectResponse(link("docs")), methods=["GET"])
        handlers: dict[Any, Any] = {
            FrontendError: self._refused,
            TorchmarError: self._failed,
            HTTPException: self._missing,
        }
        self._app = Starlette(routes=[Mount(PATH, routes=[*own, *routes]), docs, top], exception_handlers=handlers)
        self._app.router.redirect_slashes = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["path"] == PATH:
            scope = {**scope, "path": f"{PATH}/", "raw_path": f"{PATH}/".encode()}
        headers = dict(scope["headers"])
        session = scope[SESSION] = self._shared.gate.session(scope, headers)
        asked: App = self._app
        try:
            self._shared.gate.refuse_others(scope, headers)
            inside = scope["path"].startswith((_LOGIN, f"{_STATIC}/")) or await self._shared.gate.is_in(session)
        except FrontendError as error:
            asked = await self._refused(Request(scope), error)
        except TorchmarError as error:  # of a server beside, which is asked for a key in place of one that has expired
            asked = await self._failed(Request(scope), error)
        else:
            if not inside:
                asked = _outside(scope, headers)
        body = _Body(headers, receive)
        await asked(scope, body.receive, _sealed(scope, send, body))

    # ---- coming in -------------------------------------------------------------------------------------------------

    async def _login_page(self, request: Request) -> Response:
        if not self._shared.gate.keyed:
            return RedirectResponse(PATH, 303)
        where, ended = _inside(request.query_params.get("next")), request.scope[SESSION].key == ""
        return self._shared.pages.page(request, "login.html", next=where, wrong=False, ended=ended)

    async def _login(self, request: Request, form: FormData) -> Response:
        where, key = _inside(form.get("next")), form.get("key")
        come = await self._shared.gate.come_in(request.scope[SESSION], key.strip() if isinstance(key, str) else "")
        if come is None:
            return self._shared.pages.page(request, "login.html", 403, next=where, wrong=True, ended=False)
        request.scope[SESSION] = come
        return RedirectResponse(where, 303)

    async def _logout(self, request: Request, form: FormData) -> Response:  # noqa: ARG002
        self._shared.gate.leave(request.scope[SESSION])
        return RedirectResponse(_LOGIN if self._shared.gate.keyed else PATH, 303)

    # ---- errors ----------------------------------------------------------------------------------------------------

    async def _refused(self, request: Request, error: Exception) -> Response:
        status, message = (error.status, error.message) if isinstance(error, FrontendError) else (500, "")
        return self._error(request, status, message, "")

    async def _failed(self, request: Request, error: Exception) -> Response:
        message, hint = (error.message, error.hint or "") if isinstance(error, TorchmarError) else ("", "")
        status = getattr(error, "status", 0)
        return self._error(request, status if 400 <= status < 600 else 502, message, hint)

    async def _missing(self, request: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 500
        return self._error(request, status, error.detail if isinstance(error, HTTPException) else "", "")

    def _error(self, request: Request, status: int, message: str, hint: str) -> Response:
        # A form that was refused leads back to its page; one of a browser without a cookie would learn nothing there.
        page = "" if ALONE in request.headers or request.scope[SESSION].new else _page_of(request)
        if request.method == "POST" and page:
            self._shared.pages.tell(request, message or str(status), hint, bad=True)
            return RedirectResponse(quote(page), 303)
        template = "refused.html" if ALONE in request.headers else "error.html"
        return self._shared.pages.page(request, template, status, code=status, message=message, hint=hint)


def posted(shared: Around, answer: Posted, most: int = 0) -> Callable[[Request], Awaitable[Response]]:
    """Make an endpoint of what answers a form: it must be of this session's pages, and not too large.

    Args:
        shared: what all pages share.
        answer: answers it.
        most: bytes of a file, or a text, in it.
    """

    async def endpoint(request: Request) -> Response:
        length = request.headers.get("content-length", "")
        if not length.isdecimal():
            raise BadRequestError("a form must say its length")
        if int(length) > most + _FORM:
            raise TooLargeError(f"the form has more than {most or _FORM} bytes{' (max_request_size)' if most else ''}")
        kind = request.headers.get("content-type", "").lower()
        if kind.startswith("multipart/") and "charset" in kind:
            # No browser sends one, and Python has charsets that decode to what is no text, or fail in their own way.
            raise BadRequestError("a form is in UTF-8, and names no charset")
        async with contextlib.AsyncExitStack() as closing:
            form = request.form(max_files=1, max_fields=_MOST_FIELDS, max_part_size=most or _FORM)
            try:
                read = await closing.enter_async_context(form)
            except OSError as error:
                raise _not_kept(error, int(length)) from error
            shared.gate.check(request.scope[SESSION], read.get(MARK))
            return await answer(request, read)

    return endpoint


def _not_kept(error: OSError, size: int) -> OutOfResourcesError:
    """Make the error of a form whose file cannot be written down."""
    try:
        folder = tempfile.gettempdir()
        room = f", which has {human_size(shutil.disk_usage(folder).free)} left"
    except OSError:
        folder, room = "for temporary files", ""
    return OutOfResourcesError(
        f"a form of {human_size(size)} cannot be kept in the folder {folder}{room}: {error.strerror or error}; "
        "make room there, or start the server with another one in TMPDIR"
    )


def _outside(scope: Scope, headers: Mapping[bytes, bytes]) -> App:
    """Answer who has no session: a script is told so, and who asks for a page, or sends a form, led to the login."""
    if headers.get(b"accept") == _EVENTS.encode():
        return Response(OUT, media_type=_EVENTS)
    if ALONE.encode() in headers:
        return Response(status_code=401)
    # Back to the page with the form: where it leads there may be no page.
    path = scope["path"] if scope["method"] in ("GET", "HEAD") else _page_of(Request(scope))
    return RedirectResponse(f"{_LOGIN}?next={quote(path)}" if path.startswith(PATH) else _LOGIN, 303)


def _page_of(request: Request) -> str:
    """Return the path of the console's page with the form that a request has sent; empty where none says so."""
    with contextlib.suppress(ValueError):
        page = urlsplit(request.headers.get("referer", ""))
        path = unquote(page.path)
        return path if page.netloc == request.headers.get("host") and _inside(path) == path else ""
    return ""


def _inside(given: object) -> str:
    """Return a path of the console that a form names; its beginning where it names another one."""
    plain = isinstance(given, str) and (given == PATH or given.startswith(f"{PATH}/"))
    return given if plain and isinstance(given, str) and given.isprintable() and "\\" not in given else PATH


class _Body:
    """A request's body: what is left of it when it is answered must not be taken for the next request.

    Args:
        headers: of the request.
        receive: gives its messages.
    """

    def __init__(self, headers: Mapping[bytes, bytes], receive: Receive) -> None:
        self._receive = receive
        self.read = headers.get(b"content-length", b"0") == b"0" and b"transfer-encoding" not in headers

    async def receive(self) -> Message:
        """Give the next message."""
        message = await self._receive()
        self.read = self.read or not message.get("more_body", False)
        return message

    async def drop(self) -> None:
        """Read what is left for a moment, so that the client sees the answer and not a broken connection."""

        async def rest() -> None:
            while not self.read:
                await self.receive()

        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(rest(), _LINGER_S)


def _sealed(scope: Scope, send: Send, body: _Body) -> Send:
    """Give every response the headers that keep a browser from being misled, and the session's cookie."""

    async def sealed(message: Message) -> None:
        if message["type"] == "http.response.start":
            session: Session = scope[SESSION]
            given = {name for name, _ in message["headers"]}
            headers = [*message["headers"], *(pair for pair in HEADERS if pair[0] not in given)]
            await body.drop()
            if not body.read:
                headers.append((b"connection", b"close"))
            if not scope["path"].startswith(_STATIC):
                headers.append((b"cache-control", b"no-store"))
            if session.new:
                headers.append((b"set-cookie", set_cookie(scope, session)))
            if (language := _chosen(scope)) is not None:
                headers.append((b"set-cookie", f"{LANGUAGE}={language}; Path={PATH}; SameSite=Strict".encode()))
            message = {**message, "headers": headers}
        await send(message)

    return sealed


def _chosen(scope: Scope) -> str | None:
    """Return the language that a link of a page has chosen."""
    return next((one for one in LANGUAGES if scope["query_string"] == f"lang={one}".encode()), None)


def numbered(
    shared: Around,
    request: Request,
    told: Callable[[int], AsyncGenerator[tuple[int, dict[str, Any]], None]] | None,
    last: str = "",
) -> Response:
    """Answer with documents as server-sent events, as long as the session goes on.

    Args:
        shared: what all pages share.
        request: whose reader may have some of them already.
        told: yields documents with their numbers, those behind the number that it is given; None where there are none.
        last: name of an event that ends them; empty for none.
    """
    after, session = request.headers.get("last-event-id", "0"), request.scope[SESSION]

    async def events() -> AsyncIterator[str]:
        yield f"retry: {AGAIN_MS}\n\n"
        if told is not None:
            begin = int(after) if after.isdecimal() and len(after) < 12 else 0
            async with contextlib.aclosing(told(begin)) as documents:
                async for number, document in documents:
                    if not await shared.gate.is_in(session):
                        yield OUT
                        return
                    yield f"id: {number}\ndata: {json.dumps(document)}\n\n"
        if last:
            yield f"event: {last}\ndata: {{}}\n\n"

    return StreamingResponse(events(), media_type=_EVENTS)
