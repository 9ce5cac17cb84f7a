"""Snapshots by themselves; tests/integration/test_snapshots.py has the real frontend write and restore them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import archive_tool
from archive_tool.errors import InputError
from serving.control.configuration.config import ModelSpec, write_properties
from serving.control.models import snapshots
from serving.control.models.snapshots import KEY, Snapshot, chosen, keep, last, last_frontend
from serving.control.state import StateFolder

ENTRY = {"defaultVersion": True, "marName": "m.mar", "minWorkers": 1, "maxWorkers": 1, "batchSize": 1}
ENTRY |= {"maxBatchDelay": 100, "responseTimeout": 120, "runtimeType": "python"}


def text_of(name: str = "20260729043028607-snapshot.cfg", **versions: dict[str, Any]) -> str:
    models = {"m": versions or {"1.0": ENTRY}}
    return json.dumps({"name": name, "modelCount": 1, "created": 1, "models": models})


@pytest.fixture
def state(tmp_path: Path) -> StateFolder:
    folder = StateFolder("default", tmp_path / "home")
    (folder.logs / "config").mkdir(parents=True)
    return folder


def write(state: StateFolder, time: str, kind: str = "snapshot", **properties: str) -> Path:
    path = state.logs / "config" / f"20260729{time}-{kind}.cfg"
    write_properties(path, {KEY: text_of(path.name), "keystore_pass": "secret", **properties})
    return path


def test_a_snapshot_names_every_version() -> None:
    found = Snapshot.parse(text_of(**{"1.0": ENTRY, "2.0": ENTRY | {"marName": "m-2.mar"}}))
    assert found.models == (ModelSpec("m", "m.mar"), ModelSpec("m", "m-2.mar"))
    assert found.versions == ("1.0", "2.0")
    assert found.settings == (ENTRY, ENTRY | {"marName": "m-2.mar"})
    assert found.name == "20260729043028607-snapshot.cfg"
    assert found.store is None
    assert Snapshot.parse('{"models": {}}').models == ()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"models": []}',
        '{"models": {"m": []}}',
        '{"models": {"m": {"1.0": 1}}}',
        '{"models": {"m": {"1.0": {}}}}',
        text_of(**{"1.0": ENTRY | {"minWorkers": "1"}}),
        text_of(**{"1.0": ENTRY | {"defaultVersion": None}}),
        text_of(**{"1.0": ENTRY | {"responseTimeout": "120"}}),
        text_of(**{"1.0": ENTRY | {"batchSize": 2**31}}),
        text_of(**{"1.0": ENTRY | {"startupTimeout": -(10**400)}}),
        "[" * 100_000,
    ],
)
def test_what_the_frontend_would_fail_on_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="model_snapshot is none that TorchServe has written"):
        Snapshot.parse(text)


def test_the_newest_snapshot_of_a_run_is_kept(state: StateFolder, tmp_path: Path) -> None:
    assert last(StateFolder("other", tmp_path)) is None
    write(state, "043000000", "startup")
    newest = write(state, "043000002", model_store=str(tmp_path))
    write(state, "043000001", "shutdown")
    (state.logs / "config" / "notes.txt").touch()
    (state.logs / "config" / "20260729999999999-snapshot.cfg").write_text('model_snapshot={\\n  "na')  # killed there
    found = last(state)
    assert found is not None
    assert (found.name, found.store) == (newest.name, tmp_path)
    assert "secret" not in state.last_models.read_text()


def test_a_run_that_wrote_none_leaves_that_of_the_run_before(state: StateFolder) -> None:
    first = write(state, "043000000")
    keep(state)
    snapshots.discard(state)
    assert not (state.logs / "config").exists()
    keep(state)
    found = last(state)
    assert found is not None
    assert found.name == first.name


def test_the_frontend_of_the_last_run_is_known(state: StateFolder) -> None:
    assert last_frontend(state) is None
    write(state, "043000000")
    assert last_frontend(state) is None  # it was written before there were two
    write(state, "043000001", torchmar_frontend="python")
    assert last_frontend(state) == "python"
    snapshots.discard(state)
    assert last_frontend(state) == "python"
    state.last_models.write_text(state.last_models.read_text().replace("=python", "=cobol"))
    with pytest.raises(InputError, match=r"no such frontend: torchmar_frontend=cobol in .*last_models.cfg"):
        last_frontend(state)


def test_a_damaged_file_of_the_last_run_is_named(state: StateFolder) -> None:
    for data in (b"", b"\xff", b"model_snapshot=\\u12", b"model_snapshot={}\n", b"torchmar_frontend=python\n"):
        state.last_models.write_bytes(data)
        with pytest.raises(InputError) as caught:
            last(state)
        assert caught.value.where == str(state.last_models)


def test_which_models_win(state: StateFolder) -> None:
    told: list[str] = []
    write(state, "043000000")

    def pick(*, named: bool = False, restore: bool = False, **properties: str) -> tuple[str | None, bool]:
        found = chosen(state, properties, named=named, restore=restore, warn=told.append)
        assert properties.get(KEY) == (found.text if found else None)
        return found and found.name, bool(told)

    configured = text_of("of the configuration")
    assert pick() == (None, False)
    assert pick(model_snapshot=configured) == ("of the configuration", False)
    assert pick(restore=True, model_snapshot=configured) == ("20260729043000000-snapshot.cfg", False)
    assert pick(named=True, model_snapshot=configured) == (None, True)
    assert told.pop() == "model_snapshot of the configuration is not restored: the command line names models"
    with pytest.raises(InputError, match="models are named"):
        pick(named=True, restore=True)


def test_a_server_that_has_not_run_has_nothing_to_restore(tmp_path: Path) -> None:
    told: list[str] = []
    assert chosen(StateFolder("new", tmp_path), {}, named=False, restore=True, warn=told.append) is None
    assert told == ["there is nothing to restore: server 'new' has not run before"]


def test_an_archive_of_another_version_is_not_restored(tmp_path: Path) -> None:
    (tmp_path / "h.py").write_text("def handle(data, context):\n    return data\n")
    archive_tool.build(model_name="m", handler=str(tmp_path / "h.py"), version="2.0", export_path=str(tmp_path))
    with pytest.raises(InputError, match=r"version 1\.0 of m cannot be restored: m\.mar holds version 2\.0 now"):
        Snapshot.parse(text_of()).check(tmp_path)
    Snapshot.parse(text_of(**{"2.0": ENTRY})).check(tmp_path)
