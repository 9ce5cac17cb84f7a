"""Registrations that are meant badly, or come at a bad moment, with real workers."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from serving.errors import StartError
from serving.frontend.engine import Registration
from serving.frontend.errors import (
    BadRequestError,
    FrontendError,
    ModelError,
    ModelNotFoundError,
    NoGpusError,
    UnavailableError,
)

from .conftest import Bench

_ANY = "file://.*,http://.*"
_ECHO = """
import time

def handle(data, context):
    if data is None:
        return None
    texts = [bytes(row["body"]).decode() for row in data]
    for text in texts:
        if text.startswith("sleep "):
            time.sleep(float(text.split()[1]))
    return texts
"""


@contextlib.contextmanager
def _endless_server() -> Iterator[int]:
    """Serve archives that never end, a byte now and then."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        connections: list[socket.socket] = []

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connections.append(listening.accept()[0])
                    connections[-1].sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\nx")

        threading.Thread(target=accept, daemon=True).start()
        yield listening.getsockname()[1]
        listening.shutdown(socket.SHUT_RDWR)
        for one in connections:
            one.close()


def test_downloads_that_do_not_end_hold_up_neither_other_work_nor_the_end(bench: Bench) -> None:
    began = 0.0

    async def work() -> None:
        nonlocal began
        tasks = [
            asyncio.ensure_future(bench.register(f"http://127.0.0.1:{port}/{n}.mar"))
            for n in range(min(32, (os.cpu_count() or 1) + 4))
        ]
        while len(list(bench.store.iterdir())) < min(len(tasks), 16):
            await asyncio.sleep(0.05)
        await asyncio.wait_for(asyncio.to_thread(int), 5)
        for task in tasks:
            task.cancel()
        began = time.monotonic()

    with _endless_server() as port:
        bench.run(work, allowed_urls=_ANY)
        assert time.monotonic() - began < 10
        assert list(bench.store.iterdir()) == [], "half a file is left"


@pytest.mark.parametrize("way", ["..", "%2e%2e", "%2E.", ".%2e"])
def test_no_path_leads_out_of_what_is_allowed(bench: Bench, way: str) -> None:
    archive = bench.build("echo", _ECHO)
    (bench.root / "allowed").mkdir()
    (bench.store / archive).rename(bench.root / archive)

    async def work() -> None:
        with pytest.raises(ModelNotFoundError):
            await bench.register(f"file://{bench.root}/allowed/{way}/{archive}")
        assert list(bench.store.iterdir()) == []

    bench.run(work, allowed_urls=f"file://{bench.root}/allowed/.*")


def test_what_is_fetched_and_no_archive_does_not_stay(bench: Bench) -> None:
    text = bench.root / "text.mar"
    text.write_text("no archive")

    async def work() -> None:
        for _ in range(2):  # a file that stays is in its own way
            with pytest.raises(ModelError, match="neither a zip"):
                await bench.register(f"file://{text}")
            assert list(bench.store.iterdir()) == []
        with pytest.raises(BadRequestError, match="device"):
            await bench.register("file:///dev/zero")

    bench.run(work, allowed_urls=_ANY)


@pytest.mark.parametrize(
    "url", ["\ud800.mar", "http://h/\ud800.mar", "file:///\ud800", "a" * 5000, "http://h/" + "a" * 5000]
)
def test_a_url_that_can_name_no_file_is_the_clients_fault(bench: Bench, url: str) -> None:
    async def work() -> None:
        with pytest.raises(FrontendError) as caught:
            await bench.register(url)
        assert 400 <= caught.value.status < 500
        assert len(caught.value.message) < 500

    bench.run(work, allowed_urls=_ANY)


@pytest.mark.parametrize("name", ["a\nb", "a\rb", "\x1b[2J", "a\x00", "\ud800", "a" * 257])
def test_a_name_that_would_forge_lines_of_logs_is_refused(bench: Bench, name: str) -> None:
    archive = bench.build("echo", _ECHO)

    async def work() -> None:
        with pytest.raises(ModelError, match="name"):
            await bench.register(archive, model_name=name)
        assert bench.engine.names() == []

    bench.run(work)


def test_a_worker_that_cannot_be_started_at_all_fails_its_registration(bench: Bench) -> None:
    archive = bench.build("echo", _ECHO)

    async def work() -> None:
        for handler in ("\ud800:handle", "\x00/a:handle"):
            with pytest.raises(FrontendError, match="cannot be started"):
                await asyncio.wait_for(bench.register(archive, handler=handler), 10)

    bench.run(work)


