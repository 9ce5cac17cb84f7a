"""What the console shows and does, of whichever server: a `Source`, and the one of an engine in this process."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from serving.client.models import ModelVersion
from serving.control.keys import Api
from serving.control.state import StateFolder, name_of, named
from serving.frontend.apps import openinference
from serving.frontend.apps.answers import new_id, server_timing
from serving.frontend.apps.inputs import inputs_of
from serving.frontend.apps.keys import Keys
from serving.frontend.apps.management import described
from serving.frontend.apps.openapi import inference_document, management_document, metrics_document
from serving.frontend.engine import Call, Engine, Registration
from serving.frontend.errors import InvalidKeyError, MethodNotAllowedError
from serving.frontend.settings import Settings
from serving.protocol import Request


@dataclass(frozen=True)
class Served:
    """A version of a model.

    Attributes:
        of: as the management API describes it.
        waiting: requests that wait; remaining: that could wait beside them.
        settings: all that it says, by TorchServe's names.
    """

    of: ModelVersion
    waiting: int
    remaining: int
    settings: Mapping[str, Any] = field(hash=False)

    @property
    def state(self) -> str:
        """A word for what pages say of it beside its numbers: another one when they are no longer right."""
        of = self.of
        workers = [(worker.id, worker.pid, worker.ready) for worker in of.workers]
        said = (of.name, of.version, of.default, of.traffic, of.min_workers, of.max_workers, workers)
        return hashlib.sha256(repr(said).encode("utf-8", "replace")).hexdigest()[:16]

    @classmethod
    def from_dict(cls, row: Mapping[str, Any], *, default: bool) -> Served:
        """Read a description of the management API."""
        queue = row.get("jobQueueStatus") or {}
        others = ("workers", "jobQueueStatus", "traffic", "modelName", "modelVersion", "modelUrl", "loadedAtStartup")
        settings = {key: value for key, value in row.items() if key not in others}
        of = ModelVersion.from_dict(row, default=default)
        return cls(of, int(queue.get("pendingRequests", 0)), int(queue.get("remainingCapacity", 0)), settings)


@dataclass(frozen=True)
class Asked:
    """What a model answered.

    Attributes:
        status: HTTP status.
        content_type: of the body; empty where it has none.
        timing: ``Server-Timing`` of the answer; empty without one.
        body: whole, or its first part.
        rest: the further parts of a stream; None where the body is whole.
    """

    status: int
    content_type: str
    timing: str
    body: bytes
    rest: AsyncIterator[bytes | bytearray] | None = None


@dataclass(frozen=True)
class About:
    """A server.

    Attributes:
        inference: address of its inference API; management likewise.
        name: that `torchmar` knows it by; empty where it was not started by that.
        store: folder of its archives.
        logs: folder of its logs.
        keyed: whether requests need a key.
        changes: whether models can be registered and removed.
        most: bytes of a request.
        most_answer: bytes of an answer.
        lock: file that is locked during a load test, where several consoles may be about this server.
    """

    inference: str
    management: str
    name: str
    store: Path
    logs: Path
    keyed: bool
    changes: bool
    most: int
    most_answer: int
    lock: Path | None = None

    def shows_key(self, api: Api) -> str:
        """Return the command that shows the key of an API; empty where there is none."""
        return f"torchmar keys --{api}{named(self.name)}" if self.keyed and self.name else ""


class Source(Protocol):
    """A server that the console is about.

    Every method that fails raises a `FrontendError` or a `TorchmarError`.
    """

    about: About

    async def is_key(self, text: str) -> bool:
        """Return whether a text is the key of the management API."""

    async def inference_key(self) -> str | None:
        """Return the key of the inference API; None where requests need none."""

    async def names(self) -> Sequence[str]:
        """Return the names of the models."""

    async def versions(self, name: str) -> Sequence[Served]:
        """Return all versions of a model, the default one first."""

    async def register(self, archive: str, workers: int) -> str:
        """Take a model, and say what has come of it."""

    async def scale(self, name: str, version: str, least: int, most: int) -> str:
        """Give a version as many workers, and say what has come of it."""

    async def set_default(self, name: str, version: str) -> str:
        """Send requests without a version to this one, and say what has come of it."""

    async def unregister(self, name: str, version: str) -> str:
        """Forget a version, and say what has come of it."""

    async def predict(self, name: str, version: str | None, body: bytes, content_type: str) -> Asked:
        """Ask a model."""

    async def metrics(self, names: Sequence[str]) -> str:
        """Return these samples, or more, in Prometheus' text format; empty where the server has none."""

    async def apis(self) -> Sequence[tuple[str, dict[str, Any]]]:
        """Return the address of each API and its OpenAPI document, those of the inference API first."""


