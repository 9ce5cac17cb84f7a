"""A cluster of one machine that nobody asks, measured size by size: ``python -m benchmarks.scale_bench.control_plane``.

For each size it prints a line of JSON: what the processes of each role took while the cluster became so large, what
they took afterwards while it waited, and how many they are. Its replicas answer with nothing: what Ray does about them
does not depend on what is in them.
"""

from __future__ import annotations

import argparse
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import psutil
import ray
from ray import serve
from ray.cluster_utils import Cluster
from ray.serve.context import _get_global_client

from benchmarks.scale_bench import roles
from benchmarks.scale_bench.patience import begun

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


@contextmanager
def asking(wanted: bool) -> Iterator[list[int]]:
    """Ask the controller for all that it knows again and again; yield a list of one number, how often it was asked."""
    ended, number = threading.Event(), [0]

    def ask() -> None:
        client = _get_global_client()
        while not ended.wait(_DETAILS_S):
            client.get_serve_details()
            number[0] += 1

    thread = threading.Thread(target=ask)
    if wanted:
        thread.start()
    try:
        yield number
    finally:
        ended.set()
        if wanted:
            thread.join()


def main() -> None:
    """Measure every size."""
    parser = argparse.ArgumentParser(description="What a Ray cluster takes while nobody asks.")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--sizes", nargs="+", required=True, metavar="NODES:REPLICAS", help="growing")
    parser.add_argument("--autoscaling", action="store_true", help="let the replicas report what autoscaling wants")
    parser.add_argument("--details", action="store_true", help="ask the controller for what it knows meanwhile")
    told = parser.parse_args()
    place = {"num_cpus": 64, "include_dashboard": False}
    cluster = begun(lambda: Cluster(initialize_head=True, head_node_args=place))
    ray.init(address=cluster.address, log_to_driver=False)
    serve.start(proxy_location="EveryNode", http_options={"host": "127.0.0.1", "port": told.port})
    kind = serve.deployment(ray_actor_options={"num_cpus": 1}, health_check_period_s=_HEALTH_S)(
        serve.ingress(Nothing())(type("Idle", (), {"check_health": Nothing.check_health}))
    )
    number = 1
    for nodes, replicas in (map(int, size.split(":")) for size in told.sizes):
        while number < nodes:
            begun(lambda: cluster.add_node(num_cpus=64))
            number += 1
        if told.autoscaling:
            sized = kind.options(autoscaling_config={"min_replicas": replicas, "max_replicas": replicas})
        else:
            sized = kind.options(num_replicas=replicas)
        become = partial(_become, sized, nodes, replicas)
        changed = measure(become)
        with asking(told.details) as asked:
            waited = measure(partial(time.sleep, told.seconds))
        size = {"nodes": nodes, "replicas": replicas, "asked": asked[0]}
        print(json.dumps({**size, **waited, "changed": changed}), flush=True)
    serve.shutdown()
    ray.shutdown()
    cluster.shutdown()


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
