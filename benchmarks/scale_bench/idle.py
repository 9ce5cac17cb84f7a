"""What a Ray cluster takes while nobody asks, by nodes and replicas: what the model on paper needs to know."""

from __future__ import annotations

import json
import secrets
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.scale_bench.entrants import TUNED, ray_environment
from benchmarks.serving_bench import servers
from benchmarks.serving_bench.servers import BenchmarkError
from serving.control.configuration.ports import choose_free

SECONDS = 15.0
CHECK_S = 5.0  # how often each HAProxy asks each replica whether it lives, in Ray 2.60
_FAST_CHECK_S = 0.1
_FEW, _MANY = 1, 9
_TIMEOUT_S = 900.0
# Case: its sizes as NODES:REPLICAS[:autoscaling], and how often HAProxy asks.
_CASES: dict[str, tuple[list[str], float]] = {
    "usual": ([f"1:{_FEW}", f"1:{_MANY}", f"1:{_MANY}:autoscaling", f"2:{_MANY}"], CHECK_S),
    "checks": ([f"1:{_MANY}"], _FAST_CHECK_S),
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


def measure(folder: Path, found: list[dict[str, Any]]) -> None:
    """Measure every case in a cluster of its own, on this machine; `found` gains each size when it is measured.

    Raises:
        BenchmarkError: a cluster did not start; says what it wrote last.
    """
    for number, (case, (sizes, check_s)) in enumerate(_CASES.items()):
        own = folder / str(number)  # HAProxy's sockets are below it, and their paths may not be long
        (own / "t").mkdir(parents=True)
        mark = secrets.token_hex(8)
        port, second = choose_free("127.0.0.1", 2)
        environ = ray_environment(servers.environment(own, own / "t", mark), own / "t") | TUNED
        environ["RAY_SERVE_WORKER_PROXY_HTTP_PORT"] = str(second)  # two nodes on one machine
        environ["RAY_SERVE_HAPROXY_HEALTH_CHECK_INTER"] = f"{1000 * check_s:.0f}ms"
        command = [sys.executable, "-m", "benchmarks.scale_bench.control_plane", "--port", str(port)]
        command += ["--seconds", str(SECONDS), "--sizes", *sizes]
        lines = own / "sizes.jsonl"
        try:
            with lines.open("wb") as output, (own / "start.log").open("wb") as log:
                done = subprocess.run(
                    command, cwd=own, env=environ, stdout=output, stderr=log, timeout=_TIMEOUT_S, check=False
                )
        except subprocess.TimeoutExpired:
            raise BenchmarkError(f"{case}: not done within {_TIMEOUT_S:.0f} s: {servers.last_words(own)}") from None
        finally:
            servers.kill_left(mark)
            whole = [line for line in lines.read_bytes().splitlines(keepends=True) if line.endswith(b"}\n")]
            found += [{"case": case, "check_s": check_s, **json.loads(line)} for line in whole]
        if done.returncode != 0:
            raise BenchmarkError(f"{case}: {servers.last_words(own)}")


def figures(measured: list[dict[str, Any]]) -> dict[str, float]:
    """Return milliseconds by the names of `NAMES`: differences between the sizes that were measured.

    Raises:
        KeyError: a size was not measured.
    """
    by_size = {(one["case"], one["nodes"], one["replicas"], one["autoscaling"]): one for one in measured}
    few, many = (by_size["usual", 1, replicas, False] for replicas in (_FEW, _MANY))
    reporting, wide = by_size["usual", 1, _MANY, True], by_size["usual", 2, _MANY, False]
    checked = by_size["checks", 1, _MANY, False]

    def ms(one: Mapping[str, Any], name: str) -> float:
        return 1000 * float(one["taken"].get(name, 0.0)) / float(one["seconds"])

    def slopes(name: str) -> tuple[float, float, float]:
        replica = (ms(many, name) - ms(few, name)) / (_MANY - _FEW)
        node = ms(wide, name) - ms(many, name)
        return ms(few, name) - _FEW * replica - node, replica, node

    def details(one: Mapping[str, Any]) -> float:
        """Return the milliseconds of one question."""
        more = ms(one["details"], "controller") - ms(one, "controller")
        return more * float(one["details"]["seconds"]) / max(1, one["details"]["asked"])

    def check(name: str) -> float:
        return (ms(checked, name) - ms(many, name)) / (_MANY * (1 / _FAST_CHECK_S - 1 / CHECK_S))

    controller, controller_replica, controller_node = slopes("controller")
    gcs, gcs_replica, gcs_node = slopes("gcs")
    details_replica = (details(many) - details(few)) / (_MANY - _FEW)
    change = many["changed"]
    start = (ms(change, "controller") - ms(many, "controller")) * float(change["seconds"])
    return {
        "node_ms": sum(slopes(name)[2] for name in ("raylet", "agent", "manager")),
        "controller_ms": controller,
        "controller_replica_ms": controller_replica,
        "controller_node_ms": controller_node,
        "controller_autoscaled_ms": (ms(reporting, "controller") - ms(many, "controller")) / _MANY,
        "details_ms": details(few) - _FEW * details_replica,
        "details_replica_ms": details_replica,
        "controller_start_ms": start / (_MANY - _FEW),
        "gcs_ms": gcs,
        "gcs_replica_ms": gcs_replica,
        "gcs_node_ms": gcs_node,
        "replica_ms": ms(many, "replica") / _MANY,
        "haproxy_check_ms": check("haproxy"),
        "replica_check_ms": check("replica"),
    }
