"""The workers of a job on a Ray cluster: an actor for each, which runs the engine of one machine with one worker.

The job itself stays here: it reads the rows, asks, and writes. So it goes on where it was cut, as on one machine, and
no row is lost or doubled (docs/adr/0040-batch-jobs-on-ray.md).
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import signal
import sys
from collections import deque
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import ray
from ray.exceptions import RayActorError

from archive_tool.errors import InputError
from serving.batch.job import whole
from serving.batch.workers import Answerer, Wanted, load_error, properties_of, registration_of, unpacked_of
from serving.check.process import is_protocol
from serving.control.runtime_folder import make_runtime_folder
from serving.errors import StartError
from serving.frontend.engine import Answer, Call, Registration
from serving.frontend.errors import FrontendError, InternalError, UnavailableError
from serving.frontend.ray import nodes, starting
from serving.frontend.ray.nodes import Archive
from serving.frontend.ray.registry import ServerInfo
from serving.frontend.ray.replica import Replica
from serving.frontend.ray.surroundings import answered, error_of, failed
from serving.protocol import Request

#: Processors of a worker, and seconds in which the cluster must have room for the first one, and then for the others.
_CPUS: Final = 1
_ROOM_S: Final = 300.0
_OTHERS_S: Final = 60.0
#: Calls that a worker has at a time, so that it never waits for the next one; rows and bytes of each.
_CALLS: Final = 3
_GROUP: Final = 16
_GROUP_BYTES: Final = 8 << 20
#: Times that a row is asked, where it may run twice.
_TRIES: Final = 3
#: Seconds between two looks whether an actor has been started anew.
_PAUSE_S: Final = 1.0
#: Lines of a worker that wait for its next answer.
_LINES: Final = 10_000
_QUIET: Final = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_enable_worker_prestart": "0"}


class _Worker:
    """A worker on a node, as an actor: Ray starts it anew, perhaps elsewhere, when its process or its node dies."""

    def __init__(self) -> None:
        self._lines: deque[str] = deque(maxlen=_LINES)
        self._replica: Replica | None = None
        self._name = ""

    async def begin(
        self, archive: Archive, wanted: Registration, info: ServerInfo, pieces: Sequence[Any]
    ) -> Mapping[str, Any] | None:
        """Load the model.

        Args:
            archive: of the model.
            wanted: how it is registered.
            info: of the server that it is alone.
            pieces: of the archive, in Ray's store of objects.

        Returns:
            Why it cannot be loaded; None if it is.
        """

        def read(sha256: str, place: int, most: int) -> bytes:  # noqa: ARG001 (there is one archive, in such pieces)
            return ray.get(pieces[place // nodes.PIECE])  # type: ignore[no-any-return]

        replica = Replica(archive, wanted, info, read, lambda line, _: self._lines.append(line))
        try:
            await replica.start()
        except FrontendError as error:
            return failed(error)
        self._name, self._replica = str(wanted.model_name), replica
        return None

    async def ask(self, requests: Sequence[Request]) -> tuple[list[Mapping[str, Any]], list[str]] | None:
        """Answer rows, all at once.

        Returns:
            What `answered` or `failed` make of each, and what the worker has printed since the last ones. None where
            they have not run: this has been started anew.
        """
        if self._replica is None:
            return None
        items = await asyncio.gather(*(self._item(self._replica, request) for request in requests))
        lines = list(self._lines)
        self._lines.clear()
        return items, lines

    async def _item(self, replica: Replica, request: Request) -> Mapping[str, Any]:
        try:
            answer = await replica.predict(Call(self._name, None, request))
            return answered(replace(answer, body=await whole(answer), rest=None))
        except FrontendError as error:
            return failed(error)

    async def end(self) -> None:
        """End the worker, and remove what it has on its node."""
        if self._replica is not None:
            await self._replica.end()


class _LostError(Exception):
    """The actor is not there any more.

    Attributes:
        ran: whether the row may have run.
    """

    def __init__(self, *, ran: bool) -> None:
        super().__init__()
        self.ran = ran


class _Place:
    """An actor, and the rows that it has. What waits while it has enough goes to it together, for each call costs.

    Args:
        actor: a `_Worker`.
        model: what it loads.
        group: most rows of a call.
        log: takes what it prints.

    Attributes:
        calls: under way.
        rows: that it has.
        away: from when it died to when it has begun anew.
    """

    def __init__(self, actor: Any, model: tuple[Any, ...], group: int, log: Callable[[str], None]) -> None:
        self._actor, self._model, self._group, self._log = actor, model, group, log
        self._waiting: deque[tuple[Request, asyncio.Future[Answer]]] = deque()
        self.calls: set[asyncio.Task[None]] = set()
        self.rows = 0
        self.away = False

    async def begin(self) -> Mapping[str, Any] | None:
        """Have it load the model, wherever and whenever Ray has room for it; return why it cannot."""
        while True:
            try:
                failure: Mapping[str, Any] | None = await self._actor.begin.remote(*self._model)
            except RayActorError:  # it is started anew
                await asyncio.sleep(_PAUSE_S)
            else:
                return failure

    async def ask(self, request: Request) -> Answer:
        """Answer a row.

        Raises:
            FrontendError: there is no answer.
            _LostError: it is not there any more.
        """
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((request, answer))
        self.rows += 1
        self._call()
        try:
            return await answer
        finally:
            self.rows -= 1

    def _call(self) -> None:
        while self._waiting and len(self.calls) < _CALLS:
            rows: list[tuple[Request, asyncio.Future[Answer]]] = []
            size = 0
            while self._waiting and len(rows) < self._group and size < _GROUP_BYTES:
                request, answer = self._waiting.popleft()
                size += _size(request)
                rows.append((request, answer))
            task = asyncio.ensure_future(self._called(rows))
            self.calls.add(task)
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self.calls.discard(task)
        self._call()

    async def _called(self, rows: Sequence[tuple[Request, asyncio.Future[Answer]]]) -> None:
        outcomes: list[Answer | Exception] = []
        try:
            told = await self._actor.ask.remote([request for request, _ in rows])
        except RayActorError:
            outcomes = [_LostError(ran=True)] * len(rows)
        except Exception as error:  # what Ray cannot carry; whoever asked is told
            outcomes = [InternalError(f"Ray could not carry the rows: {error}")] * len(rows)
        else:
            if told is None:
                outcomes = [_LostError(ran=False)] * len(rows)
            else:
                outcomes = [error_of(item) if "error" in item else item["answer"] for item in told[0]]
                for line in told[1]:
                    if not is_protocol(line):
                        self._log(line)
        for (_, answer), outcome in zip(rows, outcomes, strict=True):
            if answer.done():
                continue
            if isinstance(outcome, Exception):
                answer.set_exception(outcome)
            else:
                answer.set_result(outcome)


class _Places:
    """Whom rows are sent to.

    Args:
        places: all actors that have begun.
        twice: whether a row may run again.
    """

    def __init__(self, places: Sequence[_Place], *, twice: bool) -> None:
        self._places, self._twice = places, twice
        self._returns: set[asyncio.Task[None]] = set()

    async def ask(self, request: Request) -> Answer:
        """Ask the one with the fewest rows.

        Raises:
            UnavailableError: none is there at present.
            FrontendError: there is no answer.
        """
        tries = _TRIES if self._twice else 1
        while tries:
            place = min((one for one in self._places if not one.away), key=lambda one: one.rows, default=None)
            if place is None:
                raise UnavailableError("no worker is there: their nodes have died")
            try:
                return await place.ask(request)
            except _LostError as error:
                self._lost(place)
                tries -= error.ran
        raise InternalError("the worker's node, or its process there, died while it answered")

    def _lost(self, place: _Place) -> None:
        if not place.away:
            place.away = True
            task = asyncio.ensure_future(self._return(place))
            self._returns.add(task)
            task.add_done_callback(self._returns.discard)

    @staticmethod
    async def _return(place: _Place) -> None:
        """Send rows there again once it has begun anew; where it never does, the job's patience ends."""
        place.away = await place.begin() is not None

    async def end(self) -> None:
        """Wait for nobody any more. Ray ends this process where anything is asked of it after its own end."""
        await _cancelled([*self._returns, *(call for place in self._places for call in place.calls)])


