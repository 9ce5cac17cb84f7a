"""Two nodes on one machine, with models on Ray Serve, under load: what happens when something grows, dies or leaves."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from examples.ray_serve.load import Load, Question
from serving.control.configuration.ports import choose_free
from serving.frontend.ray import starting

CLIENTS = 8
# What a replica takes by Ray's count. A node has room for all five: what ends on a full one may leave its place to
# another model.
CPUS = "0.6"
_NODE_CPUS = 3
_WAIT_S = 600.0
_TRIES = 3

#: Runs a command of torchmar's, and returns what it prints.
Torchmar = Callable[..., str]


class ProofError(Exception):
    """Something did not happen as it should."""


def require(condition: bool, what: str) -> None:
    """Check a condition.

    Raises:
        ProofError: it does not hold; says what is wrong.
    """
    if not condition:
        raise ProofError(what)


@dataclass
class Nodes:
    """A cluster of two nodes on this machine, and the models on it.

    Attributes:
        cluster: of Ray's.
        torchmar: runs a command.
        name: of the server.
    """

    cluster: Any
    torchmar: Torchmar
    name: str
    others: list[Any] = field(default_factory=list)

    def deploy(self, archives: Sequence[str], *options: str) -> str:
        """Deploy archives; return the address."""
        said = self.torchmar(
            *(
                "deploy",
                "ray",
                *archives,
                "--address",
                self.cluster.address,
                "--host",
                "127.0.0.1",
                "--json",
                "--port",
                "auto",
            ),
            *("--proxies", "head", "--cpus", CPUS, "--name", self.name, "--timeout", "1200", *options),
        )
        return str(json.loads(said)["inference"])

    def add_node(self) -> None:
        """Let one more node join. Ray gives it half a minute to begin, which a busy machine exceeds."""
        for left in reversed(range(_TRIES)):
            try:
                self.others.append(self.cluster.add_node(num_cpus=_NODE_CPUS))
                break
            except Exception:
                if not left:
                    raise
        self.cluster.wait_for_nodes()

    def replicas(self, application: str) -> list[Mapping[str, Any]]:
        """Return the replicas of an application that run."""
        found = self._applications()[application]["deployments"]["model"]["replicas"]
        return [one for one in found if one["state"] == "RUNNING"]

    def on(self, node: Any) -> list[psutil.Process]:
        """Return the replicas of all applications that run on a node."""
        found = [one for name in self._applications() for one in self.replicas(name)]
        return [psutil.Process(one["pid"]) for one in found if one["node_id"] == node.node_id]

    @staticmethod
    def _applications() -> Mapping[str, Any]:
        from ray.serve.context import _get_global_client

        client = _get_global_client()
        assert client is not None
        return dict(client.get_serve_details()["applications"])

    def until_running(self, application: str, count: int, nodes: int) -> list[Mapping[str, Any]]:
        """Wait until an application has so many replicas, on so many nodes.

        Raises:
            ProofError: it has not, in time.
        """
        until = time.monotonic() + _WAIT_S
        while True:
            found = self.replicas(application)
            on = {one["node_id"] for one in found}
            if len(found) == count and len(on) >= nodes:
                return found
            require(
                time.monotonic() < until, f"{application} has {len(found)} replicas on {len(on)} nodes, not {count}"
            )
            time.sleep(0.5)

    def drain(self, node: Any) -> None:
        """Announce to Ray that a node is about to leave; its replicas go first."""
        self.ray(
            *("drain-node", "--address", self.cluster.address, "--node-id", node.node_id),
            *("--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "it leaves"),
            *("--deadline-remaining-seconds", "600"),
        )

    def ray(self, *arguments: str) -> None:
        """Run a command of Ray's."""
        import subprocess
        import sys

        subprocess.run([Path(sys.executable).parent / "ray", *arguments], check=True, capture_output=True)


@contextmanager
def two_nodes(torchmar: Torchmar, name: str, private: Path) -> Iterator[Nodes]:
    """Yield a cluster of two nodes; at the end nothing of it is left."""
    private.mkdir(mode=0o700, exist_ok=True)
    variables = starting.environment(resend=False, private=private, haproxy=True)
    before = dict(os.environ)
    os.environ.update(variables)
    import ray
    from ray.cluster_utils import Cluster
    from ray.serve.context import _set_global_client

    cluster = Cluster()
    try:
        (dashboard,) = choose_free("127.0.0.1", 1)
        cluster.add_node(num_cpus=_NODE_CPUS, include_dashboard=False, dashboard_port=dashboard)
        nodes = Nodes(cluster, torchmar, name)
        nodes.add_node()
        ray.init(address=cluster.address, namespace="proof", log_to_driver=False, logging_level="error")
        yield nodes
    finally:
        ray.shutdown()
        _set_global_client(None)  # Ray Serve would look for this cluster's controller in the next one
        cluster.shutdown()
        os.environ.clear()
        os.environ.update(before)


