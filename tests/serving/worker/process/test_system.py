from __future__ import annotations

import os
import select
import subprocess
import sys

import pytest

from serving.worker.process import rendezvous, system
from tests.serving.worker.frontend import TIMEOUT_S

pytestmark = pytest.mark.skipif(not rendezvous.supported, reason="the prefork process runs on Linux only")


def test_the_end_of_a_process() -> None:
    with subprocess.Popen(["sleep", "1000"]) as process:
        assert system.is_alive(process.pid)
        end = system.end_of(process.pid)
        if end is not None:
            assert select.select([end], [], [], 0)[0] == []
        system.kill(process.pid)
        if end is not None:
            assert select.select([end], [], [], TIMEOUT_S)[0] == [end]
            os.close(end)
            assert not system.is_alive(process.pid)  # it is not reaped yet
    assert not system.is_alive(process.pid)
    system.kill(process.pid)
    assert system.end_of(process.pid) is None


CODE = """
import os, time
from serving.worker.process import system
assert system.ended_child() == 0
pid = os.fork()
if pid == 0:
    os._exit(3)
while system.ended_child() == 0:
    time.sleep(0.01)
assert system.ended_child() == pid
assert os.waitpid(pid, 0) == (pid, 3 << 8)
assert system.ended_child() == 0
print("done")
"""


def test_a_child_that_has_ended_is_told_until_it_is_reaped() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("done\n", "")
