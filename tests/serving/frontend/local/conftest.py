"""An engine with real workers, in a folder of its own. Nothing here needs torch, so the workers start without it."""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
import signal
import tempfile
import uuid
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import archive_tool
from serving.control.configuration import config
from serving.frontend import settings
from serving.frontend.engine import Answer, Call, Priority, Registration
from serving.frontend.local import worker
from serving.frontend.local.engine import LocalEngine
from serving.frontend.local.models.snapshots import Snapshots
from serving.frontend.settings import Place, Settings
from serving.protocol import Parameter, Request


class Counts:
    """Meters that count."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.statuses: list[int] = []
        self.deaths = 0
        self.drops: list[str] = []
        self.defaults: list[str] = []
        self.copies: list[str] = []
        self.resends = 0
        self.levels: tuple[int, int] = (0, 0)

    def answered(
        self, name: str, version: str, *, queue_s: float, total_s: float, batch: int, status: int = 200
    ) -> None:
        self.batches.append(batch)
        self.statuses.append(status)

    def responded(self, status: int) -> None:
        raise AssertionError(f"an engine gives no HTTP response: {status}")

    def dropped(self, name: str, version: str, reason: str) -> None:
        self.drops.append(reason)

    def defaulted(self, name: str, version: str, reason: str) -> None:
        self.defaults.append(reason)

    def resent(self, name: str, version: str) -> None:
        self.resends += 1

    def level(self, name: str, version: str, *, waiting: int, running: int) -> None:
        self.levels = (waiting, running)

    def shadowed(self, name: str, version: str, outcome: str, seconds: float) -> None:
        assert (seconds > 0) == (outcome != "dropped")
        self.copies.append(outcome)

    def loaded(self, name: str, version: str, worker: str, seconds: float) -> None: ...

    def died(self, name: str, version: str) -> None:
        self.deaths += 1

    def forgotten(self, name: str, version: str) -> None: ...

    def worker_line(self, name: str, version: str, line: str) -> bool:
        return line.startswith("[METRICS]")


@dataclass
class Bench:
    """A folder with a model store, and the engine that works on it."""

    root: Path
    counts: Counts = field(default_factory=Counts)
    lines: list[str] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)
    engine: LocalEngine = field(init=False)

    @property
    def store(self) -> Path:
        return self.root / "store"

    def show_torch(self) -> None:
        """Let the workers import torch."""
        (self.root / "hidden" / "torch.py").unlink()

    def settings(self, **properties: str) -> Settings:
        place = Place(self.store, settings.home_of(None), self.root, self.root, self.root)
        return settings.of(config.effective(properties, port=None, workers=1), place)

    def build(self, name: str, source: str, model_config: str = "", **options: Any) -> str:
        """Write an archive of a handler given as source; returns its file's name."""
        handler = self.root / f"{name}_handler.py"
        handler.write_text(source)
        if model_config:
            (self.root / "model-config.yaml").write_text(model_config)
            options["config_file"] = self.root / "model-config.yaml"
        archive_tool.build(model_name=name, handler=str(handler), export_path=self.store, force=True, **options)
        return f"{name}.mar"

    async def register(self, archive: str, **options: Any) -> None:
        await self.engine.register(Registration(archive, **{"initial_workers": 1, **options}))

    def call(
        self,
        name: str,
        body: bytes | str = b"",
        *,
        version: str | None = None,
        deadline: float | None = None,
        priority: Priority = Priority.NORMAL,
        headers: dict[str, str] | None = None,
        may_default: bool = False,
    ) -> Call:
        body = body.encode() if isinstance(body, str) else body
        request = Request(uuid.uuid4().hex, {"Host": "here", **(headers or {})}, (Parameter("body", bytearray(body)),))
        return Call(name, version, request, deadline, priority, may_default)

    async def ask(self, name: str, body: bytes | str = b"", **options: Any) -> Answer:
        return await self.engine.predict(self.call(name, body, **options))

    def pids(self, name: str) -> list[int]:
        return [worker.pid for worker in self.engine.describe(name, None)[0].workers]

    def kill(self, name: str) -> int:
        """Kill the first worker of a model, and return its process id."""
        pid = self.pids(name)[0]
        assert pid > 0, "it has not told its process id; -1 would be every process of this user"
        os.kill(pid, signal.SIGKILL)
        return pid

    def run(self, work: Callable[[], Awaitable[None]], **properties: str) -> None:
        """Run a test's coroutine with an engine; whatever happens, no process of it is left."""

        async def main() -> None:
            settings = self.settings(**properties)
            self.engine = LocalEngine(
                settings,
                self.counts,
                lambda worker, pipe, text: self.lines.append(f"{worker} {pipe} {text}"),
                ended=self.ended.append,
                written=Snapshots(settings),
            )
            try:
                await self.engine.start([], load_all=False)
                await asyncio.wait_for(work(), 120)
            finally:
                await self.engine.drain(2.0)
            assert list((self.root / "models").glob("*")) == []
            assert list(self.root.glob(".ts.sock*")) == []

        asyncio.run(main())


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    # Not pytest's tmp_path: the path of a socket below it would be too long.
    root = Path(tempfile.mkdtemp(prefix="tmtest-", dir="/tmp")).resolve()
    (root / "store").mkdir()
    (root / "hidden").mkdir()
    (root / "hidden" / "torch.py").write_text("raise ImportError('torch is hidden from this test')\n")
    monkeypatch.setenv("PYTHONPATH", str(root / "hidden"))
    monkeypatch.chdir(root)
    # What died is started again at once; test_engine.py has the pauses as they are.
    monkeypatch.setattr(worker, "_pauses", lambda: itertools.repeat(0.05))
    yield Bench(root)
    shutil.rmtree(root, ignore_errors=True)
