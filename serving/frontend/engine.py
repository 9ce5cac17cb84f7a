"""What the applications stand on: models, and somebody who answers their requests.

An engine lives in one event loop and is called in its thread. Every method that fails raises a `FrontendError`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Protocol

from serving.frontend.errors import BadRequestError, RequestTimeoutError
from serving.protocol import Request


class Priority(IntEnum):
    """Who comes first of those that wait."""

    HIGH = 0
    NORMAL = 1
    LOW = 2


@dataclass(frozen=True, slots=True)
class Call:
    """A request for a model.

    Attributes:
        name: of the model.
        version: of it; None for the default one.
        request: what the worker is to see.
        deadline: of the client's, by the loop's clock; None without one. What has not begun by then is not begun.
        priority: among those that wait.
        may_default: whether the model's default answer may be given where the deadline or the queue is over.
        trace: the client's ``traceparent``, where it is not among the request's headers: over gRPC.
    """

    name: str
    version: str | None
    request: Request
    deadline: float | None = None
    priority: Priority = Priority.NORMAL
    may_default: bool = False
    trace: str = ""


@dataclass(frozen=True, slots=True)
class Timings:
    """Where the time of an answer went, seconds.

    Attributes:
        queue: from arrival until the request was sent to a worker.
        worker: from then until the (first part of the) answer.
        batch: requests that ran with it, itself included.
        parts: seconds of the worker's parts by their names; only of a request that is traced.
    """

    queue: float
    worker: float
    batch: int
    parts: tuple[tuple[str, float], ...] = ()


@dataclass(slots=True)
class Answer:
    """What a model answered.

    Attributes:
        status: HTTP status, of the handler's choice.
        phrase: reason phrase; empty for the usual one.
        content_type: empty for no such header.
        headers: further ones of the response.
        body: the whole of it, or its first part.
        rest: the further parts of a streamed answer; None where the body is whole. It must be read to its end or
            closed (`aclose`): who leaves it stops the engine from waiting for a slow reader.
        version: that answered.
        timings: where the time went.
        counted: status that it counts as: of a default answer, that of the error which it hides; 0 for its own.
        trailers: of a streamed answer: what the worker tells with its last part, once that is there. No client sees it.
    """

    status: int
    phrase: str
    content_type: str
    headers: dict[str, str]
    body: bytes | bytearray
    rest: AsyncIterator[bytes | bytearray] | None = None
    version: str = ""
    timings: Timings | None = None
    counted: int = 0
    trailers: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Registration:
    """What is to be registered: TorchServe's parameters of ``POST /models``; None where the request says nothing.

    Attributes:
        url: archive of the model store, a folder, or a URL that ``allowed_urls`` matches.
        model_name: None for the manifest's, else that of the file.
        handler: in place of the manifest's.
        runtime: in place of the manifest's.
        batch_size: most requests of a batch.
        max_batch_delay_ms: how long TorchServe holds a batch open to fill; ours only describes it.
        initial_workers: to start; None for default_workers_per_model.
        response_timeout_s: seconds that a worker may take for a batch.
        startup_timeout_s: seconds that a worker may take to load the model.
        synchronous: wait for the workers; they must all load, or nothing is registered.
        s3_sse_kms: fetch from S3 with KMS encryption.
    """

    url: str
    model_name: str | None = None
    handler: str | None = None
    runtime: str | None = None
    batch_size: int | None = None
    max_batch_delay_ms: int | None = None
    initial_workers: int | None = None
    response_timeout_s: int | None = None
    startup_timeout_s: int | None = None
    synchronous: bool = True
    s3_sse_kms: bool = False


@dataclass(frozen=True, slots=True)
class Done:
    """What a change of models has come to.

    Attributes:
        status: HTTP status: 200 done, 202 begun, 206 under way for longer than one waits.
        message: ``status`` of the JSON body, in TorchServe's words.
    """

    status: int
    message: str

    @classmethod
    def begun(cls) -> Done:
        """Tell that workers start or end meanwhile."""
        return cls(202, "Processing worker updates...")

    @classmethod
    def registered(cls, name: str, version: str, workers: int) -> Done:
        """Tell that a version was registered, with so many workers."""
        done = f'Model "{name}" Version: {version} registered with {workers} initial workers'
        return cls(200, done if workers else f"{done}. Use scale workers API to add workers for the model.")

    @classmethod
    def scaled(cls, name: str, version: str | None, workers: int) -> Done:
        """Tell that a version (None: the default one) has so many workers."""
        text = f"Workers scaled to {workers} for model: {name}"
        return cls(200, text if version is None else f"{text}, version: {version}")

    @classmethod
    def of_default(cls, name: str, version: str) -> Done:
        """Tell that another version is the default one."""
        return cls(200, f'Default version successfully updated for model "{name}" to "{version}"')

    @classmethod
    def unregistered(cls, name: str, *, in_time: bool) -> Done:
        """Tell that a version has gone.

        Args:
            name: of the model.
            in_time: whether it had answered by then what it took.

        Raises:
            RequestTimeoutError: it had not.
        """
        if not in_time:
            raise RequestTimeoutError(f"Timed out while cleaning resources: {name}")
        return cls(200, f'Model "{name}" unregistered')


def most_of(least: int, most: int | None) -> int:
    """Return how many workers there may be, where there are to be at least so many.

    Args:
        least: as asked for.
        most: the same; None for no more than that.

    Raises:
        BadRequestError: that is fewer.
    """
    if most is not None and most < least:
        raise BadRequestError("max_worker cannot be less than min_worker.")
    return least if most is None else most


@dataclass(frozen=True, slots=True)
class Share:
    """What a version gets of the requests that name none.

    Attributes:
        percent: of them; 0 for nothing.
        shadow: whether it gets copies of them, whose answers nobody sees. Else it answers them: it is a canary.
        sticky: headers. Requests that have the same value of the first of these that they have go to the same version;
            requests without them are shared out at random. It is one rule for all versions of the model: None leaves
            it as it is.
    """

    percent: int
    shadow: bool = False
    sticky: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class WorkerState:
    """A worker, as ``GET /models/{name}`` lists it.

    Attributes:
        id: number, from 9000 on.
        started: seconds since the epoch.
        ready: whether it has its model.
        pid: -1 until it is known.
        memory_bytes: resident, as of the last collection; 0 before the first.
        gpu: number of its GPU; None for the processor.
    """

    id: str
    started: float
    ready: bool
    pid: int
    memory_bytes: int
    gpu: int | None


@dataclass(frozen=True, slots=True)
class ModelState:
    """A version of a model, as ``GET /models/{name}`` describes it.

    Attributes:
        settings: of the version by their names in TorchServe's JSON, in its order: ``minWorkers`` and so on.
        workers: of it.
        waiting: requests that wait.
        remaining: requests that could wait beside them.
        default: whether requests without a version go here.
        loaded_at_startup: whether the server began with it.
        share: what it gets of the requests without a version, if it is not the default one; None for nothing.
        task: what its archive records that it is for, by the Hub's name; empty where it says nothing.
    """

    name: str
    version: str
    url: str
    runtime: str
    settings: dict[str, Any] = field(hash=False)
    workers: tuple[WorkerState, ...]
    waiting: int
    remaining: int
    default: bool
    loaded_at_startup: bool
    share: Share | None = None
    task: str = ""


class Answering(Protocol):
    """Models and who answers for them."""

    async def predict(self, call: Call) -> Answer:
        """Answer a request; of a streamed answer the first part.

        A caller that is cancelled has left: what has not begun is dropped.

        Raises:
            ModelNotFoundError, VersionNotFoundError: nothing of that name.
            UnavailableError: no worker, or too many wait already.
            DeadlineError: the client's deadline came before the model was free.
            InternalError, OutOfResourcesError: the worker died, or took too long.
        """

    def names(self) -> Sequence[tuple[str, str]]:
        """Name and URL of the default version of every model, by name."""

    def describe(self, name: str, version: str | None) -> tuple[ModelState, ...]:
        """One version (None: the default one) or ``all``, the default one first.

        Raises:
            ModelNotFoundError, VersionNotFoundError: nothing of that name.
        """

    @property
    def healthy(self) -> bool:
        """Whether every default version has as many workers as it wants, ready or on their way: TorchServe's ping."""

    @property
    def ready(self) -> bool:
        """Whether every model has a ready worker, and requests are taken."""

    async def drain(self, grace_s: float) -> None:
        """Take no more, answer what was taken for as long as the grace lasts, end every worker."""


