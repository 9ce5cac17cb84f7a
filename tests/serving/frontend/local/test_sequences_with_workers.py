"""Sequences with real workers: each in its order and with its worker, until it ends."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from serving.frontend.errors import UnavailableError

from .conftest import Bench

_COUNTING = """
import os

kept = {}

def handle(data, context):
    if data is None:
        return None
    answers = []
    for at, row in enumerate(data):
        name = context.get_sequence_id(at)
        kept[name] = kept.get(name, "") + bytes(row["body"]).decode()
        answers.append(f"{kept[name]} {os.getpid()}")
        if kept[name].endswith("!"):
            context.set_response_header(at, "ts_request_sequence_end", name)
    return answers
"""
_CONFIG = (
    "sequenceBatching: true\nbatchSize: 1\nsequenceMaxIdleMSec: {idle}\nmaxNumSequence: 2\nmaxSequenceJobQueueSize: 8\n"
)


async def _ask(bench: Bench, name: str, body: str) -> str:
    answer = await bench.ask("counting", body, headers={"ts_request_sequence_id": name})
    return bytes(answer.body).decode()


def test_a_sequence_is_in_order_and_with_one_worker(bench: Bench) -> None:
    archive = bench.build("counting", _COUNTING, _CONFIG.format(idle=60000) + "minWorkers: 2\nmaxWorkers: 2\n")

    async def work() -> None:
        await bench.register(archive)
        asked = [_ask(bench, name, body) for body in "abcd" for name in ("one", "two")]
        answers = [answer.split() for answer in await asyncio.gather(*asked)]
        for mine in (answers[::2], answers[1::2]):
            assert [kept for kept, _ in mine] == ["a", "ab", "abc", "abcd"]
            assert len({pid for _, pid in mine}) == 1
        assert len({pid for _, pid in answers}) == 2
        with pytest.raises(UnavailableError):  # maxNumSequence
            await _ask(bench, "three", "a")
        await _ask(bench, "one", "!")
        assert (await _ask(bench, "three", "a")).split()[0] == "a"

    bench.run(work)


def test_a_sequence_that_is_over_makes_room(bench: Bench) -> None:
    archive = bench.build("counting", _COUNTING, _CONFIG.format(idle=300))

    async def work() -> None:
        await bench.register(archive)
        await _ask(bench, "one", "a")
        # Its worker keeps one at once.
        assert (await asyncio.wait_for(_ask(bench, "two", "b"), 30)).split()[0] == "b"

    bench.run(work)


def test_a_sequence_dies_with_its_worker(bench: Bench) -> None:
    archive = bench.build("counting", _COUNTING, _CONFIG.format(idle=60000))

    async def work() -> None:
        await bench.register(archive)
        pid = int((await _ask(bench, "one", "a")).split()[1])
        os.kill(pid, signal.SIGKILL)
        while bench.pids("counting") in ([pid], [-1]):
            await asyncio.sleep(0.05)
        while not bench.engine.ready:
            await asyncio.sleep(0.05)
        assert (await _ask(bench, "one", "b")).split()[0] == "b"

    bench.run(work)
