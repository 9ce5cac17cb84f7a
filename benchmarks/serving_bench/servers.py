"""One contender's server on free ports in a folder of its own, from its start to the end of all its processes.

A variable in their environment marks these processes: it reaches every process that the server starts,
also one that leaves the server's session or loses its parent.
"""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

from benchmarks.serving_bench.contenders import Contender
from benchmarks.serving_bench.workloads import Workload
from serving.client import ManagementClient
from serving.client.transport import Address, Transport
from serving.control.configuration.java import java_home
from serving.control.configuration.ports import choose_free
from serving.errors import ServingError

MARK = "TORCHMAR_BENCHMARK"
START_TIMEOUT_S = 600.0  # a model that is compiled takes minutes where there are few cores
_POLL_S = 0.02
_GRACE_S = 15.0
# Settings of the caller's that would take a contender's own default from it.
_DROPPED = (
    "OMP_NUM_THREADS",
    "OMP_WAIT_POLICY",
    "GOMP_SPINCOUNT",
    "MKL_NUM_THREADS",
    "LOG_LOCATION",
    "METRICS_LOCATION",
)


class BenchmarkError(Exception):
    """A contender could not be measured."""


@dataclass(frozen=True)
class Server:
    """A running server with one model.

    Attributes:
        management: None of a peer, whose workers stay as they are.
        mark: value of the environment variable that its processes carry.
        ready_s: seconds from the start command to the first moment that its workers were READY.
        start_processor_s: seconds of the processor that this took, the start command's included.
    """

    contender: Contender
    model: str
    inference: str
    management: ManagementClient | None
    mark: str
    ready_s: float
    start_processor_s: float = 0.0

    @property
    def url(self) -> str:
        """Return where requests go."""
        return f"{self.inference}/predictions/{self.model}"

    def ask(self, body: bytes) -> bytes:
        """Return one answer.

        Raises:
            ServingError: it was an error.
        """
        with Transport(Address(self.inference), START_TIMEOUT_S) as transport:
            headers = {"Content-Type": "application/octet-stream"}
            return transport.checked("POST", f"/predictions/{self.model}", body=body, headers=headers).body

    def drain(self, body: bytes) -> None:
        """Wait until the frontend's queue holds nothing of a load whose sender has gone.

        Raises:
            BenchmarkError: it does not answer any more.
        """
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            with suppress(ServingError):
                self.ask(body)
                return
            time.sleep(10 * _POLL_S)
        raise BenchmarkError("after the load the server answered nothing")

    def scale(self, workers: int) -> float:
        """Set the number of workers; return the seconds until all were READY.

        Raises:
            BenchmarkError: the workers were not READY in time, or it cannot be told.
        """
        if self.management is None:
            raise BenchmarkError(f"{self.contender.label} cannot be scaled")
        begin = time.perf_counter()
        self.management.scale(self.model, min_workers=workers)
        while self.management.default_version(self.model).ready_workers != workers:
            if time.perf_counter() - begin > START_TIMEOUT_S:
                raise BenchmarkError(f"not {workers} workers after {START_TIMEOUT_S:.0f} s")
            time.sleep(_POLL_S)
        return time.perf_counter() - begin

    def processor(self) -> Processor:
        """Return what its processes have taken of the processor until now, those that have ended included."""
        frontend = others = 0.0
        for process in marked_processes(self.mark):
            with suppress(psutil.Error, OSError):
                times = process.cpu_times()
                if is_frontend(process):
                    frontend += times.user + times.system
                else:
                    others += times.user + times.system
                others += times.children_user + times.children_system
        return Processor(frontend, others)

    def memory(self) -> Memory:
        """Return the memory of its processes now."""
        frontend = backend = count = 0
        for process in marked_processes(self.mark):
            with suppress(psutil.Error, OSError):
                kilobytes = proportional_kb(Path(f"/proc/{process.pid}/smaps_rollup").read_text(encoding="ascii"))
                if is_frontend(process):
                    frontend += kilobytes
                elif "metric_collector" not in " ".join(process.cmdline()):
                    backend += kilobytes
                    count += 1
        return Memory(frontend * 1024 / 1e6, backend * 1024 / 1e6, count)


@dataclass(frozen=True)
class Processor:
    """Seconds of the processor.

    Attributes:
        frontend_s: of the frontend's process.
        others_s: of all others.
    """

    frontend_s: float
    others_s: float

    def since(self, before: Processor) -> Processor:
        """Return what was taken since then."""
        return Processor(self.frontend_s - before.frontend_s, self.others_s - before.others_s)

    @property
    def total_s(self) -> float:
        """Return the sum."""
        return self.frontend_s + self.others_s


