"""Load on a URL for a while: through wrk where it is installed, else through generator.py."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

HERE = Path(__file__).resolve().parent
# A slow answer is a figure, not a failure.
_WRK_TIMEOUT_S = 60
_SPARE_S = 90.0

Driver = Literal["wrk", "bundled"]


@dataclass(frozen=True)
class Figures:
    """The figures of one load.

    Attributes:
        rps: good answers a second.
        errors: answers other than 200 (wrk: of 400 or more), broken connections, answers that did not come.
    """

    requests: int
    seconds: float
    rps: float
    p50_ms: float
    p99_ms: float
    max_ms: float
    errors: int


def choose(wanted: str) -> Driver:
    """Choose the driver for ``auto``, ``wrk`` or ``bundled``.

    Raises:
        ValueError: wrk is asked for and not installed.
    """
    there = shutil.which("wrk") is not None
    if wanted == "wrk" and not there:
        raise ValueError("wrk is not on PATH; install it, or use --driver bundled")
    return "wrk" if there and wanted != "bundled" else "bundled"


def command(driver: Driver, url: str, bodies: Sequence[Path], connections: int, seconds: float) -> list[str]:
    """Return the driver's command line; its last line of output is the figures."""
    files = [str(path) for path in bodies]
    if driver == "bundled":
        options = ["--url", url, "--connections", str(connections), "--seconds", str(seconds)]
        return [sys.executable, str(HERE / "generator.py"), *options, *files]
    # One thread: it is enough for this load, and the cores are the server's.
    options = ["-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--timeout", f"{_WRK_TIMEOUT_S}s"]
    return ["wrk", *options, "-s", str(HERE / "wrk.lua"), url, "--", *files]


def send(driver: Driver, url: str, bodies: Sequence[Path], connections: int, seconds: float) -> Figures:
    """Send load for so many seconds (wrk: whole ones).

    Raises:
        RuntimeError: the driver failed.
    """
    line = command(driver, url, bodies, connections, seconds)
    done = subprocess.run(line, capture_output=True, text=True, timeout=seconds + _SPARE_S, check=False)
    if done.returncode != 0 or not done.stdout.strip():
        raise RuntimeError(
            f"{line[0]} failed with exit code {done.returncode}: {done.stderr[-500:] or done.stdout[-500:]}"
        )
    return Figures(**json.loads(done.stdout.strip().splitlines()[-1]))
