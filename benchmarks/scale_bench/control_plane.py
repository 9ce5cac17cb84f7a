"""A cluster of one machine that nobody asks, measured size by size: ``python -m benchmarks.scale_bench.control_plane``.

For each size it prints a line of JSON: what the processes of each role took while it waited, and how many they are. Its
replicas answer with nothing: what Ray does about them does not depend on what is in them.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

import psutil
import ray
from ray import serve
from ray.cluster_utils import Cluster

from benchmarks.scale_bench import roles

_APPLICATION = "idle"
_SETTLE_S = 3.0
_READY_S = 300.0


class Nothing:
    """What a replica is here."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer an ASGI request with nothing."""
        if scope["type"] == "lifespan":
            while (message := await receive())["type"] != "lifespan.shutdown":
                await send({"type": message["type"] + ".complete"})
            await send({"type": "lifespan.shutdown.complete"})
            return
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})


def measure(seconds: float) -> dict[str, Any]:
    """Return what this program's children take in so many seconds, and how many they are."""
    myself = psutil.Process()
    before, begin = roles.processor(myself.children(recursive=True))[0], time.monotonic()
    time.sleep(seconds)
    now, number = roles.processor(myself.children(recursive=True))
    return {"seconds": time.monotonic() - begin, "taken": roles.since(now, before), "processes": dict(number)}


def main() -> None:
    """Measure every size."""
    parser = argparse.ArgumentParser(description="What a Ray cluster takes while nobody asks.")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--sizes", nargs="+", required=True, metavar="NODES:REPLICAS", help="growing")
    parser.add_argument("--autoscaling", action="store_true", help="let the replicas report what autoscaling wants")
    told = parser.parse_args()
    place = {"num_cpus": 64, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=place)
    ray.init(address=cluster.address, log_to_driver=False)
    serve.start(proxy_location="EveryNode", http_options={"host": "127.0.0.1", "port": told.port})
    kind = serve.deployment(ray_actor_options={"num_cpus": 1})(serve.ingress(Nothing())(type("Idle", (), {})))
    number = 1
    for nodes, replicas in (map(int, size.split(":")) for size in told.sizes):
        while number < nodes:
            cluster.add_node(num_cpus=64)
            number += 1
        if told.autoscaling:
            sized = kind.options(autoscaling_config={"min_replicas": replicas, "max_replicas": replicas})
        else:
            sized = kind.options(num_replicas=replicas)
        serve.run(sized.bind(), name=_APPLICATION, route_prefix="/")
        _until(nodes, replicas)
        time.sleep(_SETTLE_S)
        print(json.dumps({"nodes": nodes, "replicas": replicas, **measure(told.seconds)}), flush=True)
    serve.shutdown()
    ray.shutdown()
    cluster.shutdown()


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