def test_more_workers_than_any_machine_has_are_refused(bench: Bench) -> None:
    archive = bench.build("echo", _ECHO)
    wide = bench.build("wide", _ECHO, "parallelType: custom\nparallelLevel: 2000000000\n")
    elastic = bench.build("elastic", _ECHO, "minWorkers: 0\nmaxWorkers: 1001\n")

    async def work() -> None:
        with pytest.raises(BadRequestError, match="workers"):
            await bench.register(archive, initial_workers=2**31 - 1)
        with pytest.raises(BadRequestError, match="processes"):
            await bench.register(wide, initial_workers=0)
        with pytest.raises(BadRequestError, match=r"1001 workers are more than the 1000 .*maxWorkers"):
            await bench.register(elastic)  # as many as what waits asks for
        await bench.register(archive, initial_workers=0)
        for least, most in ((2**31 - 1, None), (0, 1001)):
            with pytest.raises(BadRequestError, match="workers are more than the 1000 processes"):
                await bench.engine.scale("echo", None, least, most, synchronous=False)
        assert bench.engine.describe("echo", None)[0].settings["maxWorkers"] == 0

    bench.run(work)


def test_a_snapshot_cannot_ask_for_more_workers_than_any_machine_has(bench: Bench) -> None:
    bench.build("echo", _ECHO)
    told = {"defaultVersion": True, "marName": "echo.mar", "minWorkers": 10**9, "maxWorkers": 10**9}
    told |= {"batchSize": 1, "maxBatchDelay": 100}
    text = json.dumps({"name": "x", "models": {"echo": {"1.0": told}}})

    async def work() -> None:
        raise AssertionError("it has started")

    with pytest.raises(StartError, match="1000 processes"):
        bench.run(work, model_snapshot=text)


def test_gpus_played_a_parallel_model_is_cut_down_to_them(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """In descriptions, and in what is written down; no worker is started."""
    wide = bench.build("wide", _ECHO, "parallelType: custom\nparallelLevel: 2\n")
    wider = bench.build("wider", _ECHO, "parallelType: custom\nparallelLevel: 8\n")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3")

    async def work() -> None:
        await bench.register(wide, initial_workers=0)
        await bench.engine.scale("wide", None, 0, 2000, synchronous=True)
        assert bench.engine.describe("wide", None)[0].settings["maxWorkers"] == 2
        with pytest.raises(NoGpusError, match="No enough gpu devices for model:wider parallelLevel:8"):
            await bench.register(wider, initial_workers=0)
        assert [name for name, _ in bench.engine.names()] == ["wide"]

    bench.run(work)


def test_who_scales_what_is_being_unregistered_starts_no_worker(bench: Bench) -> None:
    archive = bench.build("echo", _ECHO)

    async def work() -> None:
        await bench.register(archive)
        answer = asyncio.ensure_future(bench.ask("echo", "sleep 1"))
        await asyncio.sleep(0.2)
        going = asyncio.ensure_future(bench.engine.unregister("echo", None))
        await asyncio.sleep(0.1)
        with pytest.raises(ModelNotFoundError):
            await bench.engine.scale("echo", None, 2, 2, synchronous=False)
        await asyncio.gather(answer, going)
        await asyncio.sleep(0.5)
        assert list(Path(bench.root).glob(".ts.sock*")) == []
        await bench.register(archive)
        answer = asyncio.ensure_future(bench.ask("echo", "sleep 1"))
        await asyncio.sleep(0.2)
        slow = asyncio.ensure_future(bench.engine.scale("echo", None, 0, 0, synchronous=True))
        await asyncio.sleep(0.1)
        going = asyncio.ensure_future(bench.engine.unregister("echo", None))
        late = asyncio.ensure_future(bench.engine.scale("echo", None, 2, 2, synchronous=False))
        found = await asyncio.gather(slow, going, late, answer, return_exceptions=True)
        assert isinstance(found[2], ModelNotFoundError)
        assert bench.engine.names() == []

    bench.run(work)


def test_a_server_that_ends_takes_no_model_and_starts_no_worker(bench: Bench) -> None:
    archive = bench.build("echo", _ECHO)

    async def work() -> None:
        await bench.register(archive)
        answer = asyncio.ensure_future(bench.ask("echo", "sleep 1"))
        await asyncio.sleep(0.2)
        ending = asyncio.ensure_future(bench.engine.drain(10))
        await asyncio.sleep(0.1)
        with pytest.raises(UnavailableError):
            await bench.engine.register(Registration(archive, "other", initial_workers=1))
        with pytest.raises(UnavailableError):
            await bench.engine.scale("echo", None, 3, 3, synchronous=False)
        assert bytes((await answer).body) == b"sleep 1"
        await ending

    bench.run(work)
