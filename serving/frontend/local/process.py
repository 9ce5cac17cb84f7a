"""The process of a worker: started as TorchServe's frontend starts it, and heard as that hears it.

`docs` of the grammar: contract of WorkerLifeCycle.java and EnvironmentUtils.java, TorchServe 0.12.0. Two pipes are read
line by line; a metric is a line that begins with ``[METRICS]``, ``[PID]<digits>`` tells the process id, and the worker
listens when it has printed ``Torch worker started.``
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final, cast

from serving.control.configuration.workers import command_of, environment_of
from serving.frontend.local.models.model import Model
from serving.frontend.settings import Settings

#: Seconds from the start of a process until it listens; heavy imports belong to the load of the model.
START_S: Final = 120.0
_STARTED: Final = "Torch worker started."
_PID: Final = re.compile(r"(?:INFO > )?\[PID\]([0-9]{1,10})")
# Longer lines are cut: a worker that prints without end must not fill the memory of all.
_MAX_LINE: Final = 64 * 1024
_CHUNK: Final = 16 * 1024
#: A pipe whose lines took the loop longer than this, seconds, is left alone for so many times as long.
_BUSY_S: Final = 0.002
_PAUSES: Final = 4
_REAP_S: Final = 0.01
#: Seconds in which what an ended process has printed is read.
_LAST_S: Final = 0.2

Heard = Callable[[str, str], None]
"""Takes a line that a worker has printed: ``stdout`` or ``stderr``, and the line."""


@dataclass(frozen=True)
class Launch:
    """How a worker is started.

    Attributes:
        sockets: where its processes will listen: paths, or ports of the loopback interface.
    """

    argv: tuple[str, ...]
    environ: Mapping[str, str]
    folder: Path
    sockets: tuple[str | int, ...]


def launch_of(model: Model, settings: Settings, number: int, gpu: int | None, python: str) -> Launch:
    """Tell how to start a worker.

    Args:
        number: of the worker, from 9000 on; the numbers after it are those of its further processes.
        gpu: the first of the GPUs that it gets; None for the processor.
        python: interpreter of it.
    """
    sockets: tuple[str | int, ...]
    if settings.use_native_io and sys.platform != "win32":
        stem = settings.place.runtime / ".ts.sock"
        sockets = tuple(f"{stem}.{number + rank}" for rank in range(model.levels))
    else:
        sockets = tuple(number + rank for rank in range(model.levels))
    script = command_of(
        settings.place.home, sockets[0], settings.text("metrics_config"), asynchronous=model.asynchronous
    )
    environ = environment(model, settings)
    parallel = str(model.values.get("parallelType") or "")
    if parallel and gpu is not None:
        # In the way of deviceIds, if there are any: the server has turned them into numbers that follow each other.
        environ["CUDA_VISIBLE_DEVICES"] = ",".join(str(gpu + rank) for rank in range(model.levels))
    argv = [python, *script]
    if parallel and parallel != "custom":
        argv = [*_torchrun(model, settings, number), *script]
        torchrun = model.document.get("torchrun")
        threads = torchrun.get("OMP_NUMBER_THREADS", 1) if isinstance(torchrun, dict) else 1
        environ |= {"LOGLEVEL": "INFO", "OMP_NUM_THREADS": str(threads)}
    return Launch(tuple(argv), environ, model.unpacked.folder, sockets)


def _torchrun(model: Model, settings: Settings, number: int) -> list[str]:
    options = model.document.get("torchrun")
    options = options if isinstance(options, dict) else {}
    command = ["torchrun", "--nnodes", str(options.get("nnodes", 1)), "--nproc-per-node", str(model.levels)]
    command += ["--log-dir", str(settings.place.logs / "torchelastic_ts")]
    command += ["--rdzv-backend", str(options.get("rdzv-backend", "c10d"))]
    if endpoint := options.get("rdzv-endpoint"):
        command += ["--rdzv-endpoint", str(endpoint)]
    return [*command, "--rdzv-id", f"{model.name}_{number}", "--max-restarts", "1"]


def environment(model: Model, settings: Settings, environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the environment of a worker: the server's, as far as it is passed on, and where its modules are."""
    blacklist = settings.text("blacklist_env_vars")
    pattern = re.compile(blacklist) if blacklist else None
    return environment_of(
        settings.place.home,
        model.unpacked.folder,
        model.handler,
        {name: value for name, value in environ.items() if not (pattern and pattern.fullmatch(name))},
        decode=settings.decode_input_request,
        ipex=settings.on("ipex_enable"),
        ipex_gpu=settings.on("ipex_gpu_enable"),
    )


