"""The handler without a server, in several processes at once: what the cores give where nothing stands between."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from benchmarks.serving_bench import bare


def measure(archive: Path, bodies: Sequence[Path], batch: int, processes: int, seconds: float) -> float:
    """Measure items a second of all processes together, each with one torch thread; they begin at the same moment.

    Raises:
        RuntimeError: one failed.
    """
    options = ["--batches", str(batch), "--threads", "1", "--seconds", str(seconds), "--at-a-line"]
    command = [sys.executable, bare.__file__, *options, str(archive), *map(str, bodies)]
    with ExitStack() as stack:
        running = [stack.enter_context(_started(command)) for _ in range(processes)]
        for one in running:
            _until_ready(one)
        for one in running:
            assert one.stdin is not None
            one.stdin.write("\n")
            one.stdin.flush()
        return sum(_rate(one, batch) for one in running)


def _until_ready(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    for line in process.stdout:  # a handler may print, too
        if line.strip() == bare.READY:
            return
    _rate(process, 0)


def _rate(process: subprocess.Popen[str], batch: int) -> float:
    said, errors = process.communicate()
    if process.returncode != 0:
        raise RuntimeError(f"the bare handler failed: {errors[-800:]}")
    rate: float = json.loads(said.splitlines()[-1])[str(batch)]
    return rate


def _started(command: Sequence[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
