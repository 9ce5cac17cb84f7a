"""A real worker for a model that is being written; it is replaced whenever the model's files change.

::

    a request -----+                                       the worker's process, which
                   +--> look for changes --> load, ask --> a further change replaces
    now and then --+

One thread does all of it, so requests go one after the other. One that comes while the model is loaded waits, and its
answer follows the files as they are at the moment when its turn comes.
"""

from __future__ import annotations

import functools
import secrets
import shutil
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from http import HTTPStatus
from math import inf
from pathlib import Path

from archive_tool import files
from archive_tool.config import effective
from archive_tool.errors import InputError, TorchmarError
from serving.check import failures
from serving.check.process import EndedError, NoAnswerError, Worker, interpreter
from serving.check.run import DEFAULT_TIMEOUT_S, refuse_unservable
from serving.control.following.diagnosis import hint_for, read_traceback
from serving.errors import CheckError, StartError
from serving.frontend.local.courses import refusal_of
from serving.frontend.local.job import STREAM_NEXT
from serving.local.sources import Sources
from serving.protocol import Load, PredictionItem, ProtocolError, Reply, Request

# A handler that is still busy after so many seconds, when its files change, is not waited for.
_PATIENCE_S = 2.0
_SLICE_S = 0.25
_ENDED_S = 10.0
_KEPT_LINES = 10_000

#: Gets a line, and whether it belongs to an error.
Tell = Callable[[str, bool], None]


class _NotAskedError(Exception):
    """The worker answered what it was not asked."""


