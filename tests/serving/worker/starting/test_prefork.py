"""The prefork process, driven by the messages of thin processes, with some other process in the server's place."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from serving.protocol import Load, encode_load
from serving.worker.process import rendezvous, system
from serving.worker.process.arguments import Arguments
from serving.worker.starting.child import Guest
from serving.worker.starting.prefork import _Prefork
from serving.worker.starting.processes import Worker
from tests.serving.worker.frontend import (
    TIMEOUT_S,
    archive,
    ends,
    rest,
    wait_for,
)
from tests.serving.worker.starting.thin import PID, Prefork, Thins

pytestmark = pytest.mark.skipif(not rendezvous.supported, reason="there is no prefork process on this system")


def test_a_worker_gets_a_process_of_its_own(prefork: Prefork, tmp_path: Path) -> None:
    folder = archive(tmp_path / "model", PID)
    peers = [prefork.thin(folder).load() for _ in range(2)]
    pids = {int(peer.answer()) for peer in peers}
    assert pids == prefork.children()
    assert len(pids) == 2
    # All thin processes of this test have one number.
    assert set(prefork.backends()) == {os.getpid()}
    peers[0].close()
    assert prefork.thins[0].status() == 0
    assert prefork.thins[0].is_told_of_the_end()
    assert wait_for(lambda: len(prefork.children()) == 1)
    assert peers[1].answer()


def test_torch_is_there_and_uses_no_threads_that_do_not_survive(complete: Thins, tmp_path: Path) -> None:
    source = """
        import sys

        LOADED = sorted({"torch", "numpy", "ts"} & set(sys.modules)), "handlers" in sys.modules
        import torch

        def handle(data, context):
            torch.set_num_threads(2)
            result = (torch.ones(2000, 2000) @ torch.ones(2000, 2)).sum().item()
            return [[LOADED, result]] * len(data or [])
    """
    peer = complete.thin(archive(tmp_path / "model", source)).load()
    assert json.loads(peer.answer()) == [[["numpy", "torch", "ts"], False], 8_000_000.0]


# ---- modules of the model --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["yaml.py", "numpy/__init__.py", "json/x.py", "torch.pyc", "PIL.cpython-311.so", "ts/context.py", "typing.py"],
)
def test_a_module_that_would_come_too_late(complete: Thins, tmp_path: Path, name: str) -> None:
    folder = archive(tmp_path / "model", PID, files={name: ""})
    thin = complete.thin(folder)
    assert thin.answer() == rendezvous.PLAIN
    # Nothing of it is kept.
    assert thin.control.recv(1) == b""
    assert thin.is_told_of_the_end()
    thin.out.rest()
    thin.err.rest()
    with pytest.raises(ConnectionRefusedError):
        thin.connect()


@pytest.mark.parametrize(
    "name",
    ["serving.py", "archive_tool/x.py", "handlers/__init__.py", "yaml.txt", "numpy.tar.gz", "data/yaml.py", "torch.pt"],
)
def test_a_module_that_does_not_stand_in_the_way(complete: Thins, tmp_path: Path, name: str) -> None:
    assert complete.thin(archive(tmp_path / "model", PID, files={name: ""})).load().answer()


def test_a_module_elsewhere_on_the_path(complete: Thins, tmp_path: Path) -> None:
    """Such as the folder in which the frontend has installed a model's requirements."""
    folder = archive(tmp_path / "model", PID)
    (tmp_path / "installed" / "yaml").mkdir(parents=True)
    thin = complete.thin(folder, path=[str(folder), str(tmp_path / "installed"), *sys.path])
    assert thin.answer() == rendezvous.PLAIN
    thin = complete.thin(folder, path=[str(folder), str(tmp_path / "not there"), *sys.path])
    assert thin.answer() == rendezvous.TAKEN


