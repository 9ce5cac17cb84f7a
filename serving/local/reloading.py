"""A real worker for a model that is being written; it is replaced whenever the model's files change.

::

    request thread --ask----+                                    the worker's process, which
                            +--> lock, look for changes, load --> a further change replaces
    main thread ---refresh--+

Requests go one after the other. One that comes while the model is loaded waits, and its answer follows the files as
they are at the moment when it came.
"""

from __future__ import annotations

import functools
import secrets
import shutil
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from archive_tool import files
from archive_tool.config import effective
from archive_tool.errors import InputError, TorchmarError
from serving.check import failures
from serving.check.answers import Answer, Answers
from serving.check.process import EndedError, NoAnswerError, Worker, interpreter
from serving.check.run import DEFAULT_TIMEOUT_S, refuse_unservable
from serving.control.following.diagnosis import hint_for, read_traceback
from serving.errors import CheckError
from serving.local.sources import Sources
from serving.protocol import Load, Reply, Request

# A handler that is still busy after so many seconds, when its files change, is not waited for.
_PATIENCE_S = 2.0
_SLICE_S = 0.25
_ENDED_S = 10.0
_CLOSE_S = 10.0
_KEPT_LINES = 10_000

#: Gets a line, and whether it belongs to an error.
Tell = Callable[[str, bool], None]
#: Gets an answer, its body or the next part of it, and whether more will come.
Part = Callable[[Answer, bytes, bool], None]


class MakeRequest(Protocol):
    """A maker of requests; the model's configuration says whether each belongs to a sequence."""

    def __call__(self, *, sequences: bool) -> Request:
        """Make a request."""


class UnknownModelError(Exception):
    """The request is for a model of another name; the text is the name of this one."""


