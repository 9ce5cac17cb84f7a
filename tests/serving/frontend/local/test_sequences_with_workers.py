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


_SUMS = """
import os

SUMS = {}

def handle(data, context):
    if data is None:
        return None
    for index, row in enumerate(data):
        name = context.get_sequence_id(index)
        SUMS[name] = SUMS.get(name, 0) + int(bytes(row["body"]))
        context.set_response_header(index, "ts_request_sequence_id", name)
        if SUMS[name] > 99:
            context.set_response_header(index, "ts_request_sequence_end", name)
    return [str(SUMS[context.get_sequence_id(index)]) for index in range(len(data))]
"""


def test_sequences_keep_their_worker(bench: Bench) -> None:
    config = "sequenceBatching: true\nsequenceMaxIdleMSec: 60000\nmaxNumSequence: 4\n"
    archive = bench.build("sums", _SUMS, config)

    async def work() -> None:
        await bench.register(archive, initial_workers=2)

        async def add(number: int, name: str) -> str:
            headers = {"ts_request_sequence_id": name} if name else {}
            answer = await bench.ask("sums", str(number), headers=headers)
            assert name in ("", answer.headers["ts_request_sequence_id"])
            return bytes(answer.body).decode()

        for turn in range(1, 4):
            sums = await asyncio.gather(*(add(number, name) for number, name in enumerate("abc", 1)))
            assert sums == [str(turn), str(2 * turn), str(3 * turn)]
        assert await add(100, "") == "100"  # a sequence of its own, which ends with its answer
        assert await add(100, "") == "100"
        assert await add(1, "d") == "1"
        with pytest.raises(UnavailableError, match="exceeds maxSequenceJobQueueSize"):
            await add(1, "e")

    bench.run(work)