def test_what_was_imported_last_is_known_as_well(complete: Thins, tmp_path: Path) -> None:
    """Some libraries are imported only when there is nothing else to do."""
    source = """
        import sys

        def handle(data, context):
            return [sorted(name for name, module in sys.modules.items() if "." not in name)] * len(data or [])
    """
    peer = complete.thin(archive(tmp_path / "model", source)).load()
    # What loading a model imports is the affair of its process.
    loaded = set(json.loads(peer.answer())) - {
        "serving",
        "archive_tool",
        "handlers",
        "handler",
        "__main__",
        "uuid",
        "_uuid",
    }
    assert {"torch", "json"} < loaded
    wrong = []
    for name in sorted(loaded):
        folder = tmp_path / "each" / name
        folder.mkdir(parents=True)
        (folder / f"{name}.py").touch()
        if complete.thin(folder).answer() != rendezvous.PLAIN:
            wrong.append(name)
        complete.thins[-1].close()
    assert wrong == []


# ---- ends ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("end", "code"), [("os._exit(0)", 0), ("os._exit(137)", 137), ("os.kill(os.getpid(), 9)", 137), ("sys.exit(3)", 3)]
)
def test_how_a_process_has_ended(prefork: Prefork, tmp_path: Path, end: str, code: int) -> None:
    source = f"""
        import os, sys

        def handle(data, context):
            return {end} if data else None
    """
    thin = prefork.thin(archive(tmp_path / "model", source))
    peer = thin.load()
    peer.send(rest("1"))
    assert peer.is_closed()
    assert thin.status() == code
    assert thin.is_told_of_the_end()
    assert prefork.backends() == {}


def test_a_handler_that_does_not_let_go_of_the_interpreter(prefork: Prefork, tmp_path: Path) -> None:
    """Its process cannot see that its worker was killed; it is killed in its turn."""
    source = """
        import ctypes, os

        def handle(data, context):
            if data:
                print(os.getpid(), "is busy")
                ctypes.PyDLL(None).sleep(1000)
    """
    thin = prefork.thin(archive(tmp_path / "model", source))
    thin.load().send(rest("1"))
    pid = int(thin.out.wait(" is busy\n").splitlines()[-1].split()[0])
    thin.die()
    assert ends(pid)


def test_a_shared_process_that_is_ending_takes_no_more(prefork: Prefork, tmp_path: Path) -> None:
    """The next worker gets a new one, however close it comes after the last one."""
    folder = archive(tmp_path / "model", PID, config={"backend": {"mode": "shared"}})
    pids = set()
    for _ in range(10):
        thin = prefork.thin(folder)
        peer = thin.load()
        pids.add(int(peer.answer()))
        thin.close()
    assert prefork.thin(folder).load().answer()
    assert pids


def test_a_stopped_process_does_not_stop_the_others(prefork: Prefork, tmp_path: Path) -> None:
    folder = archive(tmp_path / "shared", PID, config={"backend": {"mode": "shared"}})
    first = prefork.thin(folder).load()
    pid = int(first.answer())
    os.kill(pid, signal.SIGSTOP)
    assert wait_for(lambda: system.is_stopped(pid))
    further = prefork.thin(folder)
    further.connect().send_load(folder)
    assert prefork.thin(archive(tmp_path / "dedicated", PID)).load().answer()
    assert further.peer is not None
    assert further.peer.reply().code == 200
    assert int(further.peer.answer()) != pid  # it was replaced: nobody waits for whoever has stopped it


@pytest.fixture
def another(without_torch: Path) -> Iterator[Callable[[], Prefork]]:
    """Start one, without torch, for a test that may do to it what it wants."""
    found: list[Prefork] = []

    def start() -> Prefork:
        found.append(Prefork((without_torch,)))
        return found[-1]

    yield start
    for prefork in found:
        prefork.close()


def test_it_ends_with_the_server_and_removes_the_sockets(another: Callable[[], Prefork], tmp_path: Path) -> None:
    """Before and after the frontend has connected; the thin processes are not there any more to do it."""
    prefork = another()
    folder = archive(tmp_path / "model", PID)
    waiting, working = prefork.thin(folder), prefork.thin(folder)
    pid = int(working.load().answer())
    assert waiting.answer() == rendezvous.TAKEN
    prefork.owner.kill()
    prefork.owner.wait()
    assert prefork.process.wait(TIMEOUT_S) == 0
    assert not Path(waiting.path).exists()
    assert not Path(working.path).exists()
    assert rendezvous.connect(prefork.name) is None
    # Its thin process has not ended here: this one may be unable to see that.
    assert ends(pid)


