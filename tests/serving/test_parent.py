"""What ends with the process that started it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from serving import parent
from tests.serving.worker.frontend import ROOT, ends, wait_for

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="nothing tells a process of its parent's end")

# In a thread, as an installation is: that one's end counts, too.
CODE = """
import sys, threading
from serving import parent
threading.Thread(target=parent.run, args=(sys.argv[1:],)).start()
"""
FAMILY = 'sleep 1000 & echo $$ $! > "$0.new"; mv "$0.new" "$0"; wait'


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_command_ends_with_all_that_it_has_started(tmp_path: Path, number: int) -> None:
    told = tmp_path / "pids"
    with subprocess.Popen([sys.executable, "-c", CODE, "sh", "-c", FAMILY, str(told)], cwd=ROOT) as process:
        assert wait_for(told.exists)
        pids = [int(pid) for pid in told.read_text().split()]
        assert {os.getsid(pid) for pid in pids} == {os.getsid(process.pid)}  # `torchmar stop` looks there
        process.send_signal(number)
    assert ends(*pids)


def test_what_a_command_leaves_running_ends_with_it(tmp_path: Path) -> None:
    """As a build does when pip is killed: for a lack of memory, say."""
    text = 'sleep 1000 & echo $! > "$0"; kill -KILL $$'
    assert parent.run(["sh", "-c", text, str(tmp_path / "pid")]).returncode == 128 + 9
    assert ends(int((tmp_path / "pid").read_text()))


def test_a_command_that_is_not_there() -> None:
    done = parent.run(["no-such-command"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert (done.returncode, done.stdout) == (127, b"no-such-command cannot be started: No such file or directory\n")


@pytest.mark.parametrize(("text", "code"), [("echo said; exit 3", 3), ("echo said; kill -KILL $$", 128 + 9)])
def test_what_a_command_says_and_how_it_ends(text: str, code: int) -> None:
    done = parent.run(["sh", "-c", text], stdout=subprocess.PIPE)
    assert (done.returncode, done.stdout) == (code, b"said\n")
