"""The management API: models and their workers, by TorchServe's paths, parameters and words."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from datetime import datetime, timezone
from typing import Any, Final

from serving.frontend.apps import openinference
from serving.frontend.apps.answers import JSON, constant_headers, json_body, new_id, status_of
from serving.frontend.apps.bodies import read_body
from serving.frontend.apps.exchange import App, Exchange, whole_body
from serving.frontend.apps.keys import Keys
from serving.frontend.apps.openapi import management_document, model_management_document
from serving.frontend.apps.parameters import Parameters, registration_of, share_of
from serving.frontend.apps.routing import NO_METHOD, NO_ROUTE, NO_WORKFLOWS, refuse_pages
from serving.frontend.engine import Call, Done, Engine, ModelState, Share, WorkerState
from serving.frontend.errors import (
    BadRequestError,
    MethodNotAllowedError,
    NotImplementedHereError,
    ResourceNotFoundError,
    UnavailableError,
)
from serving.frontend.meters import Meters
from serving.frontend.settings import Settings
from serving.protocol import Request

_PAGE: Final = 100
# Characters of a header in a message.
_SHOWN: Final = 100
_SCALE: Final = ("min_worker", "max_worker", "synchronous", "model_version")
# TorchServe's documents and its description of the API have these, and it reads none of them.
_IDLE_OF_SCALE: Final = ("timeout", "number_gpu")
_IDLE_OF_UNREGISTER: Final = ("synchronous", "timeout")
# Bodies that some clients send with every PUT and POST.
_NO_BODY: Final = (b"", b"{}", b"null")
_IN_QUERY: Final = "write the parameters into the query"


class ManagementApp(App):
    """The management API over an engine."""

    def __init__(self, engine: Engine, settings: Settings, keys: Keys | None, meters: Meters) -> None:
        super().__init__(constant_headers(settings), meters)
        self._engine, self._keys = engine, keys
        self._changes = settings.enable_model_api
        self._most, self._most_answer = settings.max_request_size, settings.max_response_size
        self._origins = settings.text("cors_allowed_origin")
        self._version = openinference.version_of(settings)

    async def route(self, http: Exchange) -> None:
        """Answer a request.

        Raises:
            FrontendError: what is then the answer.
        """
        refuse_pages(http.scope, http.headers, self._origins, keyed=self._keys is not None)
        match http.segments:
            case [] | ["api-description"]:
                await self.describe_api(http, management_document(self._version))
                return
            case ["token"] if self._keys is not None:
                await self._renew(http, self._keys)
                return
        if self._keys is not None:
            self._keys.check("management", http.header(b"authorization"))
        await self._handler(http)(http)

    def _handler(self, http: Exchange) -> Callable[[Exchange], Awaitable[None]]:
        methods: dict[str, Callable[[Exchange], Awaitable[None]]]
        match http.segments:
            case ["models"]:
                methods = {"GET": self._list}
                if self._changes:
                    methods["POST"] = self._register
            case ["models", _] | ["models", _, _]:
                methods = {"GET": self._describe, "PUT": self._scale, "OPTIONS": self._api_of_model}
                if self._changes:
                    methods["DELETE"] = self._unregister
            case ["models", _, _, "set-default"]:
                methods = {"PUT": self._set_default}
            case ["models", _, _, "traffic"]:
                methods = {"PUT": self._share}
            case ["v1", "models", _]:
                methods = {"GET": self._is_ready}
            case ["workflows", *_]:
                raise NotImplementedHereError(NO_WORKFLOWS)
            case _:
                raise ResourceNotFoundError(NO_ROUTE)
        if http.method not in methods:
            raise MethodNotAllowedError(NO_METHOD)
        return methods[http.method]

    # ---- reading -----------------------------------------------------------------------------------------------------

    async def _list(self, http: Exchange) -> None:
        given = Parameters.of_query(http.query).only(("limit", "next_page_token"))
        await http.json(page_of(self._engine, given.number("limit"), given.number("next_page_token") or 0))

    async def _describe(self, http: Exchange) -> None:
        name, version = _model(http)
        given = Parameters.of_query(http.query).only(("customized",))
        states = self._engine.describe(name, version)
        if version == "all" or not given.flag("customized", False):
            await http.json([described(state) for state in states])
            return
        # Never the client's own id: another request that the same worker has may have it, too.
        call = Call(name, version, Request(new_id(), {**http.named_headers(), "describe": "True"}))
        document, status = await http.unless_gone(customized(self._engine, call, self._most_answer))
        await http.json([document], status_of(status))

    async def _is_ready(self, http: Exchange) -> None:
        name = http.segments[2].partition(":")[0]
        (state, *_) = self._engine.describe(name, None)
        await http.json({"name": name, "ready": any(worker.ready for worker in state.workers)})

    async def _api_of_model(self, http: Exchange) -> None:
        (state, *_) = self._engine.describe(*_model(http))
        await http.json(model_management_document(state.name, self._version))

    # ---- changing ----------------------------------------------------------------------------------------------------

    async def _register(self, http: Exchange) -> None:
        body = await read_body(http, self._most)
        kind = http.header(b"content-type").partition(";")[0].strip().lower()
        if kind == JSON and not (http.query and body.strip() in _NO_BODY):
            if http.query:
                raise BadRequestError(f"there are a query and a body of JSON: {_IN_QUERY}, or all into the body")
            given = Parameters.of_json(body)
        else:
            given = _of_query(http, body, f"{_IN_QUERY} (/models?url=model.mar), or send JSON as content-type: {JSON}")
        await _done(http, await self._engine.register(registration_of(given)))

    async def _scale(self, http: Exchange) -> None:
        name, version = _model(http)
        body = await read_body(http, self._most)
        given = _of_query(http, body, f"{_IN_QUERY} (?min_worker=2)").only(_SCALE, _IDLE_OF_SCALE)
        least = given.number("min_worker")
        done = await self._engine.scale(
            name,
            version or given.text("model_version"),
            1 if least is None else least,
            given.number("max_worker"),
            synchronous=given.flag("synchronous", False),
        )
        await _done(http, done)

    async def _set_default(self, http: Exchange) -> None:
        Parameters.of_query(http.query).only(())
        await _done(http, await self._engine.set_default(http.segments[1], http.segments[2]))

    async def _share(self, http: Exchange) -> None:
        body = await read_body(http, self._most)
        wanted = share_of(_of_query(http, body, f"{_IN_QUERY} (?percent=5)"))
        await _done(http, await self._engine.share(http.segments[1], http.segments[2], wanted))

    async def _unregister(self, http: Exchange) -> None:
        Parameters.of_query(http.query).only((), _IDLE_OF_UNREGISTER)
        await _done(http, await self._engine.unregister(*_model(http)))

    async def _renew(self, http: Exchange, keys: Keys) -> None:
        kind = Parameters.of_query(http.query).only(("type",)).text("type") or ""
        await asyncio.to_thread(keys.renew, http.header(b"authorization"), kind)
        await http.empty()


def management_app(engine: Engine, settings: Settings, keys: Keys | None, meters: Meters) -> ManagementApp:
    """Make the management API.

    Args:
        keys: None where requests need none.
    """
    return ManagementApp(engine, settings, keys, meters)


def _model(http: Exchange) -> tuple[str, str | None]:
    return http.segments[1], http.segments[2] if len(http.segments) > 2 else None


def _of_query(http: Exchange, body: bytes, hint: str) -> Parameters:
    """Return the parameters of a query, which are all: those of a body would be lost without a word.

    Raises:
        BadRequestError: there is something in the body.
    """
    if body.strip() not in _NO_BODY:
        kind = http.header(b"content-type") or "of no content type"
        raise BadRequestError(f"the body is not read here, which is {kind[:_SHOWN]}: {hint}")
    return Parameters.of_query(http.query)


async def _done(http: Exchange, done: Done) -> None:
    await http.json({"status": done.message}, done.status)


def page_of(engine: Engine, limit: int | None, first: int) -> dict[str, Any]:
    """List models.

    Args:
        limit: at most 100, which None stands for.
        first: number of the first one.
    """
    limit = _PAGE if limit is None else min(limit, _PAGE)
    models = engine.names()
    last = first + limit
    document: dict[str, Any] = {"nextPageToken": f"{last}"} if last <= len(models) else {}
    document["models"] = [_listed(engine, name, url) for name, url in models[first:last]]
    return document


def _listed(engine: Engine, name: str, url: str) -> dict[str, Any]:
    shares = {version: _share(share) for version, share in engine.shares(name).items()}
    return {"modelName": name, "modelUrl": url, **({"traffic": shares} if shares else {})}


async def customized(engine: Engine, call: Call, most: int) -> tuple[dict[str, Any], int]:
    """Describe a version with what its handler says of itself; return the handler's status, too.

    Args:
        call: that asks the handler.
        most: bytes of its answer.

    Raises:
        FrontendError: it cannot be asked, or has failed.
    """
    if not engine.describe(call.name, call.version)[0].workers:
        raise UnavailableError(
            f'Model "{call.name}" has no worker to serve describe request. Please use scale workers API to add workers.'
        )
    answer = await engine.predict(call)
    body = await whole_body(answer, most)
    document = described(engine.describe(call.name, call.version)[0])
    if (metadata := _metadata(body)) is not None:
        document["customizedMetadata"] = metadata
    return document, answer.status


def described(state: ModelState) -> dict[str, Any]:
    """Describe a version as TorchServe's JSON does."""
    return {
        "modelName": state.name,
        "modelVersion": state.version,
        "modelUrl": state.url,
        "runtime": state.runtime,
        **state.settings,
        "loadedAtStartup": state.loaded_at_startup,
        "workers": [_worker(worker) for worker in state.workers],
        "jobQueueStatus": {"remainingCapacity": state.remaining, "pendingRequests": state.waiting},
        **({"traffic": _share(state.share)} if state.share else {}),
    }


def _share(share: Share) -> dict[str, Any]:
    return {"percent": share.percent, "shadow": share.shadow, "stickyHeaders": list(share.sticky or ())}


def _worker(worker: WorkerState) -> dict[str, Any]:
    started = datetime.fromtimestamp(worker.started, timezone.utc)
    return {
        "id": worker.id,
        "startTime": f"{started:%Y-%m-%dT%H:%M:%S}.{started.microsecond // 1000:03}Z",
        "status": "READY" if worker.ready else "UNLOADING",
        "memoryUsage": worker.memory_bytes,
        "pid": worker.pid,
        "gpu": worker.gpu is not None,
        "gpuUsage": "N/A" if worker.gpu is None else f"gpuId::{worker.gpu}",
    }


def _metadata(body: bytes) -> dict[str, Any] | None:
    """Read what a handler says of its model; as in TorchServe empty where it is no JSON object."""
    try:
        document = json.loads(body) if body else None
        if document is None:
            return None
        # What nests too deeply to be written is no better than what cannot be read.
        json_body(document)
    except (ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}