def test_it_ends_what_a_handler_has_started_that_does_not_let_go_of_the_interpreter(
    another: Callable[[], Prefork], tmp_path: Path
) -> None:
    source = """
        import ctypes, os, subprocess

        def handle(data, context):
            if data:
                child = subprocess.Popen(["sleep", "1000"])
                print(os.getpid(), child.pid, "are busy")
                ctypes.PyDLL(None).sleep(1000)
    """
    prefork = another()
    thin = prefork.thin(archive(tmp_path / "model", source))
    thin.load().send(rest("1"))
    pids = [int(pid) for pid in thin.out.wait(" are busy\n").splitlines()[-1].split()[:2]]
    prefork.owner.kill()
    prefork.owner.wait()
    assert prefork.process.wait(TIMEOUT_S) == 0
    assert ends(*pids)


def test_it_ends_with_the_server_in_the_middle_of_an_import(tmp_path: Path) -> None:
    """Here one that does not end; torch's takes seconds."""
    endless = "import pathlib, time\npathlib.Path(__file__).with_name('begun').touch()\ntime.sleep(1000)\n"
    folder = archive(tmp_path / "slow", files={"torch.py": endless})
    prefork = Prefork((folder,))
    try:
        assert wait_for((folder / "begun").exists)
        prefork.owner.kill()
        prefork.owner.wait()
        assert prefork.process.wait(TIMEOUT_S) == 0
    finally:
        prefork.close()


def test_it_is_killed(another: Callable[[], Prefork], tmp_path: Path) -> None:
    """Workers that serve go on, and still end with their workers."""
    prefork = another()
    folder = archive(tmp_path / "model", PID)
    waiting, working = prefork.thin(folder), prefork.thin(folder)
    peer = working.load()
    pid = int(peer.answer())
    assert waiting.answer() == rendezvous.TAKEN
    prefork.process.kill()
    assert working.control.recv(1) == b""
    assert waiting.is_told_of_the_end()
    assert int(peer.answer()) == pid
    working.die()
    assert ends(pid)


def test_a_worker_that_cannot_be_given_a_process_ends(tmp_path: Path) -> None:
    """With a fork that fails, as it does without memory, put in the place of the real one."""
    listener = socket.socket(socket.AF_UNIX)
    serving = _Prefork(listener, os.getpid())
    ours, theirs = socket.socketpair()
    lifeline, other_end = socket.socketpair()
    pipes = os.pipe()
    try:
        guest = Guest(
            Arguments("", "", 0, "", False, 0), [], {}, str(tmp_path), [], {}, -1, -1, os.dup(pipes[1]), lifeline
        )
        worker = Worker(socket.socket(socket.AF_UNIX), 1, guest, ours)
        serving._workers.add(worker)
        serving._selector.register(ours, selectors.EVENT_READ)
        theirs.sendall(encode_load(Load("m", str(tmp_path), handler="h.py")))

        def fail(*_: object) -> None:
            raise OSError(12, "Cannot allocate memory")

        serving._processes._fork = fail  # type: ignore[method-assign]
        serving._call(lambda: serving._readable(worker))
        assert serving._workers == set()
        assert other_end.recv(1) == b""
        assert theirs.recv(1) == b""
        assert b"Cannot allocate memory" in os.read(pipes[0], 10_000)
        # The log is not read: it is not waited for.
        os.set_blocking(pipes[1], False)
        with contextlib.suppress(BlockingIOError):
            while os.write(pipes[1], bytes(4096)):
                pass
        os.set_blocking(pipes[1], True)
        guest.stderr = os.dup(pipes[1])
        serving._workers.add(worker)
        serving._call(lambda: fail())
        guest.close()
    finally:
        for end in (theirs, other_end, listener):
            end.close()
        for fd in pipes:
            os.close(fd)
