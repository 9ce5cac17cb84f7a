"""A share of the requests and their answers, written down as JSON lines, of which `torchmar batch` takes the labels.

What is kept is what clients send and models answer: in files that their owner alone can read, bounded in number and
size. A line is made and written by one thread; the event loop only hands over what it has in memory anyway, and what
waits for the thread is bounded, too.
"""

from __future__ import annotations

import asyncio
import base64
import logging
import os
import queue
import random
import re
import threading
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from archive_tool import json_text
from archive_tool.errors import InputError
from serving.frontend.engine import Answer, Call
from serving.frontend.logs import append
from serving.frontend.observing.watched import Passing, Predict
from serving.frontend.settings import Settings
from serving.protocol import Parameter

#: The keys of config.properties.
SHARE: Final = "torchmar_capture_share"
FOLDER: Final = "torchmar_capture_folder"
MOST_BYTES: Final = "torchmar_capture_bytes"
MEGABYTES: Final = "torchmar_capture_megabytes"
WITHOUT: Final = "torchmar_capture_without"
#: Files that are kept, the one that grows included.
FILES: Final = 5
#: Bytes that wait to be written.
WAITING_BYTES: Final = 16 * 1024 * 1024
_NAME: Final = "captured.jsonl"
_FULL: Final = re.compile(r"captured\.(\d+)\.jsonl")
_ERRORS: Final = 400
_END_S: Final = 5.0

_log = logging.getLogger(__name__)


class _LeftOutError(Exception):
    """Something that cannot be kept without what is to be left out."""


@dataclass(frozen=True, slots=True)
class _Seen:
    """A request and its answer, as they are in memory."""

    at: float
    seconds: float
    call: Call
    answer: Answer
    body: bytes | bytearray

    @property
    def size(self) -> int:
        return len(self.body) + sum(len(one.value) for one in self.call.request.parameters)