class Process:
    """A started process.

    Args:
        launch: how to start it.
        heard: takes each line that it prints, metrics included.

    Attributes:
        pid: that it has told; -1 before that.
        started: done when all of its processes listen; False if it ended before.
        killed: whether it had to be.
    """

    def __init__(self, launch: Launch, heard: Heard) -> None:
        for socket in launch.sockets:
            if isinstance(socket, str):
                with contextlib.suppress(FileNotFoundError):
                    Path(socket).unlink()  # of a predecessor that was killed
        self.launch = launch
        self.pid = -1
        self.killed = False
        self._heard = heard
        self._awaited = len(launch.sockets)
        self.started: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._pipes: list[_Pipe] = []
        self._popen = subprocess.Popen(
            launch.argv,
            cwd=launch.folder,
            env=dict(launch.environ),
            # It is never written to: it ends when this process does, and tells the worker so.
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for name, pipe in (("stdout", self._popen.stdout), ("stderr", self._popen.stderr)):
            self._pipes.append(_Pipe(name, cast(IO[bytes], pipe), self._line, self._ended))

    def _line(self, pipe: str, line: str) -> None:
        if not self.started.done() and line.endswith(_STARTED):
            self._awaited -= 1
            if self._awaited <= 0:
                self.started.set_result(True)
        elif found := _PID.fullmatch(line):
            self.pid = int(found[1])
        self._heard(pipe, line)

    def _ended(self) -> None:
        """Note that a pipe has ended; before the worker listens that is a failure."""
        if not self.started.done():
            self.started.set_result(False)

    @property
    def code(self) -> int | None:
        """How it ended; None while it runs."""
        return self._popen.poll()

    def terminate(self) -> None:
        """Ask it to end."""
        self._popen.terminate()

    async def exited(self, patience_s: float) -> None:
        """Wait until it has ended by itself and all that it printed is read, no longer than the patience lasts."""
        deadline = asyncio.get_running_loop().time() + patience_s
        while (self._popen.poll() is None or any(pipe.is_open for pipe in self._pipes)) and (
            asyncio.get_running_loop().time() < deadline
        ):
            await asyncio.sleep(_REAP_S)

    async def end(self, grace_s: float = 0.0, *, ask: bool = True) -> int:
        """End it, by force once the grace is over; returns how it ended.

        Args:
            ask: whether it is told to end, where there is a grace; else it is about to by itself.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + grace_s
        if grace_s > 0.0 and self._popen.poll() is None:
            if ask:
                self._popen.terminate()
            while self._popen.poll() is None and loop.time() < deadline:
                await asyncio.sleep(_REAP_S)
        if self._popen.poll() is None:
            self.killed = True
            self._popen.kill()
            while self._popen.poll() is None:
                await asyncio.sleep(_REAP_S)
        # What it printed last may lie in the pipes. What it has started may hold them: it is heard until it ends.
        await self.exited(_LAST_S)
        stdin: IO[bytes] | None = self._popen.stdin
        if stdin is not None:
            stdin.close()
        for socket in self.launch.sockets:
            if isinstance(socket, str):
                with contextlib.suppress(FileNotFoundError):
                    Path(socket).unlink()
        return int(self._popen.returncode)


class _Pipe:
    """Splits what comes from a pipe into lines, of a bounded length, in a bounded share of the loop's time.

    No transport: uvloop's closes the pipe's descriptor twice, and may so close what another thread has just opened.
    """

    def __init__(self, name: str, pipe: IO[bytes], line: Heard, ended: Callable[[], None]) -> None:
        self._name = name
        self._pipe = pipe
        self._line = line
        self._ended = ended
        self._rest = b""
        self._loop = asyncio.get_running_loop()
        os.set_blocking(pipe.fileno(), False)
        self._loop.add_reader(pipe.fileno(), self._read)

    @property
    def is_open(self) -> bool:
        """Whether more may come."""
        return not self._pipe.closed

    def _read(self) -> None:
        try:
            data = os.read(self._pipe.fileno(), _CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            begun = time.perf_counter()
            self._take(data)
            if (took := time.perf_counter() - begun) > _BUSY_S:
                self._loop.remove_reader(self._pipe.fileno())
                self._loop.call_later(_PAUSES * took, self._loop.add_reader, self._pipe.fileno(), self._read)
            return
        self._loop.remove_reader(self._pipe.fileno())
        self._pipe.close()
        if self._rest:  # the last line may lack its end
            self._line(self._name, self._rest.decode("utf-8", "replace"))
            self._rest = b""
        self._ended()

    def _take(self, data: bytes) -> None:
        *lines, rest = re.split(rb"\r\n|\n|\r", self._rest + data)
        if len(rest) > _MAX_LINE:
            lines, rest = [*lines, rest], b""
        self._rest = rest
        for line in lines:
            self._line(self._name, line[:_MAX_LINE].decode("utf-8", "replace"))
