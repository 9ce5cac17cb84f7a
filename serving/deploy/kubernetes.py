"""Archives of an image as objects of Kubernetes: a Deployment and what belongs to it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from archive_tool.errors import InputError
from serving.control.keys import VARIABLES
from serving.deploy.demands import Demand, Size
from serving.deploy.documents import Document
from serving.deploy.names import label_value
from serving.deploy.pods import END_S, NOTICE_S, PORT, PORT_NAME, SCRATCH, Deployed, container

#: What in the secret is the key that clients send.
KEY: Final = "inference"
#: The metrics that say how many pods are needed.
WAITING: Final = "torchmar_requests_waiting"
RUNNING: Final = "torchmar_requests_in_flight"
# Of the requests that the workers take at once: above, another pod is due before any waits.
_BUSY: Final = 0.8
_SCRAPED_S: Final = 15
# Seconds that a pod may take beside loading its models, before its rollout has failed.
_SCHEDULED_S: Final = 300


@dataclass(frozen=True)
class Wanted:
    """What is to be deployed.

    Attributes:
        name: of all objects.
        deployed: in which image, and how many.
        size: of a pod.
        secret: that holds the key.
        monitor: whether the Prometheus operator is told.
    """

    name: str
    deployed: Deployed
    size: Size
    secret: str
    monitor: bool


def documents(wanted: Wanted, demands: Sequence[Demand]) -> Iterator[Document]:
    """Make the objects, each whole: what is left out is Kubernetes' default.

    Raises:
        InputError: a label of the user's is one by which the pods are found.
    """
    own = _labels(wanted)
    if taken := own.keys() & wanted.deployed.labels.keys():
        raise InputError(f"the label {min(taken)} is torchmar's: the pods are found by it", hint="choose another key")
    version = {"app.kubernetes.io/version": label_value(demands[0].version)} if len(demands) == 1 else {}
    labels = {**own, **version}
    scaled = wanted.deployed.most > wanted.deployed.replicas
    yield _deployment(wanted, labels, scaled=scaled)
    yield _object("v1", "Service", wanted, labels, _service(own))
    # A node may be emptied of one pod at a time, and of a single one, too.
    disrupted = {"maxUnavailable": 1, "selector": {"matchLabels": own}}
    yield _object("policy/v1", "PodDisruptionBudget", wanted, labels, disrupted)
    if scaled:
        room = sum(one.room for one in demands)
        yield _object("autoscaling/v2", "HorizontalPodAutoscaler", wanted, labels, _autoscaler(wanted, room))
    if wanted.monitor:
        scraped = {"port": PORT_NAME, "path": "/metrics", "interval": f"{_SCRAPED_S}s"}
        watched = {"selector": {"matchLabels": own}, "endpoints": [scraped]}
        yield _object("monitoring.coreos.com/v1", "ServiceMonitor", wanted, labels, watched)


def _labels(wanted: Wanted) -> dict[str, str]:
    """Return the labels by which the pods are found; they may never change."""
    return {"app.kubernetes.io/name": "torchmar", "app.kubernetes.io/instance": wanted.name}


def _object(version: str, kind: str, wanted: Wanted, labels: dict[str, str], spec: dict[str, Any]) -> Document:
    metadata = wanted.deployed.metadata(wanted.name, **labels)
    return {"apiVersion": version, "kind": kind, "metadata": metadata, "spec": spec}


def _deployment(wanted: Wanted, labels: dict[str, str], *, scaled: bool) -> Document:
    own = _labels(wanted)
    deployed = wanted.deployed
    spec = {
        # With an autoscaler the number is its own: a later apply must not set it back.
        **({} if scaled else {"replicas": deployed.replicas}),
        "progressDeadlineSeconds": deployed.timeout_s + _SCHEDULED_S,
        # The new pods are ready before an old one goes.
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
        "selector": {"matchLabels": own},
        "template": {"metadata": {"labels": {**labels, **deployed.labels}}, "spec": _pod(wanted)},
    }
    return _object("apps/v1", "Deployment", wanted, labels, spec)


def _pod(wanted: Wanted) -> dict[str, Any]:
    deployed = wanted.deployed
    key = {"secretKeyRef": {"name": wanted.secret, "key": KEY}}
    own = {
        "ports": [{"name": PORT_NAME, "containerPort": PORT}],
        "env": [{"name": VARIABLES["inference"], "valueFrom": key}],
        "resources": wanted.size.resources(),
        "lifecycle": {"preStop": {"exec": {"command": ["sleep", str(NOTICE_S)]}}},
    }
    spread = {
        "maxSkew": 1,
        "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": _labels(wanted)},
    }
    arguments = [*deployed.of_models(), *deployed.of_pods()]
    return {
        "terminationGracePeriodSeconds": NOTICE_S + END_S,
        # Handlers have no business with the cluster, nor with the addresses of its services in their environment.
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "topologySpreadConstraints": [spread],
        **deployed.pull_secrets(),
        "containers": [container("torchmar", deployed, arguments, own)],
        "volumes": [dict(SCRATCH)],
    }


def _service(own: dict[str, str]) -> dict[str, Any]:
    return {"selector": own, "ports": [{"name": PORT_NAME, "port": PORT, "targetPort": PORT_NAME}]}


def _autoscaler(wanted: Wanted, room: int) -> dict[str, Any]:
    """Return when pods are added and removed.

    A queue as long as what the workers take at once calls for twice the pods. It is empty again where there are just
    enough: the requests that run keep pods from being removed then.
    """
    targets = {WAITING: str(room), RUNNING: f"{round(room * _BUSY * 1000)}m"}
    return {
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": wanted.name},
        "minReplicas": wanted.deployed.replicas,
        "maxReplicas": wanted.deployed.most,
        "metrics": [
            {"type": "Pods", "pods": {"metric": {"name": name}, "target": {"type": "AverageValue", "averageValue": to}}}
            for name, to in targets.items()
        ],
    }