class Reloading:
    """The model, as its files are now. All but `close` is for one thread; what it says of itself is for any.

    Attributes:
        name: of the model; empty until it is known.
        version: of it, once it has been loaded.
        place: of its files, for messages.
        gpu: number of its device; None for the CPU.
        stateful: whether its requests belong to sequences.
        error: why the model is not loaded; None if it is, or has not been tried.
        started: when its worker was started, seconds since the epoch.
        look_s: seconds that the last look at the files took.

    Args:
        sources: its files.
        root: an empty folder, for copies of them and for sockets.
        gpu: number of the device; None for the CPU.
        tell: gets what happens, and every line that the handler prints.
    """

    def __init__(self, sources: Sources, root: Path, *, gpu: int | None, tell: Tell) -> None:
        self.name, self.version = _name_of(sources), ""
        self.place = sources.target
        self.gpu = gpu
        self.stateful = False
        self.error: TorchmarError | None = None
        self.started = 0.0
        self.look_s = 0.0
        self._sources = sources
        self._root = root.resolve()
        self._tell = tell
        self._fingerprint: object = None
        self._worker: Worker | None = None
        self._folder = self._root
        self._config = effective.understand(None)
        self._lost = True
        self._closed = False
        self._lines: deque[str] = deque(maxlen=_KEPT_LINES)
        self._asked = self._looked = 0.0

    @property
    def healthy(self) -> bool:
        """Whether the model is loaded, as its files were when they were looked at last."""
        return self._worker is not None and self.error is None and not self._lost

    @property
    def pid(self) -> int:
        """Process id of its worker; -1 without one."""
        worker = self._worker
        return worker.pid if worker is not None else -1

    @property
    def limit_s(self) -> float:
        """Seconds that its worker may take for an answer; in continuous batching that is for each part."""
        return inf if self._config.value("continuousBatching") is True else self._timeout("responseTimeout")

    def close(self) -> None:
        """End the worker, and with it what waits for that; no other one is started. For any thread."""
        self._closed = True
        self._end_worker()

    # ---- loading ---------------------------------------------------------------------------------------------------

    def refresh(self) -> None:
        """Load the model if it is not loaded, or if its files have changed. What is wrong with it is in `error`.

        Raises:
            CheckError: it has been closed.
        """
        if self._closed:
            raise CheckError("the server is being stopped")
        begin = time.monotonic()
        fingerprint = self._sources.fingerprint()
        self.look_s = time.monotonic() - begin
        if fingerprint == self._fingerprint and not self._lost:
            return
        again = self._fingerprint is not None
        told, self.error = self.error, None
        self._fingerprint, self._lost = fingerprint, True
        self._end_worker()
        begin = time.monotonic()
        try:
            self._load()
        except OSError as error:
            # No fault of the model: a full disk, for example. It is tried again, and told once.
            self.error = StartError(f"the model's files cannot be prepared: {error}")
            self._end_worker()
            if told is None or told.message != self.error.message:
                self._tell(shown(self.error), True)
            return
        except TorchmarError as error:
            self.error = error
            self._end_worker()
            self._tell(shown(error), True)
        else:
            word = "reloaded" if again else "loaded"
            self._tell(f"{word} {self.name} in {time.monotonic() - begin:.1f} s", False)
        self._lost = False

    def _load(self) -> None:
        shutil.rmtree(self._root / "models", ignore_errors=True)
        # Named as the frontend names them: programs that read its logs know such paths.
        self._folder = self._root / "models" / secrets.token_hex(16)
        scratch = self._root / "tmp"
        shutil.rmtree(scratch, ignore_errors=True)
        for made in (self._folder, scratch):
            made.mkdir(parents=True)
        manifest, warnings = self._sources.lay_out(self._folder)
        for warning in warnings:
            self._tell(f"warning: {warning}", True)
        self.name, self.version = manifest.model.model_name, manifest.model.version
        self._config = effective.understand(self._read_config(manifest.model.config_file))
        self.stateful = bool(self._config.value("sequenceBatching"))
        refuse_unservable(manifest, self._config)
        if self._config.value("asyncCommunication") is True:
            raise InputError(f"{self.name} answers in the asynchronous mode, which dev does not have")
        handler = manifest.model.handler or ""
        self.started = time.time()
        worker = self._worker = Worker(
            self._folder,
            scratch,
            python=interpreter(manifest.runtime),
            handler=handler,
            tell=self._hear,
        )
        if self._closed:
            raise CheckError("the server is being stopped")
        message = Load(self.name, str(self._folder), int(self._config.value("batchSize") or 1), handler, self.gpu)
        timeout = self._timeout("startupTimeout")
        try:
            worker.connect()
            reply = worker.load(message, timeout)
        except EndedError:
            raise failures.load_failure(self.name, worker, self._folder, worker.wait(_ENDED_S)) from None
        except NoAnswerError:
            text = f"model {self.name} is not loaded after {timeout:g} s"
            raise failures.hang(text, worker.dump(), self._folder) from None
        if reply.code != 200:
            raise failures.load_failure(self.name, worker, self._folder, None, told=reply.message)

    def _read_config(self, name: str | None) -> bytes | None:
        try:
            return files.read_regular(self._folder / name) if name else None
        except OSError:
            return None  # the worker reports it

    def _timeout(self, key: str) -> float:
        return float(self._config.value(key) or DEFAULT_TIMEOUT_S)

    def _hear(self, line: str, is_error: bool) -> None:
        if not is_error:
            self._lines.append(line)  # the log, in which the worker writes tracebacks
        self._tell(line.replace(f"{self._folder}/", ""), is_error)

    def _end_worker(self) -> None:
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.end()

    # ---- requests --------------------------------------------------------------------------------------------------

    def ask(self, request: Request) -> Iterator[tuple[PredictionItem, bool]]:
        """Have the model answer a request.

        Yields:
            The answer, or each part of it, and whether more will come.

        Raises:
            FrontendError: the worker refuses the request.
            TorchmarError: the model is not loaded, or fails; with the handler's traceback if there is one.
        """
        worker = self._worker
        if self.error is not None:
            raise self.error
        if worker is None:
            raise CheckError("the server is being stopped")
        try:
            yield from self._parts(worker, request)
        except EndedError:
            self._lost = True
            raise failures.death("the worker failed", worker, self._folder, worker.wait(_ENDED_S)) from None
        except NoAnswerError:
            self._lost = True
            text = f"no answer after {self._timeout('responseTimeout'):g} s"
            raise failures.hang(text, worker.dump(), self._folder) from None
        except (ProtocolError, _NotAskedError) as error:
            self._lost = True  # as the frontend ends such a worker
            raise CheckError(f"the worker's answer cannot be read: {error}") from error

    def _parts(self, worker: Worker, request: Request) -> Iterator[tuple[PredictionItem, bool]]:
        self._lines.clear()
        self._asked = self._looked = time.monotonic()
        # The frontend sends a request of continuous batching again, without its content, for each further part.
        further = functools.partial(worker.ask, replace(request, parameters=()))
        continuous = self._config.value("continuousBatching") is True
        receive = further if continuous else worker.receive
        ask = functools.partial(worker.ask, request)
        reply = self._wait(worker, ask)
        while continuous and reply.code == HTTPStatus.OK and not reply.items:  # there is no answer yet
            self._check_files()
            reply = self._wait(worker, ask)
        begun = False
        while True:
            item = _item(reply, request)
            status = reply.code if item is None else item.status
            more = item is not None and item.headers.get(STREAM_NEXT) == "true"
            is_failure = status >= HTTPStatus.INTERNAL_SERVER_ERROR and not begun and not more
            if is_failure and (error := self._traceback(worker)):
                raise error
            if item is None:
                raise refusal_of(reply)
            yield item, more
            if not more:
                return
            begun = True
            self._check_files()
            reply = self._wait(worker, receive)

    def _wait(self, worker: Worker, receive: Callable[[float], Reply]) -> Reply:
        begin = time.monotonic()
        timeout = self._timeout("responseTimeout")
        while True:
            passed = time.monotonic() - begin
            try:
                return receive(min(_SLICE_S, max(0.001, timeout - passed)))
            except NoAnswerError:
                if time.monotonic() - begin >= timeout:
                    raise
                self._check_files()
                receive = worker.receive

    def _check_files(self) -> None:
        """Do not wait for a handler whose files have changed."""
        now = time.monotonic()
        if now - self._asked < _PATIENCE_S or now - self._looked < _SLICE_S:
            return
        self._looked = now
        if self._sources.fingerprint() != self._fingerprint:
            raise CheckError("the handler was still busy when its files changed; it is replaced")

    def _traceback(self, worker: Worker) -> CheckError | None:
        worker.settle()
        found = read_traceback(self.name, list(self._lines), 0)
        if found is None:
            return None
        where = f"{found.file}:{found.line}" if found.file and found.line else found.file
        return CheckError(found.cause, traceback=found.traceback, where=where, hint=hint_for(found.cause) or None)


def _name_of(sources: Sources) -> str:
    try:
        return sources.model_name()
    except (TorchmarError, OSError, ValueError):
        return ""  # what is wrong is told when it is loaded


def _item(reply: Reply, request: Request) -> PredictionItem | None:
    """Return what a reply answers to its request; None if it refuses it.

    Raises:
        _NotAskedError: it answers another one.
    """
    if reply.code != HTTPStatus.OK:
        return None
    if len(reply.items) != 1 or reply.items[0].request_id != request.request_id:
        raise _NotAskedError("it is for another request than the one that was sent")
    return reply.items[0]


def shown(error: TorchmarError) -> str:
    """Shorten the error to a few lines: the worker's own output has the traceback."""
    lines = [f"error: {error.message}"]
    if error.where and error.where not in error.message:
        lines.append(f"  at: {error.where}")
    if error.hint:
        lines.append(f"  hint: {error.hint}")
    return "\n".join(lines)
