"""A cluster on paper: how many requests a second so many nodes answer, from what one machine was measured to take.

Every node has a HAProxy, which spreads what it gets over the replicas of all nodes and asks each of them every few
seconds whether it lives. So the checks grow with the square of the nodes, while what they serve grows with the nodes.
The controller and the control service of the cluster are one process each: once they are full no request is slower, but
a dead replica is noticed later. No HAProxy knows what the others have sent: with few requests under way some replicas
wait while others have two, which `spread` finds out by playing it.
"""

from __future__ import annotations

import heapq
import random
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

ASSUMED = {
    "balance": "a load balancer before the cluster gives each node the same share, and takes nothing of the nodes",
    "cores": "every node has as many cores as said, all alike, and as fast as those measured",
    "constant": "what a request, a check, a replica and a node cost does not change with the size of the cluster",
    "network": "the network between the nodes is never full",
    "models": "one model; a replica and its worker have one core between them",
    "threads": "HAProxy has four threads, Ray's default",
    "alive": "nothing fails, starts or is replaced meanwhile",
    "front": "nobody manages models; the front asks the controller once a second, and the registry never",
    "updates": "the list of replicas that the controller sends to the nodes at a change costs the same for many",
}
"""What was not measured."""


_HAPROXY_THREADS = 4
_DETAILS_A_SECOND = 1


@dataclass(frozen=True)
class Measured:
    """What one machine was measured to take; milliseconds of the processor.

    Attributes:
        haproxy_ms: of a request, in HAProxy.
        manager_ms: of a request, in what counts HAProxy's requests on each node.
        replica_ms: of a request, in the replica and its worker.
        haproxy_check_ms: of a check, in HAProxy.
        replica_check_ms: of a check, in the replica.
        idle_replica_ms: of a second, in a replica that nobody asks.
        node_ms: of a second, in what a node has beside these.
        controller_ms: of a second, in the controller; `controller_replica_ms` and `controller_node_ms` more for each.
        controller_autoscaled_ms: more for each replica where the deployment autoscales: its reports.
        controller_start_ms: of the controller, for each replica that starts.
        details_ms: of the controller, asked for all that it knows; `details_replica_ms` more for each replica.
        gcs_ms: of a second, in the control service; `gcs_replica_ms` and `gcs_node_ms` more for each.
    """

    haproxy_ms: float
    manager_ms: float
    replica_ms: float
    haproxy_check_ms: float
    replica_check_ms: float
    idle_replica_ms: float
    node_ms: float
    controller_ms: float
    controller_replica_ms: float
    controller_node_ms: float
    controller_autoscaled_ms: float
    controller_start_ms: float
    details_ms: float
    details_replica_ms: float
    gcs_ms: float
    gcs_replica_ms: float
    gcs_node_ms: float

    @classmethod
    def of(cls, figures: Mapping[str, float]) -> Measured:
        """Return them from figures by these names. A difference below nothing is noise, and counts as nothing.

        Raises:
            KeyError: one is missing.
        """
        return cls(**{one.name: max(0.0, figures[one.name]) for one in fields(cls)})


@dataclass(frozen=True)
class Cluster:
    """A cluster on paper.

    Attributes:
        replicas: of the model, on each node.
        check_s: how often each HAProxy asks each replica.
        autoscaled: whether the replicas report to the controller.
    """

    nodes: int
    cores: int
    replicas: int
    check_s: float = 5.0
    autoscaled: bool = False


@dataclass(frozen=True)
class Outcome:
    """What a cluster reaches.

    Attributes:
        rps: requests a second of all nodes.
        linear: `rps` as a share of what so many single nodes would reach.
        checks_cores: of one node, for the checks.
        controller: share of the one core that the controller can have; above 1 it falls behind.
        gcs: the same of the control service, which has several threads: above 1 is no limit by itself.
        update_s: seconds that the controller needs at the least to replace every replica.
    """

    rps: float
    linear: float
    checks_cores: float
    controller: float
    gcs: float
    update_s: float


def reckon(measured: Measured, cluster: Cluster) -> Outcome:
    """Return what a cluster reaches.

    Raises:
        ValueError: a size is not above 0.
    """
    if min(cluster.nodes, cluster.cores, cluster.replicas, cluster.check_s) <= 0:
        raise ValueError("nodes, cores, replicas and the time between checks are above 0")
    rps = _rps(measured, cluster)
    alone = _rps(measured, replace(cluster, nodes=1))
    return Outcome(
        rps=rps,
        linear=rps / (cluster.nodes * alone) if alone else 0.0,
        checks_cores=_checks(measured, cluster),
        controller=_controller(measured, cluster),
        gcs=_gcs(measured, cluster),
        update_s=cluster.nodes * cluster.replicas * measured.controller_start_ms / 1000,
    )


def _checks(measured: Measured, cluster: Cluster) -> float:
    """Return the cores that checks take of one node: its HAProxy asks all replicas, all HAProxies ask its replicas."""
    rate = cluster.nodes * cluster.replicas / cluster.check_s
    return rate * (measured.haproxy_check_ms + measured.replica_check_ms) / 1000


