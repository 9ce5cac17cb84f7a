"""The overview, and the page of a model: what it is, and what can be done with it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from starlette.datastructures import FormData
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from archive_tool.metadata.record import TensorSpec
from serving.frontend.apps.console.app import Around, numbered, posted, version_of
from serving.frontend.apps.console.pages import link
from serving.frontend.apps.console.shown import logs
from serving.frontend.apps.console.shown.figures import MOST_MODELS, all_of
from serving.frontend.errors import BadRequestError, ResourceNotFoundError

#: Types of samples that a browser may take for what they are; others could hold a page.
_SHOWN: Final = (
    "image/png",
    "image/jpeg",
    "image/gif",
    "image/webp",
    "audio/wav",
    "audio/x-wav",
    "audio/mpeg",
    "audio/ogg",
)
_MOST_WORKERS: Final = 1000


class Models:
    """The pages about models.

    Args:
        shared: what all pages share.
    """

    def __init__(self, shared: Around) -> None:
        self._shared = shared

    @property
    def routes(self) -> Sequence[BaseRoute]:
        """Paths below the console's."""
        version = "/models/{name}/{version}"
        routes = [
            Route("/", self._overview, methods=["GET"]),
            Route("/events", self._events, methods=["GET"]),
            Route("/models/{name}", self._model, methods=["GET"]),
            Route(version, self._model, methods=["GET"]),
            Route(f"{version}/samples/{{number:int}}", self._sample, methods=["GET"]),
            Route(f"{version}/scale", posted(self._shared, self._scale), methods=["POST"]),
            Route(f"{version}/set-default", posted(self._shared, self._set_default), methods=["POST"]),
        ]
        if self._shared.source.about.changes:
            routes += [
                Route("/models", posted(self._shared, self._register), methods=["POST"]),
                Route(f"{version}/unregister", self._question, methods=["GET"]),
                Route(f"{version}/unregister", posted(self._shared, self._unregister), methods=["POST"]),
            ]
        return routes

    # ---- the overview ----------------------------------------------------------------------------------------------

    async def _overview(self, request: Request) -> Response:
        first = request.query_params.get("first", "0")
        start = int(first) if first.isdecimal() and len(first) < 9 else 0
        source = self._shared.source
        names = await source.names()
        served = await all_of(source, names[start : start + MOST_MODELS])
        archives = await asyncio.to_thread(self._shared.archives.of_store) if source.about.changes else []
        return self._shared.pages.page(
            request,
            "overview.html",
            served=served,
            count=len(names),
            next=start + MOST_MODELS if start + MOST_MODELS < len(names) else None,
            archives=archives,
        )

    async def _events(self, request: Request) -> Response:
        return numbered(self._shared, request, self._shared.watch.samples)

    # ---- a model ---------------------------------------------------------------------------------------------------

    async def _model(self, request: Request) -> Response:
        one, served = await version_of(self._shared.source, request)
        contents = await self._shared.archives.contents(one.of.url)
        failure = None
        too_few = one.of.ready_workers < max(1, one.of.min_workers) and bool(one.of.workers)
        if too_few:
            failure = await asyncio.to_thread(logs.failure_of, self._shared.source.about.logs, one.of.name)
        return self._shared.pages.page(
            request,
            "model.html",
            one=one,
            served=served,
            contents=contents,
            failure=failure,
            unexplained=too_few and failure is None,
            shape=_shape,
        )

    async def _sample(self, request: Request) -> Response:
        one, _ = await version_of(self._shared.source, request)
        found = await self._shared.archives.sample(one.of.url, request.path_params["number"])
        if found is None:
            raise ResourceNotFoundError("there is no such sample")
        sample, body = found
        kind = (sample.content_type or "").partition(";")[0].strip().lower()
        text = kind.startswith("text/") or kind == "application/json"
        shown = kind if kind in _SHOWN else "text/plain; charset=utf-8" if text else "application/octet-stream"
        return Response(body, headers={"content-security-policy": "sandbox; default-src 'none'"}, media_type=shown)

    # ---- what can be done ------------------------------------------------------------------------------------------

    async def _scale(self, request: Request, form: FormData) -> Response:
        least = _count(form, "least")
        most = _count(form, "most") if form.get("most") else least
        if most < least:
            raise BadRequestError(f"at the most {most} workers are fewer than the {least} at the least")
        name, version = request.path_params["name"], request.path_params["version"]
        told = await self._shared.source.scale(name, version, least, most)
        return self._done(request, told, name, version)

    async def _set_default(self, request: Request, form: FormData) -> Response:  # noqa: ARG002
        name, version = request.path_params["name"], request.path_params["version"]
        await self._shared.source.set_default(name, version)
        return self._done(request, f"Version {version} of {name} is the default now.", name, version)

    async def _question(self, request: Request) -> Response:
        one, served = await version_of(self._shared.source, request)
        return self._shared.pages.page(request, "unregister.html", one=one, last=len(served) == 1)

    async def _unregister(self, request: Request, form: FormData) -> Response:  # noqa: ARG002
        name, version = request.path_params["name"], request.path_params["version"]
        await self._shared.source.unregister(name, version)
        return self._done(request, f"Version {version} of {name} is unregistered.")

    async def _register(self, request: Request, form: FormData) -> Response:
        archive, workers = form.get("archive"), _count(form, "workers")
        if archive not in await asyncio.to_thread(self._shared.archives.of_store) or not isinstance(archive, str):
            raise BadRequestError(f"there is no archive {archive} in the model store")
        told = await self._shared.source.register(archive, workers)
        if (served := (await self._shared.archives.contents(archive)).served_as) is None:
            return self._done(request, told)
        name, version = served
        return self._done(request, f"Version {version} of {name} is registered.", name, version)

    def _done(self, request: Request, told: str, *model: str) -> Response:
        """Lead to the page of a model's version, or without one to the overview, which says what has come of it."""
        self._shared.pages.tell(request, told)
        return RedirectResponse(link("models", *model) if model else link(), 303)


def _count(form: FormData, name: str) -> int:
    """Read a number of workers.

    Raises:
        BadRequestError: it is none.
    """
    given = form.get(name)
    text = given.strip() if isinstance(given, str) else ""
    if not text.isdecimal() or len(text) > 9 or int(text) > _MOST_WORKERS:
        raise BadRequestError(f"a number of workers is wanted, 0 to {_MOST_WORKERS}")
    return int(text)


def _shape(spec: TensorSpec) -> str:
    if spec.shape is None:
        return "–"
    return " × ".join("?" if size is None else str(size) for size in spec.shape) or "()"
