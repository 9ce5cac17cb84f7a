"""Both APIs over gRPC at a real port, in an event loop of their own, over an engine that is played."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import grpc
import pytest

from serving.client.transport import Address
from serving.frontend.apps.keys import Keys
from serving.frontend.engine import Answer, Call
from serving.frontend.entrance import Sampled
from serving.frontend.grpc.server import GrpcListener
from serving.frontend.listening import Place, bind
from serving.frontend.settings import Settings
from tests.serving.frontend.apps.conftest import PlayedEngine, played_engine, settings_of
from tests.serving.frontend.listening_app import TIMEOUT_S, free_port

from .client import Client

try:
    import uvloop
except ImportError:
    uvloop = None


@dataclass
class Asked:
    """What a played engine was asked, and how it is to answer: in the input ``mode``, for gRPC has no headers."""

    engine: PlayedEngine
    calls: list[Call] = field(default_factory=list)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.engine, name)

    async def predict(self, call: Call) -> Answer:
        self.calls.append(call)
        modes = [one.value.decode() for one in call.request.parameters if one.name == "mode"]
        if modes == ["body"]:
            return Answer(200, "", "", {}, bytes(call.request.parameters[0].value))
        headers = {**call.request.headers, **({"x-mode": modes[0]} if modes else {})}
        return await self.engine.predict(replace(call, request=replace(call.request, headers=headers)))


@dataclass
class Reached:
    """A listener that can be called.

    Attributes:
        do: runs something in its loop, and returns what it returns.
    """

    engine: Any
    listener: GrpcListener
    settings: Settings
    target: str
    do: Callable[[Any], Any]

    @contextlib.contextmanager
    def client(self, **options: Any) -> Iterator[Client]:
        with grpc.insecure_channel(self.target, **options) as channel:
            yield Client(channel)


@contextlib.contextmanager
def reached(
    folder: Path,
    *,
    keys: Keys | None = None,
    access: Sampled | None = None,
    tls: Any = None,
    **properties: str,
) -> Iterator[Reached]:
    """Serve both APIs at one address."""
    settings = settings_of(folder, **({"enable_model_api": "true"} | properties))
    engine: Any = Asked(played_engine())
    place = _place(tls)
    loop = uvloop.new_event_loop() if uvloop is not None else asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    def do(coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, loop).result(TIMEOUT_S)

    listener = GrpcListener(place, ("inference", "management"), engine, settings, keys, access)
    try:
        do(listener.open())
        yield Reached(engine, listener, settings, f"127.0.0.1:{place.address.port}", do)
    finally:
        do(listener.close())
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
        place.close()


def _place(tls: Any) -> Any:
    address = Address(f"http://127.0.0.1:{free_port()}")
    return Place(address, "grpc_inference_port", bind(address, "grpc_inference_port"), tls)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reached]:
    with reached(tmp_path_factory.mktemp("grpc")) as found:
        yield found


@pytest.fixture(scope="module")
def call(server: Reached) -> Iterator[Client]:
    with server.client() as client:
        yield client
