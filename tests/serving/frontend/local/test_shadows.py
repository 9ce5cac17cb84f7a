"""Shadows with real workers: they get copies, and nobody sees what they make of them."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from serving.frontend.engine import Share

from .conftest import Bench

_GOOD = """
def handle(data, context):
    return None if data is None else ["good"] * len(data)
"""
# What it sees goes into a file, a line for each request.
_SHADOW = """
import os, time

def handle(data, context):
    if data is None:
        return None
    with open("FOLDER/seen", "a") as file:
        for at, row in enumerate(data):
            file.write(f"{bytes(row['body']).decode()} {context.request_ids[at]} {len(data)}\\n")
    text = bytes(data[0]["body"]).decode()
    if text == "die":
        os.kill(os.getpid(), 9)
    if text == "fail":
        raise ValueError("no")
    if text.startswith("sleep "):
        time.sleep(float(text.split()[1]))
    return ["bad"] * len(data)
"""
_STREAM = """
from ts.handler_utils.utils import send_intermediate_predict_response

def handle(data, context):
    if data is None:
        return None
    if bytes(data[0]["body"]) == b"stream":
        send_intermediate_predict_response(["part"], context.request_ids, "ok", 200, context)
    return ["end"] * len(data)
"""


async def _registered(bench: Bench, config: str = "", shadow: str = _SHADOW, default: str = _GOOD) -> None:
    """Register version 1.0, which is the default one, and 2.0, a shadow of all of its requests."""
    for number, source, text in (("1.0", default, ""), ("2.0", shadow, config)):
        bench.build("m", source.replace("FOLDER", str(bench.root)), text, version=number)
        (bench.store / "m.mar").rename(bench.store / f"{number}.mar")
        await bench.register(f"{number}.mar")
    done = await bench.engine.share("m", "2.0", Share(100, shadow=True))
    assert done.message == 'Version 2.0 of model "m" gets copies of 100 % of the requests that name no version'


async def _good(bench: Bench, body: str) -> None:
    answer = await bench.ask("m", body)
    assert (bytes(answer.body), answer.status, answer.version) == (b"good", 200, "1.0")


async def _copies(bench: Bench, *outcomes: str) -> None:
    """Wait until copies have come to these ends."""
    deadline = time.monotonic() + 30
    while len(bench.counts.copies) < len(outcomes) and time.monotonic() < deadline:
        await asyncio.sleep(0.01)
    assert sorted(bench.counts.copies) == sorted(outcomes)


def _seen(bench: Bench) -> list[list[str]]:
    file = Path(bench.root, "seen")
    return [line.split() for line in file.read_text().splitlines()] if file.exists() else []


def test_a_shadow_gets_copies_and_the_client_the_answer_of_the_default_version(bench: Bench) -> None:
    async def work() -> None:
        await _registered(bench)
        for number in range(5):
            await _good(bench, f"body{number}")
            await _copies(bench, *["answered"] * (number + 1))
        assert [body for body, _, _ in _seen(bench)] == [f"body{number}" for number in range(5)]
        ids = [name for _, name, _ in _seen(bench)]
        assert len(set(ids)) == 5
        assert all("shadow-" in name and not name.isascii() for name in ids)  # no client can have it
        # Where a version is named, nothing is copied; a description neither.
        for version in ("1.0", "2.0"):
            await bench.ask("m", "named", version=version)
        await bench.ask("m", "described", headers={"describe": "True"})
        await asyncio.sleep(0.1)
        await _copies(bench, *["answered"] * 5)
        # Seven answers that clients saw, and no copy among them.
        assert len(bench.counts.batches) == 8
        await bench.engine.share("m", "2.0", Share(0, shadow=True))
        await _good(bench, "after")
        await asyncio.sleep(0.1)
        await _copies(bench, *["answered"] * 5)

    bench.run(work)


def test_copies_make_batches(bench: Bench) -> None:
    async def work() -> None:
        await _registered(bench, "batchSize: 8\n", default=_GOOD)
        await bench.engine.scale("m", "1.0", 1, 1, synchronous=True)
        for number in range(8):
            bench.engine._shadow("2.0", bench.call("m", f"{number}"))
        await _copies(bench, *["answered"] * 8)
        assert {size for _, _, size in _seen(bench)} == {"8"}

    bench.run(work)


def test_a_copy_is_dropped_where_no_worker_is_free_and_delays_nobody(bench: Bench) -> None:
    async def work() -> None:
        await _registered(bench)
        begun = time.monotonic()
        await _good(bench, "sleep 2")
        await asyncio.sleep(0.1)
        for _ in range(5):
            await _good(bench, "x")
        await _copies(bench, *["dropped"] * 5)
        # What a client asks of that version waits, and goes before any copy.
        named = asyncio.ensure_future(bench.ask("m", "named", version="2.0"))
        assert time.monotonic() - begun < 1.5
        await _copies(bench, "answered", *["dropped"] * 5)
        assert bytes((await named).body) == b"bad"
        assert bench.counts.drops == []

    bench.run(work)


def test_what_a_copy_fails_with_nobody_sees_and_it_is_not_sent_again(bench: Bench) -> None:
    async def work() -> None:
        await _registered(bench, "backend:\n  retry: true\n")
        await _good(bench, "fail")
        await _copies(bench, "failed")
        await _good(bench, "die")
        await _copies(bench, "failed", "failed")
        await _good(bench, "dropped")  # its worker is not there again
        await _copies(bench, "failed", "failed", "dropped")
        while not bench.engine.describe("m", "2.0")[0].workers[0].ready:
            await asyncio.sleep(0.05)
        await _good(bench, "after")
        await _copies(bench, "failed", "failed", "dropped", "answered")
        assert [body for body, _, _ in _seen(bench)] == ["fail", "die", "after"]
        assert (bench.counts.resends, bench.counts.drops) == (0, [])

    bench.run(work)


def test_nobody_waits_for_a_copy_where_a_version_is_to_end(bench: Bench) -> None:
    async def work() -> None:
        await _registered(bench)
        await _good(bench, "sleep 60")
        while not bench.counts.levels[1]:
            await asyncio.sleep(0.01)
        begun = time.monotonic()
        await bench.engine.unregister("m", "2.0")
        assert time.monotonic() - begun < 20
        await _copies(bench, "failed")
        await _good(bench, "after")

    bench.run(work)


@pytest.mark.slow  # imports torch
def test_no_stream_is_copied_and_of_one_that_a_shadow_begins_nothing_is_kept(bench: Bench) -> None:
    bench.show_torch()

    async def work() -> None:
        await _registered(bench, shadow=_STREAM)
        await _good(bench, "stream")
        await _copies(bench, "answered")
        await bench.engine.set_default("m", "2.0")
        await bench.engine.share("m", "1.0", Share(100, shadow=True))
        answer = await bench.ask("m", "stream")
        assert answer.rest is not None
        assert b"".join([bytes(answer.body), *[bytes(part) async for part in answer.rest]]) == b"partend"
        await asyncio.sleep(0.2)
        await _copies(bench, "answered")
        assert bytes((await bench.ask("m", "whole")).body) == b"end"
        await _copies(bench, "answered", "answered")

    bench.run(work)
