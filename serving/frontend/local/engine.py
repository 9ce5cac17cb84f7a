"""The engine of one machine: what is registered, and its workers."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import count
from typing import Any, Final

from serving.control.configuration.config import ModelSpec
from serving.control.models.snapshots import KEY, Snapshot
from serving.control.models.store import at_start
from serving.errors import StartError
from serving.frontend.engine import Answer, Call, Done, ModelState, Registration, Share, most_of
from serving.frontend.errors import BadRequestError, ConflictError, FrontendError, UnavailableError
from serving.frontend.local.models import archives, dependencies, snapshots
from serving.frontend.local.models.gpus import Gpus
from serving.frontend.local.models.model import Model, check_workers, model_of, settings_of_properties
from serving.frontend.local.surroundings import Surroundings
from serving.frontend.local.version import Version
from serving.frontend.meters import Meters
from serving.frontend.settings import Settings
from serving.frontend.versions.changing import Changing
from serving.frontend.versions.table import Table

logger = logging.getLogger(__name__)

#: Registrations that fetch, unpack and install at a time.
_AT_ONCE: Final = 16
#: Seconds between two looks at the clocks of the workers: how late a response timeout may be noticed.
_TICK_S: Final = 0.1


def _nobody(pid: int) -> int:  # noqa: ARG001
    return 0


def _silent(worker: str) -> None:  # noqa: ARG001
    return


class LocalEngine:
    """Models on this machine; see `serving.frontend.engine.Engine`.

    Args:
        settings: of the server.
        meters: take what happens.
        printed: takes a line of a worker that is no metric: worker, pipe, text.
        memory: resident bytes of a process, as of the last collection.
        ended: told of a worker that is started no more.
        written: writes down what is registered; None for nowhere.
        reserved: names that no model can have.
    """

    def __init__(
        self,
        settings: Settings,
        meters: Meters,
        printed: Callable[[str, str, str], None],
        memory: Callable[[int], int] = _nobody,
        ended: Callable[[str], None] = _silent,
        written: snapshots.Snapshots | None = None,
        reserved: Collection[str] = (),
    ) -> None:
        self._settings = settings
        self._table: Table[Version] = Table(reserved)
        self._number = settings.initial_worker_port
        self._gpus = Gpus(settings)
        self._around = Surroundings(
            settings, meters, self._next_number, self._gpus.next, dependencies.python_of, printed, memory, ended
        )
        self._snapshots = written
        self._unproven: set[Version] = set()
        # Downloads and installers take as long as others let them. The loop's own threads unpack bodies and write
        # metrics and snapshots: those must find one.
        self._slow = ThreadPoolExecutor(_AT_ONCE, "models")
        self._changing = Changing()
        self._draining = False
        self._copies = count()
        self._ticker: asyncio.Task[None] | None = None

    def _next_number(self, processes: int) -> int:
        number = self._number
        self._number += processes
        return number

    async def start(self, models: Sequence[ModelSpec], *, load_all: bool) -> None:
        """Take the models that the server begins with and start their workers.

        Those of ``model_snapshot`` alone, if the configuration has it; else those that are named; else those of its
        ``load_models``. One that cannot be taken is logged, but all of a snapshot must be.

        Raises:
            StartError: a version cannot be restored.
            InputError: the configuration cannot be understood.
        """
        self._ticker = asyncio.get_running_loop().create_task(self._tick())
        await asyncio.to_thread(archives.remove_abandoned, self._settings.place.model_store)
        if text := self._settings.text(KEY):
            await self._restore(Snapshot.parse(text))
        else:
            store = self._settings.place.model_store
            for spec in at_start(models, self._settings.properties, store, load_all=load_all):
                try:
                    await self._take_at_startup(spec)
                except FrontendError as error:
                    logger.error("Failed to load model: %s: %s", spec.archive, error.message)
        await self._write_down("startup")

    async def _take_at_startup(self, spec: ModelSpec) -> None:
        workers = self._settings.default_workers_per_model or self._gpus.count or os.cpu_count() or 1
        wanted = Registration(spec.archive, spec.name or None, initial_workers=workers)
        model = await self._unpacked(wanted, startup_name=ModelSpec.stem(spec.archive))
        own = settings_of_properties(self._settings, model.name, model.version)
        await self._begun_with(model, default=bool(own.get("defaultVersion")))

    async def _restore(self, snapshot: Snapshot) -> None:
        for spec, version, told in zip(snapshot.models, snapshot.versions, snapshot.settings, strict=True):
            try:
                await self._take_again(spec, version, told)
            except FrontendError as error:
                raise StartError(
                    f"version {version} of {spec.name} cannot be restored: {error.message}",
                    where=snapshot.name,
                    hint="put that version's archive back, or name the models at the start",
                ) from error

    async def _take_again(self, spec: ModelSpec, version: str, told: Mapping[str, Any]) -> None:
        wanted = Registration(spec.archive, spec.name, told.get("handler"), told.get("runtimeType"), initial_workers=0)
        model = await self._unpacked(wanted, settled=lambda found: snapshots.as_written(found, version, told))
        await self._begun_with(model, default=told["defaultVersion"])
        if snapshots.TRAFFIC in told:
            self._table.restore_share(model.name, model.version, told[snapshots.TRAFFIC])

    async def _begun_with(self, model: Model, *, default: bool) -> None:
        version = await self._added(model, at_startup=True)
        if default:
            self._table.set_default(model.name, model.version)
        await version.scale(model.least, model.most, wait=False)

    async def _write_down(self, kind: snapshots.Kind = "snapshot") -> None:
        """Write down what is served now: who is told that a change is done finds it again after a crash."""
        if self._snapshots is None:
            return
        served: dict[str, dict[str, dict[str, Any]]] = {}
        for version in self._table:
            if version not in self._unproven:
                model = version.model
                default = self._table.default(model.name) == model.version
                traffic = self._table.traffic.get(model.name)
                served.setdefault(model.name, {})[model.version] = snapshots.settings_of(
                    model, default=default, traffic=traffic.written(model.version) if traffic else None
                )
        await self._snapshots.write(kind, served)

    async def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(_TICK_S)
            now = loop.time()
            for version in self._table:
                version.check(now)

    # ---- requests --------------------------------------------------------------------------------------------------

    async def predict(self, call: Call) -> Answer:
        """Answer a request; of a streamed answer the first part."""
        self._refuse_at_the_end()
        found = self._table.find(call.name, call.version)
        if call.version is None and (call.name in self._table.traffic or found.stateful):
            return await self._shared_out(found, call)
        return await found.predict(call)

    async def _shared_out(self, default: Version, call: Call) -> Answer:
        """Answer a request that names no version, of a model with shares or with sequences."""
        request = call.request
        if request.headers.get("describe") == "True":
            return await default.predict(call)
        if default.stateful:
            for version in self._table.all(call.name):
                if version.goes_on(request):
                    return await version.predict(call)
        if (traffic := self._table.traffic.get(call.name)) is None:
            return await default.predict(call)
        canary, shadows = traffic.route(request.headers)
        answer = await self._canary_or_default(canary, default, call)
        # A copy goes out when the answer is there: so it cannot delay it, and neither a stream nor a failure is copied.
        if answer.rest is None and not answer.counted and not default.stateful:
            for shadow in shadows:
                asyncio.get_running_loop().call_soon(self._shadow, shadow, call)
        return answer

    async def _canary_or_default(self, canary: str | None, default: Version, call: Call) -> Answer:
        version = default if canary is None else self._table.find(call.name, canary)
        # That one keeps sequences and the other does not can be since another version became the default one.
        if version is default or not version.takes or version.stateful != default.stateful:
            return await default.predict(call)
        if version.stateful:
            return await version.predict(call)
        try:
            return await version.predict(call, spared=True)
        except UnavailableError:  # what is refused has not run, or may run twice
            return await self._table.find(call.name, None).predict(call)

    def _shadow(self, version: str, call: Call) -> None:
        with contextlib.suppress(FrontendError):  # it may have been unregistered meanwhile
            # Its id is in no other's way: the client may have used it again, and none can send one that is not ASCII.
            name = f"{call.request.request_id}\N{MIDDLE DOT}shadow-{next(self._copies)}"
            self._table.find(call.name, version).shadow(replace(call.request, request_id=name))

    def _refuse_at_the_end(self) -> None:
        if self._draining:
            raise UnavailableError("the server is about to end", headers={"Retry-After": "5"})

    # ---- models ----------------------------------------------------------------------------------------------------

    def names(self) -> list[tuple[str, str]]:
        """Name and URL of the default version of every model, by name."""
        return [(name, self._table.find(name, None).model.unpacked.url) for name in self._table.names()]

    def shares(self, name: str) -> dict[str, Share]:
        """Which versions of a model have a share of the requests that name none."""
        return self._table.shares(name)

    def describe(self, name: str, version: str | None) -> tuple[ModelState, ...]:
        """One version (None: the default one) or ``all``, the default one first."""
        versions = self._table.named(name, version)
        default = self._table.default(name)
        traffic = self._table.traffic.get(name)
        return tuple(
            one.state(default=one.model.version == default, share=traffic.share(one.model.version) if traffic else None)
            for one in versions
        )

    async def register(self, wanted: Registration, *, workers: int | None = None) -> Done:
        """Take a model and start its workers.

        Args:
            wanted: the model.
            workers: as many, whatever the archive says; None for what it says, else the registration.
        """
        self._refuse_at_the_end()

        def settled(found: Model) -> Model:
            if workers is None:
                return found
            check_workers(found, workers)
            return found.with_workers(workers, workers)

        model = await self._unpacked(wanted, settled=settled)
        version = await self._added(model)
        self._unproven.add(version)
        try:
            await version.scale(model.least, model.most, wait=wanted.synchronous)
        except BaseException as error:
            # Somebody may have unregistered it meanwhile, and registered another one.
            if self._table.forget(model.name, model.version, version):
                await self._ended(version, grace_s=0.0)
            elif isinstance(error, FrontendError):
                told = f"Model {model.name} version {model.version} was unregistered before its workers were ready"
                raise ConflictError(told) from error
            raise
        finally:
            self._unproven.discard(version)
        await self._write_down()
        if model.least and not wanted.synchronous:
            return Done.begun()
        return Done.registered(model.name, model.version, model.least)

    async def _unpacked(
        self, wanted: Registration, startup_name: str = "", settled: Callable[[Model], Model] = lambda model: model
    ) -> Model:
        slowly = asyncio.get_running_loop().run_in_executor
        unpacked = await slowly(self._slow, archives.unpack, wanted.url, self._settings)
        try:
            model = settled(model_of(unpacked, wanted, self._settings, startup_name=startup_name))
            model = model.with_workers(*self._fitting(model, model.least, model.most))
            self._table.check_free(model.name, model.version)
            await slowly(self._slow, dependencies.install, model, self._settings)
        except BaseException:
            await asyncio.to_thread(archives.remove, unpacked, self._settings)
            raise
        return model

    def _fitting(self, model: Model, least: int, most: int) -> tuple[int, int]:
        """Return how many workers a version gets that is to have so many.

        Raises:
            NoGpusError: there is no room for one.
            BadRequestError: they are too many.
        """
        least, most = self._gpus.fit(model, least, most)
        check_workers(model, max(least, most))
        return least, most

    async def _added(self, model: Model, *, at_startup: bool = False) -> Version:
        try:
            self._refuse_at_the_end()
            version = Version(model, self._around, at_startup=at_startup)
            self._table.add(model.name, model.version, version)
        except BaseException:
            await asyncio.to_thread(archives.remove, model.unpacked, self._settings)
            raise
        return version

    async def scale(self, name: str, version: str | None, least: int, most: int | None, *, synchronous: bool) -> Done:
        """Give a version as many workers."""
        self._table.find(name, version)
        most = most_of(least, most)
        async with self._changing.alone(name):
            self._refuse_at_the_end()
            # Now: it may have been unregistered while this waited.
            found = self._table.find(name, version)
            least, most = self._fitting(found.model, least, most)
            await found.scale(least, most, wait=synchronous)
        await self._write_down()
        if not synchronous:
            return Done.begun()
        return Done.scaled(name, version, least)

    async def share(self, name: str, version: str, wanted: Share) -> Done:
        """Give a version a share of the requests that name none, or copies of them."""
        model, default = self._table.find(name, version).model, self._table.find(name, None).model
        if wanted.percent and model.stateful != default.stateful:
            raise BadRequestError(
                f"version {version} of model {name} can have no share: of it and of the default version, "
                f"{default.version}, only one keeps sequences (sequenceBatching)"
            )
        if wanted.shadow and wanted.percent and (model.stateful or model.continuous):
            kind = "sequences (sequenceBatching)" if model.stateful else "streams (continuousBatching)"
            raise BadRequestError(f"version {version} of model {name} can have no copies: it answers {kind}")
        self._table.share(name, version, wanted)
        await self._write_down()
        of = "the requests that name no version"
        if not wanted.percent:
            text = f'Version {version} of model "{name}" gets no share of {of}'
        else:
            text = f'Version {version} of model "{name}" gets {"copies of " * wanted.shadow}{wanted.percent} % of {of}'
        return Done(200, text)

    async def set_default(self, name: str, version: str) -> Done:
        """Send requests that name no version to this one."""
        self._table.set_default(name, version)
        await self._write_down()
        return Done.of_default(name, version)

    async def unregister(self, name: str, version: str | None) -> Done:
        """Answer what was taken, end the workers, forget the version (None: the default one)."""
        async with self._changing.alone(name):
            found = self._table.remove(name, version)
            in_time = await self._ended(found, grace_s=float(self._settings.unregister_model_timeout))
        await self._write_down()
        return Done.unregistered(name, in_time=in_time)

    async def _ended(self, version: Version, *, grace_s: float) -> bool:
        model = version.model
        in_time = await version.close(grace_s)
        await asyncio.to_thread(archives.remove, model.unpacked, self._settings)
        logger.info("Model %s version %s unregistered.", model.name, model.version)
        return in_time

    # ---- the whole -------------------------------------------------------------------------------------------------

    @property
    def healthy(self) -> bool:
        """Whether every default version has as many workers as it wants, ready or on their way."""
        return all(version.healthy for version in self._table.defaults())

    @property
    def ready(self) -> bool:
        """Whether every model has a ready worker, and requests are taken."""
        return not self._draining and all(version.ready for version in self._table)

    async def drain(self, grace_s: float) -> None:
        """Take no more, answer what was taken for as long as the grace lasts, end every worker."""
        self._draining = True
        versions = list(self._table)
        await asyncio.gather(self._write_down("shutdown"), *(version.close(grace_s) for version in versions))
        if self._ticker is not None:
            self._ticker.cancel()
        self._slow.shutdown(wait=False, cancel_futures=True)
        await asyncio.to_thread(archives.forget_unfinished)
        for version in versions:
            await asyncio.to_thread(archives.clean, version.model.unpacked)
