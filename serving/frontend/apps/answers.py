"""What is sent: JSON as TorchServe writes it, the headers of every response, what becomes of a handler's own ones."""

from __future__ import annotations

import itertools
import re
import uuid
from collections.abc import Iterable, Mapping
from typing import Any, Final, TypeAlias

from archive_tool import json_text
from serving.client.transport import HEADER_NAME
from serving.frontend.engine import Answer, Timings
from serving.frontend.errors import FrontendError
from serving.frontend.settings import Settings

Headers: TypeAlias = list[tuple[bytes, bytes]]

REQUEST_ID: Final = b"x-request-id"
JSON: Final = "application/json"
_SERVER_TIMING: Final = b"server-timing"
#: Of every response.
NO_CACHE: Final = (
    (b"pragma", b"no-cache"),
    (b"cache-control", b"no-cache; no-store, must-revalidate, private"),
    (b"expires", b"Thu, 01 Jan 1970 00:00:00 UTC"),
)
# What belongs to the connection or is ours to say: a handler's header of that name is left out.
_OURS: Final = frozenset(
    {"connection", "content-length", "date", "keep-alive", "server", "transfer-encoding", "upgrade", "x-request-id"}
    | {name.decode() for name, _ in NO_CACHE}
)
_CORS: Final = ("access-control-allow-origin", "access-control-allow-methods", "access-control-allow-headers")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
# Statuses that have a body, and that uvicorn has a line for.
_LOWEST, _HIGHEST = 200, 599
BODILESS: Final = frozenset({204, 205, 304})
# Of a process all ids begin the same, and then count: unlike a new UUID that costs nothing.
_first = str(uuid.uuid4())
_counted = itertools.count(int(_first[24:], 16))


def new_id() -> str:
    """Make a request's id, in the form that TorchServe gives it."""
    return f"{_first[:24]}{next(_counted) & 0xFFFFFFFFFFFF:012x}"


def is_ours(request_id: str) -> bool:
    """Whether an id is one that `new_id` has made or may still make: who has seen one can tell the next."""
    return request_id.startswith(_first[:24])


def json_body(document: Any) -> bytes:
    """Write a document as TorchServe does: two blanks of indentation, UTF-8, a line's end."""
    return json_text.dumps(document, indent=2) + b"\n"


def error_body(error: FrontendError) -> bytes:
    """Write an error as TorchServe does."""
    return json_body(error.document)


def constant_headers(settings: Settings) -> tuple[tuple[bytes, bytes], ...]:
    """Return the headers that every response has: CORS, where it is configured, and no caches."""
    cors = [
        (name.encode(), sendable(value))
        for name in _CORS
        if (value := settings.text("cors_allowed_" + name.rpartition("-")[2]))
    ]
    return (*cors, *NO_CACHE)


def our_headers(
    request_id: str, constant: Iterable[tuple[bytes, bytes]], length: int, content_type: str = JSON
) -> Headers:
    """Return the headers of a response of our own, in JSON unless it says otherwise."""
    return [
        (b"content-type", content_type.encode()),
        (REQUEST_ID, request_id.encode()),
        *constant,
        (b"content-length", b"%d" % length),
    ]


def answer_headers(answer: Answer, request_id: str, constant: Iterable[tuple[bytes, bytes]]) -> Headers:
    """Return the headers of a model's answer, without its length.

    The handler's own CORS headers win; what belongs to the connection or is ours to say does not.
    """
    headers: Headers = [(REQUEST_ID, request_id.encode())]
    if answer.content_type:
        headers.append((b"content-type", sendable(answer.content_type)))
    if answer.timings is not None:
        headers.append((_SERVER_TIMING, server_timing(answer.timings)))
    headers += constant
    if answer.headers:
        own = _own(answer.headers)
        headers = [pair for pair in headers if pair[0].decode() not in own]
        headers += [(name.encode(), sendable(value)) for name, value in own.items()]
    return headers


def server_timing(timings: Timings) -> bytes:
    """Say where the time of an answer went, in milliseconds."""
    told = b"queue;dur=%.3f, worker;dur=%.3f, batch;desc=%d" % (
        timings.queue * 1000,
        timings.worker * 1000,
        timings.batch,
    )
    for name, seconds in timings.parts:
        told += b", %b;dur=%.3f" % (name.encode(), seconds * 1000)
    return told


def status_of(status: int) -> int:
    """Return the status as it can be sent: what is none becomes 500."""
    return status if _LOWEST <= status <= _HIGHEST else 500


def sendable(value: str) -> bytes:
    """Return a header's value as it can be sent: in Latin-1, as Netty writes it, and in one line."""
    if not value.isprintable():
        value = _CONTROL.sub(" ", value)
    return value.strip().encode("latin-1", "replace")


def _own(headers: Mapping[str, str]) -> dict[str, str]:
    """Return a handler's headers that are sent, by their names in small letters; of equal ones the last."""
    lowered = {name.lower(): value for name, value in headers.items()}
    return {name: value for name, value in lowered.items() if name not in _OURS and HEADER_NAME.fullmatch(name)}