class Engine(Answering, Protocol):
    """Models that can be changed."""

    def shares(self, name: str) -> Mapping[str, Share]:
        """Which versions of a model have a share of the requests that name none; empty where there is no model."""

    async def register(self, wanted: Registration) -> Done:
        """Take a model and start its workers.

        Raises:
            BadRequestError, ModelError, ModelNotFoundError, ConflictError, InternalError, OutOfResourcesError: it was
                not taken; nothing of it is left.
        """

    async def scale(self, name: str, version: str | None, least: int, most: int | None, *, synchronous: bool) -> Done:
        """Give a version as many workers; None for as many at the most as at the least.

        Raises:
            ModelNotFoundError, VersionNotFoundError: nothing of that name.
            BadRequestError: most is below least, or they are too many.
            NoGpusError: a worker needs more GPUs than there are.
            InternalError, OutOfResourcesError: a worker could not load the model.
        """

    async def share(self, name: str, version: str, wanted: Share) -> Done:
        """Give a version a share of the requests that name none, or copies of them.

        The default version answers whatever no other one does: also for one that is down.

        Raises:
            ModelNotFoundError, VersionNotFoundError: nothing of that name.
            BadRequestError: it cannot have that.
        """

    async def set_default(self, name: str, version: str) -> Done:
        """Send requests that name no version to this one, and end the share that it has.

        Raises:
            ModelNotFoundError, VersionNotFoundError: nothing of that name.
        """

    async def unregister(self, name: str, version: str | None) -> Done:
        """Answer what was taken, end the workers, forget the version (None: the default one).

        Raises:
            ModelNotFoundError, VersionNotFoundError: nothing of that name.
            NotAllowedError: the default version, while there are others.
            RequestTimeoutError: workers did not end in time.
        """
