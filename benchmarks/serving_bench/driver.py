"""Load on a URL for a while: through wrk where it is installed, else through the generator of `torchmar bench`."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import unquote

from serving.bench.loads import Load
from serving.bench.running import figures_of
from serving.bench.targets import Target
from serving.client import Address
from serving.errors import ServingError

HERE = Path(__file__).resolve().parent
# A slow answer is a figure, not a failure.
_TIMEOUT_S = 60
_SPARE_S = 90.0

Driver = Literal["wrk", "bundled"]


@dataclass(frozen=True)
class Figures:
    """The figures of one load.

    Attributes:
        rps: good answers a second.
        errors: answers other than 2xx (wrk: of 400 or more), broken connections, answers that did not come.
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


def wrk_command(url: str, bodies: Sequence[Path], connections: int, seconds: float) -> list[str]:
    """Return wrk's command line; its last line of output is the figures."""
    # One thread: it is enough for this load, and the cores are the server's.
    options = ["-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--timeout", f"{_TIMEOUT_S}s"]
    return ["wrk", *options, "-s", str(HERE / "wrk.lua"), url, "--", *(str(path) for path in bodies)]


def bundled_load(url: str, bodies: Sequence[Path], connections: int, seconds: float) -> Load:
    """Return the same load for our own generator; the URL is that of a model's predictions."""
    address, _, model = url.partition("/predictions/")
    target = Target(Address(address), unquote(model))
    requests = target.requests((path.read_bytes(), "application/octet-stream") for path in bodies)
    return Load(target.place, requests, connections, seconds, timeout_s=_TIMEOUT_S)


def send(driver: Driver, url: str, bodies: Sequence[Path], connections: int, seconds: float) -> Figures:
    """Send load for so many seconds (wrk: whole ones).

    Raises:
        RuntimeError: the driver failed.
    """
    if driver == "bundled":
        return _bundled(bundled_load(url, bodies, connections, seconds))
    line = wrk_command(url, bodies, connections, seconds)
    try:
        done = subprocess.run(line, capture_output=True, text=True, timeout=seconds + _SPARE_S, check=False)
    except subprocess.TimeoutExpired as error:  # which ends the figures of one contender, and not the run
        raise RuntimeError(f"{line[0]} did not end {_SPARE_S:.0f} s after its time") from error
    if done.returncode != 0 or not done.stdout.strip():
        raise RuntimeError(
            f"{line[0]} failed with exit code {done.returncode}: {done.stderr[-500:] or done.stdout[-500:]}"
        )
    return Figures(**json.loads(done.stdout.strip().splitlines()[-1]))


def _bundled(load: Load) -> Figures:
    try:
        found = asyncio.run(figures_of(load))
    except ServingError as error:
        raise RuntimeError(str(error)) from error
    took = found.latency_ms
    return Figures(found.requests, found.seconds, found.rate, took.p50, took.p99, took.max, found.failed)
