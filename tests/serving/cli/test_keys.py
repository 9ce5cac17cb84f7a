from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from archive_tool.errors import InputError
from serving.cli.keys import keys
from serving.control import StateFolder
from serving.errors import NotRunningError
from tests.serving.control.test_keys import THREE
from tests.serving.control.test_state import record


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StateFolder:
    monkeypatch.setenv("TORCHMAR_STATE_HOME", str(tmp_path))
    folder = StateFolder("default")
    folder.create()
    folder.write(record())
    return folder


def run(*arguments: str) -> str:
    return str(CliRunner().invoke(keys, arguments, catch_exceptions=False).output)


def test_all_keys_are_shown_and_one_alone_for_a_shell(state: StateFolder) -> None:
    state.keys.write_text(json.dumps(THREE))
    shown = [line.split() for line in run().splitlines()]
    assert [line[:2] for line in shown] == [
        ["inference", "of-i"],
        ["management", "of-m"],
        ["API", "of-all"],
        ["file", str(state.keys)],
    ]
    assert run("--inference") == "of-i\n"
    assert run("--management") == "of-m\n"
    printed = json.loads(run("--json"))
    assert printed["management"]["key"] == "of-m"
    assert printed["API"] == {"key": "of-all", "expires": None}
    assert printed["file"] == str(state.keys)


def test_a_long_key_stands_alone(state: StateFolder) -> None:
    keys = {name: {**entry, "key": entry["key"].ljust(43, "k")} for name, entry in THREE.items()}
    state.keys.write_text(json.dumps(keys))
    lines = run().splitlines()
    assert [line.split()[1] for line in lines[:3]] == [keys[line.split()[0]]["key"] for line in lines[:3]]
    assert len({line.index(word) for line, word in zip(lines, ("until", "until", "renews"), strict=False)}) == 1


def test_a_server_without_keys_and_none_at_all(state: StateFolder) -> None:
    with pytest.raises(InputError, match="asks for no keys"):
        run("--inference")
    state.forget()
    with pytest.raises(NotRunningError, match="no server 'default' is running"):
        run()
