"""The engine of a model that is being written: one worker, which follows the files, under the applications of HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from archive_tool.errors import TorchmarError
from serving.errors import CheckError
from serving.frontend.engine import Answer, Call, ModelState, WorkerState
from serving.frontend.errors import (
    DeadlineError,
    FrontendError,
    InternalError,
    ModelNotFoundError,
    UnavailableError,
    VersionNotFoundError,
)
from serving.frontend.local.job import Job
from serving.frontend.local.sequences import name_of
from serving.frontend.settings import Settings
from serving.local.reloading import Reloading, shown

logger = logging.getLogger(__name__)

# With very many files the looking must not keep a core busy; a request looks by itself.
_POLL_S: Final = 0.3
_POLL_SHARE: Final = 10
_CLOSE_S: Final = 10.0
_TOO_LATE: Final = "the time that the request gave has passed before the model was free"
#: Number of the worker, as a server's first.
_NUMBER: Final = "9000"


class FailedError(FrontendError):
    """The model cannot be loaded, or its handler has failed: all that its author wants to see."""

    def __init__(self, error: TorchmarError) -> None:
        super().__init__(error.message)
        self.error = error

    @property
    def document(self) -> dict[str, Any]:
        """The body of the response: with the place, a hint and the traceback."""
        error = self.error
        traceback: str = getattr(error, "traceback", "")
        of_handler = traceback and isinstance(error, CheckError)
        more = {"where": error.where, "hint": error.hint, "traceback": traceback.splitlines() if traceback else None}
        kind = error.message.partition(":")[0] if of_handler else type(error).__name__
        return super().document | {"type": kind} | more


class ReloadingEngine:
    """One model, whose requests go one after the other as they come; see `serving.frontend.engine.Answering`.

    Args:
        model: to be asked, in a thread of its own.
        settings: how many requests may wait, and the names of headers.
        tell: gets what no client is told.
    """

    def __init__(self, model: Reloading, settings: Settings, tell: Callable[[str, bool], None]) -> None:
        self._model, self._settings, self._tell = model, settings, tell
        self._loop = asyncio.get_running_loop()
        # The line in which requests and looks at the files wait.
        self._thread = ThreadPoolExecutor(1, "torchmar-dev")
        self._line: dict[Job, Call] = {}
        self._turn = threading.Lock()
        self._waiting = 0
        self._ending = False

    async def follow(self) -> None:
        """Load the model, and again whenever its files change, so that it is mostly there before it is asked for."""
        while True:
            await self._loop.run_in_executor(self._thread, self._model.refresh)
            await asyncio.sleep(max(_POLL_S, _POLL_SHARE * self._model.look_s))

    # ---- requests --------------------------------------------------------------------------------------------------

    async def predict(self, call: Call) -> Answer:
        """Answer a request with the model as its files are when its turn comes; of a streamed answer the first part."""
        if self._ending:
            raise _end()
        if self._waiting >= self._settings.job_queue_size:
            raise UnavailableError(f"{self._waiting} requests wait already", headers={"Retry-After": "1"})
        job = Job(call.request, self._loop, deadline=call.deadline)
        if call.deadline is not None:
            if call.deadline <= self._loop.time():
                raise DeadlineError(_TOO_LATE)
            job.timer = self._loop.call_at(call.deadline, job.fail, DeadlineError(_TOO_LATE))
        self._waiting += 1
        with self._turn:
            self._line[job] = call
        self._thread.submit(self._answer_next)
        try:
            return await job.answer
        except asyncio.CancelledError:
            if job.parts is not None:
                job.parts.end()
            raise
        finally:
            self._waiting -= 1
            with self._turn:  # who has left, or is too late, leaves nothing in the line
                self._line.pop(job, None)
            job.forget_timer()

    def _answer_next(self) -> None:
        """Answer the first one in the line, if there is one still."""
        with self._turn:
            job = next(iter(self._line), None)
            call = self._line.pop(job) if job is not None else None
        if job is not None and call is not None:
            self._answer(call, job)

    def _answer(self, call: Call, job: Job) -> None:
        """Have the model answer, in its thread. Who has left, or is too late by then, is passed over."""
        model = self._model
        try:
            model.refresh()
            if model.error is not None:
                self._post(self._failed, job, model.error)
                return
            self._find(call.name, call.version)
            if model.stateful:
                name_of(job.request.headers, self._settings.sequence_id, self._settings.sequence_start)
            if not asyncio.run_coroutine_threadsafe(self._begun(job, model.limit_s), self._loop).result():
                return
            for item, _ in model.ask(job.request):
                self._post(job.take, item, model.version, job.timings)
        except FrontendError as error:
            self._post(job.fail, error)
        except TorchmarError as error:
            self._post(self._failed, job, error)
        except Exception:
            logger.exception("%s failed", model.name)
            self._post(job.fail, InternalError("torchmar dev failed; its terminal has the reason"))

    async def _begun(self, job: Job, limit_s: float) -> bool:
        """Take note that the worker gets a request; say whether somebody waits for its answer still."""
        if not job.done:
            job.begin(time.monotonic(), 1, limit_s)
        return not job.done

    def _failed(self, job: Job, error: TorchmarError) -> None:
        job.fail(_end() if self._ending else FailedError(error))
        if job.begun:
            self._tell(shown(error), True)  # the client has the status already, and an end without an end mark

    def _post(self, do: Callable[..., object], *given: object) -> None:
        """Do something in the event loop, unless that has ended."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(do, *given)

    # ---- the model -------------------------------------------------------------------------------------------------

    def _find(self, name: str, version: str | None) -> None:
        model = self._model
        if name != model.name:
            hint = f"; the model here is {model.name}: /predictions/{model.name}" if model.name else ""
            raise ModelNotFoundError(f"Model not found: {name}{hint}")
        if version not in (None, model.version):
            raise VersionNotFoundError(f"Model version: {version} does not exist for model: {name}")

    def names(self) -> list[tuple[str, str]]:
        """Name and place of the model, once its name is known."""
        return [(self._model.name, str(self._model.place))] if self._model.name else []

    def describe(self, name: str, version: str | None) -> tuple[ModelState, ...]:
        """Describe the model, under its own name."""
        model = self._model
        self._find(name, None if version == "all" else version)
        pid = model.pid
        workers = (WorkerState(_NUMBER, model.started, model.healthy, pid, 0, model.gpu),) if pid > 0 else ()
        return (
            ModelState(
                model.name,
                model.version,
                str(model.place),
                "python",
                {},
                workers,
                self._waiting,
                max(0, self._settings.job_queue_size - self._waiting),
                default=True,
                loaded_at_startup=True,
            ),
        )

    @property
    def healthy(self) -> bool:
        """Whether the model is loaded, as its files were when they were looked at last."""
        return self._model.healthy

    @property
    def ready(self) -> bool:
        """The same, and whether requests are taken."""
        return self._model.healthy and not self._ending

    async def drain(self, grace_s: float) -> None:
        """Take no more, answer what was taken for as long as the grace lasts, end the worker."""
        self._ending = True
        await self._passed(grace_s)
        await asyncio.to_thread(self._model.close)
        await self._passed(_CLOSE_S)
        self._thread.shutdown(wait=False)

    async def _passed(self, patience_s: float) -> None:
        """Wait until all have had their turn that are in the line now, no longer than the patience lasts."""
        last = self._loop.run_in_executor(self._thread, int)
        await asyncio.wait({last}, timeout=patience_s)


def _end() -> UnavailableError:
    return UnavailableError("the server is about to end")
