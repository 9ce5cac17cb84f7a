"""What a Ray cluster takes while nobody asks, by nodes and replicas: what the model on paper needs to know."""

from __future__ import annotations

import json
import secrets
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.scale_bench.entrants import TUNED, ray_environment
from benchmarks.serving_bench import servers
from benchmarks.serving_bench.servers import BenchmarkError
from serving.control.configuration.ports import choose_free

SECONDS = 20.0
CHECK_S = 5.0  # how often each HAProxy asks each replica whether it lives, in Ray 2.60
_FAST_CHECK_S = 0.1
_FEW, _MANY = 1, 9
_TIMEOUT_S = 900.0
# Case: its sizes as NODES:REPLICAS, further options, and how often HAProxy asks.
_CASES: dict[str, tuple[list[str], list[str], float]] = {
    "fixed": ([f"1:{_FEW}", f"1:{_MANY}", f"2:{_MANY}"], [], CHECK_S),
    "autoscaling": ([f"1:{_MANY}"], ["--autoscaling"], CHECK_S),
    "checks": ([f"1:{_MANY}"], [], _FAST_CHECK_S),
    "details": ([f"1:{_FEW}", f"1:{_MANY}"], ["--details"], CHECK_S),
}

NAMES = {
    "node_ms": "a node's raylet, agents and manager of HAProxy, ms a second",
    "controller_ms": "the controller of Ray Serve, ms a second",
    "controller_replica_ms": "more of it for each replica",
    "controller_node_ms": "more of it for each node",
    "controller_autoscaled_ms": "more of it for each replica of a deployment that autoscales",
    "details_ms": "the controller, asked for all that it knows, as our front does once a second, ms",
    "details_replica_ms": "more of it for each replica",
    "controller_start_ms": "the controller, for each replica that starts, ms",
    "gcs_ms": "the cluster's control service, ms a second",
    "gcs_replica_ms": "more of it for each replica",
    "gcs_node_ms": "more of it for each node",
    "replica_ms": "a replica, ms a second",
    "haproxy_check_ms": "HAProxy, for one check of a replica, ms",
    "replica_check_ms": "the replica, for one check, ms",
}


def measure(folder: Path) -> list[dict[str, Any]]:
    """Measure every case in a cluster of its own, on this machine.

    Raises:
        BenchmarkError: a cluster did not start; says what it wrote last.
    """
    found = []
    for case, (sizes, options, check_s) in _CASES.items():
        own = folder / case
        (own / "t").mkdir(parents=True)
        mark = secrets.token_hex(8)
        [port] = choose_free("127.0.0.1", 1)
        environ = ray_environment(servers.environment(own, own / "t", mark), own / "t") | TUNED
        environ["RAY_SERVE_HAPROXY_HEALTH_CHECK_INTER"] = f"{1000 * check_s:.0f}ms"
        command = [sys.executable, "-m", "benchmarks.scale_bench.control_plane", "--port", str(port)]
        command += ["--seconds", str(SECONDS), *options, "--sizes", *sizes]
        with (own / "start.log").open("wb") as log:
            try:
                done = subprocess.run(
                    command, cwd=own, env=environ, stdout=subprocess.PIPE, stderr=log, timeout=_TIMEOUT_S, check=False
                )
            except subprocess.TimeoutExpired:
                raise BenchmarkError(f"{case}: not done within {_TIMEOUT_S:.0f} s: {servers.last_words(own)}") from None
            finally:
                servers.kill_left(mark)
        if done.returncode != 0:
            raise BenchmarkError(f"{case}: {servers.last_words(own)}")
        lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith(b"{")]
        found += [{"case": case, "check_s": check_s, **line} for line in lines]
    return found


def figures(measured: list[dict[str, Any]]) -> dict[str, float]:
    """Return milliseconds by the names of `NAMES`: differences between the sizes that were measured.

    Raises:
        KeyError: a size was not measured.
    """
    by_size = {(one["case"], one["nodes"], one["replicas"]): one for one in measured}

    def ms(case: str, nodes: int, replicas: int, *names: str) -> float:
        one = by_size[case, nodes, replicas]
        return sum(1000 * one["taken"].get(name, 0.0) for name in names) / float(one["seconds"])

    def slopes(name: str) -> tuple[float, float, float]:
        few, many, wide = (ms("fixed", *size, name) for size in ((1, _FEW), (1, _MANY), (2, _MANY)))
        replica = (many - few) / (_MANY - _FEW)
        node = wide - many
        return few - _FEW * replica - node, replica, node

    controller, controller_replica, controller_node = slopes("controller")
    gcs, gcs_replica, gcs_node = slopes("gcs")
    node = sum(slopes(name)[2] for name in ("raylet", "agent", "manager"))
    pushed = ms("autoscaling", 1, _MANY, "controller") - ms("fixed", 1, _MANY, "controller")
    checks = _MANY * (1 / _FAST_CHECK_S - 1 / CHECK_S)  # more of them in a second

    def details(replicas: int) -> float:
        asked = by_size["details", 1, replicas]
        idle = ms("fixed", 1, replicas, "controller")
        return (ms("details", 1, replicas, "controller") - idle) * float(asked["seconds"]) / max(1, asked["asked"])

    details_replica = (details(_MANY) - details(_FEW)) / (_MANY - _FEW)
    change = by_size["fixed", 1, _MANY]["changed"]
    start = 1000 * change["taken"].get("controller", 0.0) - change["seconds"] * ms("fixed", 1, _MANY, "controller")

    def check(name: str) -> float:
        return (ms("checks", 1, _MANY, name) - ms("fixed", 1, _MANY, name)) / checks

    return {
        "node_ms": node,
        "controller_ms": controller,
        "controller_replica_ms": controller_replica,
        "controller_node_ms": controller_node,
        "controller_autoscaled_ms": pushed / _MANY,
        "details_ms": details(_FEW) - _FEW * details_replica,
        "details_replica_ms": details_replica,
        "controller_start_ms": start / (_MANY - _FEW),
        "gcs_ms": gcs,
        "gcs_replica_ms": gcs_replica,
        "gcs_node_ms": gcs_node,
        "replica_ms": ms("fixed", 1, _MANY, "replica") / _MANY,
        "haproxy_check_ms": check("haproxy"),
        "replica_check_ms": check("replica"),
    }