@dataclass(frozen=True)
class Memory:
    """Memory in MB, pages that several processes have counted once (PSS); 0 where the system does not tell.

    Attributes:
        frontend_mb: of the frontend's process.
        backend_mb: of the workers' processes.
        processes: how many these are.
    """

    frontend_mb: float
    backend_mb: float
    processes: int


def is_frontend(process: psutil.Process) -> bool:
    """Whether this is the frontend's process, whichever frontend it is; FastAPI has none beside the model's."""
    return process.name() in ("java", "mosec") or process.cmdline()[1:3] == ["-m", "serving.frontend"]


def proportional_kb(text: str) -> int:
    """Return ``Pss`` of a smaps_rollup file."""
    return sum(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:"))


def marked_processes(mark: str) -> list[psutil.Process]:
    """Return the live processes of one server: the marked ones and what they have started.

    A process that has written a title over its environment, as those of Ray do, is known by its parent.
    """
    parents: dict[int, int] = {}
    found: dict[int, psutil.Process] = {}
    others: dict[int, psutil.Process] = {}
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.status() == psutil.STATUS_ZOMBIE:
                continue
            parents[process.pid] = process.ppid()
            if process.environ().get(MARK) == mark:
                found[process.pid] = process
            else:
                others[process.pid] = process
    while children := [pid for pid in others if parents[pid] in found]:
        found |= {pid: others.pop(pid) for pid in children}
    return list(found.values())


@contextmanager
def serving(
    contender: Contender, workload: Workload, folder: Path, workers: int, problems: list[str]
) -> Iterator[Server]:
    """Yield a contender's server with one model, ready; it ends with the block, whatever happens.

    Args:
        folder: a new one, for everything that the server writes; with a short path, for sockets are below it.
        workers: of the model.
        problems: gains a line if processes had to be killed in the end.

    Raises:
        BenchmarkError: it did not become ready; says what its logs end with.
    """
    with serving_together([(contender, workload, workers)], folder, problems) as (server,):
        yield server


@contextmanager
def serving_together(
    models: Sequence[tuple[Contender, Workload, int]], folder: Path, problems: list[str]
) -> Iterator[list[Server]]:
    """Yield one server with a model for each contender, as `serving`; the first one says how it is started.

    Args:
        models: contender, workload under a name of its own, and number of workers.
    """
    mark = secrets.token_hex(8)
    temporary = folder / "t"
    temporary.mkdir(parents=True)
    store = folder / "store"
    archives = [
        f"{workload.name}={workload.build(store, contender, workers)}" for contender, workload, workers in models
    ]
    ports = choose_free("127.0.0.1", 5)
    http = [f"http://127.0.0.1:{port}" for port in ports[:3]]
    config = folder / "config.properties"
    first = models[0][0]
    config.write_text(properties(http, ports[3:]) + first.settings, encoding="utf-8")
    environ = environment(folder, temporary, mark) | dict(first.environ)
    command = start_command(first, archives, folder)
    with ManagementClient.at(http[1], timeout_s=START_TIMEOUT_S) as management:
        launcher: subprocess.Popen[bytes] | None = None
        try:
            begin, taken = time.perf_counter(), _taken_by_children()
            with (folder / "start.log").open("wb") as log:
                # The stock server prints every line of its log: nowhere is the cheapest place for them.
                launcher = subprocess.Popen(
                    command, cwd=folder, env=environ, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=log
                )
            for _, workload, workers in models:
                _until_ready(management, workload.name, workers, launcher, mark, folder)
            ready_s = time.perf_counter() - begin
            if launcher.wait(START_TIMEOUT_S) != 0:
                raise BenchmarkError(f"the start command failed: {last_words(folder)}")
            servers = [
                Server(contender, workload.name, http[0], management, mark, ready_s)
                for contender, workload, _ in models
            ]
            started = servers[0].processor().total_s + _taken_by_children() - taken
            yield [replace(server, start_processor_s=started) for server in servers]
        finally:
            if left := _end(first, launcher, folder, environ, mark):
                names = ", ".join(workload.name for _, workload, _ in models)
                problems.append(f"{first.label}, {names}: had to be killed in the end: {left}")


def _taken_by_children() -> float:
    """Return the seconds of the processor that our own children had taken, of those that have ended."""
    times = os.times()
    return times.children_user + times.children_system


def properties(http: list[str], grpc: list[int]) -> str:
    """Return a config.properties with only addresses, one worker a model, and no keys asked for."""
    names = ("inference_address", "management_address", "metrics_address")
    lines = [f"{name}={address}" for name, address in zip(names, http, strict=True)]
    lines += [f"grpc_inference_port={grpc[0]}", f"grpc_management_port={grpc[1]}"]
    return "\n".join([*lines, "disable_token_authorization=true", "default_workers_per_model=1", ""])


def start_command(contender: Contender, models: Sequence[str], folder: Path) -> list[str]:
    """Return what a user would type."""
    common = [
        "--models",
        *models,
        "--model-store",
        str(folder / "store"),
        "--ts-config",
        str(folder / "config.properties"),
    ]
    if contender.kind == "stock":
        return [program("torchserve"), "--start", *common]
    options = ["--quiet", "--timeout", str(int(START_TIMEOUT_S))]
    if contender.kind == "stock-quiet":
        options.append("--stock-worker")
    if contender.is_python:
        options += ["--frontend", "python"]
    return [program("torchmar"), "start", *options, *common]


def program(name: str) -> str:
    """Return the program of this interpreter's environment."""
    return str(Path(sys.executable).parent / name)


def environment(folder: Path, temporary: Path, mark: str) -> dict[str, str]:
    """Return the environment of a server's processes."""
    kept = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("TS_", "TORCHMAR_")) and key not in _DROPPED
    }
    return kept | {
        MARK: mark,
        "JAVA_HOME": str(java_home()),
        # Workers are started by the name `python`.
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
        "TMPDIR": str(temporary),
        "TEMP": str(temporary),  # what the stock command gives Java
        "TORCHMAR_STATE_HOME": str(folder / "state"),
    }


