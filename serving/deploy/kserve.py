"""Archives as objects of KServe: a runtime, and a service for each model."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from archive_tool.errors import InputError
from serving.deploy.demands import Demand, Size
from serving.deploy.documents import Document
from serving.deploy.names import name_of
from serving.deploy.pods import PORT, SCRATCH, Deployed, container

Protocol = Literal["v1", "v2"]

#: Where in a URI the name of an archive's model goes.
PLACE: Final = "{name}"
#: What models may say they are. TorchServe's users write pytorch, and so do those of Triton: who means us names us.
_FORMATS: Final = (
    {"name": "mar", "autoSelect": True},
    {"name": "torchmar", "autoSelect": True},
    {"name": "pytorch"},
)
# What KServe puts into the arguments: the service's name.
_NAME: Final = "{{.Name}}"


@dataclass(frozen=True)
class Wanted:
    """What is to be deployed.

    Attributes:
        runtime: name of the runtime.
        deployed: in which image, and how many.
        sizes: of a pod of each model, in their order.
        storage: URI of the archive; with `PLACE` in it of each.
        protocol: that KServe is told the models are asked by.
        service_account: that may read the storage; None for the default one.
    """

    runtime: str
    deployed: Deployed
    sizes: Sequence[Size]
    storage: str
    protocol: Protocol = "v1"
    service_account: str | None = None


def documents(wanted: Wanted, names: Sequence[str], demands: Sequence[Demand]) -> Iterator[Document]:
    """Make the objects.

    Args:
        wanted: what is to be deployed.
        names: of the services, one for each model; see `names_of`.
        demands: of the models' archives.
    """
    yield _runtime(wanted)
    for name, demand, size in zip(names, demands, wanted.sizes, strict=True):
        yield _service(wanted, name, demand, size)


def names_of(demands: Sequence[Demand]) -> list[str]:
    """Return the names of the services of models.

    Raises:
        InputError: two would have one.
    """
    found: dict[str, str] = {}
    for demand in demands:
        name = name_of(demand.name)
        if name in found:
            raise InputError(
                f"the models {found[name]} and {demand.name} would both be the InferenceService {name}",
                hint="deploy them one by one, each with a --name of its own",
            )
        found[name] = demand.name
    return list(found)


def storage_of(storage: str, demands: Sequence[Demand]) -> str:
    """Return the URI of archives.

    Raises:
        InputError: it is none, or of several archives it is one and the same.
    """
    scheme, separator, rest = storage.partition("://")
    if not separator or not scheme.isalnum() or not rest or not storage.isprintable() or " " in storage:
        raise InputError(f"not a URI of storage: {storage!r}", hint="write one such as s3://BUCKET/models/mnist")
    if re.search(r"[{}]", storage.replace(PLACE, "")):
        raise InputError(f"not a URI of storage: {storage!r}", hint=f"{PLACE} is all that may stand in braces")
    if len(demands) > 1 and PLACE not in storage:
        raise InputError(
            f"{storage} is the storage of {len(demands)} archives",
            hint=f"put {PLACE} where the name of each model stands: s3://BUCKET/models/{PLACE}",
        )
    return storage


def _runtime(wanted: Wanted) -> Document:
    deployed = wanted.deployed
    own = {"ports": [{"containerPort": PORT, "protocol": "TCP"}]}  # Knative takes no name of ours
    made = container("kserve-container", deployed, [f"--model_name={_NAME}", *deployed.of_pods()], own)
    return {
        "apiVersion": "serving.kserve.io/v1alpha1",
        "kind": "ServingRuntime",
        "metadata": deployed.metadata(wanted.runtime),
        "spec": {
            "annotations": {"prometheus.kserve.io/port": str(PORT), "prometheus.kserve.io/path": "/metrics"},
            "supportedModelFormats": [dict(one) for one in _FORMATS],
            "protocolVersions": ["v1", "v2"],
            **deployed.pull_secrets(),
            "containers": [made],
            "volumes": [dict(SCRATCH)],
        },
    }


def _service(wanted: Wanted, name: str, demand: Demand, size: Size) -> Document:
    deployed = wanted.deployed
    # KServe adds them to the runtime's; of two the last one counts. So clients call the model as they always have.
    renamed = [] if name == demand.name else [f"--model_name={demand.name}"]
    arguments = [*renamed, *deployed.of_models()]
    model: Mapping[str, Any] = {
        "modelFormat": {"name": "mar"},
        "runtime": wanted.runtime,
        "protocolVersion": wanted.protocol,
        "storageUri": wanted.storage.replace(PLACE, demand.name),
        **({"args": arguments} if arguments else {}),
    }
    account = {"serviceAccountName": wanted.service_account} if wanted.service_account else {}
    return {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": deployed.metadata(name),
        "spec": {
            "predictor": {
                "minReplicas": deployed.replicas,
                "maxReplicas": deployed.most,
                **account,
                "model": {**model, "resources": size.resources()},
            }
        },
    }
