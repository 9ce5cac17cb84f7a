"""Canaries with real workers: who answers the requests that name no version, whatever becomes of the versions."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
from collections import Counter

import pytest

from serving.control.configuration.config import read_properties
from serving.control.models.snapshots import KEY
from serving.errors import StartError
from serving.frontend.engine import Registration, Share
from serving.frontend.errors import BadRequestError, ModelNotFoundError, UnavailableError, VersionNotFoundError

from .conftest import Bench

_ECHO = """
import os, time

class Handler:
    def initialize(self, context):
        self.version = context.manifest["model"]["modelVersion"]
        if os.path.exists("FOLDER/broken"):
            raise ValueError("it is broken now")

    def handle(self, data, context):
        if context.get_request_header(0, "describe") == "True":
            return [self.version] * len(data)
        for row in data:
            text = bytes(row["body"]).decode()
            if text.startswith("sleep "):
                time.sleep(float(text.split()[1]))
        return [self.version] * len(data)
"""
_KEPT = """
kept = {}

def handle(data, context):
    if data is None:
        return None
    answers = []
    for at, row in enumerate(data):
        name = context.get_sequence_id(at)
        kept[name] = kept.get(name, "") + bytes(row["body"]).decode()
        answers.append(context.manifest["model"]["modelVersion"] + " " + kept[name])
    return answers
