"""A job: rows are read ahead, asked side by side, and written in their order."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import time
from collections import deque
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, closing, suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, Final

from archive_tool.errors import InputError
from serving.answers import decode, strict
from serving.batch.inputs import Reading, Rows, Taken
from serving.batch.ledger import Ledger
from serving.batch.rows import JSON, SHOWN
from serving.batch.workers import Answerer
from serving.errors import ServingError
from serving.frontend.engine import Answer
from serving.frontend.errors import FrontendError, InternalError, UnavailableError
from serving.signals import signalled
from serving.worker.answering.warm_up import request_of

#: Seconds between two checkpoints: what a kill costs.
_CHECKPOINT_S: Final = 1.0
#: Bytes of rows that are read and not written yet, beside those that are read at once.
_MOST_BYTES: Final = 128 << 20
#: Bytes of a JSON input that its failure shows whole.
_MOST_SHOWN: Final = 64 * 1024
_PAUSE_S: Final = 0.1
#: Seconds in which workers that died must be back.
_PATIENCE_S: Final = 300.0

Seen = Callable[[Ledger, int], None]
"""Told how far a job is: what is written, and bytes of the inputs that belong to it."""


@dataclass(frozen=True)
class Done:
    """What a job has come to.

    Attributes:
        rows: that are written.
        failed: of them, without an answer.
        asked: of them, in this run.
        seconds: of this run, from the first row on.
        answerer: who answered; None where all was done before.
        signal: that ended it; 0 if it came to its end.
        unlabelled: rows for which the file of labels has no line.
        labels_left: whether it has labels after the last row.
    """

    rows: int
    failed: int
    asked: int
    seconds: float
    answerer: Answerer | None = None
    signal: int = 0
    unlabelled: int = 0
    labels_left: bool = False


def identity_of(archive: Path, reading: Reading) -> dict[str, Any]:
    """Tell what a job is: with anything else it does not go on.

    Raises:
        OSError: the archive cannot be looked at.
    """
    status = archive.stat()
    stamp = [] if archive.is_dir() else [status.st_size, status.st_mtime_ns]
    labels = None
    if reading.labels is not None:
        found = reading.labels.stat()
        labels = [str(reading.labels.resolve()), found.st_size, found.st_mtime_ns]
    return {
        "archive": [str(archive.resolve()), *stamp],
        "inputs": [[str(path), str(path.resolve())] for path in reading.paths],
        "format": reading.format,
        "delimiter": reading.delimiter,
        "column": reading.columns.input,
        "labels": [reading.columns.label, labels],
        "size": reading.most,
    }


def run(
    reading: Reading,
    ledger: Ledger,
    answerers: Callable[[], AbstractAsyncContextManager[Answerer]],
    seen: Seen = lambda *_: None,
) -> Done:
    """Answer every row that is not written yet.

    A signal that ends commands ends the job in order: all that is written is certain.

    Args:
        reading: the inputs.
        ledger: of the results, open.
        answerers: starts who answers.
        seen: told how far it is.

    Raises:
        InputError: the inputs are not those of the rows that are written.
        ServingError: nobody can answer any more; what is written is certain.
    """
    if ledger.finished:
        return Done(ledger.rows, ledger.failed, 0, 0.0)
    with closing(Rows(reading)) as rows:
        return asyncio.run(_Job(rows, ledger, seen).go(answerers))


class _Job:
    """The work between rows and ledger."""

    def __init__(self, rows: Rows, ledger: Ledger, seen: Seen) -> None:
        self._rows, self._ledger, self._seen = rows, ledger, seen
        self._digest = hashlib.blake2b(digest_size=16)
        self._before = ledger.rows
        self._begun = 0.0
        self._stopped = False
        self._answerer: Answerer | None = None
        self._ids = count(1)

    async def go(self, answerers: Callable[[], AbstractAsyncContextManager[Answerer]]) -> Done:
        """Work until all is done, or a signal comes."""
        with signalled() as came:
            working = asyncio.ensure_future(self._work(answerers))
            await asyncio.wait((working, came), return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                self._stopped = True
                working.cancel()
                with suppress(asyncio.CancelledError):
                    await working
            elif not came.done():
                working.result()
            number = came.result() if came.done() and not self._ledger.finished else 0
        ledger = self._ledger
        seconds = time.monotonic() - self._begun if self._begun else 0.0
        return Done(
            ledger.rows,
            ledger.failed,
            ledger.rows - self._before,
            seconds,
            self._answerer,
            number,
            self._rows.unlabelled,
            self._rows.left,
        )

    async def _work(self, answerers: Callable[[], AbstractAsyncContextManager[Answerer]]) -> None:
        await asyncio.to_thread(self._skip)
        async with answerers() as answerer:
            self._answerer, self._begun = answerer, time.monotonic()
            try:
                await self._pass(answerer)
            finally:
                # Also where it is cancelled: the lock of the ledger lets this wait for a checkpoint under way.
                self._ledger.checkpoint(self._digest.hexdigest())
        # Not in a thread: a signal must not part it from what is told of it.
        self._ledger.finish(self._digest.hexdigest())

    def _skip(self) -> None:
        """Pass over the rows that are written.

        Raises:
            InputError: they are not the same any more.
        """
        found = 0
        for identity in self._rows.skip(self._before):
            if self._stopped:
                return
            self._digest.update(identity)
            found += 1
        if self._before and (found < self._before or self._digest.hexdigest() != self._ledger.digest):
            raise InputError(
                f"the inputs are not what they were when {self._before} rows of them were answered",
                where=str(self._ledger.partial),
                hint="--restart drops what was done, and begins anew",
            )

    async def _pass(self, answerer: Answerer) -> None:
        """Ask all rows, some ahead of the one that is written next."""
        ahead: deque[tuple[Taken, asyncio.Task[Outcome]]] = deque()
        held, ended = 0, False
        certain = time.monotonic()
        try:
            while True:
                while not ended and len(ahead) < answerer.width and held < _MOST_BYTES:
                    taken = await asyncio.to_thread(self._rows.take, min(answerer.batch, answerer.width - len(ahead)))
                    ended = not taken
                    for one in taken:
                        ahead.append((one, asyncio.ensure_future(self._outcome(one, answerer))))
                        held += one.size
                if not ahead:
                    return
                await ahead[0][1]
                while ahead and ahead[0][1].done():
                    one, task = ahead.popleft()
                    held -= one.size
                    self._write(one, task.result())
                if time.monotonic() - certain >= _CHECKPOINT_S:
                    await asyncio.to_thread(self._ledger.checkpoint, self._digest.hexdigest())
                    certain = time.monotonic()
        finally:
            for _, task in ahead:
                task.cancel()
            await asyncio.gather(*(task for _, task in ahead), return_exceptions=True)

    async def _outcome(self, taken: Taken, answerer: Answerer) -> Outcome:
        """Ask a row.

        Raises:
            ServingError: nobody can answer any more.
        """
        if taken.content is None:
            return Outcome(None, str(taken.error))
        request = request_of(f"row-{next(self._ids)}", taken.content.body, taken.content.content_type)
        patience = time.monotonic() + _PATIENCE_S
        while True:
            try:
                answer = await answerer.ask(request)
                return _outcome_of(answer, await whole(answer))
            except UnavailableError as error:
                # What is refused has not run. Workers that died are started again.
                if time.monotonic() > patience or not answerer.alive():
                    raise ServingError(f"no worker is left that could answer: {error.message}") from error
                await asyncio.sleep(_PAUSE_S)
            except FrontendError as error:
                return Outcome(error.status, error.message)

    def _write(self, taken: Taken, outcome: Outcome) -> None:
        row, ledger = taken.row, self._ledger
        if outcome.error is not None:
            ledger.failure(row.source, row.number, outcome.status, outcome.error, _shown(taken))
        else:
            ledger.answered(row.source, row.number, outcome.status or 0, outcome.answer)
            if taken.label is not None:
                ledger.scores.take(taken.label, outcome.answer.get("answer"))
        self._digest.update(row.identity)
        self._seen(ledger, row.position)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a row.

    Attributes:
        status: of the answer; None for a row that was not sent.
        error: why there is none; None if there is one.
        answer: as it is written.
    """

    status: int | None
    error: str | None
    answer: dict[str, Any] = field(default_factory=dict)


