"""Default answers of models with real workers: when they are given, and when an error is due."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from archive_tool.config import default_answer
from serving.frontend.errors import DeadlineError, FrontendError, ModelError, UnavailableError

from .conftest import Bench

_SLEEP = """
import time

def handle(data, context):
    if data is None:
        return None
    time.sleep(max(float(bytes(row["body"])) for row in data))
    return ["the model's"] * len(data)
"""
_CONFIG = "default_answer: none.json\n"


def _build(bench: Bench, config: str = _CONFIG) -> str:
    (bench.root / "none.json").write_text('{"label": null}')
    return bench.build("sleep", _SLEEP, config, extra_files=str(bench.root / "none.json"))


async def _ask(bench: Bench, seconds: float, *, within: float | None = None, plain: bool = True) -> str:
    """Return the reason of a default answer; the body of the model's."""
    deadline = None if within is None else asyncio.get_running_loop().time() + within
    answer = await bench.ask("sleep", str(seconds), deadline=deadline, may_default=plain)
    if "x-default-answer" not in answer.headers:
        assert (answer.counted, answer.content_type) == (0, "")
        return bytes(answer.body).decode()
    assert (answer.status, answer.content_type, answer.body) == (200, "application/json", b'{"label": null}')
    assert (answer.version, answer.rest, answer.timings) == ("1.0", None, None)
    assert answer.counted == {"deadline": 504, "queue": 503}[answer.headers["x-default-answer"]]
    return answer.headers["x-default-answer"]


def test_at_the_deadline_whether_the_request_waits_or_runs(bench: Bench) -> None:
    archive = _build(bench)

    async def work() -> None:
        await bench.register(archive)
        loop = asyncio.get_running_loop()
        begun = loop.time()
        running = asyncio.ensure_future(_ask(bench, 0.8, within=0.3))
        await asyncio.sleep(0.1)
        assert await _ask(bench, 0, within=0.1) == "deadline"
        assert await _ask(bench, 0, within=-1) == "deadline"
        assert await running == "deadline"
        assert loop.time() - begun < 0.7
        # What ran is read and dropped; what waited was not begun.
        assert await _ask(bench, 0, within=60) == "the model's"
        assert len(bench.counts.batches) == 2
        assert bench.counts.drops == bench.counts.defaults == ["deadline"] * 3

    bench.run(work)


def test_a_full_queue(bench: Bench) -> None:
    archive = _build(bench, _CONFIG + "jobQueueSize: 1\n")

    async def work() -> None:
        await bench.register(archive)
        busy = asyncio.ensure_future(_ask(bench, 0.3))
        await asyncio.sleep(0.1)
        waits = asyncio.ensure_future(_ask(bench, 0))
        await asyncio.sleep(0)
        assert await _ask(bench, 0) == "queue"
        with pytest.raises(UnavailableError):
            await _ask(bench, 0, plain=False)
        assert await asyncio.gather(busy, waits) == ["the model's"] * 2
        assert (bench.counts.drops, bench.counts.defaults) == (["queue"] * 2, ["queue"])

    bench.run(work)


def test_the_models_own_limit_is_a_deadline(bench: Bench) -> None:
    archive = _build(bench, _CONFIG + "clientTimeoutInMills: 200\n")

    async def work() -> None:
        await bench.register(archive)
        assert await _ask(bench, 0.5) == "deadline"
        await asyncio.sleep(0.5)
        assert await _ask(bench, 0) == "the model's"

    bench.run(work)


def test_other_requests_get_the_error(bench: Bench) -> None:
    archive = _build(bench)

    async def work() -> None:
        await bench.register(archive)
        busy = asyncio.ensure_future(_ask(bench, 0.3, within=0.1, plain=False))
        await asyncio.sleep(0.05)
        with pytest.raises(DeadlineError):
            await _ask(bench, 0, within=0.1, plain=False)
        assert await busy == "the model's"  # late, and there
        assert bench.counts.defaults == []

    bench.run(work)


def test_no_worker_is_no_reason(bench: Bench) -> None:
    """A worker that died and comes again is one: the request waits for it, no longer than its deadline."""
    archive = _build(bench)

    async def work() -> None:
        await bench.register(archive)
        running = asyncio.ensure_future(_ask(bench, 60))
        await asyncio.sleep(0.2)
        bench.kill("sleep")
        with pytest.raises(FrontendError, match="Worker died"):
            await running
        assert await _ask(bench, 0, within=0.05) == "deadline"
        await bench.engine.scale("sleep", None, 0, None, synchronous=True)
        with pytest.raises(UnavailableError):
            await _ask(bench, 0, within=60)

    bench.run(work)


@pytest.mark.parametrize("mode", ["useJobTicket: true", "sequenceBatching: true\nsequenceMaxIdleMSec: 60000"])
def test_models_that_have_none(bench: Bench, mode: str) -> None:
    archive = _build(bench, f"{_CONFIG}{mode}\n")

    async def work() -> None:
        await bench.register(archive)
        sequence = {"ts_request_sequence_id": "one", "ts_request_sequence_start": "True"}
        with pytest.raises(DeadlineError):
            await bench.ask("sleep", "0", deadline=0.0, may_default=True, headers=sequence)
        assert bench.counts.defaults == []

    bench.run(work)


@pytest.mark.parametrize(
    ("config", "size", "message"),
    [
        ("default_answer: gone.json\n", 2, "names 'gone.json', which is no file of the archive: write the name"),
        ("default_answer: /etc/hostname\n", 2, "names '/etc/hostname', which is no file of the archive"),
        ("default_answer: none.json\n", default_answer.MAX_BYTES + 1, "has 1048577 bytes"),
        ("default_answer: [a]\n", 2, "default_answer in the model's configuration is wrong: it is neither"),
    ],
)
def test_an_archive_without_it_is_not_registered(bench: Bench, config: str, size: int, message: str) -> None:
    """As it comes from another archiver, or from a folder."""
    folder = bench.store / "sleep"
    (folder / "MAR-INF").mkdir(parents=True)
    described = '"modelName": "sleep", "handler": "h.py", "configFile": "c.yaml"'
    (folder / "MAR-INF" / "MANIFEST.json").write_text(f'{{"runtime": "python", "model": {{{described}}}}}')
    (folder / "h.py").write_text(_SLEEP)
    (folder / "c.yaml").write_text(config)
    (folder / "none.json").write_bytes(bytes(size))

    async def work() -> None:
        with pytest.raises(ModelError) as refused:
            await bench.register(str(folder))
        assert message in refused.value.message
        assert list((bench.root / "models").glob("*")) == []

    bench.run(work)


def test_a_request_that_is_sent_again_keeps_its_deadline(bench: Bench) -> None:
    archive = _build(bench, "backend:\n  retry: true\n")

    async def work() -> None:
        await bench.register(archive)
        found: list[Any] = []
        for within in (0.12, 60.0):
            running = asyncio.ensure_future(_ask(bench, 0.2, within=within))
            await asyncio.sleep(0.1)
            pid = bench.kill("sleep")
            found += await asyncio.gather(running, return_exceptions=True)
            while bench.pids("sleep")[0] in (pid, -1) or not bench.engine.ready:
                await asyncio.sleep(0.02)
        assert isinstance(found[0], DeadlineError)  # it passes before a new worker is there
        assert found[1] == "the model's"
        assert bench.counts.drops == ["deadline"]

    bench.run(work)
