"""The console, put together."""

from __future__ import annotations

from collections.abc import Callable

from serving.frontend.apps.console.app import Console, around
from serving.frontend.apps.console.loads import Loads
from serving.frontend.apps.console.models import Models
from serving.frontend.apps.console.reading import Reading
from serving.frontend.apps.console.sources import Source
from serving.frontend.apps.console.trying import Trying
from serving.frontend.entrance import App


def console_of(source: Source) -> tuple[App, Callable[[], None]]:
    """Make the console of a server, and what ends what it does beside: streams, and a load test."""
    shared = around(source)
    loads = Loads(shared)
    pages = (Models(shared), Trying(shared), loads, Reading(shared))

    def end() -> None:
        shared.watch.end()
        loads.end()

    return Console(shared, [route for page in pages for route in page.routes]), end
