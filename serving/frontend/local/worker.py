"""A worker of a model: its process, the connections to it, and the requests that it has.

::

    starting --listens--> loading --answers LOAD--> ready --dies--+
        ^                     |                                   |
        +------ a pause ------+-----------------------------------+---- too often, or told to leave --> ended

A worker is started again whenever it dies, after a pause that grows while it cannot load its model.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Iterator
from typing import Final, Protocol, TypeVar

from archive_tool.exit_codes import how_it_ended
from serving.control.following import diagnosis
from serving.frontend.engine import Timings, WorkerState
from serving.frontend.errors import FrontendError, InternalError, OutOfResourcesError
from serving.frontend.local.courses import course_of
from serving.frontend.local.job import Job
from serving.frontend.local.link import Link
from serving.frontend.local.models.model import Model
from serving.frontend.local.process import START_S, Launch, Process
from serving.protocol import Load, Reply, encode_load

logger = logging.getLogger(__name__)
T = TypeVar("T")

#: How a process ends that was killed for a lack of memory.
_OUT_OF_MEMORY: Final = 137
#: Seconds that a worker may take to end by itself, before it is killed.
_LEAVE_S: Final = 2.0
#: Seconds for a process that is dying to end by itself, and what it printed last to be read.
_LAST_WORDS_S: Final = 1.0
#: Lines that are kept of what a worker prints while it loads its model.
_LAST_LINES: Final = 400
_DIED: Final = "Worker died."
_UNHEARD: Final = "the worker ended before it listened"
#: Failed loads in a row after which requests wait no longer for a worker that had served: of those that said why, and
#: of those that ended without a word. These were killed, as a rule, and for reasons outside the model.
_TOLD: Final = 2
_UNTOLD: Final = 5


class Owner(Protocol):
    """Who has workers."""

    model: Model

    def launch(self, worker: Worker) -> Launch:
        """Tell how to start it."""

    def load(self, worker: Worker) -> Load:
        """Tell it what to load."""

    def loaded(self, worker: Worker, seconds: float) -> None:
        """Take note that it has loaded its model, so long after its start."""

    def freed(self, worker: Worker) -> None:
        """Take note that it has room for requests."""

    def left(self, worker: Worker) -> None:
        """Take note that it takes no more requests."""

    def died(self, worker: Worker, jobs: list[Job], error: FrontendError) -> None:
        """Take the requests back that it had."""

    def overdue(self, jobs: list[Job], error: FrontendError) -> None:
        """Answer the requests for which it took too long."""

    def fell(self) -> None:
        """Take note that a worker has ended unasked, or could not load its model."""

    def answered(self, job: Job, timings: Timings, headers: dict[str, str], status: int) -> None:
        """Count an answer, or the first part of one."""

    def heard(self, worker: Worker, pipe: str, line: str) -> None:
        """Take a line that it has printed."""

    @property
    def max_response_size(self) -> int:
        """Bytes of each field of a reply."""


class Worker:
    """A worker, from its first start until it is told to leave.

    Args:
        owner: whose it is.
        number: the frontend's of it.
        gpu: that it gets; None for the processor.

    Attributes:
        loaded: done when it has loaded its model for the first time, or failed to.
        ended: whether it is started no more.
        ready: whether it has its model.
        failing: whether it could not load its model: never yet, or not when it last tried several times.
    """

    def __init__(self, owner: Owner, number: int, gpu: int | None) -> None:
        self.number = number
        self.gpu = gpu
        self.started = time.time()
        self.loaded: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.ended = False
        self.ready = False
        self.failing = False
        self._owner = owner
        self._loop = asyncio.get_running_loop()
        self._process: Process | None = None
        self._links: list[Link] = []
        self._course = course_of(self, owner.model)
        self._printed: deque[str] = deque(maxlen=_LAST_LINES)
        self._loading: asyncio.Future[Reply] | None = None
        self._unloaded = 0
        self._gone = asyncio.Event()
        self._quiet = asyncio.Event()
        self._quiet.set()
        self._late = False
        self._why = ""
        self._leaving = False
        self._task = self._loop.create_task(self._live(), name=self.name)

    @property
    def model(self) -> Model:
        """What it serves."""
        return self._owner.model

    @property
    def name(self) -> str:
        """What TorchServe calls its thread, which is how logs are read."""
        return f"W-{self.number}-{self.model.label}"

    @property
    def pid(self) -> int:
        """Process id, as it has told; -1 before that."""
        return self._process.pid if self._process else -1

    @property
    def running(self) -> int:
        """Requests that it has."""
        return len(self._course.jobs)

    @property
    def awaited(self) -> bool:
        """Whether it has a request whose client has not left."""
        return any(not job.over for job in self._course.jobs.values())

    @property
    def room(self) -> int:
        """How many requests it takes now."""
        return self._course.room if self.ready and not self._leaving else 0

    def state(self, memory_bytes: int) -> WorkerState:
        """Describe it."""
        return WorkerState(str(self.number), self.started, self.ready, self.pid, memory_bytes, self.gpu)

    # ---- requests --------------------------------------------------------------------------------------------------

    def send(self, jobs: list[Job]) -> None:
        """Send requests, no more than it has `room` for."""
        self._quiet.clear()
        self._course.send(jobs)

    def go_on(self) -> None:
        """Do what is to be done when nothing new waits."""
        if self.ready:
            self._course.go_on()

    def transmit(self, frame: bytes) -> None:
        """Send a message to its process, or to all of them."""
        for link in self._links if self.model.broadcasts else self._links[:1]:
            link.send(frame)

    def answered(self, job: Job, timings: Timings, headers: dict[str, str], status: int) -> None:
        """Count an answer, or the first part of one."""
        self._owner.answered(job, timings, headers, status)

    def freed(self) -> None:
        """Take note that requests have been answered."""
        if not self._course.jobs:
            self._quiet.set()
        if self.ready:
            self._owner.freed(self)

    def broken(self, why: str) -> None:
        """End the worker: it said what it must not say."""
        logger.error("%s is ended: %s", self.name, why)
        self._why = why
        self._give_up()

    def check(self, now: float) -> None:
        """End it if it takes too long for its requests, or has ended without a word."""
        if not self.ready or self._process is None:
            return
        if self._process.code is not None:
            self._give_up()
        elif self._course.jobs and now >= self._course.deadline:
            self._late = True
            self._give_up()

    def _replied(self, reply: Reply) -> None:
        if self._loading is not None:
            self._take_load_reply(self._loading, reply)
        else:
            self._course.replied(reply)

    def _take_load_reply(self, loading: asyncio.Future[Reply], reply: Reply) -> None:
        """Take the answer to LOAD of one of its processes: all must have loaded the model, or none counts."""
        self._unloaded -= 1
        if not loading.done() and (reply.code != 200 or self._unloaded <= 0):
            loading.set_result(reply)

    # ---- life ------------------------------------------------------------------------------------------------------

    async def _live(self) -> None:
        pauses = _pauses()
        failing_since = 0.0
        failures, served = 0, False
        while True:
            error: FrontendError
            try:
                await self._start()
            except FrontendError as problem:
                error, failures = await self._explained(problem), failures + 1
                patience = _UNTOLD if error.message in (_DIED, _UNHEARD) else _TOLD
                self.failing = failures >= patience or not served
                failing_since = failing_since or self._loop.time()
                if not self._leaving:
                    logger.error("Load model failed: %s, error: %s", self.model.name, error.message)
            else:
                pauses, failing_since, failures = _pauses(), 0.0, 0
                self.failing, served = False, True
                if not self.loaded.done():
                    self.loaded.set_result(None)
                self._owner.freed(self)
                await self._gone.wait()
                error = InternalError(_DIED)
            error = await self._end_process(error, was_ready=not failures)
            self._gone.clear()
            if not self.loaded.done():
                self.loaded.set_exception(error)
                self.loaded.exception()  # perhaps nobody waits for it
            if self._leaving:
                break
            limit = self.model.values.get("maxRetryTimeoutInSec", 300)
            if failing_since and self._loop.time() - failing_since > limit:
                logger.error("%s is started no more: it could not load its model for %s s", self.name, limit)
                break
            await self._pause(next(pauses))
        self.ended = True
        self._owner.died(self, [], InternalError(_DIED))

    def _heard(self, pipe: str, line: str) -> None:
        if not self.ready and pipe == "stdout":
            self._printed.append(line)
        self._owner.heard(self, pipe, line)

    async def _explained(self, error: FrontendError) -> FrontendError:
        """Return the error of a failed load, in the worker's own words if it printed any."""
        if error.message != _DIED:
            return error
        if self._process is not None:
            await self._process.exited(_LAST_WORDS_S)
        failure = diagnosis.read_failure(self.model.name, list(self._printed))
        if failure is None:
            return error
        where = f" ({failure.file}:{failure.line})" if failure.file and failure.line else ""
        return InternalError(f"Worker died: {failure.cause}{where}")

    async def _pause(self, seconds: float) -> None:
        try:
            await asyncio.wait_for(self._gone.wait(), seconds)
        except asyncio.TimeoutError:
            return

    async def _start(self) -> None:
        """Start the process and let it load the model.

        Raises:
            FrontendError: it did not.
        """
        model = self.model
        self._late, self._why = False, ""
        begun = self._loop.time()
        try:
            launch = self._owner.launch(self)
            self._printed.clear()
            self._process = Process(launch, self._heard)
            if not await self._unless_gone(self._process.started, begun + START_S):
                raise InternalError(_UNHEARD)
            self._loading = self._loop.create_future()
            self._unloaded = len(launch.sockets)
            for socket in launch.sockets:
                self._links.append(await self._connect(socket))
            frame = encode_load(self._owner.load(self))
            for link in self._links:
                link.send(frame)
            reply = await self._unless_gone(self._loading, begun + model.startup_timeout_s)
            if reply.code != 200:
                kind = OutOfResourcesError if reply.code == 507 else InternalError
                raise kind(reply.message)
        except asyncio.TimeoutError:
            raise InternalError(
                f"the model was not loaded within {model.startup_timeout_s} s (startupTimeout)"
            ) from None
        except FrontendError:
            raise
        except Exception as error:
            # Such as ValueError of a handler's name that no environment can hold. Whoever waits is told of any.
            raise InternalError(f"the worker cannot be started: {error}") from error
        finally:
            self._loading = None
        self.ready = True
        self._owner.loaded(self, self._loop.time() - begun)

    async def _connect(self, socket: str | int) -> Link:
        def link() -> Link:
            return Link(self._owner.max_response_size, self._replied, self._lost)

        if isinstance(socket, str):
            _, made = await self._loop.create_unix_connection(link, socket)
        else:
            _, made = await self._loop.create_connection(link, "127.0.0.1", socket)
        return made

    async def _unless_gone(self, awaited: Awaitable[T], deadline: float) -> T:
        """Wait for something, as long as the worker lives.

        Raises:
            InternalError: it has died, or is to leave.
            asyncio.TimeoutError: the deadline has passed.
        """
        wanted = asyncio.ensure_future(awaited)
        gone = asyncio.ensure_future(self._gone.wait())
        try:
            timeout = max(0.0, deadline - self._loop.time())
            await asyncio.wait((wanted, gone), timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            if wanted.done():
                return wanted.result()
            if gone.done():
                raise InternalError(_DIED)  # its own words are in the log
            raise asyncio.TimeoutError
        finally:
            gone.cancel()
            wanted.cancel()

    def _lost(self, error: Exception | None) -> None:
        if error is not None:
            logger.error("%s: the connection broke: %s", self.name, error)
        self._give_up()

    def _give_up(self) -> None:
        """Take no more requests: the process has ended, or is to end."""
        self.ready = False
        self._owner.left(self)
        self._gone.set()

    async def _end_process(self, error: FrontendError, *, was_ready: bool) -> FrontendError:
        """End what is left of the process, and settle its requests; returns the error that they got."""
        self.ready = False
        jobs = self._course.take_all()
        process, self._process = self._process, None
        links, self._links = self._links, []
        for link in links:
            link.close()
        if process is not None:
            # One that dies closes its connections a moment before it is known how it ended.
            dying = was_ready and not self._late and not self._why
            patience = _LEAVE_S if self._leaving else _LAST_WORDS_S if dying else 0.0
            code = await process.end(patience, ask=self._leaving)
            if self._late:
                limit = self.model.response_timeout_s
                error = InternalError(f"Worker died: it gave no answer within {limit} s (responseTimeout)")
                self._owner.overdue(jobs, error)
                jobs = []
            elif code == _OUT_OF_MEMORY and was_ready:
                error = OutOfResourcesError("Worker died: it ran out of memory")
            elif was_ready and not self._leaving:
                why = self._why or ("its connection broke" if process.killed else f"it {how_it_ended(code)}")
                error = InternalError(f"Worker died: {why}")
                logger.error("%s died: %s", self.name, why)
        if not self._leaving:
            self._owner.fell()
        self._owner.died(self, jobs, error)
        self._quiet.set()
        return error

    async def leave(self, grace_s: float) -> bool:
        """Let it answer what it has, then end it; say whether the grace was enough."""
        self._leaving = True
        in_time = True
        if self.awaited:
            try:
                await asyncio.wait_for(self._quiet.wait(), grace_s)
            except asyncio.TimeoutError:
                in_time = False
        self._gone.set()
        await asyncio.wait((self._task,), timeout=START_S + _LEAVE_S)
        return in_time


def _pauses() -> Iterator[float]:
    """Seconds before each further start: 1, 1, 2, 3, 5, ... (WorkerThread.java)."""
    one, other = 1, 1
    while True:
        yield float(one)
        one, other = other, min(one + other, 1597)
