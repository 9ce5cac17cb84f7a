"""What SageMaker asks at the port of the inference API where it may load models itself: a multi-model endpoint.

``POST /models`` of what it has put below a folder, ``GET`` and ``DELETE``.
"""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from archive_tool.errors import TorchmarError
from archive_tool.metadata.names import model_name_problem
from serving.control.models.store import archives_in
from serving.frontend.apps.answers import constant_headers
from serving.frontend.apps.bodies import read_body
from serving.frontend.apps.exchange import App, Exchange
from serving.frontend.apps.keys import Keys
from serving.frontend.apps.parameters import Parameters
from serving.frontend.apps.routing import NO_METHOD, refuse_pages, segments_of
from serving.frontend.engine import Engine, Registration
from serving.frontend.entrance import App as AnyApp
from serving.frontend.entrance import Receive, Scope, Send
from serving.frontend.errors import (
    BadRequestError,
    ConflictError,
    MethodNotAllowedError,
    ModelNotFoundError,
)
from serving.frontend.meters import Meters
from serving.frontend.settings import Settings

_PAGE: Final = 100


@dataclass(frozen=True)
class _Loaded:
    """What SageMaker has loaded: from where, and the link to it in the model store."""

    url: str
    link: Path


class PlatformsApp(App):
    """These calls over an engine.

    Args:
        keys: None where requests need none.
        multi_model: folder below which models may be loaded.
    """

    def __init__(
        self, engine: Engine, settings: Settings, keys: Keys | None, meters: Meters, multi_model: Path
    ) -> None:
        super().__init__(constant_headers(settings), meters)
        self._engine, self._keys = engine, keys
        self._most = settings.max_request_size
        self._origins = settings.text("cors_allowed_origin")
        self._store = settings.place.model_store
        self._folder = multi_model.resolve()
        self._loaded: dict[str, _Loaded] = {}
        self._changing: set[str] = set()

    def is_ours(self, scope: Scope) -> bool:
        """Whether a request is one of these."""
        path = scope["path"]
        if not path.startswith("/models"):
            return False
        match segments_of(path):
            case ["models"] | ["models", _]:
                return True
        return False

    async def route(self, http: Exchange) -> None:
        """Answer a request.

        Raises:
            FrontendError: what is then the answer.
        """
        if self._keys is not None:
            self._keys.check("inference", http.header(b"authorization"))
        refuse_pages(http.scope, http.headers, self._origins, keyed=self._keys is not None)
        await self._handler(http)(http)

    def _handler(self, http: Exchange) -> Callable[[Exchange], Awaitable[None]]:
        methods: dict[str, Callable[[Exchange], Awaitable[None]]]
        if len(http.segments) == 1:
            methods = {"GET": self._list, "POST": self._load}
        else:
            methods = {"GET": self._describe, "DELETE": self._unload}
        if http.method not in methods:
            raise MethodNotAllowedError(NO_METHOD)
        return methods[http.method]

    async def _list(self, http: Exchange) -> None:
        given = Parameters.of_query(http.query)
        limit = given.number("limit")
        first = given.number("next_page_token") or 0
        last = first + (_PAGE if limit is None else min(limit, _PAGE))
        names = sorted(self._loaded)
        document: dict[str, Any] = {"nextPageToken": str(last)} if last < len(names) else {}
        await http.json({**document, "models": [self._described(name) for name in names[first:last]]})

    async def _describe(self, http: Exchange) -> None:
        await http.json(self._described(http.segments[1]))

    def _described(self, name: str) -> dict[str, str]:
        return {"modelName": name, "modelUrl": self._known(name).url}

    def _known(self, name: str) -> _Loaded:
        if name not in self._loaded:
            raise ModelNotFoundError(f"Model not found: {name}")
        return self._loaded[name]

    async def _load(self, http: Exchange) -> None:
        given = Parameters.of_json(await read_body(http, self._most))
        name, url = given.text("model_name") or "", given.text("url") or ""
        if problem := model_name_problem(name):
            raise BadRequestError(f"the parameter model_name {problem}")
        with self._alone(name):
            if name in self._loaded:
                raise ConflictError(f"Model {name} is loaded already.")
            link = await asyncio.to_thread(self._linked, url)
            try:
                await self._engine.register(Registration(link.name, name))
            except BaseException:
                link.unlink(missing_ok=True)
                raise
            self._loaded[name] = _Loaded(url, link)
        await http.json({"status": f'Model "{name}" loaded'})

    @contextlib.contextmanager
    def _alone(self, name: str) -> Iterator[None]:
        if name in self._changing:
            raise ConflictError(f"Model {name} is being loaded or unloaded.")
        self._changing.add(name)
        try:
            yield
        finally:
            self._changing.remove(name)

    def _linked(self, url: str) -> Path:
        """Give the archive that a folder holds a name in the model store, where alone the engine looks."""
        folder = Path(url)
        try:
            inside = folder.is_absolute() and folder.resolve().is_relative_to(self._folder)
            found = archives_in(folder) if inside and folder.is_dir() else []
        except (OSError, ValueError, TorchmarError) as error:
            raise BadRequestError(f"{url} cannot be read: {error}") from error
        if not inside:
            raise BadRequestError(f"the parameter url must be a folder below {self._folder}, not {url!r}")
        if len(found) != 1:
            named = ", ".join(path.name for path in found) or "none"
            raise BadRequestError(f"{url} must hold one archive, packed (.mar) or not; it holds {named}")
        suffix = "" if found[0].is_dir() else ".mar"
        link = self._store / f"{uuid.uuid4().hex}{suffix}"
        link.symlink_to(found[0])
        return link

    async def _unload(self, http: Exchange) -> None:
        name = http.segments[1]
        with self._alone(name):
            known = self._known(name)
            with contextlib.suppress(ModelNotFoundError):  # somebody has used the management API
                await self._engine.unregister(name, None)
            del self._loaded[name]
            known.link.unlink(missing_ok=True)
        await http.json({"status": f'Model "{name}" unloaded'})


def with_platforms(inference: AnyApp, ours: PlatformsApp) -> AnyApp:
    """Make an application that asks either, at the cost of a look at the path."""

    def ask(scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        return (ours if ours.is_ours(scope) else inference)(scope, receive, send)

    return ask