async def whole(answer: Answer) -> bytes:
    """Return the body, of a streamed answer all parts.

    Raises:
        InternalError: it is too large.
    """
    if answer.rest is None:
        return bytes(answer.body)
    body = bytearray(answer.body)
    async for part in answer.rest:
        body += part
        if len(body) > _MOST_BYTES:
            await answer.rest.aclose()  # type: ignore[attr-defined]
            raise InternalError(f"the streamed answer has more than {_MOST_BYTES} bytes")
    return bytes(body)


def _outcome_of(answer: Answer, body: bytes) -> Outcome:
    value = _read(body, answer.content_type)
    if 200 <= answer.status < 400:
        if isinstance(value, bytes):
            return Outcome(answer.status, None, {"answer_base64": base64.b64encode(value).decode()})
        return Outcome(answer.status, None, {"answer": value})
    if isinstance(value, dict) and isinstance(value.get("message"), str):
        value = value["message"]
    return Outcome(answer.status, value if isinstance(value, str) else body[:SHOWN].decode("utf-8", "replace"))


def _read(body: bytes, content_type: str = "") -> Any:
    """Return what JSON, text or bytes say, so that it can be written as JSON."""
    try:
        return strict(decode(body, content_type))
    except RecursionError:
        return body.decode("utf-8", "replace")


def _shown(taken: Taken) -> Any:
    """Return the input as its failure shows it: JSON, text or the begin of it; None where its file is the row."""
    if taken.content is None:
        raw = taken.error.raw if taken.error is not None else b""
    elif taken.row.number is None:
        return None
    else:
        raw = taken.content.body
        if taken.content.content_type == JSON and len(raw) <= _MOST_SHOWN:
            return _read(raw)
    return raw[:SHOWN].decode("utf-8", "replace") or None
