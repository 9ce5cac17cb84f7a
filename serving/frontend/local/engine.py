"""The engine of one machine: what is registered, and its workers."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from typing import Final

from serving.control.configuration.config import ModelSpec
from serving.control.models.store import all_archives
from serving.frontend.engine import Answer, Call, Done, ModelState, Registration
from serving.frontend.errors import BadRequestError, FrontendError, RequestTimeoutError, UnavailableError
from serving.frontend.local import archives, dependencies
from serving.frontend.local.gpus import Gpus
from serving.frontend.local.model import Model, model_of, settings_of_properties
from serving.frontend.local.version import Surroundings, Version
from serving.frontend.meters import Meters
from serving.frontend.settings import Settings
from serving.frontend.table import Table

logger = logging.getLogger(__name__)

#: Seconds between two looks at the clocks of the workers: how late a response timeout may be noticed.
_TICK_S: Final = 0.1


def _nobody(pid: int) -> int:  # noqa: ARG001
    return 0


class LocalEngine:
    """Models on this machine; see `serving.frontend.engine.Engine`.

    Args:
        settings: of the server.
        meters: take what happens.
        printed: takes a line of a worker that is no metric: worker, pipe, text.
        memory: resident bytes of a process, as of the last collection.
        changed: called after each change of what is registered: to write it down.
    """

    def __init__(
        self,
        settings: Settings,
        meters: Meters,
        printed: Callable[[str, str, str], None],
        memory: Callable[[int], int] = _nobody,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        self._settings = settings
        self._table: Table[Version] = Table()
        self._number = settings.initial_worker_port
        self._around = Surroundings(
            settings, meters, self._next_number, Gpus(settings).next, dependencies.python_of, printed, memory
        )
        self._changed = changed
        self._changing: dict[str, asyncio.Lock] = {}
        self._waiting: Counter[str] = Counter()
        self._draining = False
        self._ticker: asyncio.Task[None] | None = None
        self._background: set[asyncio.Task[None]] = set()

    def _next_number(self, processes: int) -> int:
        number = self._number
        self._number += processes
        return number

    async def start(self, models: Sequence[ModelSpec], *, load_all: bool) -> None:
        """Take the models that the server begins with and start their workers; one that cannot be taken is logged."""
        self._ticker = asyncio.get_running_loop().create_task(self._tick())
        if load_all:
            models = [ModelSpec("", path.name) for path in all_archives(self._settings.place.model_store)]
        for spec in models:
            try:
                await self._take_at_startup(spec)
            except FrontendError as error:
                logger.error("Failed to load model: %s: %s", spec.archive, error.message)

    async def _take_at_startup(self, spec: ModelSpec) -> None:
        workers = self._settings.default_workers_per_model or os.cpu_count() or 1
        wanted = Registration(spec.archive, spec.name or None, initial_workers=workers)
        model = await self._unpacked(wanted, startup_name=ModelSpec.stem(spec.archive))
        own = settings_of_properties(self._settings, model.name, model.version)
        version = await self._added(model, at_startup=True)
        if own.get("defaultVersion"):
            self._table.set_default(model.name, model.version)
        await version.scale(model.least, model.most, wait=False)

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
        if self._draining:
            raise UnavailableError("the server is about to end", headers={"Retry-After": "5"})
        return await self._table.find(call.name, call.version).predict(call)

    # ---- models ----------------------------------------------------------------------------------------------------

    def names(self) -> list[tuple[str, str]]:
        """Name and URL of the default version of every model, by name."""
        return [(name, self._table.find(name, None).model.unpacked.url) for name in self._table.names()]

    def describe(self, name: str, version: str | None) -> tuple[ModelState, ...]:
        """One version (None: the default one) or ``all``, the default one first."""
        versions = self._table.all(name) if version == "all" else [self._table.find(name, version)]
        default = self._table.default(name)
        return tuple(one.state(default=one.model.version == default) for one in versions)

    async def register(self, wanted: Registration) -> Done:
        """Take a model and start its workers."""
        model = await self._unpacked(wanted)
        version = await self._added(model)
        workers = model.least
        known = f'Model "{model.name}" Version: {model.version} registered with'
        if workers <= 0:
            self._changed()
            return Done(200, f"{known} 0 initial workers. Use scale workers API to add workers for the model.")
        if not wanted.synchronous:
            self._later(version.scale(workers, model.most, wait=False))
            return Done(202, "Processing worker updates...")
        try:
            await version.scale(workers, model.most, wait=True)
        except BaseException:
            # Somebody may have unregistered it meanwhile, and registered another one.
            if self._table.forget(model.name, model.version, version):
                await self._ended(version, grace_s=0.0)
            raise
        self._changed()
        return Done(200, f"{known} {workers} initial workers")

    async def _unpacked(self, wanted: Registration, startup_name: str = "") -> Model:
        unpacked = await asyncio.to_thread(archives.unpack, wanted.url, self._settings)
        try:
            model = model_of(unpacked, wanted, self._settings, startup_name=startup_name)
            self._table.check_free(model.name, model.version)
            await asyncio.to_thread(dependencies.install, model, self._settings)
        except BaseException:
            await asyncio.to_thread(archives.remove, unpacked, self._settings)
            raise
        return model

    async def _added(self, model: Model, *, at_startup: bool = False) -> Version:
        version = Version(model, self._around, at_startup=at_startup)
        try:
            self._table.add(model.name, model.version, version)
        except BaseException:
            await asyncio.to_thread(archives.remove, model.unpacked, self._settings)
            raise
        return version

    async def scale(self, name: str, version: str | None, least: int, most: int | None, *, synchronous: bool) -> Done:
        """Give a version as many workers."""
        found = self._table.find(name, version)
        most = least if most is None else most
        if most < least:
            raise BadRequestError("max_worker cannot be less than min_worker.")
        async with self._lock(name):
            if not synchronous:
                self._later(found.scale(least, most, wait=False))
                return Done(202, "Processing worker updates...")
            await found.scale(least, most, wait=True)
        self._changed()
        text = f"Workers scaled to {least} for model: {name}"
        return Done(200, text if version is None else f"{text}, version: {version}")

    async def set_default(self, name: str, version: str) -> Done:
        """Send requests that name no version to this one."""
        self._table.set_default(name, version)
        self._changed()
        return Done(200, f'Default version successfully updated for model "{name}" to "{version}"')

    async def unregister(self, name: str, version: str | None) -> Done:
        """Answer what was taken, end the workers, forget the version (None: the default one)."""
        async with self._lock(name):
            found = self._table.removable(name, version)
            in_time = await self._removed(found, grace_s=float(self._settings.unregister_model_timeout))
        self._changed()
        if not in_time:
            raise RequestTimeoutError(f"Timed out while cleaning resources: {name}")
        return Done(200, f'Model "{name}" unregistered')

    async def _removed(self, version: Version, *, grace_s: float) -> bool:
        self._table.remove(version.model.name, version.model.version)
        return await self._ended(version, grace_s=grace_s)

    async def _ended(self, version: Version, *, grace_s: float) -> bool:
        model = version.model
        in_time = await version.close(grace_s)
        await asyncio.to_thread(archives.remove, model.unpacked, self._settings)
        logger.info("Model %s version %s unregistered.", model.name, model.version)
        return in_time

    @contextlib.asynccontextmanager
    async def _lock(self, name: str) -> AsyncIterator[None]:
        """Let changes of one model follow each other."""
        lock = self._changing.setdefault(name, asyncio.Lock())
        self._waiting[name] += 1
        try:
            async with lock:
                yield
        finally:
            self._waiting[name] -= 1
            if not self._waiting[name]:
                del self._waiting[name], self._changing[name]

    def _later(self, change: Coroutine[None, None, None]) -> None:
        async def run() -> None:
            await change
            self._changed()

        task = asyncio.get_running_loop().create_task(run())
        self._background.add(task)
        task.add_done_callback(self._background.discard)

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
        await asyncio.gather(*(version.close(grace_s) for version in list(self._table)))
        if self._ticker is not None:
            self._ticker.cancel()
        for version in list(self._table):
            await asyncio.to_thread(archives.remove, version.model.unpacked, self._settings)