def _controller(measured: Measured, cluster: Cluster) -> float:
    return (_controller_alone(measured) + cluster.nodes * _controller_of_a_node(measured, cluster)) / 1000


def _controller_alone(measured: Measured) -> float:
    return measured.controller_ms + _DETAILS_A_SECOND * measured.details_ms


def _controller_of_a_node(measured: Measured, cluster: Cluster) -> float:
    replica = measured.controller_replica_ms + cluster.autoscaled * measured.controller_autoscaled_ms
    replica += _DETAILS_A_SECOND * measured.details_replica_ms
    return cluster.replicas * replica + measured.controller_node_ms


def _gcs(measured: Measured, cluster: Cluster) -> float:
    ms = measured.gcs_ms + cluster.nodes * (cluster.replicas * measured.gcs_replica_ms + measured.gcs_node_ms)
    return ms / 1000


def _rps(measured: Measured, cluster: Cluster) -> float:
    """Return the requests a second of all nodes, of which the first has the cluster's own processes, too."""
    taken = _checks(measured, cluster) + measured.node_ms / 1000 + cluster.replicas * measured.idle_replica_ms / 1000
    head = min(1.0, _controller(measured, cluster)) + _gcs(measured, cluster)
    each = (measured.haproxy_ms + measured.manager_ms + measured.replica_ms) / 1000
    most = 1000 * min(cluster.replicas / measured.replica_ms, _HAPROXY_THREADS / measured.haproxy_ms)
    usual, first = (min(most, max(0.0, cluster.cores - taken - more) / each) for more in (0.0, head))
    return usual * (cluster.nodes - 1) + first


def full_at(measured: Measured, cluster: Cluster) -> int | None:
    """Return from how many nodes like these the controller has more to do than one core can; None: never."""
    each = _controller_of_a_node(measured, cluster)
    return max(1, int((1000 - _controller_alone(measured)) / each) + 1) if each else None


def falls_below(measured: Measured, cluster: Cluster, share: float) -> int | None:
    """Return the number of nodes like these from which on less than this share of the linear is reached.

    None: not with a hundred thousand.
    """

    def linear(nodes: int) -> float:
        return reckon(measured, replace(cluster, nodes=nodes)).linear

    low, high = 1, 100_000
    if linear(high) >= share:
        return None
    while low + 1 < high:  # the share only falls
        middle = (low + high) // 2
        low, high = (middle, high) if linear(middle) >= share else (low, middle)
    return high


class Proxy:
    """HAProxy's ``leastconn``: the server with the fewest requests of this proxy; of several, the longest unasked."""

    def __init__(self, servers: list[int]) -> None:
        self._levels: list[OrderedDict[int, None]] = [OrderedDict.fromkeys(servers)]
        self._under_way = dict.fromkeys(servers, 0)

    def choose(self) -> int:
        """Choose a server, and count the request."""
        level = next(number for number, held in enumerate(self._levels) if held)
        server, _ = self._levels[level].popitem(last=False)
        self._put(server, level + 1)
        return server

    def done(self, server: int) -> None:
        """Count the end of a request."""
        level = self._under_way[server]
        del self._levels[level][server]
        self._put(server, level - 1)

    def _put(self, server: int, level: int) -> None:
        if level == len(self._levels):
            self._levels.append(OrderedDict())
        self._levels[level][server] = None
        self._under_way[server] = level


def spread(proxies: int, replicas: int, under_way: float, rounds: int = 20, seed: int = 1) -> float:
    """Play the balance: return the share of their time in which the replicas work.

    Every client sends its next request when it has its answer, always through the same proxy; a replica takes one after
    the other, each for a time of 0.75 to 1.25.

    Args:
        proxies: that do not know what the others have sent.
        replicas: of all nodes.
        under_way: requests for each replica.
        rounds: how many times as many requests as replicas are played; the first fifth is not counted.
        seed: of the order and the times.
    """
    chance = random.Random(seed)  # noqa: S311 (a game, not a secret)
    servers = list(range(replicas))
    balancers = [Proxy(chance.sample(servers, replicas)) for _ in range(proxies)]
    clients = max(1, round(under_way * replicas))
    free_at = [0.0] * replicas
    ends: list[tuple[float, int, int]] = []

    def send(client: int, now: float) -> float:
        balancer = balancers[client % proxies]
        server = balancer.choose()
        took = chance.uniform(0.75, 1.25)
        free_at[server] = max(free_at[server], now) + took
        heapq.heappush(ends, (free_at[server], client, server))
        return took

    for client in range(clients):
        send(client, 0.0)
    count, skipped, begin, worked, now = rounds * replicas, rounds * replicas // 5, 0.0, 0.0, 0.0
    for number in range(count):
        now, client, server = heapq.heappop(ends)
        balancers[client % proxies].done(server)
        took = send(client, now)
        if number == skipped:
            begin = now
        elif number > skipped:
            worked += took
    return min(1.0, worked / ((now - begin) * replicas))
