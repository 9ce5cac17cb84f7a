"""A peer's server with one model, from its start to the end of all its processes."""

from __future__ import annotations

import secrets
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from archive_tool import open_archive
from benchmarks.serving_bench import servers
from benchmarks.serving_bench.contenders import Contender
from benchmarks.serving_bench.peers import environment
from benchmarks.serving_bench.servers import BenchmarkError, Server
from benchmarks.serving_bench.workloads import ROOT, Workload
from serving.control.configuration.ports import choose_free
from serving.errors import ServingError

HOST = "127.0.0.1"
_REQUEST_TIMEOUT_MS = 60_000  # as long as the driver waits
_POLL_S = 0.02


@contextmanager
def serving(
    contender: Contender, workload: Workload, folder: Path, workers: int, problems: list[str]
) -> Iterator[Server]:
    """Yield a peer's server, ready; it ends with the block, whatever happens. As `servers.serving` for our contenders.

    Raises:
        BenchmarkError: it did not become ready; says what it wrote last.
    """
    mark = secrets.token_hex(8)
    temporary, store = folder / "t", folder / "store"
    temporary.mkdir(parents=True)
    with open_archive(store / workload.build(store, contender, workers)) as archive:
        archive.extract(folder / "model")
    [port] = choose_free(HOST, 1)
    server = Server(contender, workload.name, f"http://{HOST}:{port}", None, mark, 0.0)
    route = server.url.removeprefix(server.inference)
    command = start_command(contender, workers, port, route, folder, workload.bodies)
    environ = servers.environment(folder, temporary, mark) | {"PYTHONPATH": str(ROOT)}
    with running(server, command, environ, folder, workload.bodies[0].read_bytes(), problems) as started:
        yield started


@contextmanager
def running(
    server: Server, command: Sequence[str], environ: Mapping[str, str], folder: Path, body: bytes, problems: list[str]
) -> Iterator[Server]:
    """Yield the server that a command starts, from its first answer; it ends with the block, whatever happens.

    Args:
        server: where it will be.
        command: stays until it is told to end; what it prints is in ``start.log`` of the folder.
        body: of the request that is asked until there is an answer.
        problems: gains a line if processes had to be killed in the end.

    Raises:
        BenchmarkError: it did not become ready; says what it wrote last.
    """
    begin = time.perf_counter()
    with (folder / "start.log").open("wb") as log:
        launcher = subprocess.Popen(
            command, cwd=folder, env=environ, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
        )
    try:
        _until_ready(server, body, launcher, folder)
        ready_s = time.perf_counter() - begin
        yield replace(server, ready_s=ready_s, start_processor_s=server.processor().total_s)
    finally:
        servers.terminate(launcher)
        left = servers.kill_left(server.mark)
        launcher.wait()
        if left:
            problems.append(f"{server.contender.label}, {server.model}: had to be killed in the end: {left}")


def start_command(
    contender: Contender, workers: int, port: int, route: str, folder: Path, bodies: Sequence[Path]
) -> list[str]:
    """Return the command that starts a peer; the archive is extracted into ``model`` of the folder."""
    told: dict[str, object] = {
        "port": port,
        "route": route,
        "workers": workers,
        "batch": contender.batch_size,
        "wait": contender.batch_delay_ms,
        "folder": folder / "model",
    }
    if contender.kind == "mosec":
        told |= {"address": HOST, "path": folder / "t" / "mosec"}
        told |= {"timeout": _REQUEST_TIMEOUT_MS, "log-level": "warning"}
    options = [text for name, value in told.items() for text in (f"--{name}", str(value))]
    program = f"benchmarks.serving_bench.peers.{contender.kind}_app"
    return [str(environment.python()), "-m", program, *options, "--bodies", *map(str, bodies)]


def _until_ready(server: Server, body: bytes, launcher: subprocess.Popen[bytes], folder: Path) -> None:
    """Wait for the first answer; mosec accepts connections before its worker has the model."""
    deadline = time.monotonic() + servers.START_TIMEOUT_S
    while time.monotonic() < deadline:
        with suppress(ServingError):
            server.ask(body)
            return
        if launcher.poll() is not None:
            raise BenchmarkError(f"the server ended: {servers.last_words(folder)}")
        time.sleep(_POLL_S)
    raise BenchmarkError(f"not ready after {servers.START_TIMEOUT_S:.0f} s: {servers.last_words(folder)}")
