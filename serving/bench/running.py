"""Running a load in a process of its own, so that nothing else disturbs it and its processor time is known."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Final, TypeAlias

from serving.bench import generator
from serving.bench.loads import Load
from serving.bench.tally import Figures, Second
from serving.errors import ServingError

_PACKAGES: Final = Path(__file__).resolve().parents[2]
_MOST_LINE: Final = 1 << 20
#: Seconds that a generator may take to end: one for the last answers, the rest for a machine that is busy.
_GRACE_S: Final = 10.0

Told: TypeAlias = Second | Figures


async def run(load: Load, stop: asyncio.Event | None = None) -> AsyncGenerator[Told, None]:
    """Run a load; yield what each second brought, and at last the figures.

    Closing the iterator ends the load, and so does the end of this process. A generator that does not end is killed.

    Args:
        load: what to send.
        stop: once it is set no more requests begin, and the figures are those until then.

    Raises:
        ServingError: the generator ended without figures, or did not end when it was stopped.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", generator.__name__, str(os.getpid())),
        cwd=_PACKAGES,  # -m looks there first: the generator is of this code, wherever the caller stands
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        limit=_MOST_LINE,
        start_new_session=True,  # a terminal's interrupt is the caller's affair
    )
    assert process.stdin and process.stdout and process.stderr  # noqa: S101, PT018 - pipes
    errors = asyncio.ensure_future(process.stderr.read())
    written = asyncio.Event()
    stopping = asyncio.ensure_future(_end_when(stop, process, written)) if stop else None
    figures: Figures | None = None
    try:
        with contextlib.suppress(ConnectionError):
            # In a thread: a large body takes its time, and the caller may be a server.
            process.stdin.write(await asyncio.to_thread(lambda: load.to_json().encode() + b"\n"))
            await process.stdin.drain()
        written.set()
        async for line in process.stdout:
            told = _told(line)
            if isinstance(told, Figures):
                figures = told
            yield told
        await process.wait()
    finally:
        if stopping:
            stopping.cancel()
        await asyncio.shield(_end(process))
        words = (await errors).decode("utf-8", "replace").strip()
    if figures is None and stop and stop.is_set() and process.returncode == -signal.SIGKILL:
        raise ServingError("the process that sends the load did not end when it was stopped, and was killed")
    if figures is None:
        raise ServingError(f"the load generator failed: {words[-500:] or f'exit code {process.returncode}'}")


async def figures_of(load: Load) -> Figures:
    """Run a load and return its figures alone.

    Raises:
        ServingError: the generator ended without figures.
    """
    found = [told async for told in run(load) if isinstance(told, Figures)]
    return found[-1]


def _told(line: bytes) -> Told:
    document = json.loads(line)
    if generator.SECOND in document:
        return Second(**document[generator.SECOND])
    return Figures.from_document(document[generator.FIGURES])


async def _end_when(stop: asyncio.Event, process: asyncio.subprocess.Process, written: asyncio.Event) -> None:
    await stop.wait()
    await _end(process, written)


async def _end(process: asyncio.subprocess.Process, written: asyncio.Event | None = None) -> None:
    """See to it that the generator is gone.

    Args:
        written: set once it has its load, and has figures to give; without one they are not wanted.
    """

    async def leave() -> None:
        assert process.stdin  # noqa: S101 - a pipe
        if written:
            await written.wait()
        process.stdin.close()
        await process.wait()

    try:
        await asyncio.wait_for(leave(), _GRACE_S)
    except asyncio.TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
