"""The console at a real port, in front of the management API, over an engine that is played."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

import archive_tool
from serving.frontend.apps.console.beside import Beside
from serving.frontend.apps.console.sources import EngineSource
from serving.frontend.apps.console.whole import console_of
from serving.frontend.apps.inference import inference_app
from serving.frontend.apps.keys import Keys
from serving.frontend.apps.management import management_app
from tests.serving.frontend.apps.conftest import (
    PLAIN,
    PlayedEngine,
    PlayedMeters,
    listening,
    played_engine,
    reaching,
    settings_of,
)

METRICS = """\
ts_inference_requests_total{model_name="echo",model_version="1.0",hostname="h"} 5.0
Requests5XX{Level="Host",Hostname="h"} 1.0
"""


@dataclass
class Shown:
    """A console and what it is about."""

    engine: PlayedEngine
    keys: Keys | None
    port: int
    folder: Path
    end: Callable[[], object]

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=30, verify=PLAIN)


def mark_of(page: httpx.Response) -> str:
    """Return the mark of a page's forms."""
    found = re.search(r'name="mark" value="([0-9a-f]{64})"', page.text)
    assert found, page.text
    return found[1]


@contextlib.contextmanager
def shown(folder: Path, *, keyed: bool = False, asked: bool = False, **properties: str) -> Iterator[Shown]:
    """Serve a console and the management API over a played engine; with `asked` the inference API, too."""
    engine, meters = played_engine(), PlayedMeters()
    keys = Keys(folder / "key_file.json", 60) if keyed else None
    with contextlib.ExitStack() as stack:
        if asked:
            port = stack.enter_context(listening(inference_app(engine, settings_of(folder), keys, meters)))
            properties["inference_address"] = f"http://127.0.0.1:{port}"
        settings = settings_of(folder, **properties)
        source = EngineSource(engine, settings, keys, lambda _: METRICS.encode())
        console = Beside(management_app(engine, settings, keys, meters), lambda: console_of(source))
        found = stack.enter_context(reaching(console))

        async def end() -> None:
            console.end()

        yield Shown(engine, keys, found.port, folder, lambda: found.do(end()))


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build an archive with samples, and signature and description."""
    folder = tmp_path_factory.mktemp("archive")
    (folder / "handler.py").write_text("def handle(data, context):\n    return data\n")
    (folder / "cat.txt").write_text("a cat <b>")
    (folder / "two.json").write_text('{"a": 1}')
    built = archive_tool.build(
        model_name="echo",
        handler=str(folder / "handler.py"),
        export_path=folder,
        sample=[str(folder / "cat.txt"), str(folder / "two.json")],
        description="It says <again> what it hears.",
    )
    return Path(built.path)


@pytest.fixture
def console(tmp_path: Path, archive: Path) -> Iterator[Shown]:
    """Serve a console that asks for no key, of models that can be registered and removed; echo has an archive."""
    (tmp_path / "echo1.0.mar").write_bytes(archive.read_bytes())
    with shown(tmp_path, enable_model_api="true") as found:
        yield found
