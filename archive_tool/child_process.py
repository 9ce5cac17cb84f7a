"""A script of ours on an unpacked archive, in a process that finds only what the archive holds."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any, Final

from archive_tool.errors import BuildError
from archive_tool.exit_codes import how_it_ended

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_SHOWN: Final = 2000
# Modules that only this process finds must be missing now, and not only when a server loads the archive.
_LEFT_OUT: Final = ("PYTHONPATH", "PYTHONSTARTUP")


def run(
    script: Path,
    folder: Path,
    task: Mapping[str, Any],
    scratch: Path,
    *,
    does: str,
    where: str | None = None,
    environment: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Start the script, and wait for it; however this ends, no process is left.

    Args:
        script: called with the folder, a file with the task as JSON, and the file for its report.
        folder: the unpacked archive; the script runs in it.
        task: what the script is to do.
        scratch: a folder for these files, which the caller removes.
        does: what the process does, for the error: "loads the archive".
        where: what the error is about.
        environment: further variables for it.

    Returns:
        The report.

    Raises:
        BuildError: the process ended without a report; says how, and what it printed last.
    """
    task_file, report_file, log = scratch / "task.json", scratch / "report.json", scratch / "log.txt"
    task_file.write_text(json.dumps(task), encoding="utf-8")
    kept = {key: value for key, value in os.environ.items() if key not in _LEFT_OUT}
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, str(script), str(folder), str(task_file), str(report_file)],
            cwd=folder,
            env=kept | dict(environment or {}),
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            start_new_session=True,  # so that what it starts can be ended with it
        )
        try:
            code = process.wait()
        finally:
            with contextlib.suppress(OSError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if not report_file.exists():
        said = log.read_text(encoding="utf-8", errors="replace").strip()
        raise BuildError(f"the process that {does} {how_it_ended(code)}\n{said[-_SHOWN:]}", where=where)
    report: dict[str, Any] = json.loads(report_file.read_text(encoding="utf-8"))
    return report
