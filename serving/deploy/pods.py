"""The container of an image of `torchmar image`, as both Kubernetes and KServe are told to run it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

#: The port of everything, and how Kubernetes is to call it.
PORT: Final = 8080
PORT_NAME: Final = "http"
#: Seconds in which a service's other ends hear that a pod goes: it answers meanwhile, and begins its end then.
NOTICE_S: Final = 5
#: Seconds from then until it is killed: `torchmar serve` kills after 30 what has not ended.
END_S: Final = 35
_PROBE_S: Final = 5
# Failures more than `torchmar serve` takes until it gives up by itself, and says why.
_MORE: Final = 6
#: The one folder that is written to.
SCRATCH: Final[Mapping[str, Any]] = {"name": "tmp", "emptyDir": {}}


@dataclass(frozen=True)
class Deployed:
    """What is to be deployed, whatever takes it.

    Attributes:
        image: of `torchmar image`.
        namespace: None leaves it to whoever applies the documents.
        replicas, most: pods, at least and at most.
        workers: of each model; None leaves it to the archive.
        timeout_s: until every model must be ready.
        pull_secret: of the image's registry; None where it needs none.
        labels: for every object.
    """

    image: str
    namespace: str | None
    replicas: int
    most: int
    workers: int | None
    timeout_s: int
    pull_secret: str | None
    labels: Mapping[str, str] = field(default_factory=dict)

    def of_models(self) -> list[str]:
        """Return the arguments of `torchmar serve` about models."""
        return [] if self.workers is None else [f"--workers={self.workers}"]

    def of_pods(self) -> list[str]:
        """Return its arguments that the probes of `container` rely on."""
        return [f"--timeout={self.timeout_s}"]

    def metadata(self, name: str, **more: str) -> dict[str, Any]:
        """Return the metadata of an object.

        Args:
            name: of the object.
            more: labels beside those of all objects.
        """
        place = {"namespace": self.namespace} if self.namespace else {}
        labels = {**more, **self.labels}
        return {"name": name, **place, **({"labels": labels} if labels else {})}

    def pull_secrets(self) -> dict[str, Any]:
        """Return the part of a pod's specification that names the registry's secret."""
        return {"imagePullSecrets": [{"name": self.pull_secret}]} if self.pull_secret else {}


def container(name: str, deployed: Deployed, arguments: Sequence[str], own: Mapping[str, Any]) -> dict[str, Any]:
    """Return a container that listens at `PORT`.

    Args:
        name: of the container.
        deployed: whose image it is.
        arguments: of `torchmar serve`.
        own: what it has beside that.
    """
    return {
        "name": name,
        "image": deployed.image,
        "args": list(arguments),
        **own,
        # Until its models are loaded nobody asks whether it lives.
        "startupProbe": _probe("/readyz", _PROBE_S, -(-deployed.timeout_s // _PROBE_S) + _MORE),
        "readinessProbe": _probe("/readyz", _PROBE_S, 2),
        "livenessProbe": _probe("/livez", 2 * _PROBE_S, 3),
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
            # Which user is the image's to say, by its number, or the platform's, as on OpenShift.
            "runAsNonRoot": True,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "volumeMounts": [{"name": SCRATCH["name"], "mountPath": "/tmp"}],  # noqa: S108 (the container's own)
    }


def _probe(path: str, period_s: int, failures: int) -> dict[str, Any]:
    return {
        "httpGet": {"path": path, "port": PORT},
        "periodSeconds": period_s,
        "timeoutSeconds": _PROBE_S,
        "failureThreshold": failures,
    }
