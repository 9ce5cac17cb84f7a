"""A cluster of one machine that nobody asks, measured size by size: ``python -m benchmarks.scale_bench.control_plane``.

For each size it prints a line of JSON: what the processes of each role took while the cluster became so large, what
they took afterwards while it waited, and how many they are. Its replicas answer with nothing: what Ray does about them
does not depend on what is in them.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from functools import partial
from itertools import count
from typing import Any

import psutil
import ray
from ray import serve
from ray.cluster_utils import Cluster
from ray.serve.context import _get_global_client

from benchmarks.scale_bench import roles
from benchmarks.scale_bench.patience import begun
from serving.control.configuration.ports import choose_free

_APPLICATION = "idle"
_SETTLE_S = 3.0
_READY_S = 300.0
_HEALTH_S = 5.0  # between two checks of the controller's, as `torchmar deploy ray` has them
_DETAILS_S = 0.1


class Nothing:
    """What a replica is here."""

    async def check_health(self) -> None:
        """Be well."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer an ASGI request with nothing."""
        if scope["type"] == "lifespan":
            while (message := await receive())["type"] != "lifespan.shutdown":
                await send({"type": message["type"] + ".complete"})
            await send({"type": "lifespan.shutdown.complete"})
            return
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})


def measure(work: Callable[[], None]) -> dict[str, Any]:
    """Return how long something takes, what this program's children take meanwhile, and how many they are then."""
    myself = psutil.Process()
    before, begin = roles.processor(myself.children(recursive=True))[0], time.monotonic()
    work()
    now, number = roles.processor(myself.children(recursive=True))
    return {"seconds": time.monotonic() - begin, "taken": roles.since(now, before), "processes": dict(number)}


def ask(seconds: float) -> dict[str, Any]:
    """Ask the controller again and again for all that it knows: what `measure` returns, and how often it was asked."""
    asked = count()

    def work() -> None:
        client, end = _get_global_client(), time.monotonic() + seconds
        while time.monotonic() < end:
            client.get_serve_details()
            next(asked)
            time.sleep(_DETAILS_S)

    return {**measure(work), "asked": next(asked)}


def main() -> None:
    """Measure every size."""
    parser = argparse.ArgumentParser(description="What a Ray cluster takes while nobody asks.")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--sizes", nargs="+", required=True, metavar="NODES:REPLICAS[:autoscaling]", help="growing")
    told = parser.parse_args()
    place = {"num_cpus": 64, "include_dashboard": False}
    cluster = begun(lambda: Cluster(initialize_head=True, head_node_args=place))
    ray.init(address=cluster.address, log_to_driver=False)
    serve.start(proxy_location="EveryNode", http_options={"host": "127.0.0.1", "port": told.port})
    kind = serve.deployment(ray_actor_options={"num_cpus": 1}, health_check_period_s=_HEALTH_S)(
        serve.ingress(Nothing())(type("Idle", (), {"check_health": Nothing.check_health}))
    )
    number = 1
    for size in told.sizes:
        nodes, replicas = map(int, size.split(":")[:2])
        autoscaling = size.endswith(":autoscaling")
        while number < nodes:
            begun(lambda: cluster.add_node(num_cpus=64, env_vars=_own_ports()))
            number += 1
        if autoscaling:
            sized = kind.options(autoscaling_config={"min_replicas": replicas, "max_replicas": replicas})
        else:
            sized = kind.options(num_replicas=replicas)
        found = {"nodes": nodes, "replicas": replicas, "autoscaling": autoscaling}
        found["changed"] = measure(partial(_become, sized, nodes, replicas))
        found |= measure(partial(time.sleep, told.seconds))
        found["details"] = ask(told.seconds)
        print(json.dumps(found), flush=True)
    serve.shutdown()
    ray.shutdown()
    cluster.shutdown()


def _own_ports() -> dict[str, str]:
    """Return what the HAProxy of another node on this machine must be told; the controller tells its HTTP port."""
    stats, metrics = choose_free("127.0.0.1", 2)
    return {"RAY_SERVE_HAPROXY_STATS_PORT": f"{stats}", "RAY_SERVE_HAPROXY_METRICS_PORT": f"{metrics}"}


def _become(kind: Any, nodes: int, replicas: int) -> None:
    serve.run(kind.bind(), name=_APPLICATION, route_prefix="/")
    _until(nodes, replicas)
    time.sleep(_SETTLE_S)


def _until(nodes: int, replicas: int) -> None:
    """Wait until all replicas run, and a proxy on every node is healthy."""
    deadline = time.monotonic() + _READY_S
    while time.monotonic() < deadline:
        status = serve.status()
        states = status.applications[_APPLICATION].deployments["Idle"].replica_states
        if states.get("RUNNING", 0) == replicas and list(status.proxies.values()).count("HEALTHY") == nodes:
            return
        time.sleep(0.5)
    raise SystemExit(f"not {replicas} replicas and {nodes} proxies within {_READY_S:.0f} s: {serve.status()}")


if __name__ == "__main__":
    main()