class Capturing:
    """Watches predictions, and keeps a share of those that a model has answered.

    Args:
        folder: of the files; made if it is not there.
        share: of the requests, from 0 to 1.
        most: bytes of an input, and of an answer; what is larger is not kept.
        total: bytes of all files.
        without: names of fields, at any depth, that are left out.

    Raises:
        InputError: the folder cannot be made, or written to.
    """

    def __init__(self, folder: Path, share: float, most: int, total: int, without: Collection[str] = ()) -> None:
        self._share, self._most, self._without = share, most, frozenset(without)
        self._files = _Files(folder, total // FILES)
        self._waiting: queue.SimpleQueue[_Seen | None] = queue.SimpleQueue()
        self._bytes = 0
        self._lock = threading.Lock()
        self._complained = False
        self._thread = threading.Thread(target=self._write_all, name="capture", daemon=True)
        self._thread.start()

    @property
    def folder(self) -> Path:
        """Where the files are."""
        return self._files.folder

    async def predict(self, ask: Predict, call: Call) -> Answer:
        """Pass a request on, and keep it with its answer, if it is one of the share."""
        if random.random() >= self._share:  # noqa: S311 (nobody gains by guessing)
            return await ask(call)
        at, begun = time.time(), time.monotonic()
        answer = await ask(call)
        if answer.status >= _ERRORS or answer.counted:
            return answer
        if answer.rest is None:
            self._take(_Seen(at, time.monotonic() - begun, call, answer, answer.body))
            return answer
        body = bytearray(answer.body)

        def see(part: bytes | bytearray) -> None:
            if len(body) <= self._most:
                body.extend(part)

        def ended(whole: bool) -> None:
            if whole:
                self._take(_Seen(at, time.monotonic() - begun, call, answer, body))

        answer.rest = Passing(answer.rest, see, ended)
        return answer

    def _take(self, seen: _Seen) -> None:
        if len(seen.body) > self._most or seen.size - len(seen.body) > self._most:
            return
        with self._lock:
            if self._bytes > WAITING_BYTES:  # the disk is slow: a smaller share is kept
                return
            self._bytes += seen.size
        self._waiting.put(seen)

    async def end(self) -> None:
        """Write what waits."""
        self._waiting.put(None)
        await asyncio.to_thread(self._thread.join, _END_S)

    def _write_all(self) -> None:
        while (seen := self._waiting.get()) is not None:
            try:
                self._files.write(json_text.dumps(record_of(seen, self._without)) + b"\n")
                self._complained = False
            except (_LeftOutError, ValueError, RecursionError):
                pass  # what cannot be kept as it must be is not kept
            except OSError as error:
                if not self._complained:
                    self._complained = True
                    _log.error("Nothing is captured in %s: %s", self._files.folder, error)
            with self._lock:
                self._bytes -= seen.size
        self._files.close()


def of(settings: Settings) -> Capturing | None:
    """Make what captures as a configuration says; None where nothing is captured.

    Raises:
        InputError: a setting is none, or the folder cannot be written to.
    """
    share = settings.share(SHARE, 0.0)
    if not share:
        return None
    folder = Path(settings.text(FOLDER) or settings.place.keys / "captured")
    without = [name.strip() for name in (settings.text(WITHOUT) or "").split(",") if name.strip()]
    most, total = settings.number(MOST_BYTES, 64 * 1024), settings.number(MEGABYTES, 500) * 1_000_000
    return Capturing(folder.absolute(), share, most, total, without)


def record_of(seen: _Seen, without: Collection[str]) -> dict[str, Any]:
    """Return a line's object.

    Raises:
        _LeftOutError: a text may hold a field that is to be left out, and cannot be read.
    """
    request, answer = seen.call.request, seen.answer
    local = time.localtime(seen.at)
    found: dict[str, Any] = {
        "time": f"{time.strftime('%Y-%m-%dT%H:%M:%S', local)}{time.strftime('%z', local)}",
        "request_id": request.request_id,
        "model": seen.call.name,
        "version": answer.version,
        "status": answer.status,
        "ms": round(1000 * seen.seconds, 3),
    }
    parameters = [one for one in request.parameters if one.name not in without]
    if len(request.parameters) == 1 and parameters:
        found["content_type"] = parameters[0].content_type
        _put(found, "input", parameters[0].value, parameters[0].content_type, without)
    else:
        found["input"] = _form(parameters, without)
    _put(found, "answer", seen.body, answer.content_type, without)
    return found


def _form(parameters: Collection[Parameter], without: Collection[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for one in parameters:
        _put(found, one.name, one.value, one.content_type, without)
    return found


def _put(
    into: dict[str, Any], name: str, value: bytes | bytearray, content_type: str, without: Collection[str]
) -> None:
    """Put in a value: JSON as it is, text as text, all else in base64 under another name."""
    kind = content_type.partition(";")[0].strip().lower()
    try:
        text = bytes(value).decode()
    except UnicodeDecodeError:
        if kind.endswith("json") and without:  # as of UTF-16, which handlers may read
            raise _LeftOutError from None
        into[f"{name}_base64"] = base64.b64encode(value).decode()
        return
    says_so = kind.endswith("json")
    looks_so = text.lstrip()[:1] in ("{", "[")
    if looks_so or not kind or says_so:
        try:
            into[name] = _lacking(json_text.loads(bytes(value)), without)
            return
        except json_text.NotJsonError:
            if (looks_so or (says_so and text.strip())) and without:
                raise _LeftOutError from None
    into[name] = text


def _lacking(value: Any, without: Collection[str]) -> Any:
    """Return a document without fields of these names."""
    if not without:
        return value
    if isinstance(value, dict):
        return {name: _lacking(inner, without) for name, inner in value.items() if name not in without}
    return [_lacking(inner, without) for inner in value] if isinstance(value, list) else value


class _Files:
    """The files: one that grows, and full ones, numbered from the oldest on."""

    def __init__(self, folder: Path, most: int) -> None:
        self.folder, self._most = folder, most
        self._path = folder / _NAME
        self._file: int | None = None
        self._size = 0
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._open()
        except OSError as error:
            raise InputError(
                f"nothing can be captured there: {error.strerror or error}", where=str(folder), hint=f"correct {FOLDER}"
            ) from error

    def _open(self) -> int:
        # No link is followed: another user's folder, such as /tmp, may hold one of this name.
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        self._file = os.open(self._path, flags, 0o600)
        os.fchmod(self._file, 0o600)
        self._size = os.fstat(self._file).st_size
        return self._file

    def write(self, line: bytes) -> None:
        """Append a line.

        Raises:
            OSError: it cannot be written; no part of it is there.
        """
        if self._size and self._size + len(line) > self._most:
            self._begin_anew()
        file = self._open() if self._file is None else self._file
        append(file, line, self._size)
        self._size += len(line)

    def _begin_anew(self) -> None:
        self.close()
        full = {int(found[1]): path for path in self.folder.iterdir() if (found := _FULL.fullmatch(path.name))}
        self._path.rename(self.folder / f"captured.{max(full, default=0) + 1}.jsonl")
        for number in sorted(full)[: max(0, len(full) + 2 - FILES)]:
            full[number].unlink(missing_ok=True)
        self._size = 0

    def close(self) -> None:
        """Close the file that grows."""
        if self._file is not None:
            os.close(self._file)
            self._file = None
