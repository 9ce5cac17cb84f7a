from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from serving.control import processes
from serving.control.processes import end_session, session_members

ROOT = Path(__file__).resolve().parents[3]

# A leader with a child that ignores everything but SIGKILL.
STUBBORN = """
import signal, subprocess, sys, time
child = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"
process = subprocess.Popen([sys.executable, "-c", child], stdout=subprocess.PIPE)
process.stdout.readline()
print("ready", flush=True)
time.sleep(600)
"""


def leader() -> subprocess.Popen[bytes]:
    process = subprocess.Popen([sys.executable, "-c", STUBBORN], start_new_session=True, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    return process


def test_everything_in_the_session_ends() -> None:
    with leader() as process:
        members = session_members(process.pid)
        assert len(members) == 2
        assert end_session(process.pid, leader_is_ours=True, grace_s=1.0) >= 1
    assert not any(member.is_running() and member.status() != psutil.STATUS_ZOMBIE for member in members)


def test_children_of_a_dead_leader_are_found() -> None:
    with leader() as process:
        process.kill()
        process.wait()
        assert end_session(process.pid, leader_is_ours=False, grace_s=0.1) == 1
    assert session_members(process.pid) == []


def test_children_of_a_leader_that_nobody_has_reaped_are_found() -> None:
    with leader() as process:
        process.kill()
        while psutil.Process(process.pid).status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.01)
        assert end_session(process.pid, leader_is_ours=False, grace_s=0.1) == 1
    assert session_members(process.pid) == []


def test_a_stranger_with_the_same_number_is_left_alone() -> None:
    with leader() as process:
        try:
            assert end_session(process.pid, leader_is_ours=False, grace_s=0.1) == 0
            time.sleep(0.1)
            assert len(session_members(process.pid)) == 2
        finally:
            end_session(process.pid, leader_is_ours=True, grace_s=0.1)


def test_who_does_not_wait_for_the_end_leaves_nothing_running(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_: float) -> None:
        raise KeyboardInterrupt

    with leader() as process:
        monkeypatch.setattr(processes.time, "sleep", interrupted)
        with pytest.raises(KeyboardInterrupt):
            end_session(process.pid, leader_is_ours=True, grace_s=60.0)
        monkeypatch.undo()
    while members := session_members(process.pid):
        psutil.wait_procs(members, 10)


# The child that it waits for ends once no other is a zombie, or after half a minute.
FIRST = """
import subprocess
from serving.control.processes import wait
subprocess.run(["sh", "-c", "sleep 0.1 & sleep 0.2 &"])
code = "for i in $(seq 300); do ps -eo args | grep -q '[s]leep. <' || exit 3; sleep 0.1; done"
print(wait(subprocess.Popen(["sh", "-c", f"sleep 0.3; {code}"])))
"""


def as_first_process(code: str) -> str:
    """Run Python code as the first process of a namespace, and return what it prints."""
    command = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
    if subprocess.run([*command, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this user may not make a namespace")
    command += [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert not done.stderr
    return done.stdout


def test_the_first_process_of_a_container_reaps_what_others_have_left() -> None:
    assert as_first_process(FIRST) == "3\n"


# An orphan lives on, and may do so for ever.
ENDED = """
import subprocess
from serving.control.processes import wait
process = subprocess.Popen(["sh", "-c", "sleep 1000 & exit 3"], stdout=subprocess.DEVNULL)
process.wait()
print(wait(process))
"""


def test_the_first_process_waits_for_no_stranger_once_its_child_is_reaped() -> None:
    assert as_first_process(ENDED) == "3\n"


def test_others_leave_their_children_to_whoever_waits_for_them() -> None:
    with subprocess.Popen(["sh", "-c", "exit 3"]) as one, subprocess.Popen(["sh", "-c", "exit 4"]) as other:
        assert (processes.wait(other), one.wait()) == (4, 3)
