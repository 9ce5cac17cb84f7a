"""The engine over a cluster, with a played Ray Serve and a played registry: no replica here is real."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from serving.frontend.engine import Answer, Call, Registration, Share
from serving.frontend.errors import (
    BadRequestError,
    ConflictError,
    DeadlineError,
    FrontendError,
    InternalError,
    ModelNotFoundError,
    NotAllowedError,
    RequestTimeoutError,
    UnavailableError,
    VersionNotFoundError,
)
from serving.frontend.ray import engine as module
from serving.frontend.ray import nodes
from serving.frontend.ray.engine import RayEngine
from serving.frontend.ray.nodes import Archive
from serving.frontend.ray.registry import Known, ServerInfo
from serving.frontend.ray.specs import Spec
from serving.frontend.ray.surroundings import AppState, LostReplicaError, Running, answered, failed
from serving.protocol import Request

from .conftest import Store


class PlayedRegistry:
    def __init__(self) -> None:
        self.known: dict[str, Known] = {}

    def models(self) -> Mapping[str, Known]:
        return dict(self.known)

    def save(self, name: str, known: Known | None) -> None:
        self.known.pop(name, None)
        if known is not None:
            self.known[name] = known

    def read(self, sha256: str, place: int, most: int) -> bytes:
        raise AssertionError("the archive is here")

    def put(self, path: Path) -> Archive:
        return nodes.look(path)


class PlayedCluster:
    """Has at once what it is told; a version whose name is ``bad`` fails."""

    def __init__(self) -> None:
        self.apps: dict[str, tuple[Spec, str, str]] = {}
        self.told: list[str] = []
        self.deaths = 0
        self.slow_to_end = False
        self.front_dies: str | None = None
        self.deaf = 0
        self.refuses: set[str] = set()
        self.closed = 0

    def deploy(self, spec: Spec, route: str, code: str) -> None:
        assert route not in [one[1] for name, one in self.apps.items() if name != spec.application], "Ray refuses that"
        self.apps[spec.application] = (spec, route, code)
        self.told.append(f"{spec.application} {spec.least}-{spec.most} at {route}")

    def delete(self, application: str, grace_s: float) -> bool:
        if self.front_dies == "before":
            raise RuntimeError("killed")
        self.apps.pop(application)
        if self.front_dies == "after":
            raise RuntimeError("killed")
        self.told.append(f"{application} ends")
        return not self.slow_to_end

    def heard(self, routes: Mapping[str, str]) -> bool:
        assert routes.items() <= {route: name for name, (_, route, _) in self.apps.items()}.items()
        self.deaf -= 1
        self.told.append(f"a proxy has {'not ' if self.deaf >= 0 else ''}heard of {' and '.join(sorted(routes))}")
        return self.deaf < 0

    def states(self) -> Mapping[str, AppState]:
        return {name: self._state(*app) for name, app in self.apps.items()}

    def _state(self, spec: Spec, route: str, code: str) -> AppState:
        if spec.name == "bad":
            return AppState(failed=True, message="it cannot be loaded\nTraceback ...", route=route)
        replicas = tuple(Running(1.0 + number, True, 100 + number) for number in range(spec.least))
        return AppState(running=True, route=route, replicas=replicas)

    async def ask(self, spec: Spec, call: Call, remaining_s: float | None) -> AsyncGenerator[Mapping[str, Any], None]:
        try:
            if self.deaths:
                self.deaths -= 1
                raise LostReplicaError
            if spec.version in self.refuses:
                yield failed(UnavailableError("full", headers={"Retry-After": "1"}))
                return
            assert call.deadline is None
            left = "" if remaining_s is None else f" within {remaining_s:.0f}"
            answer = Answer(200, "", "text/plain", {}, f"{spec.version}{left}".encode(), version=spec.version)
            if call.request.headers.get("streams"):
                yield {**answered(answer), "streams": True}
                yield {"part": b"1"}
                if call.request.headers["streams"] == "dies":
                    raise LostReplicaError
                yield {"part": b"2"}
            else:
                yield answered(answer)
        finally:
            self.closed += 1


class Bench:
    def __init__(self, store: Store) -> None:
        self.store, self.cluster, self.registry = store, PlayedCluster(), PlayedRegistry()

    def run(self, work: Callable[[RayEngine], Awaitable[None]], **properties: str) -> None:
        async def main() -> None:
            settings = self.store.settings(**properties)
            engine = RayEngine(ServerInfo(), settings, self.cluster, self.registry)
            await engine.start()
            try:
                await asyncio.wait_for(work(engine), 60)
            finally:
                await engine.drain(0.0)

        asyncio.run(main())

    def versions(self, *versions: str, name: str = "echo", **options: Any) -> None:
        """Build archives of one model, ``echo-1.0.mar`` and so on."""
        for version in versions:
            self.store.build(name, version=version, **options).rename(self.store.path / f"{name}-{version}.mar")


@pytest.fixture
def bench(store: Store, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setattr(module, "_POLL_S", 0.01)
    return Bench(store)


def call(version: str | None = None, name: str = "echo", deadline: float | None = None, **headers: str) -> Call:
    return Call(name, version, Request("r", headers, ()), deadline)


async def told(engine: RayEngine, asked: Call) -> str:
    return bytes((await engine.predict(asked)).body).decode()


def test_the_first_version_has_the_short_route_and_is_asked(bench: Bench) -> None:
    bench.versions("1.0", "2.0")

    async def work(engine: RayEngine) -> None:
        done = await engine.register(Registration("echo-1.0.mar"))
        assert done.message == 'Model "echo" Version: 1.0 registered with 1 initial workers'
        await engine.register(Registration("echo-2.0.mar", initial_workers=2, synchronous=False))
        assert bench.cluster.told == [
            "echo--1.0 1-1 at /predictions/echo",
            "echo--2.0 2-2 at /predictions/echo/2.0",
        ]
        assert (await told(engine, call()), await told(engine, call("2.0"))) == ("1.0", "2.0")
        assert engine.names() == [("echo", "echo-1.0.mar")]
        first, second = engine.describe("echo", "all")
        assert (first.version, first.default, second.version, second.default) == ("1.0", True, "2.0", False)
        assert [worker.pid for worker in first.workers] == [100]
        await engine.scale("echo", "2.0", 2, None, synchronous=True)
        assert engine.ready
        assert engine.healthy
        with pytest.raises(ConflictError):
            await engine.register(Registration("echo-1.0.mar"))
        with pytest.raises(VersionNotFoundError):
            await engine.predict(call("3.0"))

    bench.run(work)


def test_another_default_version_swaps_the_routes_and_the_old_one_goes_first(bench: Bench) -> None:
    bench.versions("1.0", "2.0")

    async def work(engine: RayEngine) -> None:
        await engine.register(Registration("echo-1.0.mar"))
        await engine.register(Registration("echo-2.0.mar"))
        bench.cluster.told.clear()
        await engine.set_default("echo", "2.0")
        assert bench.cluster.told == [
            "echo--1.0 1-1 at /predictions/echo/1.0",
            "echo--2.0 1-1 at /predictions/echo",
            "a proxy has heard of /predictions/echo and /predictions/echo/1.0",
        ]
        codes = {code for _, _, code in bench.cluster.apps.values()}
        await engine.set_default("echo", "1.0")
        assert codes == {code for _, _, code in bench.cluster.apps.values()}, "no replica is started anew"
        with pytest.raises(NotAllowedError):
            await engine.unregister("echo", None)
        await engine.unregister("echo", "2.0")
        await engine.unregister("echo", "1.0")
        assert (bench.cluster.apps, bench.registry.known) == ({}, {})
        with pytest.raises(ModelNotFoundError):
            await engine.predict(call())

    bench.run(work)


def test_proxies_are_waited_for_that_have_not_heard_of_a_route(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.versions("1.0", "2.0")

    async def work(engine: RayEngine) -> None:
        await engine.register(Registration("echo-1.0.mar"))
        bench.cluster.deaf = 2
        await engine.register(Registration("echo-2.0.mar"))
        route = "/predictions/echo/2.0"
        waited = [f"a proxy has not heard of {route}"] * 2
        assert bench.cluster.told[2:] == [*waited, f"a proxy has heard of {route}"]
        # One that does not answer is not waited for without end.
        monkeypatch.setattr(module, "_HEARD_S", 0.05)
        bench.cluster.deaf = 10**6
        await engine.set_default("echo", "2.0")
        assert engine.describe("echo", None)[0].version == "2.0"

    bench.run(work)


def test_a_canary_has_the_front_share_out_requests_for_as_long_as_it_lasts(bench: Bench) -> None:
    bench.versions("1.0", "2.0")

    async def work(engine: RayEngine) -> None:
        await engine.register(Registration("echo-1.0.mar"))
        await engine.register(Registration("echo-2.0.mar"))
        await engine.share("echo", "2.0", Share(50, sticky=("user",)))
        assert engine.shares("echo") == {"2.0": Share(50, sticky=("user",))}
        assert engine.shares("none") == {}
        assert bench.cluster.apps["echo--1.0"][1] == "/predictions/echo/1.0"
        answers = {user: await told(engine, call(user=user)) for user in map(str, range(40))}
        assert set(answers.values()) == {"1.0", "2.0"}
        assert {user: await told(engine, call(user=user)) for user in answers} == answers
        bench.cluster.refuses.add("2.0")
        assert {await told(engine, call(user=user)) for user in answers} == {"1.0"}, (
            "what is refused is asked elsewhere"
        )
        with pytest.raises(BadRequestError, match="no copies"):
            await engine.share("echo", "2.0", Share(5, shadow=True))
        await engine.share("echo", "2.0", Share(0))
        assert bench.cluster.apps["echo--1.0"][1] == "/predictions/echo"

    bench.run(work)


def test_scaling_is_ray_serves(bench: Bench) -> None:
    bench.versions("1.0")

    async def work(engine: RayEngine) -> None:
        await engine.register(Registration("echo-1.0.mar"))
        done = await engine.scale("echo", None, 3, None, synchronous=True)
        assert done.message == "Workers scaled to 3 for model: echo"
        await engine.scale("echo", "1.0", 1, 4, synchronous=False)
        assert bench.cluster.told[1:] == [
            "echo--1.0 3-3 at /predictions/echo",
            "echo--1.0 1-4 at /predictions/echo",
        ]
        (state,) = engine.describe("echo", None)
        assert (state.settings["minWorkers"], state.settings["maxWorkers"]) == (1, 4)
        for least, most in ((0, None), (4, 3)):
            with pytest.raises(BadRequestError):
                await engine.scale("echo", None, least, most, synchronous=True)

    bench.run(work)


def test_what_cannot_be_loaded_leaves_nothing(bench: Bench) -> None:
    bench.versions("1.0", name="bad")

    async def work(engine: RayEngine) -> None:
        with pytest.raises(InternalError, match="it cannot be loaded") as caught:
            await engine.register(Registration("bad-1.0.mar"))
        assert "Traceback" not in caught.value.message, "what the worker printed is in the log"
        assert (bench.cluster.apps, bench.registry.known, engine.names()) == ({}, {}, [])
        with pytest.raises(ModelNotFoundError):
            await engine.register(Registration("none.mar"))

    bench.run(work)


def test_a_cluster_without_room_is_told_of(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.versions("1.0", model_config="startupTimeout: 1\n")
    monkeypatch.setattr(module, "_PROCESS_S", -0.5)
    monkeypatch.setattr(bench.cluster, "states", dict)

    async def work(engine: RayEngine) -> None:
        with pytest.raises(InternalError, match="0 of 1 replicas run: no node has room for another one"):
            await engine.register(Registration("echo-1.0.mar"))

    bench.run(work)


@pytest.mark.parametrize(("retry", "deaths", "lost"), [(True, 1, False), (True, 2, True), (False, 1, True)])
def test_a_request_goes_to_another_replica_once_where_it_may(
    bench: Bench, retry: bool, deaths: int, lost: bool
) -> None:
    bench.versions("1.0", model_config=f"backend:\n  retry: {str(retry).lower()}\n")

    async def work(engine: RayEngine) -> None:
        await engine.register(Registration("echo-1.0.mar"))
        bench.cluster.deaths = deaths
        if lost:
            with pytest.raises(InternalError, match="died"):
                await engine.predict(call())
        else:
            assert await told(engine, call()) == "1.0"
        assert bench.cluster.closed == (2 if retry else 1)

    bench.run(work)


def test_a_stream_comes_in_parts_and_its_cut_is_an_error(bench: Bench) -> None:
    bench.versions("1.0")

    async def work(engine: RayEngine) -> None:
        await engine.register(Registration("echo-1.0.mar"))
        answer = await engine.predict(call(streams="yes"))
        assert answer.rest is not None
        assert [bytes(part) async for part in answer.rest] == [b"1", b"2"]
        answer = await engine.predict(call(streams="dies"))
        assert answer.rest is not None
        with pytest.raises(InternalError, match="died while it answered"):
            [part async for part in answer.rest]

    bench.run(work)


def test_the_clients_deadline_travels_as_seconds_that_are_left(bench: Bench) -> None:
    bench.versions("1.0")

    async def work(engine: RayEngine) -> None:
        await engine.register(Registration("echo-1.0.mar"))
        now = asyncio.get_running_loop().time()
        assert await told(engine, call(deadline=now + 30.2)) == "1.0 within 30"
        with pytest.raises(DeadlineError):
            await engine.predict(call(deadline=now - 1))

    bench.run(work)


def test_an_error_of_a_replica_stays_what_it_is(bench: Bench) -> None:
    bench.versions("1.0")

    async def work(engine: RayEngine) -> None:
        await engine.register(Registration("echo-1.0.mar"))
        bench.cluster.refuses.add("1.0")
        with pytest.raises(UnavailableError) as caught:
            await engine.predict(call())
        assert caught.value.headers == {"Retry-After": "1"}

    bench.run(work)


def test_whoever_comes_after_knows_everything_and_touches_nothing(bench: Bench) -> None:
    bench.versions("1.0", "2.0")

    async def first(engine: RayEngine) -> None:
        await engine.register(Registration("echo-1.0.mar"))
        await engine.register(Registration("echo-2.0.mar"))
        await engine.share("echo", "2.0", Share(20, sticky=("user",)))
        await engine.set_default("echo", "1.0")

    async def second(engine: RayEngine) -> None:
        assert bench.cluster.told == []
        states = engine.describe("echo", "all")
        assert [(state.version, state.share and state.share.percent) for state in states] == [
            ("1.0", None),
            ("2.0", 20),
        ]
        assert engine.ready

    async def third(engine: RayEngine) -> None:
        assert bench.cluster.told == ["echo--1.0 1-1 at /predictions/echo/1.0"], "what is not there is deployed again"

    bench.run(first)
    bench.cluster.told.clear()
    bench.run(second)
    del bench.cluster.apps["echo--1.0"]
    bench.run(third)


def test_what_a_config_has_brought_is_learned(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.versions("1.0")
    monkeypatch.setattr(module, "_LOOK_S", 0.01)

    async def work(engine: RayEngine) -> None:
        await engine.register(Registration("echo-1.0.mar"))
        known = bench.registry.known["echo"]
        other = replace(known.versions["1.0"], version="3.0")
        bench.cluster.deploy(other, "/predictions/echo/3.0", "c")
        bench.registry.known["echo"] = replace(known, versions={**known.versions, "3.0": other})
        while len(engine.describe("echo", "all")) < 2:
            await asyncio.sleep(0.01)
        assert await told(engine, call("3.0")) == "3.0"

    bench.run(work)


def test_deploying_again_replaces_what_changed(bench: Bench) -> None:
    bench.versions("1.0")

    async def work(engine: RayEngine) -> None:
        path = bench.store.path / "echo-1.0.mar"
        await engine.take(nodes.look(path), Registration(path.name), at_startup=True)
        code = bench.cluster.apps["echo--1.0"][2]
        await engine.take(nodes.look(path), Registration(path.name), at_startup=True)
        assert bench.cluster.apps["echo--1.0"][2] == code
        bench.versions("1.0", source="def handle(data, context):\n    return data\n")
        done = await engine.take(nodes.look(path), Registration(path.name), at_startup=True)
        assert "replaced" in done.message
        assert bench.cluster.apps["echo--1.0"][2] != code
        assert engine.describe("echo", None)[0].loaded_at_startup

    bench.run(work)


def test_deploying_makes_what_is_new_and_newest_the_default_and_leaves_what_somebody_chose(bench: Bench) -> None:
    bench.versions("1.0", "1.5", "2.0", "10.0")

    async def work(engine: RayEngine) -> None:
        async def deployed(version: str) -> str:
            path = bench.store.path / f"echo-{version}.mar"
            await engine.take(nodes.look(path), Registration(path.name), at_startup=True)
            return engine.describe("echo", None)[0].version

        assert [await deployed(version) for version in ("1.0", "2.0")] == ["1.0", "2.0"]
        await engine.set_default("echo", "1.0")
        assert [await deployed(version) for version in ("2.0", "1.0", "1.5", "10.0")] == ["1.0", "1.0", "1.0", "10.0"]
        assert bench.cluster.apps["echo--10.0"][1] == "/predictions/echo"

    bench.run(work)


def test_workers_that_do_not_end_in_time_are_told_of(bench: Bench) -> None:
    bench.versions("1.0")

    async def work(engine: RayEngine) -> None:
        await engine.register(Registration("echo-1.0.mar"))
        bench.cluster.slow_to_end = True
        with pytest.raises(RequestTimeoutError):
            await engine.unregister("echo", None)

    bench.run(work)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("model", ["echo", "bad"])
def test_a_front_that_dies_while_a_version_ends_leaves_none_that_nobody_knows(
    bench: Bench, when: str, model: str
) -> None:
    bench.versions("1.0", name=model)

    async def dies(engine: RayEngine) -> None:
        if model == "echo":
            await engine.register(Registration("echo-1.0.mar"))
        bench.cluster.front_dies = when
        with pytest.raises(RuntimeError, match="killed"):
            await (engine.unregister("echo", None) if model == "echo" else engine.register(Registration("bad-1.0.mar")))
        bench.cluster.front_dies = None

    async def comes_after(engine: RayEngine) -> None:
        assert [name for name, _ in engine.names()] == [model]
        await engine.unregister(model, None)
        assert (bench.cluster.apps, bench.registry.known) == ({}, {})

    bench.run(dies)
    bench.run(comes_after)


def test_a_controller_that_does_not_answer_is_asked_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    bench.versions("1.0")
    monkeypatch.setattr(module, "_LOOK_S", 0.01)

    async def work(engine: RayEngine) -> None:
        await engine.register(Registration("echo-1.0.mar"))
        states = bench.cluster.states

        def gone() -> Mapping[str, AppState]:
            raise FrontendError("nobody there")

        monkeypatch.setattr(bench.cluster, "states", gone)
        while "does not tell" not in caplog.text:
            await asyncio.sleep(0.01)
        monkeypatch.setattr(bench.cluster, "states", states)
        assert await told(engine, call()) == "1.0"

    bench.run(work)
