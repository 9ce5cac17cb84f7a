"""The process that a worker gets, and how the ends of processes are reported; with real forks, which do nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from serving.worker.process import rendezvous
from tests.serving.worker.frontend import TIMEOUT_S, archive

pytestmark = pytest.mark.skipif(not rendezvous.supported, reason="there is no prefork process on this system")

# A process of its own: all its children are taken for such processes.
SCRIPT = """
import json, os, signal, socket, sys, time
from serving.protocol import Load
from serving.worker.process.arguments import Arguments
from serving.worker.starting.child import Guest
from serving.worker.starting.processes import Processes, Worker

left = []
processes = Processes(left.append)

def assign(folder, pid, end, asynchronous=False):
    "A worker that has got a process; a new one lives until something comes from `end`, and ends with code 3."
    arguments = Arguments("", "", 0, "", asynchronous, 0)
    guest = Guest(arguments, [], {}, folder, [], {}, -1, os.dup(1), os.dup(2), socket.socketpair()[0])
    worker = Worker(socket.socketpair()[0], pid, guest, socket.socketpair()[0])
    if (work := processes.assign(worker, Load("m", folder, handler="h.py"))) is not None:
        signal.alarm(60)  # whatever becomes of the test
        assert left == [worker] and callable(work)
        end.recv(1)
        os._exit(3)
    assert guest.stdout == -1  # the process has it now
    return worker

def ended(count):
    found = []
    while len(found) < count:
        found += processes.reap()
        time.sleep(0.01)
    return [[sorted(worker.pid for worker in process.workers), code] for process, code in found]

folder, result = sys.argv[1], {}
ends = [socket.socketpair() for _ in range(4)]
"""


def run(folder: Path, script: str) -> Any:
    """Run a script; return what it puts into ``result``."""
    command = [sys.executable, "-c", f"{SCRIPT}\n{script}\nprint(json.dumps(result))", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_dedicated_worker_gets_a_process_of_its_own(tmp_path: Path) -> None:
    script = """
workers = [assign(folder, number, ends[number][0]) for number in range(2)]
result["backends"] = {pid: served for pid, (_, served) in processes.backends().items()}
result["count"] = len(processes.pids())
ends[1][1].send(b"x")
result["ended"] = ended(1)
result["backend"] = [processes.backends() == {0: (workers[0].process.pid, 1)}, len(processes.pids())]
ends[0][1].send(b"x")
ended(1)
"""
    found = run(archive(tmp_path / "model"), script)
    assert found == {"backends": {"0": 1, "1": 1}, "count": 2, "ended": [[[1], 3]], "backend": [True, 1]}


def test_shared_workers_share_as_many_as_they_may(tmp_path: Path) -> None:
    script = """
workers = [assign(folder, number, ends[min(number, 1)][0]) for number in range(5)]
result["served"] = sorted(len(worker.process.workers) for worker in workers)
result["count"] = len(processes.pids())
result["alone"] = len(assign(folder, 5, ends[2][0], asynchronous=True).process.workers)
for _, end in ends[:3]:
    end.send(b"x")
result["ended"] = sorted(code for _, code in ended(3))
"""
    folder = archive(tmp_path / "model", config={"backend": {"mode": "shared", "processes": 2}})
    assert run(folder, script) == {"served": [2, 2, 3, 3, 3], "count": 2, "alone": 1, "ended": [3, 3, 3]}


def test_one_that_has_ended_is_given_no_more_even_before_that_is_seen(tmp_path: Path) -> None:
    script = """
first = assign(folder, 0, ends[0][0])
os.kill(first.process.pid, 9)
os.waitid(os.P_PID, first.process.pid, os.WEXITED | os.WNOWAIT)
second = assign(folder, 1, ends[1][0])
result["another"] = first.process is not second.process
result["ended"] = ended(1)
result["served"] = sorted(processes.backends())
ends[1][1].send(b"x")
ended(1)
"""
    folder = archive(tmp_path / "model", config={"backend": {"mode": "shared"}})
    assert run(folder, script) == {"another": True, "ended": [[[0], -9]], "served": [1]}


def test_what_goes_wrong_in_a_forked_process_ends_it(tmp_path: Path) -> None:
    script = """
def fail(worker):
    raise OSError("cannot leave")
processes = Processes(fail)
assign(folder, 0, ends[0][0])
result["ended"] = ended(1)
"""
    assert run(archive(tmp_path / "model"), script) == {"ended": [[[0], 1]]}
