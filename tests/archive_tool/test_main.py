"""The program as it is started: before the command line is there, and with streams that are closed or full."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}
# A click whose import is interrupted, as that of the real one may be.
INTERRUPTED = "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(60)\n"
COMMAND = f"exec {sys.executable} -m archive_tool"


def test_an_interrupt_while_the_command_line_is_imported_is_quiet(tmp_path: Path) -> None:
    (tmp_path / "click.py").write_text(INTERRUPTED)
    environment = {**ENVIRONMENT, "PYTHONPATH": os.pathsep.join((str(tmp_path), str(ROOT)))}
    command = [sys.executable, "-m", "archive_tool", "--help"]
    # As in a terminal: the shell of a test run may have it ignored.
    done = subprocess.run(
        command,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")


def test_an_ignored_interrupt_stays_ignored(tmp_path: Path) -> None:
    (tmp_path / "click.py").write_text(INTERRUPTED.replace("60", "0") + "raise SystemExit(5)\n")
    environment = {**ENVIRONMENT, "PYTHONPATH": os.pathsep.join((str(tmp_path), str(ROOT)))}
    command = [sys.executable, "-m", "archive_tool", "--help"]
    done = subprocess.run(
        command, env=environment, check=False, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN)
    )
    assert done.returncode == 5


@pytest.mark.parametrize("closed", ["2>&-", "2>/dev/full", "<&- 2>&-"])
def test_messages_that_nobody_can_read_change_no_exit_code(closed: str) -> None:
    done = subprocess.run(f"{COMMAND} inspect nowhere.mar {closed}", shell=True, env=ENVIRONMENT, check=False)
    assert done.returncode == 3
    done = subprocess.run(f"{COMMAND} bogus {closed}", shell=True, env=ENVIRONMENT, check=False)
    assert done.returncode == 2


def test_a_closed_standard_error_does_not_become_the_next_file(tmp_path: Path) -> None:
    """The lowest free descriptor is the next file's: warnings would be written into the archive."""
    (tmp_path / "h.py").write_text("def handle(data, context):\n    return data\n")
    build = "build --model-name m --handler h.py --requirements-file r.txt --export-path . -f"
    (tmp_path / "r.txt").write_text("numpy\n")
    done = subprocess.run(f"{COMMAND} {build} <&- >&- 2>&-", shell=True, env=ENVIRONMENT, cwd=tmp_path, check=False)
    assert done.returncode == 0
    done = subprocess.run(f"{COMMAND} verify m.mar", shell=True, env=ENVIRONMENT, cwd=tmp_path, check=False)
    assert done.returncode == 0


def test_a_result_that_cannot_be_written_is_an_error() -> None:
    done = subprocess.run(
        f"{COMMAND} --help >/dev/full", shell=True, env=ENVIRONMENT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr == "error: No space left on device\n"