class EngineSource:
    """The server that this process is.

    Args:
        engine: of the server.
        settings: of it.
        keys: of it; None where requests need none.
        text: writes samples of its metrics; called in a thread.
    """

    def __init__(
        self, engine: Engine, settings: Settings, keys: Keys | None, text: Callable[[Sequence[str]], bytes]
    ) -> None:
        self._engine, self._settings, self._keys, self._text = engine, settings, keys, text
        place = settings.place
        name = name_of(place.keys)
        self.about = About(
            inference=settings.inference_address.text,
            management=settings.management_address.text,
            name=name,
            store=place.model_store,
            logs=place.logs,
            keyed=keys is not None,
            changes=settings.enable_model_api,
            most=settings.max_request_size,
            most_answer=settings.max_response_size,
            lock=StateFolder(name).load_test if name else None,
        )

    async def is_key(self, text: str) -> bool:
        """Return whether a text is the key of the management API."""
        try:
            if self._keys is not None:
                self._keys.check("management", f"Bearer {text}")
        except InvalidKeyError:
            return False
        return True

    async def inference_key(self) -> str | None:
        """Return the key of the inference API; None where requests need none."""
        return None if self._keys is None else await asyncio.to_thread(self._keys.current, "inference")

    async def names(self) -> Sequence[str]:
        """Return the names of the models."""
        return [name for name, _ in self._engine.names()]

    async def versions(self, name: str) -> Sequence[Served]:
        """Return all versions of a model, the default one first."""
        states = self._engine.describe(name, "all")
        return [Served.from_dict(described(state), default=state.default) for state in states]

    async def register(self, archive: str, workers: int) -> str:
        """Take a model, and say what has come of it."""
        self._refuse_changes()
        wanted = Registration(archive, initial_workers=workers, synchronous=False)
        return (await self._engine.register(wanted)).message

    async def scale(self, name: str, version: str, least: int, most: int) -> str:
        """Give a version as many workers, and say what has come of it."""
        return (await self._engine.scale(name, version, least, most, synchronous=False)).message

    async def set_default(self, name: str, version: str) -> str:
        """Send requests without a version to this one, and say what has come of it."""
        return (await self._engine.set_default(name, version)).message

    async def unregister(self, name: str, version: str) -> str:
        """Forget a version, and say what has come of it."""
        self._refuse_changes()
        return (await self._engine.unregister(name, version)).message

    def _refuse_changes(self) -> None:
        """Refuse what the management API refuses, too.

        Raises:
            MethodNotAllowedError: models cannot be registered or removed.
        """
        if not self.about.changes:
            raise MethodNotAllowedError("models can be registered and removed where enable_model_api=true")

    async def predict(self, name: str, version: str | None, body: bytes, content_type: str) -> Asked:
        """Ask a model, as ``/predictions`` does."""
        headers = {"content-length": str(len(body)), "url_path": "", "explain": "False"}
        if content_type:
            headers["content-type"] = content_type
        inputs = await asyncio.to_thread(inputs_of, content_type, body)
        answer = await self._engine.predict(Call(name, version, Request(new_id(), headers, inputs)))
        timing = server_timing(answer.timings).decode() if answer.timings else ""
        return Asked(answer.status, answer.content_type, timing, bytes(answer.body), answer.rest)

    async def metrics(self, names: Sequence[str]) -> str:
        """Return these samples in Prometheus' text format."""
        return (await asyncio.to_thread(self._text, names)).decode()

    async def apis(self) -> Sequence[tuple[str, dict[str, Any]]]:
        """Return the address of each API and its OpenAPI document, those of the inference API first."""
        version, settings = openinference.version_of(self._settings), self._settings
        found = [(settings.inference_address, inference_document(version))]
        found.append((settings.management_address, management_document(version)))
        if settings.enable_metrics_api:
            found.append((settings.metrics_address, metrics_document(version)))
        return [(address.text, document) for address, document in found]
