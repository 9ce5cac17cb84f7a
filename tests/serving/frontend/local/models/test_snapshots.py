"""What is served is written down, and an engine begins with it again; with real workers."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from serving.control.configuration.config import read_properties
from serving.control.models.snapshots import KEY, Snapshot
from serving.errors import StartError
from serving.frontend.engine import Registration
from serving.frontend.errors import FrontendError
from serving.frontend.local.engine import LocalEngine
from serving.frontend.local.models import snapshots
from serving.frontend.local.models.snapshots import Snapshots
from tests.serving.frontend.local.conftest import Bench

_ECHO = """
def handle(data, context):
    if data is None:
        return None
    return [context.manifest["model"]["modelVersion"] if context.manifest else "none"] * len(data)

def other(data, context):
    return None if data is None else ["other"] * len(data)
"""


def _files(bench: Bench) -> list[Path]:
    return sorted((bench.root / "config").iterdir())


def _last(bench: Bench) -> dict[str, Any]:
    models: dict[str, Any] = json.loads(read_properties(_files(bench)[-1])[KEY])["models"]
    return models


def test_each_change_is_written_down_before_it_is_acknowledged(bench: Bench) -> None:
    one = bench.build("echo", _ECHO, version="1.0")
    shutil.copy(bench.store / one, bench.store / "echo-1.mar")
    bench.build("echo", _ECHO, "batchSize: 4\nresponseTimeout: 77\n", version="2.0")
    shutil.copy(bench.store / one, bench.store / "echo-2.mar")

    async def work() -> None:
        engine = bench.engine
        assert _last(bench) == {}
        await bench.register("echo-1.mar")
        entry = {"defaultVersion": True, "marName": "echo-1.mar", "minWorkers": 1, "maxWorkers": 1, "batchSize": 1}
        entry |= {"maxBatchDelay": 100, "responseTimeout": 120, "startupTimeout": 120, "runtimeType": "python"}
        assert _last(bench) == {"echo": {"1.0": entry}}
        await bench.register("echo-2.mar", initial_workers=0)
        told = _last(bench)["echo"]["2.0"]
        assert (told["batchSize"], told["responseTimeout"], told["defaultVersion"]) == (4, 77, False)
        await engine.scale("echo", "2.0", 0, 3, synchronous=False)
        assert _last(bench)["echo"]["2.0"]["maxWorkers"] == 3
        await engine.set_default("echo", "2.0")
        assert [_last(bench)["echo"][version]["defaultVersion"] for version in ("1.0", "2.0")] == [False, True]
        await engine.unregister("echo", "1.0")
        assert list(_last(bench)["echo"]) == ["2.0"]

    bench.run(work, keystore_pass="secret")
    names = [path.name for path in _files(bench)]
    assert [re.sub(r"\d{17}-(.*)\.cfg", r"\1", name) for name in names] == ["startup", *["snapshot"] * 5, "shutdown"]
    last = read_properties(_files(bench)[-1])
    document = json.loads(last[KEY])
    assert (document["name"], document["modelCount"]) == (names[-1], 1)
    assert list(document["models"]["echo"]) == ["2.0"]
    assert last["model_store"] == str(bench.store)
    assert last["keystore_pass"] == "secret"
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in _files(bench))
    assert list(bench.root.glob(".snapshot*")) == []


def test_what_could_not_be_registered_is_never_written_down(bench: Bench) -> None:
    bad = bench.build("bad", "import time\n\ndef handle(data, context):\n    time.sleep(1)\n    raise OSError('no')\n")
    echo = bench.build("echo", _ECHO)

    async def work() -> None:
        failing = asyncio.ensure_future(bench.register(bad))
        while not bench.engine.names():
            await asyncio.sleep(0.01)
        await bench.register(echo, initial_workers=0)
        assert not failing.done()
        assert list(_last(bench)) == ["echo"]
        with pytest.raises(FrontendError):
            await failing
        assert list(_last(bench)) == ["echo"]

    bench.run(work)


def test_an_engine_begins_with_what_was_written_down(bench: Bench) -> None:
    one = bench.build("echo", _ECHO, "minWorkers: 1\nmaxWorkers: 1\nbatchSize: 2\n", version="1.0")
    shutil.copy(bench.store / one, bench.store / "echo-1.mar")
    bench.build("echo", _ECHO, version="10.0")
    far = bench.root / "far.mar"
    shutil.copy(bench.store / one, far)

    async def first() -> None:
        await bench.register("echo-1.mar")
        await bench.register(one, batch_size=3, response_timeout_s=33)
        await bench.engine.set_default("echo", "10.0")
        await bench.engine.scale("echo", "1.0", 2, 2, synchronous=True)
        await bench.register(f"file://{far}", model_name="fetched", handler="echo_handler:other")

    bench.run(first, allowed_urls=f"file://{bench.root}/.*")
    text = read_properties(_files(bench)[-1])[KEY]
    assert json.loads(text)["models"]["fetched"]["10.0"]["handler"] == "echo_handler:other"

    async def second() -> None:
        engine = bench.engine
        assert [name for name, _ in engine.names()] == ["echo", "fetched"]
        default, old = engine.describe("echo", "all")
        assert (default.version, default.default, default.loaded_at_startup) == ("10.0", True, True)
        assert (default.settings["batchSize"], default.settings["responseTimeout"]) == (3, 33)
        assert (old.settings["minWorkers"], old.settings["maxWorkers"], len(old.workers)) == (2, 2, 2)
        while not engine.ready:
            await asyncio.sleep(0.05)
        assert bytes((await bench.ask("echo")).body) == b"10.0"
        assert bytes((await bench.ask("echo", version="1.0")).body) == b"1.0"
        assert bytes((await bench.ask("fetched")).body) == b"other"

    bench.run(second, model_snapshot=text, load_models="all")
    assert json.loads(read_properties(_files(bench)[-1])[KEY])["models"] == json.loads(text)["models"]


def test_an_archive_that_is_gone_or_another_now_ends_the_start(bench: Bench) -> None:
    archive = bench.build("echo", _ECHO, version="1.0")

    async def first() -> None:
        await bench.register(archive)

    async def never() -> None:
        raise AssertionError

    bench.run(first)
    before = _files(bench)
    text = read_properties(before[-1])[KEY]
    bench.build("echo", _ECHO, version="2.0")
    with pytest.raises(StartError, match=r"version 1\.0 of echo cannot be restored: echo\.mar holds version 2\.0 now"):
        bench.run(never, model_snapshot=text)
    (bench.store / archive).unlink()
    with pytest.raises(StartError, match=r"cannot be restored: Model not found at: echo\.mar"):
        bench.run(never, model_snapshot=text)
    assert _files(bench) == before  # nothing that lacks it takes their place


@pytest.mark.parametrize(("given", "names"), [("all", ["a", "b"]), ("b.mar,x=a.mar", ["b", "x"]), ("none", [])])
def test_the_configuration_says_which_models(bench: Bench, given: str, names: list[str]) -> None:
    for name in ("a", "b"):
        bench.build(name, _ECHO)

    async def work() -> None:
        assert [name for name, _ in bench.engine.names()] == names

    bench.run(work, load_models=given)


def test_the_configuration_describes_versions(bench: Bench) -> None:
    one = bench.build("echo", _ECHO, version="1.0")
    shutil.copy(bench.store / one, bench.store / "one.mar")
    bench.build("echo", _ECHO, version="2.0")
    described = {"minWorkers": 2, "maxWorkers": 3, "batchSize": 5, "maxBatchDelay": 7, "responseTimeout": 9}

    async def work() -> None:
        second, first = bench.engine.describe("echo", "all")
        assert (second.version, first.version) == ("2.0", "1.0")
        assert {key: second.settings[key] for key in described} == described
        assert (len(second.workers), len(first.workers)) == (2, 1)

    models = json.dumps({"echo": {"2.0": {"defaultVersion": True, **described}}})
    bench.run(work, load_models=f"one.mar,{one}", models=models)


def test_many_changes_at_once_are_few_files_and_the_last_one_has_all(bench: Bench) -> None:
    async def work() -> None:
        written = Snapshots(bench.settings())
        before = len(_files(bench))
        await written.write("startup", {})
        changes: list[dict[str, Any]] = [{f"m{number}": {}} for number in range(50)]
        await asyncio.gather(*(written.write("snapshot", change) for change in changes))
        assert _last(bench) == changes[-1]
        assert len(_files(bench)) - before <= 4

    bench.run(work)


def test_what_changes_nothing_writes_nothing_and_old_files_go(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshots, "KEPT", 3)

    async def work() -> None:
        written = Snapshots(bench.settings())
        before = set(_files(bench))
        await written.write("startup", {})
        for number in (1, 1, 2, 2, 1, 3):
            await written.write("snapshot", {f"m{number}": {}})
        left = [path for path in _files(bench) if path not in before]
        assert [list(json.loads(read_properties(path)[KEY])["models"]) for path in left] == [["m2"], ["m1"], ["m3"]]

    bench.run(work)


def test_who_leaves_meanwhile_leaves_nothing_undone(bench: Bench) -> None:
    async def work() -> None:
        written = Snapshots(bench.settings())
        await written.write("startup", {})
        for number in range(3):
            asyncio.ensure_future(written.write("snapshot", {f"m{number}": {}})).cancel()
        leaving = asyncio.ensure_future(written.write("snapshot", {"last": {}}))
        await asyncio.sleep(0)
        leaving.cancel()
        while list(_last(bench)) != ["last"]:
            await asyncio.sleep(0.01)

    bench.run(work)


def test_their_order_is_kept_when_the_clock_is_set_back(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work() -> None:
        written = Snapshots(bench.settings())
        monkeypatch.setattr(time, "time", lambda: 1_900_000_000.0)
        await written.write("startup", {})
        monkeypatch.setattr(time, "time", lambda: 1_800_000_000.0)
        await written.write("snapshot", {"later": {}})
        assert list(_last(bench)) == ["later"]

    bench.run(work)


def test_a_disk_that_takes_nothing_costs_no_model(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    archive = bench.build("echo", _ECHO)

    async def work() -> None:
        shutil.rmtree(bench.root / "config")
        (bench.root / "config").write_text("in the way")
        await bench.register(archive)
        assert (await bench.ask("echo")).status == 200

    bench.run(work)
    assert "Error while saving snapshot to file" in caplog.text


def test_a_snapshot_of_torchserves_is_understood(bench: Bench) -> None:
    archive = bench.build("echo", _ECHO, version="1.0")
    entry = {"defaultVersion": True, "marName": archive, "minWorkers": 0, "maxWorkers": 0, "batchSize": 2}
    # Told nothing of the delay, TorchServe writes a number below 0; older ones write no timeouts.
    entry |= {"maxBatchDelay": -10000}
    text = json.dumps({"name": "x.cfg", "modelCount": 1, "created": 1, "models": {"echo": {"1.0": entry}}})
    assert Snapshot.parse(text).settings == (entry,)

    async def work() -> None:
        (state,) = bench.engine.describe("echo", "all")
        assert (state.settings["maxBatchDelay"], state.settings["responseTimeout"]) == (100, 120)
        assert (state.settings["batchSize"], len(state.workers)) == (2, 0)

    bench.run(work, model_snapshot=text)


def test_an_engine_that_writes_nothing_down(bench: Bench) -> None:
    archive = bench.build("echo", _ECHO)

    async def main() -> None:
        engine = LocalEngine(bench.settings(), bench.counts, lambda worker, pipe, text: None)
        await engine.start([], load_all=False)
        await engine.register(Registration(archive, initial_workers=0))
        await engine.drain(1.0)

    asyncio.run(main())
    assert not (bench.root / "config").exists()
