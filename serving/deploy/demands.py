"""What archives want of a machine, as far as they say it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from archive_tool.errors import InputError
from archive_tool.reading.archive import open_archive
from serving.control.configuration.config import ModelSpec
from serving.control.models.store import config_of
from serving.deploy.names import quantity
from serving.image.context import check_archive

# MiB of the frontend and of what its workers share, of each process of a model beside its weights, and of a step.
_BASE: Final = 512
_PROCESS: Final = 256
_STEP: Final = 512
# Weights are in a process twice while it loads them.
_COPIES: Final = 2
_MIB: Final = 1 << 20


@dataclass(frozen=True)
class Demand:
    """What an archive wants.

    Attributes:
        name: of the model.
        version: of the model.
        size: its bytes, unpacked.
        workers: as many as it may have.
        processes: of all of them.
        cores: which all of them can use.
        gpus: which they must see; 0 where it does not ask for any.
        room: requests that its workers take at once.
    """

    name: str
    version: str
    size: int
    workers: int
    processes: int
    cores: int
    gpus: int
    room: int


@dataclass(frozen=True)
class Size:
    """What a pod gets, as Kubernetes writes it: no less and no more.

    The number of a worker's threads follows the limit. Without one it would be that of the node's cores.
    """

    cpu: str
    memory: str
    gpus: int = 0

    def resources(self) -> dict[str, dict[str, str]]:
        """Return the requests and limits of a container."""
        amounts = {"cpu": self.cpu, "memory": self.memory}
        if self.gpus:
            amounts["nvidia.com/gpu"] = str(self.gpus)
        return {"requests": amounts, "limits": amounts}


def demands_of(paths: Iterable[Path], workers: int | None = None) -> list[Demand]:
    """Read what archives want that are deployed together; see `demand_of`.

    Raises:
        InputError: two are the same version of a model.
    """
    found: dict[tuple[str, str], Path] = {}
    demands = []
    for path in paths:
        demand = demand_of(path, workers)
        key = demand.name, demand.version
        if key in found:
            raise InputError(f"{found[key]} and {path} hold the model {demand.name}, version {demand.version}")
        found[key] = path
        demands.append(demand)
    return demands


def demand_of(path: Path, workers: int | None = None) -> Demand:
    """Read what an archive wants.

    Args:
        path: packed or a folder.
        workers: of each model, as `torchmar serve` takes them; None leaves it to the archive, else one.

    Raises:
        InputError: there is none, or it has no manifest.
        archive_tool.errors.ArchiveError: it cannot be read.
    """
    model = check_archive(path)
    with open_archive(path) as archive:
        size = sum(member.size for member in archive.members)
    config = config_of(path)
    levels = int(config.value("parallelLevel") or 1) if config.value("parallelType") else 1
    number = workers or int(config.value("maxWorkers") or 1)
    processes = number * levels
    if config.value("backend.mode") == "shared":
        processes = int(config.value("backend.processes"))  # the workers are connections to these
    threads = config.value("backend.threads")
    return Demand(
        name=model.model_name or ModelSpec.stem(path.name),
        version=model.version,
        size=size,
        workers=number,
        processes=processes,
        cores=processes * (threads if isinstance(threads, int) else 1),
        gpus=_gpus(config.value("deviceType"), config.value("deviceIds"), levels),
        room=number * int(config.value("batchSize")),
    )


def _gpus(kind: Any, ids: Any, levels: int) -> int:
    """Return how many GPUs a worker must see; those of a model share them."""
    if kind == "cpu":
        return 0
    if ids:
        return 1 + max(0, *map(int, ids))  # of a pod's own, which are counted from 0
    return levels if kind == "gpu" or levels > 1 else 0


def size_of(demands: Iterable[Demand], *, cpu: str | None, memory: str | None, gpus: int | None) -> Size:
    """Return what a pod gets that serves archives.

    Args:
        demands: of the archives.
        cpu: cores, as the user says it; None for what the archives can use.
        memory: the same; None for an estimate.
        gpus: the same; None for as many as one of the archives must see.

    Raises:
        InputError: an amount that Kubernetes would refuse.
    """
    found = list(demands)
    mebibytes = _BASE + sum(one.processes * (_PROCESS + _COPIES * -(-one.size // _MIB)) for one in found)
    return Size(
        cpu=quantity("cpu", cpu) if cpu is not None else str(sum(one.cores for one in found)),
        memory=quantity("memory", memory) if memory is not None else _readable(-(-mebibytes // _STEP) * _STEP),
        gpus=max(one.gpus for one in found) if gpus is None else gpus,
    )


def _readable(mebibytes: int) -> str:
    return f"{mebibytes // 1024}Gi" if mebibytes % 1024 == 0 else f"{mebibytes}Mi"
