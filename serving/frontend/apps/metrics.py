"""The metrics API, ``GET /metrics``: what Prometheus asks for, as TorchServe's frontend answers it."""

from __future__ import annotations

import asyncio

from serving.frontend.apps import openinference
from serving.frontend.apps.answers import constant_headers
from serving.frontend.apps.exchange import App, Exchange
from serving.frontend.apps.inputs import fields
from serving.frontend.apps.openapi import METRICS_TYPE, metrics_document
from serving.frontend.apps.routing import NO_ROUTE
from serving.frontend.errors import ResourceNotFoundError
from serving.frontend.metering.server import ServerMeters
from serving.frontend.settings import Settings


class MetricsApp(App):
    """The metrics API over a server's meters; it needs no key, as in TorchServe."""

    def __init__(self, meters: ServerMeters, settings: Settings) -> None:
        super().__init__(constant_headers(settings), meters)
        self._metrics = meters
        self._version = openinference.version_of(settings)
        # A scrape takes a thread for some milliseconds; many at once must not take them all.
        self._one_at_a_time = asyncio.Semaphore(1)

    async def route(self, http: Exchange) -> None:
        """Answer a request.

        Every method of ``/metrics`` is answered, and what follows in the path ignored, as in TorchServe.

        Raises:
            FrontendError: what is then the answer.
        """
        match http.segments:
            case ["metrics", *_]:
                names = sample_names(http.query)
                async with self._one_at_a_time:
                    self._metrics.look()
                    text = await asyncio.to_thread(self._metrics.text, names)
                await http.text(text, METRICS_TYPE)
            case [] | ["api-description"]:
                await self.describe_api(http, metrics_document(self._version))
            case _:
                raise ResourceNotFoundError(NO_ROUTE)


def metrics_app(meters: ServerMeters, settings: Settings) -> MetricsApp:
    """Make the metrics API."""
    return MetricsApp(meters, settings)


def sample_names(query: bytes) -> list[str] | None:
    """Return the names of the samples that a query asks for, in parameters ``name[]``; None for all.

    Raises:
        BadRequestError: it cannot be read.
    """
    found = [one.value.decode("utf-8", "replace") for one in fields(query, "query") if one.name == "name[]"]
    return found or None
