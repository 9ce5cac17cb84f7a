"""The two forms of a log's events: text as log4j writes it for TorchServe, and JSON lines.

`TEXT` and `JSON` write them, for the frontend's log files. `as_text` makes text of either, for what reads those files,
and `visible` what may be shown of it.

::

    2026-11-29T21:35:10,123 [INFO ] main serving.frontend.server - Model server started.
    {"time": "2026-11-29T21:35:10.123+00:00", "level": "INFO", "thread": "main", "logger": "serving.frontend.server",
     "message": "Model server started."}                                          (in one line)
"""

from __future__ import annotations

import json
import re
import time
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

#: Characters of an event.
EVENT_CHARS: Final = 64 * 1024
_LEVELS: Final = {"stdout": "INFO", "stderr": "WARN"}
_JSON_BEGIN: Final = '{"time": "'
# Of a worker's name, W-<number>-<model>_<version>.
_MODEL: Final = re.compile(r"W-\d+-(.+)_([^_]*)")


@dataclass(frozen=True, slots=True)
class Access:
    """A request and its answer.

    Attributes:
        client: address of it; ``unix`` on a socket.
        method: of HTTP, or ``gRPC``.
        target: what was asked for, in one line.
        protocol: such as ``HTTP/1.1``.
        status: of the answer; 0 where there was none.
        seconds: that it took.
        request_id: the client's own, or ours.
        details: what else is known, for JSON.
    """

    client: str
    method: str
    target: str
    protocol: str
    status: int
    seconds: float
    request_id: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)


class Form(Protocol):
    """Makes a line of an event, without its end."""

    def event(self, level: str, thread: str, source: str, text: str) -> str:
        """Tell what happened in the frontend: ts_log.log."""

    def printed(self, worker: str, pipe: str, text: str) -> str:
        """Tell what a worker printed: model_log.log."""

    def access(self, of: Access) -> str:
        """Tell who asked for what: access_log.log."""


class _Text:
    def event(self, level: str, thread: str, source: str, text: str) -> str:
        return whole(_laid_out(now(), level, f"{thread} {source}", text))

    def printed(self, worker: str, pipe: str, text: str) -> str:
        return whole(_laid_out(now(), _LEVELS[pipe], _printing(worker, pipe), text))

    def access(self, of: Access) -> str:
        """Tell it as TorchServe does, such as ``/127.0.0.1:36024 "GET /ping HTTP/1.1" 200 2``, and the request's id."""
        asked = f"{of.method} {of.target} {of.protocol}"
        line = f'/{of.client} "{asked}" {of.status} {round(1000 * of.seconds)} {of.request_id}'
        return whole(f"{now()} - {line.rstrip()}")


class _Json:
    def event(self, level: str, thread: str, source: str, text: str) -> str:
        return _dumped({"level": level, "thread": thread, "logger": source, "message": cut(text, EVENT_CHARS)})

    def printed(self, worker: str, pipe: str, text: str) -> str:
        found = _MODEL.fullmatch(worker)
        of = {"model": found[1], "version": found[2]} if found else {}
        told = {"worker": worker, "pipe": pipe, "message": cut(text, EVENT_CHARS)}
        return _dumped({"level": _LEVELS[pipe], **of, **told})

    def access(self, of: Access) -> str:
        told = {"client": of.client, "method": of.method, "target": of.target, "protocol": of.protocol}
        told_of_it = {"status": of.status, "ms": round(1000 * of.seconds, 3), "request_id": of.request_id}
        return _dumped({**told, **told_of_it, **of.details})


TEXT: Final[Form] = _Text()
JSON: Final[Form] = _Json()


def as_text(line: str) -> str:
    """Return an event as text, of several lines perhaps; a line that is no JSON of ours stays as it is."""
    if not line.startswith(_JSON_BEGIN):
        return line
    try:
        told = json.loads(line)
        at = f"{told['time'][:19]},{told['time'][20:23]}"
        source = _printing(told["worker"], told["pipe"]) if "pipe" in told else f"{told['thread']} {told['logger']}"
        text = _laid_out(at, told["level"], source, told["message"])
        # As it stands in a file of text, which has no lone surrogates.
        return whole(text.encode("utf-8", "backslashreplace").decode())
    except (ValueError, TypeError, KeyError, RecursionError):
        return line


def _printing(worker: str, pipe: str) -> str:
    return f"{worker}-{pipe} MODEL_LOG"


def _laid_out(at: str, level: str, source: str, text: str) -> str:
    return f"{at} [{level:<5}] {source} - {text}"


def lines_of(text: str) -> list[str]:
    """Return the lines of a log, each event of which is as text."""
    return [line for event in text.splitlines() for line in as_text(event).split("\n")]


def whole(event: str) -> str:
    """Return an event, such as one with a traceback, so that no line of it but the first can pass for an event."""
    return "\n    ".join(cut(event, EVENT_CHARS).splitlines())


def visible(text: str) -> str:
    """Return a text with all characters escaped that would move a cursor, colour, hide or reorder what stands there.

    What clients send and models print is in the logs, and a terminal takes some of it for commands.
    """
    if text.isprintable():
        return text
    return "".join(one if _is_harmless(one) else one.encode("unicode_escape").decode("ascii") for one in text)


def _is_harmless(one: str) -> bool:
    return one.isprintable() or one in "\n\t" or unicodedata.category(one) == "Zs"


def cut(text: str, most: int) -> str:
    """Return the begin of a text that is too long, and how much of it is left out."""
    return text if len(text) <= most else f"{text[:most]} ({len(text) - most} more characters left out)"


def now() -> str:
    """Return the time as log4j's ISO8601 has it."""
    at = time.time()
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.localtime(at))},{int(at * 1000) % 1000:03d}"


def _dumped(told: Mapping[str, Any]) -> str:
    at = time.time()
    local = time.localtime(at)
    zone = time.strftime("%z", local)
    begin = f"{time.strftime('%Y-%m-%dT%H:%M:%S', local)}.{int(at * 1000) % 1000:03d}{zone[:3]}:{zone[3:]}"
    # ASCII: no character in it can end a line, for whomever.
    return json.dumps({"time": begin, **told})
