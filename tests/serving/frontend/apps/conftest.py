"""The applications at real ports, each in a thread, over an engine that is played."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from serving.frontend.apps.inference import inference_app
from serving.frontend.apps.keys import Keys
from serving.frontend.apps.management import management_app
from serving.frontend.engine import Answer, Call, Done, ModelState, Registration, Share, Timings, WorkerState
from serving.frontend.entrance import App
from serving.frontend.errors import (
    BadRequestError,
    ConflictError,
    InternalError,
    ModelNotFoundError,
    NotAllowedError,
    UnavailableError,
    VersionNotFoundError,
)
from serving.frontend.guard import Patience
from serving.frontend.settings import Place, Settings, of
from serving.protocol import decode_value
from tests.serving.frontend.listening_app import Reached, reached

try:
    import uvloop
except ImportError:
    uvloop = None

#: For clients of http: of its own httpx reads all authorities, which takes it 26 ms each time.
PLAIN = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
_WORKERS = "inference request. Please use scale workers API to add workers. If this is a sequence inference, "
_WORKERS += "please check if it is closed, or expired; or exceeds maxSequenceJobQueueSize"
# As `GET /models/{name}` has them of a model without a configuration of its own.
_SETTINGS = {"minWorkers": 1, "maxWorkers": 1, "batchSize": 1, "maxBatchDelay": 100, "responseTimeout": 120}
_SETTINGS |= {"startupTimeout": 120, "maxRetryTimeoutInSec": 300, "clientTimeoutInMills": 0, "parallelType": ""}
_SETTINGS |= {"parallelLevel": 0, "deviceType": "cpu", "continuousBatching": False, "useJobTicket": False}
_SETTINGS |= {"useVenv": False, "stateful": False, "sequenceMaxIdleMSec": 0, "sequenceTimeoutMSec": 0}
_SETTINGS |= {"maxNumSequence": 0, "maxSequenceJobQueueSize": 0}


def model(name: str, version: str, url: str, workers: int, *, default: bool, startup: bool = False) -> ModelState:
    """Make a version of a model."""
    found = tuple(WorkerState(str(9000 + n), 1.5e9 + n / 8, True, 100 + n, 0, None) for n in range(workers))
    settings = _SETTINGS | {"minWorkers": workers, "maxWorkers": workers}
    return ModelState(name, version, url, "python", settings, found, 0, 100, default, startup)


@dataclass
class PlayedEngine:
    """Plays an engine, in the words of TorchServe: models that echo what a worker would see, and one that streams.

    What a request wants beside that is in its header ``x-mode``:
    ``status:N``, ``wait``, ``sleep:S``, ``fail``, ``large``, ``break``, ``endless``, ``default``.
    """

    models: dict[tuple[str, str], ModelState] = field(default_factory=dict)
    calls: list[Call] = field(default_factory=list)
    registered: list[Registration] = field(default_factory=list)
    scaled: list[tuple[Any, ...]] = field(default_factory=list)
    cancelled: int = 0
    closed: int = 0
    healthy: bool = True
    ready: bool = True

    def add(self, state: ModelState) -> None:
        self.models[(state.name, state.version)] = state

    def _find(self, name: str, version: str | None) -> ModelState:
        versions = [state for (known, _), state in self.models.items() if known == name]
        if not versions:
            raise ModelNotFoundError(f"Model not found: {name}")
        for state in versions:
            if state.version == version or (version is None and state.default):
                return state
        raise VersionNotFoundError(f"Model version: {version} does not exist for model: {name}")

    async def predict(self, call: Call) -> Answer:
        self.calls.append(call)
        state = self._find(call.name, call.version)
        if not state.workers:
            named = f'Model "{call.name}' + (f'" Version {call.version}' if call.version is not None else "")
            raise UnavailableError(f'{named}" has no worker to serve {_WORKERS}')
        headers = call.request.headers
        mode = headers.get("x-mode", "")
        await asyncio.sleep(0.005)  # no load is answered at once: it would take both processors
        if mode == "wait":
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                self.cancelled += 1
                raise
        if mode.startswith("sleep:"):
            await asyncio.sleep(float(mode[6:]))
        if mode == "fail":
            raise RuntimeError("a bug")
        if state.name == "stream":
            return Answer(200, "", "", {"ts_stream_next": "true"}, b"part0", self._rest(mode), state.version)
        if mode == "large":
            return Answer(200, "", "", {}, bytearray(20_000_000))
        if mode == "default":
            return Answer(200, "", "text/plain", {"x-default-answer": "deadline"}, b"none", counted=504)
        status = int(mode[7:]) if mode.startswith("status:") else 200
        body = json.dumps(self._echo(call, state), indent=2).encode()
        return Answer(status, "", "", {}, body, None, state.version, Timings(0.001, 0.002, 3))

    @staticmethod
    def _echo(call: Call, state: ModelState) -> dict[str, Any]:
        headers: dict[str, Any] = dict(call.request.headers)
        if headers.get("describe") == "True":
            return {"described": state.version}
        row = {}
        for one in call.request.parameters:
            value, _ = decode_value(bytearray(one.value), one.content_type)
            text = value.decode("latin-1") if isinstance(value, bytearray) else str(value)
            row[one.name] = [type(value).__name__, text[:200]]
            headers.setdefault(one.name, {"content-type": one.content_type})
        return {
            "id": call.request.request_id,
            "version": state.version,
            "headers": dict(sorted(headers.items())),
            "row": row,
        }

    async def _rest(self, mode: str) -> AsyncIterator[bytes]:
        try:
            if mode == "break":
                raise InternalError("Worker died.")
            while mode == "endless":
                await asyncio.sleep(0.001)
                yield b"x" * 10_000
            for part in (b"part1", b"part2", b"", b"last"):
                await asyncio.sleep(0.01)
                yield part
        finally:
            self.closed += 1

    def names(self) -> Sequence[tuple[str, str]]:
        return sorted((state.name, state.url) for state in self.models.values() if state.default)

    def describe(self, name: str, version: str | None) -> tuple[ModelState, ...]:
        if version != "all":
            return (self._find(name, version),)
        first = self._find(name, None)
        return (first, *(s for s in self.models.values() if s.name == name and s is not first))

    def shares(self, name: str) -> dict[str, Share]:
        return {s.version: s.share for s in self.models.values() if s.name == name and s.share}

    async def register(self, wanted: Registration) -> Done:
        self.registered.append(wanted)
        if wanted.url == "":
            raise ModelNotFoundError("empty url")
        if ".." in wanted.url:
            raise ModelNotFoundError(f"Relative path is not allowed in url: {wanted.url}")
        known = {"stream.mar": ("stream", "1.0"), "echo1.0.mar": ("echo", "1.0")}
        if wanted.url not in known:
            raise ModelNotFoundError(f"Model not found at: {wanted.url}")
        name, version = wanted.model_name or known[wanted.url][0], known[wanted.url][1]
        if (name, version) in self.models:
            raise ConflictError(f"Model version {version} is already registered for model {name}")
        workers = 1 if wanted.initial_workers is None else wanted.initial_workers
        self.add(model(name, version, wanted.url, workers, default=True))
        if not wanted.synchronous:
            return Done(202, "Processing worker updates...")
        return Done(200, f'Model "{name}" Version: {version} registered with {workers} initial workers')

    async def scale(self, name: str, version: str | None, least: int, most: int | None, *, synchronous: bool) -> Done:
        self.scaled.append((name, version, least, most, synchronous))
        state = self._find(name, version)
        if most is not None and most < least:
            raise BadRequestError("max_worker cannot be less than min_worker.")
        self.add(replace(state, workers=model(name, state.version, "", least, default=True).workers))
        if not synchronous:
            return Done(202, "Processing worker updates...")
        which = f", version: {version}" if version is not None else ""
        return Done(200, f"Workers scaled to {least} for model: {name}{which}")

    async def share(self, name: str, version: str, wanted: Share) -> Done:
        self.add(replace(self._find(name, version), share=wanted if wanted.percent else None))
        return Done(200, f"{wanted.percent} %")

    async def set_default(self, name: str, version: str) -> Done:
        self._find(name, None)
        try:
            chosen = self._find(name, version)
        except VersionNotFoundError:
            raise VersionNotFoundError(f"Model version {version} does not exist for model {name}") from None
        for state in [s for s in self.models.values() if s.name == name]:
            self.add(replace(state, default=state.version == chosen.version))
        return Done(200, f'Default version successfully updated for model "{name}" to "{version}"')

    async def unregister(self, name: str, version: str | None) -> Done:
        state = self._find(name, version)
        if state.default and sum(known == name for known, _ in self.models) > 1:
            raise NotAllowedError(f"Cannot remove default version for model {name}")
        del self.models[(state.name, state.version)]
        return Done(200, f'Model "{name}" unregistered')

    async def drain(self, grace_s: float) -> None:
        self.ready = False


@dataclass
class PlayedMeters:
    """Writes down what it is told."""

    statuses: list[int] = field(default_factory=list)

    def responded(self, status: int) -> None:
        self.statuses.append(status)

    def answered(
        self, name: str, version: str, *, queue_s: float, total_s: float, batch: int, status: int = 200
    ) -> None:
        raise AssertionError("the engine counts answers")

    def dropped(self, name: str, version: str, reason: str) -> None:
        raise AssertionError("the engine counts what it drops")

    def defaulted(self, name: str, version: str, reason: str) -> None:
        raise AssertionError("the engine gives default answers")

    def resent(self, name: str, version: str) -> None:
        raise AssertionError("the engine resends")

    def level(self, name: str, version: str, *, waiting: int, running: int) -> None:
        raise AssertionError("the engine knows its level")

    def forgotten(self, name: str, version: str) -> None:
        raise AssertionError("the engine forgets")

    def died(self, name: str, version: str) -> None:
        raise AssertionError("the engine knows its workers")

    def worker_line(self, name: str, version: str, line: str) -> bool:
        raise AssertionError("the engine reads the workers")


def played_engine() -> PlayedEngine:
    """Make an engine with the models of `questions.py`."""
    engine = PlayedEngine()
    engine.add(model("echo", "1.0", "echo1.0.mar", 1, default=True))
    engine.add(model("echo", "2.0", "echo2.0.mar", 1, default=False))
    engine.add(model("idle", "1.0", "stream.mar", 0, default=True))
    engine.add(model("stream", "1.0", "stream.mar", 1, default=True))
    return engine


def settings_of(folder: Path, **properties: str) -> Settings:
    """Understand a configuration."""
    (folder / "ts").mkdir(exist_ok=True)
    (folder / "ts" / "version.txt").write_text("0.12.0")
    addresses = {f"{api}_address": "http://127.0.0.1:0" for api in ("inference", "management", "metrics")}
    return of(addresses | properties, Place(folder, folder, folder, folder, folder), {})


@contextlib.contextmanager
def listening(app: App, patience: Patience | None = None) -> Iterator[int]:
    """Serve an application on a free port of the loopback interface, in the fast loop where there is one; its port."""
    with reaching(app, patience) as found:
        yield found.port


def reaching(app: App, patience: Patience | None = None) -> contextlib.AbstractContextManager[Reached]:
    """Serve it so, to reach into its loop, too."""
    loop = uvloop.new_event_loop if uvloop is not None else asyncio.new_event_loop
    return reached(app, patience, loop_of=loop)


@dataclass
class Served:
    """Both applications at their addresses."""

    engine: PlayedEngine
    meters: PlayedMeters
    settings: Settings
    keys: Keys | None
    inference: int
    management: int

    def client(self, api: str = "inference") -> httpx.Client:
        return httpx.Client(base_url=f"http://127.0.0.1:{getattr(self, api)}", timeout=30, verify=PLAIN)

    def raw(self, request: bytes, api: str = "inference", wait: float = 30.0) -> bytes:
        """Send bytes, read until the server closes; they must ask it to."""
        with socket.create_connection(("127.0.0.1", getattr(self, api)), timeout=wait) as peer:
            peer.sendall(request)
            found = b""
            while part := peer.recv(65536):
                found += part
        return found


@contextlib.contextmanager
def served(
    folder: Path,
    *,
    keyed: bool = False,
    patience: Patience | None = None,
    engine: PlayedEngine | None = None,
    **properties: str,
) -> Iterator[Served]:
    """Serve both applications over a played engine, that of `questions.py` unless there is another one."""
    engine, meters = engine or played_engine(), PlayedMeters()
    settings = settings_of(folder, **({"enable_model_api": "true"} | properties))
    keys = Keys(folder / "key_file.json", 60) if keyed else None
    with (
        listening(inference_app(engine, settings, keys, meters), patience) as inference,
        listening(management_app(engine, settings, keys, meters)) as management,
    ):
        yield Served(engine, meters, settings, keys, inference, management)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Served]:
    """Serve what lets models be registered and asks for no key."""
    with served(tmp_path) as found:
        yield found
