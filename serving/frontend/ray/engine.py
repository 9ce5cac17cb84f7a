"""The engine over a cluster: which versions there are, where each is asked, and who changes them.

It lives in the application that answers what no version answers by itself. There is one of it, so changes of a model
follow each other; and it can be started anew anywhere, since all that it knows is in the registry and in Ray Serve.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from serving.control.models.versions import newest
from serving.frontend.engine import Answer, Call, Done, ModelState, Registration, Share, WorkerState, most_of
from serving.frontend.errors import (
    BadRequestError,
    DeadlineError,
    FrontendError,
    InternalError,
    UnavailableError,
)
from serving.frontend.local.models import archives
from serving.frontend.ray.nodes import Archive
from serving.frontend.ray.registry import Known, ServerInfo
from serving.frontend.ray.specs import Spec, understood
from serving.frontend.ray.surroundings import AppState, Cluster, LostReplicaError, Registry, error_of
from serving.frontend.settings import Settings
from serving.frontend.versions.changing import Changing
from serving.frontend.versions.table import Table

logger = logging.getLogger(__name__)

_LOOK_S: Final = 2.0
_POLL_S: Final = 0.25
#: Seconds after which no proxy is waited for that has not heard of another route.
_HEARD_S: Final = 10.0
#: Seconds in which a process of Ray's begins, beside what a model takes to load.
_PROCESS_S: Final = 60.0
_FIRST_WORKER: Final = 9000


@dataclass
class _Version:
    """A version that is served.

    Attributes:
        route: that its application has; empty before it has one.
    """

    spec: Spec
    route: str = ""
    state: AppState = field(default_factory=AppState)


class RayEngine:
    """Models on a cluster; see `serving.frontend.engine.Engine`.

    Args:
        info: of the server.
        settings: the same, understood.
        cluster: where they are.
        registry: that remembers them.
    """

    def __init__(self, info: ServerInfo, settings: Settings, cluster: Cluster, registry: Registry) -> None:
        self._info, self._settings = info, settings
        self._cluster, self._registry = cluster, registry
        self._table: Table[_Version] = Table()
        self._changing = Changing()
        self._looking: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Serve what the registry knows: all of it is there, or is asked for again."""
        await self._look()
        for name in self._table.names():
            await self._settle(name)
        self._looking = asyncio.get_running_loop().create_task(self._look_again())

    async def _look_again(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_S)
            try:
                await self._look()
            except Exception:  # a controller that is being started anew; the next look is as good
                logger.warning("Ray Serve does not tell how it is", exc_info=True)

    async def _look(self) -> None:
        """See how all versions are, and learn of those that a Serve config has brought."""
        known, seen = await asyncio.to_thread(lambda: (self._registry.models(), self._cluster.states()))
        for name, model in known.items():
            if name not in self._changing:
                self._learn(name, model, seen)
        for version in self._table:
            version.state = seen.get(version.spec.application, AppState())

    def _learn(self, name: str, model: Known, seen: Mapping[str, AppState]) -> None:
        for number, spec in model.versions.items():
            if self._version(spec) is None:
                route = seen.get(spec.application, AppState()).route
                self._table.add(name, number, _Version(spec, route))
                if number == model.default:
                    self._table.set_default(name, number)
                if number in model.traffic:
                    self._table.restore_share(name, number, model.traffic[number])

    # ---- requests ----------------------------------------------------------------------------------------------------

    async def predict(self, call: Call) -> Answer:
        """Answer a request that came here first; of a streamed answer the first part."""
        version = self._table.find(call.name, call.version)
        traffic = self._table.traffic.get(call.name)
        if call.version is None and traffic is not None and call.request.headers.get("describe") != "True":
            canary, _ = traffic.route(call.request.headers)
            if canary is not None:
                with contextlib.suppress(UnavailableError):  # what is refused has not run, or may run twice
                    return await self._ask(self._table.find(call.name, canary).spec, call)
        return await self._ask(version.spec, call)

    async def _ask(self, spec: Spec, call: Call) -> Answer:
        for again in (spec.retry, False):
            items = self._cluster.ask(spec, replace(call, deadline=None), self._remaining(call))
            try:
                first = await anext(items)
                break
            except LostReplicaError:
                await items.aclose()
                if not again:
                    who, they = ("two replicas", "they") if spec.retry else ("a replica", "it")
                    raise InternalError(f"{who} of model {spec.name} died while {they} answered") from None
            except BaseException:
                await items.aclose()
                raise
        if "error" in first:
            await items.aclose()
            raise error_of(first)
        answer: Answer = first["answer"]
        if not first["streams"]:
            await items.aclose()
            return answer
        return replace(answer, rest=_parts(items, spec.name))

    @staticmethod
    def _remaining(call: Call) -> float | None:
        if call.deadline is None:
            return None
        remaining = call.deadline - asyncio.get_running_loop().time()
        if remaining <= 0:
            raise DeadlineError("the time that the client gave has passed")
        return remaining

    # ---- what there is -----------------------------------------------------------------------------------------------

    def names(self) -> list[tuple[str, str]]:
        """Name and URL of the default version of every model, by name."""
        return [(name, self._table.find(name, None).spec.registration.url) for name in self._table.names()]

    def shares(self, name: str) -> dict[str, Share]:
        """Which versions of a model have a share of the requests that name none."""
        return self._table.shares(name)

    def describe(self, name: str, version: str | None) -> tuple[ModelState, ...]:
        """One version (None: the default one) or ``all``, the default one first."""
        versions = self._table.named(name, version)
        default, traffic = self._table.default(name), self._table.traffic.get(name)
        return tuple(
            ModelState(
                name=one.spec.name,
                version=one.spec.version,
                url=one.spec.registration.url,
                runtime=one.spec.runtime,
                settings=dict(one.spec.settings),
                workers=_workers(one),
                waiting=0,
                remaining=one.spec.queue_size,
                default=one.spec.version == default,
                loaded_at_startup=one.spec.at_startup,
                share=traffic.share(one.spec.version) if traffic else None,
                task=one.spec.task,
            )
            for one in versions
        )

    @property
    def healthy(self) -> bool:
        """Whether every default version has as many replicas as it wants, ready or on their way."""
        return all(
            not version.state.failed and len(version.state.replicas) >= version.spec.least
            for version in self._table.defaults()
        )

    @property
    def ready(self) -> bool:
        """Whether every version has a replica that is asked."""
        return all(version.state.ready for version in self._table)

    # ---- changes -----------------------------------------------------------------------------------------------------

    async def register(self, wanted: Registration) -> Done:
        """Take a model from the model store, or from where the configuration lets it be fetched."""
        found = await asyncio.to_thread(archives.found, wanted.url, self._settings)
        try:
            archive = await asyncio.to_thread(self._registry.put, found)
        finally:
            await asyncio.to_thread(archives.remove_fetched, wanted.url, self._settings)
        try:
            return await self.take(archive, wanted)
        except FrontendError as error:
            error.message = error.message.partition("\n")[0]  # the rest is what the worker has printed
            raise

    async def take(self, archive: Archive, wanted: Registration, *, at_startup: bool = False) -> Done:
        """Take a model whose archive the registry has, and start its replicas.

        Args:
            archive: of the model.
            wanted: how.
            at_startup: whether it is deployed with the server. One of the same name and version is then replaced:
                its replicas answer until there are others, and the default version stays what it is. One that was not
                there becomes the default one if it is the newest, as where a server starts on one machine.

        Raises:
            FrontendError: it was not taken.
        """
        resources, key = self._info.resources, self._info.signature_key
        spec = await asyncio.to_thread(
            understood, archive, wanted, resources, key, self._settings, self._registry.read, at_startup=at_startup
        )
        async with self._changing.alone(spec.name):
            if at_startup and (before := self._version(spec)) is not None:
                return await self._replaced(before, spec)
            self._table.add(spec.name, spec.version, version := _Version(spec))
            try:
                await self._save(spec.name)
                await self._settle(spec.name)
                if wanted.synchronous:
                    await self._until_running(version)
                    if len(self._table.all(spec.name)) > 1:  # else this application answers for the version meanwhile
                        await self._until_heard([version])
            except BaseException:
                self._table.forget(spec.name, spec.version, version)
                await self._end(version, 0.0)
                if spec.name in self._table.names():
                    await self._settle(spec.name)
                raise
            if at_startup and spec.version == newest(one.spec.version for one in self._table.all(spec.name)):
                await self._make_default(spec.name, spec.version)
        if not wanted.synchronous:
            return Done.begun()
        return Done.registered(spec.name, spec.version, spec.least)

    def _version(self, spec: Spec) -> _Version | None:
        with contextlib.suppress(FrontendError):
            return self._table.find(spec.name, spec.version)
        return None

    async def _replaced(self, version: _Version, spec: Spec) -> Done:
        version.spec, version.route = spec, ""
        await self._save(spec.name)
        await self._settle(spec.name)
        await self._until_running(version)
        return Done(200, f'Model "{spec.name}" Version: {spec.version} was replaced')

    async def scale(self, name: str, version: str | None, least: int, most: int | None, *, synchronous: bool) -> Done:
        """Give a version as many replicas; between the two numbers Ray Serve scales."""
        self._table.find(name, version)
        most = most_of(least, most)
        async with self._changing.alone(name):
            found = self._table.find(name, version)
            found.spec, found.route = found.spec.scaled(least, most), ""
            await self._save(name)
            await self._settle(name)
            if synchronous:
                await self._until_running(found)
        if not synchronous:
            return Done.begun()
        return Done.scaled(name, version, least)

    async def share(self, name: str, version: str, wanted: Share) -> Done:
        """Give a version a share of the requests that name none; meanwhile all of those take a hop more."""
        self._table.find(name, version)
        if wanted.shadow and wanted.percent:
            raise BadRequestError("on Ray Serve a version can have a share of the requests, but no copies of them")
        async with self._changing.alone(name):
            self._table.share(name, version, wanted)
            await self._save(name)
            await self._settle(name)
        gets = f"{wanted.percent} %" if wanted.percent else "no share"
        return Done(200, f'Version {version} of model "{name}" gets {gets} of the requests that name no version')

    async def set_default(self, name: str, version: str) -> Done:
        """Send requests that name no version to this one."""
        self._table.find(name, version)
        async with self._changing.alone(name):
            await self._make_default(name, version)
        return Done.of_default(name, version)

    async def _make_default(self, name: str, version: str) -> None:
        self._table.set_default(name, version)
        await self._save(name)
        await self._settle(name)

    async def unregister(self, name: str, version: str | None) -> Done:
        """Answer what was taken, end the replicas, forget the version (None: the default one)."""
        async with self._changing.alone(name):
            found = self._table.remove(name, version)
            in_time = await self._end(found, float(self._settings.unregister_model_timeout))
            if name in self._table.names():
                await self._settle(name)
        return Done.unregistered(name, in_time=in_time)

    async def _end(self, version: _Version, grace_s: float) -> bool:
        """End a version that is out of the table, and then have it forgotten; say whether it has ended in time.

        In this order: where this application dies in between, the next one serves a version that can be removed again.
        In the other one its replicas would answer for ever, and nobody would know of them.
        """
        in_time = await asyncio.to_thread(self._cluster.delete, version.spec.application, grace_s)
        await self._save(version.spec.name)
        return in_time

    async def drain(self, grace_s: float) -> None:  # noqa: ARG002 (as every engine)
        """Look no more: the versions go on without this application."""
        if self._looking is not None:
            self._looking.cancel()

    async def _save(self, name: str) -> None:
        known = None
        if name in self._table.names():
            versions = {version.spec.version: version.spec for version in self._table.all(name)}
            traffic = self._table.traffic.get(name)
            shares = {version: traffic.written(version) if traffic else None for version in versions}
            written = {
                version: {**share, "slots": list(share["slots"]), "sticky": list(share["sticky"])}
                for version, share in shares.items()
                if share
            }
            known = Known(self._table.default(name), versions, written)
        await asyncio.to_thread(self._registry.save, name, known)

    async def _settle(self, name: str) -> None:
        """Have every version of a model be where it is to be asked.

        The one that loses the short route goes first: meanwhile this application answers there. Where a route has
        changed, this waits until every HAProxy has heard of it.
        """
        default = self._table.default(name)
        shared = name in self._table.traffic
        wanted = [
            (version, version.spec.route(default=version.spec.version == default and not shared))
            for version in self._table.all(name)
        ]
        moved = []
        for version, route in sorted(wanted, key=lambda pair: len(pair[1]), reverse=True):
            if version.route != route:
                spec = version.spec
                if version.state.route not in ("", route):
                    moved.append(version)
                await asyncio.to_thread(self._cluster.deploy, spec, route, spec.code(self._info.digest))
                version.route = route
        for version in moved:
            await self._until_running(version)
        if moved:
            await self._until_heard(self._table.all(name))

    async def _until_heard(self, versions: Iterable[_Version]) -> None:
        """Wait until every proxy sends requests where they are to go; for one that does not say so not for long."""
        loop = asyncio.get_running_loop()
        routes, until = {version.route: version.spec.application for version in versions}, loop.time() + _HEARD_S
        while not await asyncio.to_thread(self._cluster.heard, routes) and loop.time() < until:
            await asyncio.sleep(_POLL_S)

    async def _until_running(self, version: _Version) -> None:
        """Wait until a version has its replicas.

        Raises:
            InternalError: it will have none, or has not enough in time.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + version.spec.startup_timeout_s + _PROCESS_S
        while True:
            await self._look()
            state = version.state
            if state.running and state.ready >= version.spec.least:
                return
            if state.failed:
                raise InternalError(
                    f"Failed to start workers for model {version.spec.name} version: "
                    f"{version.spec.version}: {state.message}"
                )
            if loop.time() > until:
                raise InternalError(
                    f"Failed to start workers for model {version.spec.name} version: {version.spec.version}: "
                    f"{state.ready} of {version.spec.least} replicas run: no node has room for another one, or it "
                    f"takes too long. Ray says: {state.message}"
                )
            await asyncio.sleep(_POLL_S)


def _workers(version: _Version) -> tuple[WorkerState, ...]:
    gpu = 0 if version.spec.gpus else None
    ordered = sorted(version.state.replicas, key=lambda replica: (replica.started, replica.pid))
    return tuple(
        WorkerState(f"{_FIRST_WORKER + number}", replica.started, replica.ready, replica.pid, 0, gpu)
        for number, replica in enumerate(ordered)
    )


async def _parts(items: AsyncGenerator[Mapping[str, Any], None], name: str) -> AsyncGenerator[bytes, None]:
    try:
        async for item in items:
            yield item["part"]
    except LostReplicaError:
        raise InternalError(f"a replica of model {name} died while it answered") from None
    finally:
        await items.aclose()
