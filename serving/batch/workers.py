"""An archive's workers on this machine, behind the engine of the Python frontend, without its APIs."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from archive_tool.building.samples import MAX_REQUEST
from archive_tool.config import effective
from archive_tool.errors import InputError
from archive_tool.reading.archive import open_archive
from archive_tool.verification.extraction import extract
from serving.check.process import is_protocol
from serving.check.run import read_config
from serving.control.configuration.config import RESPONSE_TIMEOUT_S
from serving.control.configuration.java import worker_home
from serving.control.runtime_folder import make_runtime_folder
from serving.cores import available
from serving.errors import ModelLoadError
from serving.frontend.engine import Answer, Call, Registration
from serving.frontend.errors import FrontendError
from serving.frontend.local.engine import LocalEngine
from serving.frontend.local.models import gpus
from serving.frontend.local.models.model import may_run_twice
from serving.frontend.meters import Uncounted
from serving.frontend.settings import Place, nowhere
from serving.protocol import Request
from serving.worker.process.rendezvous import OWNER

#: Rows of a batch, of an archive that does not say it and whose handlers are the SDK's; docs/batch.md has what it buys.
BATCH: Final = 32
#: Batches for each worker that are under way: one runs, the others wait for it, or for rows before them.
_AHEAD: Final = 4
# Requests that may wait: more than there ever are. An archive's own jobQueueSize holds.
_QUEUE: Final = 1_000_000
#: Lines of what the workers print that are shown when they cannot load the model.
_SHOWN: Final = 60
_SDK: Final = "handlers/__init__.py"


@dataclass(frozen=True)
class Wanted:
    """What answers.

    Attributes:
        archive: a .mar, a .tar.gz or a folder.
        workers: None for as many as the archive says, else one for each GPU, else for each core.
        batch: rows of a batch; None for what the archive says, else what suits its handler.
        most: bytes of a row, and of an answer.
        allow_pickles: names of members that may run code when they are loaded.
        log: takes each line that a worker prints.
        uses: told of the folder in which the archive is unpacked.
    """

    archive: Path
    workers: int | None = None
    batch: int | None = None
    most: int = MAX_REQUEST
    allow_pickles: tuple[str, ...] = ()
    log: Callable[[str], None] = field(default=lambda _: None)
    uses: Callable[[Path], None] = field(default=lambda _: None)


@dataclass(frozen=True)
class Answerer:
    """Who answers the rows of a job.

    Attributes:
        ask: answers a request; raises a `FrontendError`.
        workers: how many there are.
        batch: rows of a batch.
        width: requests that may be under way.
        alive: whether somebody can still answer.
    """

    ask: Callable[[Request], Awaitable[Answer]]
    workers: int
    batch: int
    width: int
    alive: Callable[[], bool]


@contextlib.asynccontextmanager
async def local_workers(wanted: Wanted) -> AsyncIterator[Answerer]:
    """Start the workers of an archive; at the end nothing of them is left.

    Raises:
        ArchiveError: the archive cannot be read, or is not safe to unpack.
        InputError: its rows cannot be asked one by one.
        ModelLoadError: a worker cannot load it.
        StartError: there is no place for its files.
    """
    runtime = make_runtime_folder()
    before = os.environ.get(OWNER)
    # Workers inherit it, and end with us however we end.
    os.environ[OWNER] = str(os.getpid())
    try:
        wanted.uses(runtime)
        unpacked = await asyncio.to_thread(unpacked_of, wanted, runtime)
        async with _served(wanted, runtime, unpacked) as answerer:
            yield answerer
    finally:
        if before is None:
            del os.environ[OWNER]
        else:
            os.environ[OWNER] = before
        await asyncio.to_thread(shutil.rmtree, runtime, ignore_errors=True)


@dataclass(frozen=True)
class Unpacked:
    """An archive that is to be served.

    Attributes:
        batch: rows of a batch.
        own: whether the archive says so.
        ahead: batches for each worker that are under way.
        twice: whether a row may be asked again after its worker died.
    """

    folder: Path
    name: str
    batch: int
    own: bool
    ahead: int
    twice: bool


def unpacked_of(wanted: Wanted, runtime: Path) -> Unpacked:
    """Unpack an archive, and understand how its rows are asked.

    Args:
        wanted: the archive, and what was said of it.
        runtime: folder of the job.

    Raises:
        ArchiveError: it cannot be read, or is not safe to unpack.
        InputError: its rows cannot be asked one by one, or in batches of another size.
    """
    with open_archive(wanted.archive) as archive:
        manifest = archive.manifest
        if manifest is None or not manifest.model.handler:
            raise InputError(f"{wanted.archive} names no handler, so there is nothing to load")
        config = effective.understand(read_config(archive, manifest))
        if config.value("sequenceBatching"):
            raise InputError(f"{wanted.archive} answers sequences of requests; the rows of a batch job are none")
        own = next((one.value for one in config.settings if one.key == "batchSize" and one.source == effective.FILE), 0)
        if own and wanted.batch not in (None, own):
            raise InputError(f"{wanted.archive} has batchSize: {own} in its configuration, which holds, as on a server")
        if wanted.archive.is_dir():
            folder = wanted.archive.resolve()  # as the frontend does it
        else:
            folder = runtime / "archive" / "model"
            folder.parent.mkdir()
            extract(archive, folder, allow_pickles=wanted.allow_pickles)
        takes_many = archive.has(_SDK) or config.value("asyncCommunication")
        batch = own or wanted.batch or (BATCH if takes_many else 1)
        # A row that waits where clients have a time limit would be too late for that alone.
        ahead = 1 if config.value("clientTimeoutInMills") else _AHEAD
        twice = may_run_twice(folder, config.document)
        return Unpacked(folder, manifest.model.model_name or folder.name, batch, bool(own), ahead, twice)


@contextlib.asynccontextmanager
async def _served(wanted: Wanted, runtime: Path, unpacked: Unpacked) -> AsyncIterator[Answerer]:
    workers = wanted.workers or await asyncio.to_thread(gpus.count) or available()
    place = Place(runtime, worker_home(), runtime, runtime, runtime)
    settings = nowhere(properties_of(wanted), place)
    printed: deque[str] = deque(maxlen=_SHOWN)

    def heard(worker: str, pipe: str, line: str) -> None:  # noqa: ARG001
        if not is_protocol(line):
            printed.append(line)
            wanted.log(line)

    engine = LocalEngine(settings, Uncounted(), heard)
    name = unpacked.name
    try:
        await engine.start((), load_all=False)
        try:
            await _register(engine, unpacked, workers, wanted.workers)
        except FrontendError as error:
            raise load_error(name, error.message, "\n".join(printed)) from error
        (state,) = engine.describe(name, None)

        async def ask(request: Request) -> Answer:
            return await engine.predict(Call(name, None, request))

        count = len(state.workers)
        width = max(1, min(state.remaining, unpacked.ahead * count * unpacked.batch))
        yield Answerer(ask, count, unpacked.batch, width, lambda: engine.healthy)
    finally:
        await engine.drain(0.0)


async def _register(engine: LocalEngine, unpacked: Unpacked, workers: int, asked: int | None) -> None:
    """Register the model and start its workers.

    Raises:
        FrontendError: one cannot load it.
    """
    wanted = replace(registration_of(unpacked), url=str(unpacked.folder), initial_workers=workers)
    await engine.register(wanted, workers=asked)


def properties_of(wanted: Wanted) -> dict[str, str]:
    """Return the configuration that workers are served with."""
    bounds = dict.fromkeys(("max_request_size", "max_response_size"), str(wanted.most))
    return {**bounds, "job_queue_size": str(_QUEUE)}


def registration_of(unpacked: Unpacked) -> Registration:
    """Return how the model is registered, but where it is and how many workers it has."""
    # A server's patience is for a batch of its own size.
    patience = None if unpacked.own else RESPONSE_TIMEOUT_S * unpacked.batch
    return Registration("", unpacked.name, batch_size=unpacked.batch, response_timeout_s=patience)


def load_error(name: str, message: str, printed: str) -> ModelLoadError:
    """Return what says that a worker cannot load the model."""
    text = f"the model {name} cannot be loaded: {message}"
    return ModelLoadError(text, model=name, traceback=printed, hint="torchmar check says more")