@contextlib.asynccontextmanager
async def ray_workers(wanted: Wanted, address: str | None) -> AsyncIterator[Answerer]:
    """Start workers on the nodes of a cluster; at the end nothing of them is left.

    Args:
        wanted: what answers.
        address: of the cluster, ``auto`` for that of this machine, None for one that begins and ends with the job.

    Raises:
        ArchiveError: the archive cannot be read, or is not safe to unpack.
        InputError: its rows cannot be asked one by one, or it is a folder.
        ModelLoadError: a worker cannot load it.
        StartError: the cluster cannot be joined, or has no room for a worker.
    """
    runtime = make_runtime_folder()
    try:
        wanted.uses(runtime)
        unpacked = await asyncio.to_thread(unpacked_of, wanted, runtime)
        if wanted.archive.is_dir():
            raise InputError(f"{wanted.archive} is a folder, which other nodes cannot have: build a .mar of it")
        archive = await asyncio.to_thread(nodes.look, wanted.archive)
        with _kept(), starting.connected(address, _QUIET, runtime / "ray", quiet=True):
            pieces = await asyncio.to_thread(_stored, wanted.archive)
            info = ServerInfo(properties=properties_of(wanted))
            model = (archive, registration_of(unpacked), info, pieces)
            actors = _actors(wanted.workers)
            try:
                group = max(_GROUP, unpacked.batch)
                made = [_Place(actor, model, group, wanted.log) for actor in actors]
                places = await _begun(made, unpacked.name)
                pool = _Places(places, twice=unpacked.twice)
                count = len(places)
                try:
                    width = count * max(unpacked.ahead * unpacked.batch, _CALLS * group)
                    yield Answerer(pool.ask, count, unpacked.batch, width, lambda: True)
                finally:
                    await pool.end()
            finally:
                await _ended(actors)
    finally:
        await asyncio.to_thread(shutil.rmtree, runtime, ignore_errors=True)