"""
_SEQUENCES = (
    "sequenceBatching: true\nbatchSize: 1\nsequenceMaxIdleMSec: 60000\nmaxNumSequence: 2\nmaxSequenceJobQueueSize: 4\n"
)
_RETRY = "backend:\n  retry: true\n"


def _built(bench: Bench, source: str, *configs: str) -> list[str]:
    """Build versions 1.0, 2.0, ... of a model m, each with its configuration."""
    names = []
    for number, config in enumerate(configs, 1):
        bench.build("m", source.replace("FOLDER", str(bench.root)), config, version=f"{number}.0")
        names.append(f"m-{number}.mar")
        (bench.store / "m.mar").rename(bench.store / names[-1])
        (bench.root / "model-config.yaml").unlink(missing_ok=True)
    return names


async def _ask(bench: Bench, body: str = "x", **headers: str) -> str:
    answer = await bench.ask("m", body, headers={name.replace("_", "-"): value for name, value in headers.items()})
    text = bytes(answer.body).decode()
    assert text.startswith(answer.version)
    return text


async def _count(bench: Bench, times: int, **headers: str) -> Counter[str]:
    return Counter([await _ask(bench, **headers) for _ in range(times)])


def test_only_requests_that_name_no_version_are_shared_out(bench: Bench) -> None:
    one, two = _built(bench, _ECHO, "", "")

    async def work() -> None:
        engine = bench.engine
        for archive in (one, two):
            await bench.register(archive)
        done = await engine.share("m", "2.0", Share(30))
        assert (done.status, done.message) == (
            200,
            'Version 2.0 of model "m" gets 30 % of the requests that name no version',
        )
        found = await _count(bench, 300)
        assert 45 <= found["2.0"] <= 140
        assert found["1.0"] == 300 - found["2.0"]
        for version in ("1.0", "2.0"):
            assert {(await bench.ask("m", "x", version=version)).version for _ in range(20)} == {version}
        await engine.share("m", "2.0", Share(100))
        assert await _count(bench, 20) == {"2.0": 20}
        # Who asks what the model is asks the default version.
        assert await _count(bench, 5, describe="True") == {"1.0": 5}
        default, canary = engine.describe("m", "all")
        assert (default.version, default.share, canary.share) == ("1.0", None, Share(100, sticky=()))
        done = await engine.share("m", "2.0", Share(0))
        assert done.message == 'Version 2.0 of model "m" gets no share of the requests that name no version'
        assert await _count(bench, 20) == {"1.0": 20}

    bench.run(work)


def test_a_header_decides_and_goes_on_deciding(bench: Bench) -> None:
    one, two = _built(bench, _ECHO, "", "")

    async def work() -> None:
        for archive in (one, two):
            await bench.register(archive)
        await bench.engine.share("m", "2.0", Share(20, sticky=("x-user",)))
        users = [f"u{number}" for number in range(60)]
        first = {user: await _ask(bench, X_User=user) for user in users}
        assert set(first.values()) == {"1.0", "2.0"}
        assert {user: await _ask(bench, x_user=user) for user in users} == first
        await bench.engine.share("m", "2.0", Share(60))
        second = {user: await _ask(bench, X_User=user) for user in users}
        assert all(second[user] == "2.0" for user in users if first[user] == "2.0")
        assert second != first

    bench.run(work)


def test_set_default_promotes_and_rolls_back(bench: Bench) -> None:
    one, two, three = _built(bench, _ECHO, "", "", "")

    async def work() -> None:
        engine = bench.engine
        for archive in (one, two, three):
            await bench.register(archive)
        await engine.share("m", "2.0", Share(50))
        await engine.share("m", "3.0", Share(50))
        with pytest.raises(BadRequestError, match="other versions have 50 %, which leaves 50 %"):
            await engine.share("m", "2.0", Share(51))
        with pytest.raises(BadRequestError, match=r"version 1\.0 is the default one of model m"):
            await engine.share("m", "1.0", Share(5))
        await engine.share("m", "3.0", Share(0))
        await engine.set_default("m", "2.0")
        assert [state.share for state in engine.describe("m", "all")] == [None] * 3
        assert await _count(bench, 20) == {"2.0": 20}
        await engine.set_default("m", "1.0")
        assert await _count(bench, 20) == {"1.0": 20}
        await engine.share("m", "2.0", Share(100))
        await engine.unregister("m", "2.0")
        assert await _count(bench, 20) == {"1.0": 20}
        for name, version, kind in (("m", "2.0", VersionNotFoundError), ("n", "1.0", ModelNotFoundError)):
            with pytest.raises(kind):
                await engine.share(name, version, Share(5))

    bench.run(work)


def test_no_request_fails_for_a_canary_that_is_down(bench: Bench) -> None:
    one, two = _built(bench, _ECHO, "", _RETRY)

    async def work() -> None:
        engine = bench.engine
        await bench.register(one)
        await engine.register(Registration(two, initial_workers=0))
        await engine.share("m", "2.0", Share(100))
        assert await _count(bench, 10) == {"1.0": 10}
        await engine.scale("m", "2.0", 1, 1, synchronous=True)
        assert await _count(bench, 10) == {"2.0": 10}

        # It dies, and cannot be started again: what it has, what waits for it, and what comes.
        running = [asyncio.ensure_future(_ask(bench, "sleep 0.5")) for _ in range(2)]
        await asyncio.sleep(0.2)
        (bench.root / "broken").touch()
        (worker,) = engine.describe("m", "2.0")[0].workers
        os.kill(worker.pid, signal.SIGKILL)
        while engine.describe("m", "2.0")[0].workers[0].ready:
            await asyncio.sleep(0.01)
        assert await _count(bench, 10) == {"1.0": 10}
        assert await asyncio.gather(*running) == ["1.0", "1.0"]
        assert bench.counts.drops == []
        with pytest.raises(UnavailableError):
            await bench.ask("m", "x", version="2.0")

    bench.run(work)


def test_what_a_canary_has_no_room_for_the_default_version_answers(bench: Bench) -> None:
    one, two = _built(bench, _ECHO, "", "jobQueueSize: 1\n")

    async def work() -> None:
        for archive in (one, two):
            await bench.register(archive)
        await bench.engine.share("m", "2.0", Share(100))
        asked = []
        for _ in range(4):
            asked.append(asyncio.ensure_future(_ask(bench, "sleep 0.3")))
            await asyncio.sleep(0.05)
        assert await asyncio.gather(*asked) == ["2.0", "2.0", "1.0", "1.0"]
        assert bench.counts.drops == []

    bench.run(work)


def test_a_sequence_stays_where_it_began(bench: Bench) -> None:
    one, two, three = _built(bench, _KEPT, _SEQUENCES, _SEQUENCES, "")

    async def work() -> None:
        engine = bench.engine

        async def asked(name: str, body: str) -> str:
            answer = await bench.ask("m", body, headers={"ts_request_sequence_id": name})
            return bytes(answer.body).decode()

        for archive in (one, two, three):
            await bench.register(archive)
        assert await asked("old", "a") == "1.0 a"
        await engine.share("m", "2.0", Share(100))
        assert await asked("new", "a") == "2.0 a"
        assert await asked("old", "b") == "1.0 ab"
        await engine.share("m", "2.0", Share(0))
        assert await asked("new", "b") == "2.0 ab"
        await engine.share("m", "2.0", Share(100))
        assert await asked("second", "a") == "2.0 a"
        assert await asked("third", "a") == "1.0 a"  # the canary keeps no more than two
        await engine.set_default("m", "2.0")
        assert [await asked(name, "c") for name in ("old", "new")] == ["1.0 abc", "2.0 abc"]
        await engine.set_default("m", "1.0")
        assert [await asked(name, "d") for name in ("old", "new")] == ["1.0 abcd", "2.0 abcd"]

        with pytest.raises(BadRequestError, match=r"version 3\.0 of model m can have no share: .* only one keeps"):
            await engine.share("m", "3.0", Share(5))
        with pytest.raises(BadRequestError, match=r"version 2\.0 of model m can have no copies: it answers sequences"):
            await engine.share("m", "2.0", Share(5, shadow=True))

    bench.run(work)


def _last(bench: Bench) -> str:
    return read_properties(max((bench.root / "config").iterdir()))[KEY]


def test_shares_are_written_down_and_begun_with(bench: Bench) -> None:
    one, two, three = _built(bench, _ECHO, "", "", "")
    users = [f"u{number}" for number in range(40)]
    found = {}

    async def first() -> None:
        for archive in (one, two, three):
            await bench.register(archive)
        await bench.engine.share("m", "2.0", Share(40, sticky=("x-user",)))
        await bench.engine.share("m", "3.0", Share(100, shadow=True))
        found.update({user: await _ask(bench, X_User=user) for user in users})
        told = json.loads(_last(bench))["models"]["m"]
        assert "traffic" not in told["1.0"]
        assert len(told["2.0"]["traffic"]["slots"]) == 40
        shutil.copy(max((bench.root / "config").iterdir()), bench.root / "kept.cfg")

    async def second() -> None:
        assert {state.version: state.share for state in bench.engine.describe("m", "all")} == {
            "1.0": None,
            "2.0": Share(40, sticky=("x-user",)),
            "3.0": Share(100, shadow=True, sticky=("x-user",)),
        }
        while not bench.engine.ready:
            await asyncio.sleep(0.05)
        assert {user: await _ask(bench, X_User=user) for user in users} == found

    bench.run(first)
    text = read_properties(bench.root / "kept.cfg")[KEY]
    bench.run(second, model_snapshot=text)
    assert json.loads(_last(bench))["models"] == json.loads(text)["models"]

    async def nothing() -> None: ...

    document = json.loads(text)
    document["models"]["m"]["2.0"]["traffic"]["slots"] = [-1]
    with pytest.raises(StartError, match=r"version 2\.0 of m cannot be restored: its traffic is none that was written"):
        bench.run(nothing, model_snapshot=json.dumps(document))