def prove(
    nodes: Nodes,
    archives: Sequence[str],
    newer: str,
    questions: Callable[[str], Sequence[Question]],
    say: Callable[[str], None],
) -> None:
    """Let everything happen, one after the other.

    Args:
        nodes: that it happens to.
        archives: to deploy, and where they are; the first one's model is called ``mnist``, version 1.0.
        newer: an archive with its version 2.0.
        questions: what clients ask, given the key.
        say: takes what has been shown.

    Raises:
        ProofError: something was lost.
    """
    address = nodes.deploy(archives, "--enable-model-api")
    named = ("--name", nodes.name)
    key = nodes.torchmar("keys", "--inference", *named).strip()
    load = Load()
    with load.running(address, questions(key), CLIENTS):
        _goes_on(load, time.monotonic(), "the first answers")
        say("both models answer")

        begin = time.monotonic()
        nodes.torchmar("scale", "mnist", "--min-workers", "4", *named)
        nodes.until_running("mnist--1.0", 4, 2)
        _goes_on(load, begin, "scaling from 1 to 4")
        say("mnist has 4 replicas on 2 nodes, and no request was lost")

        begin = time.monotonic()
        victim = nodes.replicas("mnist--1.0")[0]
        workers = psutil.Process(victim["pid"]).children(recursive=True)
        os.kill(victim["pid"], signal.SIGKILL)
        _, alive = psutil.wait_procs(workers, timeout=30)
        require(not alive, f"workers live on without their replica: {alive}")
        _only_running_failed(load, begin, "kill -9 of a replica")
        nodes.until_running("mnist--1.0", 4, 2)
        say(f"a replica was killed: {len(load.since(begin))} requests failed, which it had; its worker ended with it")

        begin = time.monotonic()
        node = nodes.others.pop()
        there = nodes.on(node)
        nodes.cluster.remove_node(node, allow_graceful=False)
        _, alive = psutil.wait_procs(there, timeout=60)  # they answer until they see that their node is gone
        require(not alive, f"replicas live on without their node: {alive}")
        _only_running_failed(load, begin, "kill -9 of a node")
        say(f"a node was killed: {len(load.since(begin))} requests failed, which it had")

        nodes.torchmar("scale", "mnist", "--min-workers", "2", *named)
        nodes.add_node()
        nodes.torchmar("scale", "mnist", "--min-workers", "4", *named)
        nodes.until_running("mnist--1.0", 4, 2)

        begin = time.monotonic()
        nodes.torchmar("scale", "mnist", "--min-workers", "2", *named)
        nodes.until_running("mnist--1.0", 2, 1)
        node = nodes.others.pop()
        nodes.drain(node)
        until = time.monotonic() + _WAIT_S
        while any(one["node_id"] == node.node_id for one in nodes.replicas("mnist--1.0")):
            require(time.monotonic() < until, "replicas stay on a node that leaves")
            time.sleep(0.5)
        time.sleep(8)  # what it drains
        nodes.cluster.remove_node(node, allow_graceful=True)
        _goes_on(load, begin, "a node that leaves")
        say("a node was drained and removed, and no request was lost")

        begin = time.monotonic()
        nodes.torchmar("scale", "mnist", "--min-workers", "1", *named)  # so that there is room
        nodes.torchmar("register", newer, *named)
        nodes.torchmar("set-default", "mnist", "2.0", *named)
        nodes.torchmar("unregister", "mnist", "--version", "1.0", *named)
        _goes_on(load, begin, "another version in the place of the first")
        say("version 2.0 took the place of 1.0, and no request was lost")
    say(f"{load.answered} requests were answered")


def _goes_on(load: Load, begin: float, what: str) -> None:
    require(load.until_answered(20 * CLIENTS, _WAIT_S), f"{what}: nobody answers")
    lost = load.since(begin)
    require(not lost, f"{what}: {len(lost)} requests were lost, such as {[failure.what for failure in lost[:3]]}")


def _only_running_failed(load: Load, begin: float, what: str) -> None:
    """Check that at most one request of each client failed: the one that it had under way."""
    require(load.until_answered(20 * CLIENTS, _WAIT_S), f"{what}: nobody answers")
    lost = load.since(begin)
    require(len(lost) <= CLIENTS, f"{what}: {len(lost)} requests failed, such as {[one.what for one in lost[:12]]}")
    after = time.monotonic()
    require(load.until_answered(50 * CLIENTS, _WAIT_S), f"{what}: nobody answers")
    require(not load.since(after), f"{what}: requests fail for long, such as {load.since(after)[:3]}")