@contextlib.contextmanager
def _kept() -> Iterator[None]:
    """Keep what Ray takes: a signal ends the job in order, and standard output is for results alone."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        with contextlib.redirect_stdout(sys.stderr):  # where nodes die, Ray prints it
            yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _stored(path: Path) -> list[Any]:
    """Put an archive into Ray's store, which every node reads, and which the disk has where memory is short."""
    with path.open("rb") as source:
        return [ray.put(piece) for piece in iter(lambda: source.read(nodes.PIECE), b"")]


def _actors(asked: int | None) -> list[Any]:
    """Begin as many as were asked for, else one for each GPU of the cluster, else for each processor."""
    has = ray.cluster_resources()
    gpus = int(has.get("GPU", 0))
    count = asked or gpus or max(1, int(has.get("CPU", 1)) // _CPUS)
    kind = ray.remote(_Worker).options(
        num_cpus=_CPUS,
        num_gpus=1 if gpus else 0,
        max_restarts=-1,
        max_concurrency=_CALLS + 1,
        scheduling_strategy="SPREAD",
    )
    return [kind.remote() for _ in range(count)]


async def _begun(places: Sequence[_Place], name: str) -> list[_Place]:
    """Return those that have loaded the model, once all have, or the cluster has no room for the others.

    Raises:
        ModelLoadError: one cannot load it.
        StartError: there is room for none.
    """
    waiting = {asyncio.ensure_future(place.begin()): place for place in places}
    found: list[_Place] = []
    patience = _ROOM_S
    try:
        while waiting:
            done, _ = await asyncio.wait(waiting, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
            if not done:
                break
            for task in done:
                found.append(waiting.pop(task))
                if (failure := task.result()) is not None:
                    error = error_of(failure)
                    message, _, printed = error.message.partition("\n")
                    raise load_error(name, message, printed) from error
            patience = _OTHERS_S
    finally:
        await _cancelled(waiting)
    if not found:
        raise StartError(f"the cluster had no room for a worker in {_ROOM_S:g} s: each takes {_CPUS} CPU")
    return found


async def _cancelled(tasks: Collection[asyncio.Task[Any]]) -> None:
    """Cancel tasks, and wait until they have ended."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _size(request: Request) -> int:
    return sum(len(value) for parameter in request.parameters for value in (parameter.name, parameter.value))


async def _ended(actors: Sequence[Any]) -> None:
    """End all actors: those that answer remove their folders, and the others are killed."""
    await asyncio.wait([asyncio.ensure_future(_asked_to_end(actor)) for actor in actors], timeout=10.0)
    for actor in actors:
        ray.kill(actor)


async def _asked_to_end(actor: Any) -> None:
    with contextlib.suppress(Exception):  # it has died
        await actor.end.remote()
