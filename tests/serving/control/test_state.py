from __future__ import annotations

import dataclasses
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from archive_tool.errors import InputError
from serving.control.state import (
    ServerRecord,
    StateFolder,
    identity_of,
    known_servers,
    name_of,
    not_running,
    running_servers,
    state_home,
)


def record(**changes: object) -> ServerRecord:
    base = ServerRecord(
        name="default",
        pid=os.getpid(),
        started=psutil.Process().create_time(),
        inference="http://127.0.0.1:1",
        management="http://127.0.0.1:2",
        metrics="http://127.0.0.1:3",
        grpc_inference="127.0.0.1:4",
        grpc_management="127.0.0.1:5",
        model_store="/store",
        runtime_folder="/tmp/torchmar-x",
        log_folder="/logs",
        worker="torchmar",
    )
    return dataclasses.replace(base, **changes)  # type: ignore[arg-type]


def test_a_record_is_read_back_and_forgotten(tmp_path: Path) -> None:
    state = StateFolder("default", tmp_path)
    assert state.record() is None
    state.create()
    state.write(record())
    assert state.record() == record()
    assert [folder.name for folder in known_servers(tmp_path)] == ["default"]
    state.forget()
    assert state.record() is None
    assert known_servers(tmp_path) == []


def test_a_record_of_before_there_was_a_choice_of_workers_is_read(tmp_path: Path) -> None:
    document = dataclasses.asdict(record())
    del document["worker"], document["frontend"]
    assert ServerRecord.from_dict(document) == record(worker="torchserve", frontend="java")


@pytest.fixture(params=[0, 0o022, 0o277])
def umask(request: pytest.FixtureRequest) -> Iterator[None]:
    before = os.umask(request.param)
    yield
    os.umask(before)


@pytest.mark.usefixtures("umask")
def test_all_folders_are_the_owners_alone(tmp_path: Path) -> None:
    """Those above, too: a user who can rename one of them can put another in its place."""
    state = StateFolder("default", tmp_path / "local" / "state" / "torchmar")
    state.create()
    made = [folder for folder in (state.path, *state.path.parents) if tmp_path in folder.parents]
    assert len(made) == 5
    assert {oct(folder.stat().st_mode & 0o777) for folder in made} == {"0o700"}


def test_a_folder_of_before_is_closed_and_that_of_the_user_left_alone(tmp_path: Path) -> None:
    state = StateFolder("default", tmp_path)
    state.path.mkdir(parents=True)
    for folder in (tmp_path, state.path.parent, state.path):
        folder.chmod(0o777)
    state.create()
    assert [folder.stat().st_mode & 0o777 for folder in (tmp_path, state.path.parent, state.path)] == [
        0o777,
        0o700,
        0o700,
    ]


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"pid": "x"}', '{"pid": 1}'])
def test_a_broken_record_is_no_server(tmp_path: Path, text: str) -> None:
    state = StateFolder("default", tmp_path)
    state.create()
    (state.path / "server.json").write_text(text)
    assert state.record() is None


def test_alive_means_that_very_process() -> None:
    assert record().alive
    assert not record(started=psutil.Process().create_time() - 100).alive
    assert not record(pid=2**22 + 1).alive


@pytest.mark.skipif(not identity_of(os.getpid()), reason="the system does not tell")
def test_a_clock_that_is_set_makes_no_other_process_of_a_server() -> None:
    """A process's time of start is derived from the clock, here played: it moves with it."""
    moved = psutil.Process().create_time() - 3600
    assert record(started=moved, identity=identity_of(os.getpid())).alive
    assert not record(identity=identity_of(os.getppid())).alive
    assert not record(identity="another boot 1").alive
    assert identity_of(2**22 + 1) == ""


@pytest.mark.parametrize("name", ["", "..", ".x", "a/b", "a b", "x" * 65])
def test_a_name_cannot_leave_the_folder(name: str) -> None:
    with pytest.raises(InputError, match="not a server name"):
        StateFolder(name)


def test_where_state_is_kept() -> None:
    assert state_home({"TORCHMAR_STATE_HOME": "/a", "XDG_STATE_HOME": "/b"}) == Path("/a")
    assert state_home({"XDG_STATE_HOME": "/b"}) == Path("/b/torchmar")
    assert state_home({}) == Path.home() / ".local" / "state" / "torchmar"


def test_the_name_of_a_servers_folder(tmp_path: Path) -> None:
    assert name_of(StateFolder("two", tmp_path).path, tmp_path) == "two"
    for other in (tmp_path, tmp_path / "servers" / "..", tmp_path / "others" / "two"):
        assert name_of(other, tmp_path) == ""


def test_the_lock_lets_one_in_at_a_time(tmp_path: Path) -> None:
    state = StateFolder("default", tmp_path)
    order: list[str] = []

    def second() -> None:
        with StateFolder("default", tmp_path).locked():
            order.append("second")

    with state.locked():
        thread = threading.Thread(target=second)
        thread.start()
        thread.join(0.2)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]


def test_a_state_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "servers").write_text("a file where a folder should be")
    state = StateFolder("default", tmp_path)
    assert state.record() is None
    with pytest.raises(InputError, match="cannot be made") as caught, state.locked():
        pass
    assert "TORCHMAR_STATE_HOME" in (caught.value.hint or "")


def test_a_record_of_before_there_were_signatures_is_read(tmp_path: Path) -> None:
    document = dataclasses.asdict(record())
    del document["trusted_store"]
    assert ServerRecord.from_dict(document) == record(trusted_store="")
    assert ServerRecord.from_dict({**document, "trusted_store": "/x"}).trusted_store == "/x"


def test_running_servers_are_those_whose_process_lives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, pid in (("alive", os.getpid()), ("dead", 2**22)):
        state = StateFolder(name, tmp_path)
        state.create()
        state.write(record(name=name, pid=pid))
    assert [one.name for one in running_servers(tmp_path)] == ["alive"]
    assert not_running("x", tmp_path).hint == "running: alive; name one with --name"

    def refused(_: StateFolder) -> None:
        raise InputError("not yours to read")

    monkeypatch.setattr(StateFolder, "record", refused)
    assert running_servers(tmp_path) == []
    assert not_running("x", tmp_path).hint == (
        "torchmar start --name x begins it, and torchmar deploy ray --name x on Ray"
    )
