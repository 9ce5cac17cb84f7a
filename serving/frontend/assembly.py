"""The parts of a server on one machine, put together."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from serving.control.configuration.config import ModelSpec
from serving.errors import StartError
from serving.frontend import logs
from serving.frontend.apps.console.beside import Beside
from serving.frontend.apps.inference import inference_app
from serving.frontend.apps.keys import Keys, Kind
from serving.frontend.apps.management import management_app
from serving.frontend.apps.metrics import metrics_app
from serving.frontend.apps.platforms import PlatformsApp, with_platforms
from serving.frontend.apps.routing import RESERVED
from serving.frontend.engine import Engine
from serving.frontend.entrance import App, Sampled
from serving.frontend.joined import Api
from serving.frontend.listening import Place
from serving.frontend.local.engine import LocalEngine
from serving.frontend.local.models.gpus import Gpus
from serving.frontend.local.models.snapshots import Snapshots
from serving.frontend.metering.processes import Seen
from serving.frontend.metering.server import ServerMeters
from serving.frontend.metering.system import SystemMetrics
from serving.frontend.observing.choosing import watchers
from serving.frontend.observing.watched import watched
from serving.frontend.settings import Settings


@dataclass(frozen=True)
class Startup:
    """What a server begins with.

    Attributes:
        models: to register; empty leaves it to the configuration.
        load_all: register every archive of the model store.
        snapshots: write one of the models at each change.
        given_keys: file of keys to ask for; None to make them all.
        multi_model: folder below which SageMaker may load models; None where it may not.
    """

    models: Sequence[ModelSpec] = ()
    load_all: bool = False
    snapshots: bool = True
    given_keys: Path | None = None
    multi_model: Path | None = None


#: Makes what listens for gRPC at a place (serving/frontend/grpc/server.py): its APIs, and who takes the access log.
Grpc: TypeAlias = Callable[[Place, Sequence[Kind], Sampled | None], Any]


@dataclass(frozen=True)
class Parts:
    """What a server consists of.

    Attributes:
        engine: that answers.
        apps: by the API that each is.
        begin: registers the models of the start.
        beside: what runs as long as the server does.
        grpc: makes its listeners for gRPC; None where it has none.
        ending: called when the server begins to drain, for what would not end by itself.
    """

    engine: Engine
    apps: dict[Api, App]
    begin: Callable[[], Awaitable[None]]
    beside: Sequence[Callable[[], Awaitable[None]]] = field(default=())
    grpc: Grpc | None = None
    ending: Sequence[Callable[[], None]] = field(default=())


def assemble(settings: Settings, startup: Startup) -> Parts:
    """Put together an engine of this machine and TorchServe's APIs.

    Raises:
        InputError: a setting that one of them cannot use.
        StartError: the keys cannot be written down.
    """

    def seen() -> Iterator[Seen]:
        for name, _ in engine.names():
            for state in engine.describe(name, "all"):
                workers = [(worker.id, worker.pid) for worker in state.workers]
                ready = sum(worker.ready for worker in state.workers)
                yield Seen(name, state.version, state.settings["minWorkers"], ready, workers)

    def pids() -> Iterator[int]:
        return (pid for one in seen() for _, pid in one.workers if pid > 0)

    meters = ServerMeters(settings)
    meters.watch(seen)
    system = SystemMetrics(settings, meters.host_entry, pids, gpus=Gpus(settings).count)
    written = Snapshots(settings) if startup.snapshots else None
    # Where management is elsewhere, its routes are in nobody's way.
    single_port = settings.management_address.text == settings.inference_address.text
    engine = LocalEngine(
        settings,
        meters,
        logs.model_line,
        system.memory_of,
        logs.worker_ended,
        written,
        reserved=RESERVED if single_port else (),
    )
    seen_by = watched(engine, watchers(settings))
    keys = None
    if settings.token_authorization:
        file = settings.place.keys / "key_file.json"
        try:
            keys = Keys(file, settings.token_expiration_min, _given(startup.given_keys))
        except OSError as error:
            raise StartError(f"the keys cannot be written: {error.strerror or error}", where=str(file)) from error
    apps: dict[Api, App] = {
        "inference": inference_app(seen_by, settings, keys, meters),
        "management": management_app(seen_by, settings, keys, meters),
    }
    if startup.multi_model is not None:
        own = PlatformsApp(seen_by, settings, keys, meters, startup.multi_model)
        apps["inference"] = with_platforms(apps["inference"], own)
    if settings.enable_metrics_api:
        apps["metrics"] = metrics_app(meters, settings)
    ending: list[Callable[[], None]] = []
    if settings.console:
        console = Beside(apps["management"], lambda: _console(seen_by, settings, keys, meters))
        apps["management"] = console
        ending.append(console.end)

    def grpc(place: Place, apis: Sequence[Kind], access: Sampled | None) -> Any:
        from serving.frontend.grpc.server import GrpcListener  # only where it is served

        return GrpcListener(place, apis, seen_by, settings, keys, access)

    def begin() -> Awaitable[None]:
        return engine.start(startup.models, load_all=startup.load_all)

    return Parts(seen_by, apps, begin, (system.run,), grpc, ending)


def _console(
    engine: Engine, settings: Settings, keys: Keys | None, meters: ServerMeters
) -> tuple[App, Callable[[], None]]:
    from serving.frontend.apps.console.sources import EngineSource  # only where somebody opens it
    from serving.frontend.apps.console.whole import console_of

    return console_of(EngineSource(engine, settings, keys, meters.text))


def _given(file: Path | None) -> dict[str, str] | None:
    """Read the keys that `torchmar start` was given.

    Raises:
        OSError: the file cannot be read.
    """
    if file is None:
        return None
    found: dict[str, str] = json.loads(file.read_text(encoding="utf-8"))
    return found
