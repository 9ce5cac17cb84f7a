"""The metrics API, ``GET /metrics``: what Prometheus asks for, as TorchServe's frontend answers it."""

from __future__ import annotations

import asyncio
import json
import re
import uuid
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final
from urllib.parse import parse_qsl

from serving.frontend.errors import FrontendError, MethodNotAllowedError, NotAllowedError, ResourceNotFoundError
from serving.frontend.metering.server import ServerMeters
from serving.frontend.settings import Settings

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

TEXT: Final = b"text/plain; version=0.0.4; charset=utf-8"
_JSON: Final = b"application/json"
_HEADERS: Final = (
    (b"pragma", b"no-cache"),
    (b"cache-control", b"no-cache; no-store, must-revalidate, private"),
    (b"expires", b"Thu, 01 Jan 1970 00:00:00 UTC"),
)
_BAD_ESCAPE: Final = re.compile(r"%(?![0-9a-fA-F]{2})")
_REQUEST_ID: Final = re.compile(rb"[!-~]{1,128}")
_NOT_FOUND: Final = "Requested resource is not found, please refer to API document."
_NOT_ALLOWED: Final = "Requested method is not allowed, please refer to API document."


def metrics_app(meters: ServerMeters, settings: Settings) -> Application:
    """Make the application.

    Every method of ``/metrics`` is answered, and what follows in the path ignored, as in TorchServe. The parameters
    ``name[]`` are names of samples. With ``enable_metrics_api=false`` nothing is there; TorchServe does not listen.
    """
    description = _description((settings.place.home / "ts" / "version.txt").read_text(encoding="utf-8").strip())
    # A scrape takes a thread for some milliseconds; many at once must not take them all.
    one_at_a_time = asyncio.Semaphore(1)

    async def answer(scope: Scope) -> tuple[bytes, bytes]:
        path: str = scope["path"]
        if settings.enable_metrics_api:
            if path.split("/")[1:2] == ["metrics"]:
                names = _names(scope)
                async with one_at_a_time:
                    return TEXT, await asyncio.to_thread(meters.text, names)
            if path == "/api-description" or (path == "/" and scope["method"] == "OPTIONS"):
                return _JSON, description
            if path == "/":
                raise MethodNotAllowedError(_NOT_ALLOWED)
        raise ResourceNotFoundError(_NOT_FOUND)

    async def app(scope: Scope, _receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        more: tuple[tuple[bytes, bytes], ...] = ()
        try:
            status = 200
            kind, body = await answer(scope)
        except FrontendError as error:
            status, kind, body = error.status, _JSON, _error(error)
            more = ((b"connection", b"close"),)
        meters.responded(status)
        length = (b"content-length", str(len(body)).encode())
        headers = [(b"content-type", kind), (b"x-request-id", _request_id(scope)), *_HEADERS, length, *more]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    return app


def _names(scope: Scope) -> list[str] | None:
    """The samples that a request asks for; None for all.

    Raises:
        NotAllowedError: an escape of the query is none.
    """
    query = scope["query_string"].decode("latin-1")
    if bad := _BAD_ESCAPE.search(query):
        shown = f"{scope['path']}?{query}"
        at = len(shown) - len(query) + bad.end()
        raise NotAllowedError(f"invalid hex byte '{shown[at : at + 2]}' at index {at} of '{shown}'")
    # Netty, which TorchServe stands on, takes a semicolon for an ampersand.
    found = [value for key, value in parse_qsl(query.replace(";", "&"), keep_blank_values=True) if key == "name[]"]
    return found or None


def _request_id(scope: Scope) -> bytes:
    for key, value in scope["headers"]:
        if key == b"x-request-id" and _REQUEST_ID.fullmatch(value):
            return bytes(value)
    return str(uuid.uuid4()).encode()


def _error(error: FrontendError) -> bytes:
    return _json({"code": error.status, "type": error.kind, "message": error.message})


def _json(content: Any) -> bytes:
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()


def _description(version: str) -> bytes:
    """What TorchServe says of this API."""

    def told(description: str, kind: str = "string") -> dict[str, str]:
        return {"type": kind, "description": description}

    error = {
        "type": "object",
        "required": ["code", "type", "message"],
        "properties": {
            "code": told("Error code.", "integer"),
            "type": told("Error type."),
            "message": told("Error message."),
        },
    }
    metrics = {
        "type": "object",
        "required": ["# HELP", "# TYPE", "metric"],
        "properties": {
            "# HELP": told("Help text for TorchServe metric."),
            "# TYPE": told("Type of TorchServe metric."),
            "metric": told("TorchServe application metric."),
        },
    }
    name = {
        "in": "query",
        "name": "name[]",
        "description": "Names of metrics to filter",
        "required": False,
        "schema": {"type": "string"},
    }
    get = {
        "description": "Get TorchServe application metrics in prometheus format.",
        "operationId": "metrics",
        "parameters": [name],
        "responses": {
            "200": {"description": "TorchServe application metrics", "content": {TEXT.decode(): {"schema": metrics}}},
            "500": {"description": "Internal Server Error", "content": {_JSON.decode(): {"schema": error}}},
        },
    }
    info = {
        "title": "TorchServe APIs",
        "description": "TorchServe is a flexible and easy to use tool for serving deep learning models",
        "version": version,
    }
    return _json({"openapi": "3.0.1", "info": info, "paths": {"/metrics": {"get": get}}})
