"""The progress bar: seen on a terminal only."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from archive_tool.progress import FROM, progress_bar, row_bar

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """\
import sys
from archive_tool.progress import progress_bar
with progress_bar("writing", hidden={hidden}) as progress:
    if progress is not None:
        progress({total} // 2, {total})
        progress({total}, {total})
print("rich.progress" in sys.modules)
"""


ROWS = """\
from archive_tool.progress import row_bar
with row_bar("predicting") as show:
    show(1234, 5, 0.25)
"""


def on_a_terminal(total, hidden=False):
    """Return what a child writes to a terminal, and what to a pipe."""
    return run_on_a_terminal(PROGRAM.format(total=total, hidden=hidden))


def run_on_a_terminal(program):
    pty = pytest.importorskip("pty")
    ours, theirs = pty.openpty()
    try:
        done = subprocess.run(
            [sys.executable, "-c", program],
            stdout=subprocess.PIPE,
            stderr=theirs,
            text=True,
            timeout=60,
            check=True,
            env={**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm"},
        )
        os.write(theirs, b"end")  # so that there is something to read
        return os.read(ours, 1 << 16).decode(), done.stdout
    finally:
        os.close(ours)
        os.close(theirs)


def test_a_bar_for_much_on_a_terminal():
    shown, printed = on_a_terminal(FROM)
    assert "writing" in shown
    assert "256.0/256.0 MB" in shown
    assert printed == "True\n"


@pytest.mark.parametrize(("total", "hidden"), [(FROM - 1, False), (FROM, True)])
def test_none_for_little_and_none_if_not_wanted(total, hidden):
    assert on_a_terminal(total, hidden) == ("end", "False\n")


def test_rows_of_a_job_on_a_terminal():
    shown, _ = run_on_a_terminal(ROWS)
    assert "predicting" in shown
    assert "25%" in shown
    assert "1,234 rows, 5 failed" in shown


def test_none_in_a_pipe(capsys):
    with progress_bar("writing") as progress, row_bar("predicting") as show:
        assert progress is None
        assert show is None
    assert capsys.readouterr() == ("", "")


def test_none_if_stderr_is_closed(monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    with progress_bar("writing") as progress:
        assert progress is None