def _until_ready(
    management: ManagementClient, model: str, workers: int, launcher: subprocess.Popen[bytes], mark: str, folder: Path
) -> None:
    begin = look = time.monotonic()
    while True:
        with suppress(ServingError):
            if management.default_version(model).ready_workers >= workers:
                return
        now = time.monotonic()
        # The stock command returns at once and Java goes on by itself. Searching for it costs: not at every turn.
        if launcher.poll() is not None and now > look + 1.0:
            if not marked_processes(mark):
                raise BenchmarkError(f"the server ended: {last_words(folder)}")
            look = now
        if now > begin + START_TIMEOUT_S:
            raise BenchmarkError(f"not ready after {START_TIMEOUT_S:.0f} s: {last_words(folder)}")
        time.sleep(_POLL_S)


def last_words(folder: Path) -> str:
    """Return the error of the start command; if it gave none, the ends of all that was written."""
    start, *logs = [folder / "start.log", *sorted(folder.rglob("model_log.log"))]
    lines = start.read_text(encoding="utf-8", errors="replace").splitlines()
    if not any(line.startswith("error:") for line in lines):
        for path in logs:
            lines = lines[-6:] + path.read_text(encoding="utf-8", errors="replace").splitlines()[-6:]
    text = " | ".join(line.strip() for line in lines if line.strip()) or "it said nothing"
    return text.replace(str(folder), "...")[-1500:]


def _end(
    contender: Contender, launcher: subprocess.Popen[bytes] | None, folder: Path, environ: Mapping[str, str], mark: str
) -> str:
    """End the server as its user would, then kill what is left, and report what that was."""
    if launcher is not None and launcher.poll() is None:
        terminate(launcher)  # `torchmar start` takes back what it has begun
    elif contender.kind != "stock":
        with suppress(subprocess.TimeoutExpired):
            command = [program("torchmar"), "stop", "--quiet"]
            subprocess.run(command, cwd=folder, env=environ, capture_output=True, timeout=3 * _GRACE_S, check=False)
    left = kill_left(mark)
    if launcher is not None:
        launcher.wait()
    return left


def terminate(launcher: subprocess.Popen[bytes]) -> None:
    """Ask a process to end, and wait for a while."""
    launcher.send_signal(signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        launcher.wait(_GRACE_S)


def kill_left(mark: str) -> str:
    """Wait for a server's processes to end, kill those that do not, and report which these were."""
    for process in marked_processes(mark):
        with suppress(psutil.Error):
            if process.name() == "java":
                process.terminate()
    deadline = time.monotonic() + _GRACE_S
    while (left := marked_processes(mark)) and time.monotonic() < deadline:
        time.sleep(0.1)
    names = []
    for process in left:
        with suppress(psutil.Error):
            names.append(" ".join(process.cmdline())[-80:])
            process.kill()
    psutil.wait_procs(left, timeout=5.0)
    return "; ".join(names)
