"""The server beside: a `Source` that asks its APIs, as `torchmar console` does of one that has no console itself."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

from serving.client import Address, ManagementClient, Transport
from serving.client.management import MOST_ANSWER
from serving.client.transport import model_path
from serving.control.configuration.config import read_properties
from serving.control.configuration.settings import is_true
from serving.control.keys import Api, current_key
from serving.control.state import ServerRecord, StateFolder
from serving.errors import ServingError
from serving.frontend.apps.console.sources import About, Asked, Served
from serving.frontend.settings import MAX_SIZE

T = TypeVar("T")

_TIMEOUT_S: Final = 120.0


class ClientSource:
    """A server of this machine that torchmar has started, with either frontend.

    Its keys are those of its own folder, which this user can read.

    Args:
        record: of the server.
        state: its folder.
    """

    def __init__(self, record: ServerRecord, state: StateFolder) -> None:
        self._record, self._state = record, state
        properties = read_properties(state.config) if state.config.is_file() else {}
        self._transports: dict[tuple[str, str | None, int | None], Transport] = {}
        self.about = About(
            inference=record.inference,
            management=record.management,
            name=record.name,
            store=Path(record.trusted_store or record.model_store),
            logs=Path(record.log_folder),
            keyed=current_key(record, state, "management") is not None,
            changes=is_true(properties, "enable_model_api"),
            most=_bytes(properties, "max_request_size"),
            most_answer=_bytes(properties, "max_response_size"),
        )

    def close(self) -> None:
        """Close the connections."""
        for one in self._transports.values():
            one.close()

    def _transport(self, api: Api) -> Transport:
        """Return the connections to an API, with its key as it is now."""
        key = current_key(self._record, self._state, api)
        if api == "inference":
            return self._connections(self._record.inference, key, None)
        return self._connections(self._record.management, key, MOST_ANSWER)

    def _connections(self, address: str, key: str | None, most: int | None) -> Transport:
        known = self._transports.get((address, key, most))
        if known is None:
            known = Transport(Address(address), timeout_s=_TIMEOUT_S, token=key, most=most)
            self._transports[address, key, most] = known
        return known

    async def _manage(self, do: Callable[[ManagementClient], T]) -> T:
        return await asyncio.to_thread(lambda: do(ManagementClient(self._transport("management"))))

    async def is_key(self, text: str) -> bool:
        """Return whether a text is the key of the management API."""
        key = await asyncio.to_thread(current_key, self._record, self._state, "management")
        return key is not None and hmac.compare_digest(text.encode(), key.encode())

    async def inference_key(self) -> str | None:
        """Return the key of the inference API; None where requests need none."""
        return await asyncio.to_thread(current_key, self._record, self._state, "inference")

    async def names(self) -> Sequence[str]:
        """Return the names of the models."""
        return [one.name for one in await self._manage(lambda client: client.models())]

    async def versions(self, name: str) -> Sequence[Served]:
        """Return all versions of a model, the default one first."""
        rows = await self._manage(lambda client: client.rows(name))
        return sorted(
            (Served.from_dict(row, default=default) for row, default in rows), key=lambda one: not one.of.default
        )

    async def register(self, archive: str, workers: int) -> str:
        """Take a model, and say what has come of it."""
        return await self._manage(lambda client: client.register(archive, workers=workers, wait=False))

    async def scale(self, name: str, version: str, least: int, most: int) -> str:
        """Give a version as many workers, and say what has come of it."""
        given = {"min_workers": least, "max_workers": most}
        return await self._manage(lambda client: client.scale(name, version=version, wait=False, **given))

    async def set_default(self, name: str, version: str) -> str:
        """Send requests without a version to this one, and say what has come of it."""
        return await self._manage(lambda client: client.set_default(name, version))

    async def unregister(self, name: str, version: str) -> str:
        """Forget a version, and say what has come of it."""
        return await self._manage(lambda client: client.unregister(name, version))

    async def predict(self, name: str, version: str | None, body: bytes, content_type: str) -> Asked:
        """Ask a model; a streamed answer is read to its end."""
        path = model_path("predictions", name, version)
        headers = {"content-type": content_type} if content_type else {}

        def ask() -> Asked:
            reply = self._transport("inference").request("POST", path, body=body, headers=headers)
            return Asked(reply.status, reply.content_type, reply.headers.get("server-timing", ""), reply.body)

        return await asyncio.to_thread(ask)

    async def metrics(self, names: Sequence[str]) -> str:  # noqa: ARG002 (Java's frontend gives all of them)
        """Return the samples in Prometheus' text format; empty where the server has none."""

        def ask() -> str:
            try:
                metrics = self._connections(self._record.metrics, None, MOST_ANSWER)
                return metrics.checked("GET", "/metrics").body.decode()
            except ServingError:
                return ""  # the metrics API is off

        return await asyncio.to_thread(ask)

    async def apis(self) -> Sequence[tuple[str, dict[str, Any]]]:
        """Return the address of each API and its OpenAPI document, those of the inference API first."""

        def ask() -> list[tuple[str, dict[str, Any]]]:
            apis: tuple[Api, ...] = ("inference", "management")
            asked = [self._transport(api) for api in apis]
            return [(one.address.text, one.checked("GET", "/api-description").json()) for one in asked]

        return await asyncio.to_thread(ask)


def _bytes(properties: Mapping[str, str], key: str) -> int:
    text = properties.get(key, "").strip()
    return int(text) if text.isdecimal() else MAX_SIZE