class Reloading:
    """The model, as its files are now; a context manager that leaves nothing of it behind.

    Attributes:
        name: of the model, once it is known.
        look_s: seconds that the last look at the files took.

    Args:
        sources: its files.
        root: an empty folder, for copies of them and for sockets.
        gpu: number of the device; None for the CPU.
        tell: gets what happens, and every line that the handler prints.
    """

    def __init__(self, sources: Sources, root: Path, *, gpu: int | None, tell: Tell) -> None:
        self.name = ""
        self.look_s = 0.0
        self._sources = sources
        self._root = root.resolve()
        self._gpu = gpu
        self._tell = tell
        self._lock = threading.Lock()
        self._fingerprint: object = None
        self._worker: Worker | None = None
        self._folder = self._root
        self._config = effective.understand(None)
        self._error: TorchmarError | None = None
        self._lost = True
        self._closed = False
        self._lines: deque[str] = deque(maxlen=_KEPT_LINES)

    @property
    def healthy(self) -> bool:
        """Whether the model is loaded, as its files were when they were looked at last."""
        return self._worker is not None and self._error is None and not self._lost

    def __enter__(self) -> Reloading:
        return self

    def __exit__(self, *_: object) -> None:
        self._closed = True
        # The holder of the lock waits for the worker: it ends first.
        self._end_worker()
        if self._lock.acquire(timeout=_CLOSE_S):
            self._lock.release()
        self._end_worker()

    # ---- loading ---------------------------------------------------------------------------------------------------

    def refresh(self) -> None:
        """Load the model if it is not loaded, or if its files have changed. An error is kept for the next request."""
        with self._lock:
            self._refresh()

    def _refresh(self) -> None:
        if self._closed:
            raise CheckError("the server is being stopped")
        begin = time.monotonic()
        fingerprint = self._sources.fingerprint()
        self.look_s = time.monotonic() - begin
        if fingerprint == self._fingerprint and not self._lost:
            return
        again = self._fingerprint is not None
        self._fingerprint, self._lost, self._error = fingerprint, True, None
        self._end_worker()
        begin = time.monotonic()
        try:
            self._load()
        except TorchmarError as error:
            self._error = error
            self._end_worker()
            self._tell(_shown(error), True)
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
        self.name = manifest.model.model_name
        self._config = effective.understand(self._read_config(manifest.model.config_file))
        refuse_unservable(manifest, self._config)
        if self._config.value("asyncCommunication") is True:
            raise InputError(f"{self.name} answers in the asynchronous mode, which dev does not have")
        handler = manifest.model.handler or ""
        worker = self._worker = Worker(
            self._folder,
            scratch,
            python=interpreter(manifest.runtime),
            handler=handler,
            tell=self._hear,
        )
        if self._closed:
            raise CheckError("the server is being stopped")
        message = Load(self.name, str(self._folder), int(self._config.value("batchSize") or 1), handler, self._gpu)
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

    def ask(self, name: str, make: MakeRequest, part: Part) -> None:
        """Answer a request with the model as its files are now.

        Args:
            name: of the model, as the client has it.
            make: makes the request.
            part: gets the answer, or each part of it.

        Raises:
            Exception: what ``make`` raises.
            UnknownModelError: the model has another name.
            TorchmarError: the model cannot be loaded, or fails; with the handler's traceback if there is one.
        """
        with self._lock:
            self._refresh()
            if self._error is not None:
                raise self._error
            if name != self.name:
                raise UnknownModelError(self.name)
            worker = self._worker
            if worker is None:
                raise CheckError("the server is being stopped")
            request = make(sequences=bool(self._config.value("sequenceMaxIdleMSec")))
            try:
                self._answer(worker, request, part)
            except EndedError:
                self._lost = True
                raise failures.death("the worker failed", worker, self._folder, worker.wait(_ENDED_S)) from None
            except NoAnswerError:
                self._lost = True
                text = f"no answer after {self._timeout('responseTimeout'):g} s"
                raise failures.hang(text, worker.dump(), self._folder) from None

    def _answer(self, worker: Worker, request: Request, part: Part) -> None:
        self._lines.clear()
        answers = Answers([request.request_id])
        answer = answers[request.request_id]
        sent = 0
        reply = self._wait(worker, functools.partial(worker.ask, request))
        while answers.take(reply):
            part(answer, bytes(answer.body[sent:]), True)
            sent = len(answer.body)
            if self._config.value("continuousBatching") is True:
                # The frontend then sends the request again, without its content.
                further = replace(request, parameters=())
                reply = self._wait(worker, functools.partial(worker.ask, further))
            else:
                reply = self._wait(worker, worker.receive)
        if answer.status >= 500 and not sent and (error := self._traceback(worker)):
            raise error
        part(answer, bytes(answer.body[sent:]), False)

    def _wait(self, worker: Worker, receive: Callable[[float], Reply]) -> Reply:
        """Wait for a frame; not for one of a handler whose files have changed."""
        begin = time.monotonic()
        timeout = self._timeout("responseTimeout")
        while True:
            passed = time.monotonic() - begin
            try:
                return receive(min(_SLICE_S, max(0.001, timeout - passed)))
            except NoAnswerError:
                passed = time.monotonic() - begin
                if passed >= timeout:
                    raise
                if passed >= _PATIENCE_S and self._sources.fingerprint() != self._fingerprint:
                    raise CheckError("the handler was still busy when its files changed; it is replaced") from None
                receive = worker.receive

    def _traceback(self, worker: Worker) -> CheckError | None:
        worker.settle()
        found = read_traceback(self.name, list(self._lines), 0)
        if found is None:
            return None
        where = f"{found.file}:{found.line}" if found.file and found.line else found.file
        return CheckError(found.cause, traceback=found.traceback, where=where, hint=hint_for(found.cause) or None)


def _shown(error: TorchmarError) -> str:
    """Shorten the error to a few lines: the worker's own output has the traceback."""
    lines = [f"error: {error.message}"]
    if error.where and error.where not in error.message:
        lines.append(f"  at: {error.where}")
    if error.hint:
        lines.append(f"  hint: {error.hint}")
    return "\n".join(lines)
