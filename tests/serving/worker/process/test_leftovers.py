"""A worker ends, in whatever way: its client knows at once, and what it has started ends with it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from serving.worker.process import leftovers, rendezvous, system
from tests.serving.worker.frontend import Server, Worker, archive, ends, has_ended, rest, wait_for

pytestmark = pytest.mark.skipif(not rendezvous.supported, reason="there is no prefork process on this system")

# What is forked holds the worker's connection; also where it has left the worker's session.
SOURCE = """
    import ctypes, multiprocessing, os, subprocess, sys, time
    from multiprocessing import shared_memory

    NULL = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    pool = None

    def fork(own_session):
        pid = os.fork()
        if pid == 0:
            if own_session:
                os.setsid()
            time.sleep(1000)
            os._exit(0)
        while own_session and os.getsid(pid) != pid:
            time.sleep(0.01)
        return pid

    def start():
        global pool
        pool = multiprocessing.get_context("fork").Pool(2)
        shell = subprocess.run(["sh", "-c", "sleep 1000 >/dev/null 2>&1 & echo $!"], stdout=subprocess.PIPE)
        left = [child.pid for child in multiprocessing.active_children()]
        left += [fork(False), subprocess.Popen(["sleep", "1000"], **NULL).pid, int(shell.stdout)]
        daemons = [fork(True), subprocess.Popen(["sleep", "1000"], start_new_session=True, **NULL).pid]
        global memory
        memory = shared_memory.SharedMemory(create=True, size=1)  # in the end, or the daemons hold it, too
        return {"pid": os.getpid(), "left": left, "daemons": daemons, "memory": memory.name}

    def handle(data, context):
        if data:
            command = bytes(data[0]["body"]).decode()
            return [start()] if command == "start" else eval(command)
"""


def _end(worker: Worker, pid: int, how: str) -> None:
    if how == "is killed":
        os.kill(pid, signal.SIGKILL)
    elif how == "is removed":
        worker.kill()
    elif how == "has nothing to do any more":
        worker.close()
    else:
        worker.send(rest("2", how.encode()))


@pytest.mark.parametrize("prefork", ["1", "0"])
@pytest.mark.parametrize(
    "how", ["is killed", "is removed", "has nothing to do any more", "os._exit(3)", "ctypes.string_at(0)"]
)
def test_nothing_is_left_of_a_worker(server: Server, tmp_path: Path, prefork: str, how: str) -> None:
    folder = archive(tmp_path / "model", SOURCE, files={"torch.py": "raise ImportError"} if prefork == "0" else {})
    worker = server.worker(folder, TORCHMAR_PREFORK=prefork)
    assert worker.load(folder).code == 200, worker.out.text
    started = json.loads(worker.answer(b"start"))
    assert (started["pid"] == worker.pid) == (prefork == "0")
    try:
        assert not any(map(has_ended, started["left"]))
        _end(worker, started["pid"], how)
        if how != "has nothing to do any more":
            assert worker.is_closed()
        assert ends(started["pid"], *started["left"])
        # These have left on purpose: TorchServe lets them live, too.
        assert not any(map(has_ended, started["daemons"]))
        # As under TorchServe, it is removed by a process that multiprocessing has started for that.
        assert wait_for(lambda: not Path("/dev/shm", started["memory"]).exists())
    finally:
        for pid in (*started["left"], *started["daemons"]):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def test_the_group_of_others_is_left_alone() -> None:
    """Of a process that leads none: then its group is the frontend's."""
    code = "from serving.worker.process import leftovers; leftovers.leave(3)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 3
    leftovers.end_group(os.getpid())


def test_who_starts_others_as_quickly_as_they_are_killed_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """The prefork process would do nothing else for as long as they do."""
    tracker = subprocess.Popen(["sleep", "1000"], process_group=0)
    started, members, command = [tracker], system.members, system.command

    def seen(group: int) -> set[int]:
        if len(started) < 20:
            started.append(subprocess.Popen(["sleep", "1000"], process_group=group))
        return members(group)

    monkeypatch.setattr(system, "members", seen)
    words = b"resource_tracker import main"
    monkeypatch.setattr(system, "command", lambda pid: words if pid == tracker.pid else command(pid))
    leftovers.end_group(tracker.pid)
    assert [process.wait() for process in started] == [-signal.SIGKILL] * len(started)
    assert len(started) < 20


def test_a_connection_is_ended_for_all_that_hold_it() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, theirs.dup():
        leftovers.hang_up(theirs)
        assert ours.recv(1) == b""
        leftovers.hang_up(theirs)


FORKS = """
    import os, sys

    def handle(data, context):
        command = bytes(data[0]["body"]).decode() if data else START
        if command == "pid":
            return [os.getpid()]
        if command:
            if child := os.fork():
                return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])]
            exec(command)
            return ["the child's"]
"""


@pytest.mark.parametrize(("mode", "prefork"), [("dedicated", "1"), ("shared", "1"), ("dedicated", "0")])
def test_a_child_that_comes_back_from_the_handler_answers_nothing(
    server: Server, tmp_path: Path, mode: str, prefork: str
) -> None:
    source = FORKS.replace("START", "'pass'")
    files = {"torch.py": "raise ImportError"} if prefork == "0" else {}
    folder = archive(tmp_path / "model", source, config={"backend": {"mode": mode}}, files=files)
    worker = server.worker(folder, TORCHMAR_PREFORK=prefork)
    assert worker.load(folder).code == 200, worker.out.text
    pid = worker.answer(b"pid")
    for command, code in ((b"pass", b"0"), (b"raise ValueError('broken')", b"1"), (b"sys.exit(7)", b"7")):
        assert worker.answer(command) == code
        assert worker.answer(b"pid") == pid
    text = worker.out.wait("ValueError: broken")
    assert text.count("A process that the handler has forked came back from it") == 3  # one when it was loaded
