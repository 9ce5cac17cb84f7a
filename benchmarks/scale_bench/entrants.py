"""Who is compared, and how each is started: one model, so many replicas, one torch thread each."""

from __future__ import annotations

import secrets
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from archive_tool import open_archive
from benchmarks.serving_bench import servers
from benchmarks.serving_bench.contenders import Contender
from benchmarks.serving_bench.peers import server as peers
from benchmarks.serving_bench.servers import BenchmarkError, Server
from benchmarks.serving_bench.workloads import ROOT, Workload
from serving.control.configuration.ports import choose_free

Kind = Literal["python", "ray", "two-hops", "two-hops-tuned"]

KINDS: dict[Kind, str] = {
    "python": "our Python frontend without Ray: `torchmar start --frontend python`, a worker for each replica",
    "ray": "the same archive on Ray Serve: `torchmar deploy ray`, one hop",
    "two-hops": "a router deployment before the model's, written by hand, on Ray as it comes: scale_bench/two_hops.py",
    "two-hops-tuned": "the same with HAProxy and the throughput mode, as `torchmar deploy ray` sets them",
}
TUNED = {"RAY_SERVE_ENABLE_HA_PROXY": "1", "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1"}
# Waits of Ray's that a small or busy machine outlasts, and processes for nobody yet.
_PATIENT = {
    "RAY_raylet_start_wait_time_s": "120",
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "120",
    "RAY_SERVE_HAPROXY_STARTUP_TIMEOUT_S": "120",
    "RAY_enable_worker_prestart": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
}
_BATCH = 32
_CPUS = "0.1"  # of a replica, for Ray's count: on two cores two of them and what Ray Serve has beside them find a place


@dataclass(frozen=True)
class Entrant:
    """One way to serve, and its size."""

    kind: Kind
    replicas: int

    @classmethod
    def parse(cls, text: str) -> Entrant:
        """Parse ``KIND:REPLICAS``, such as ``ray:2``.

        Raises:
            ValueError: it is not of that form.
        """
        name, _, number = text.strip().partition(":")
        kind = next((known for known in get_args(Kind) if known == name), None)
        if kind is None or not number.isdigit() or int(number) < 1:
            raise ValueError(f"not an entrant: {text!r}; write KIND:REPLICAS with one of {', '.join(KINDS)}")
        return cls(kind, int(number))

    @property
    def label(self) -> str:
        """Its name in tables."""
        return f"{self.kind}, {self.replicas} replica{'s' if self.replicas > 1 else ''}"

    @property
    def is_ray(self) -> bool:
        """Whether it needs Ray."""
        return self.kind != "python"

    @property
    def contender(self) -> Contender:
        """Who says what is in its archive: of all kinds the same."""
        return Contender("python-dedicated", self.replicas, _BATCH, threads=1)


@contextmanager
def serving(entrant: Entrant, workload: Workload, folder: Path, problems: list[str]) -> Iterator[Server]:
    """Yield an entrant's server with one model, ready; it ends with the block, whatever happens.

    Args:
        folder: a new one, for everything that the server writes; with a short path, for sockets are below it.
        problems: gains a line if processes had to be killed in the end.

    Raises:
        BenchmarkError: it did not become ready; says what it wrote last.
    """
    contender = entrant.contender
    if not entrant.is_ray:
        with servers.serving(contender, workload, folder, entrant.replicas, problems) as server:
            yield server
        return
    temporary, store = folder / "t", folder / "store"
    temporary.mkdir(parents=True)
    archive = store / workload.build(store, contender, entrant.replicas)
    [port] = choose_free(peers.HOST, 1)
    mark = secrets.token_hex(8)
    server = Server(contender, workload.name, f"http://{peers.HOST}:{port}", None, mark, 0.0)
    environ = ray_environment(servers.environment(folder, temporary, mark), temporary)
    if entrant.kind == "ray":
        with _deployed(server, archive, port, environ, folder, problems):
            yield server
        return
    with open_archive(archive) as opened:
        opened.extract(folder / "model")
    route = server.url.removeprefix(server.inference)
    told = ["--port", str(port), "--route", route, "--replicas", str(entrant.replicas)]
    told += ["--folder", str(folder / "model"), "--bodies", *map(str, workload.bodies)]
    command = [sys.executable, "-m", "benchmarks.scale_bench.two_hops", *told]
    if entrant.kind == "two-hops-tuned":
        environ |= TUNED
    with peers.running(server, command, environ, folder, workload.bodies[0].read_bytes(), problems) as started:
        yield started


@contextmanager
def _deployed(
    server: Server, archive: Path, port: int, environ: Mapping[str, str], folder: Path, problems: list[str]
) -> Iterator[None]:
    """Let `torchmar deploy ray` serve an archive while the block runs.

    Raises:
        BenchmarkError: it did not; says why.
    """
    torchmar = servers.program("torchmar")
    options = ["--port", str(port), "--cpus", _CPUS, "--timeout", str(int(servers.START_TIMEOUT_S)), "--quiet"]
    try:
        with (folder / "start.log").open("wb") as log:
            command = [torchmar, "deploy", "ray", str(archive), *options]
            done = subprocess.run(command, cwd=folder, env=environ, stdout=log, stderr=log, check=False)
        if done.returncode != 0:
            raise BenchmarkError(f"the start command failed: {servers.last_words(folder)}")
        yield
    finally:
        subprocess.run([torchmar, "stop", "--quiet"], cwd=folder, env=environ, capture_output=True, check=False)
        if left := servers.kill_left(server.mark):
            problems.append(f"{server.contender.label} on Ray: had to be killed in the end: {left}")


def ray_environment(environ: Mapping[str, str], temporary: Path) -> dict[str, str]:
    """Return an environment for a cluster of its own, beside any other on this machine."""
    stats, metrics, fallback = choose_free(peers.HOST, 3)
    own = {
        "RAY_TMPDIR": temporary,
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": temporary / "h" / "haproxy.cfg",
        "RAY_SERVE_HAPROXY_SOCKET_PATH": temporary / "h" / "admin.sock",
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": temporary / "h" / "metrics.sock",
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": temporary / "h",
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": temporary / "h" / "server-state",
        "RAY_SERVE_HAPROXY_STATS_PORT": stats,
        "RAY_SERVE_HAPROXY_METRICS_PORT": metrics,
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": fallback,
        "OMP_NUM_THREADS": 1,
        "PYTHONPATH": ROOT,
    }
    kept = {key: value for key, value in environ.items() if not key.startswith("RAY_")}
    return kept | _PATIENT | {key: str(value) for key, value in own.items()}
