"""The management API's descriptions of models, as frozen values; unknown fields are ignored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

READY = "READY"


@dataclass(frozen=True)
class TrafficShare:
    """What a version gets of the requests that name none.

    Attributes:
        percent: of them.
        shadow: whether it gets copies, whose answers nobody sees.
        sticky_headers: the same value of the first of these that requests have leads to the same version.
    """

    percent: int
    shadow: bool
    sticky_headers: tuple[str, ...]

    def __str__(self) -> str:
        copies = " as copies" if self.shadow else ""
        by = f" by {', '.join(self.sticky_headers)}" if self.sticky_headers else ""
        return f"{self.percent} %{copies}{by}"

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> TrafficShare:
        """Read ``traffic`` of a version."""
        sticky = tuple(str(name) for name in row.get("stickyHeaders") or ())
        return cls(int(row.get("percent", 0)), bool(row.get("shadow", False)), sticky)


@dataclass(frozen=True)
class ModelSummary:
    """A row of ``GET /models``.

    Attributes:
        name: name of the model.
        url: archive that it was registered from.
        traffic: shares of the requests that name no version, by version, of those that have one.
    """

    name: str
    url: str
    traffic: Mapping[str, TrafficShare] = field(default_factory=dict)

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> ModelSummary:
        """Read one element of ``models``."""
        traffic = {str(version): TrafficShare.from_dict(share) for version, share in (row.get("traffic") or {}).items()}
        return cls(name=str(row["modelName"]), url=str(row.get("modelUrl", "")), traffic=traffic)


@dataclass(frozen=True)
class WorkerInfo:
    """A worker of a model.

    Attributes:
        id: the frontend's number of it, from 9000 on.
        status: ``READY`` once the model is loaded, otherwise ``UNLOADING`` (also while it is still starting).
        pid: process id, -1 until the worker has reported it.
        memory_bytes: resident memory as of the last collection (once a minute), 0 before the first.
        gpu: whether it was given a GPU.
    """

    id: str
    status: str
    pid: int
    memory_bytes: int
    gpu: bool

    @property
    def ready(self) -> bool:
        """Whether it answers requests."""
        return self.status == READY

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> WorkerInfo:
        """Read one element of ``workers``."""
        return cls(
            id=str(row.get("id", "")),
            status=str(row.get("status", "")),
            pid=int(row.get("pid", -1)),
            memory_bytes=int(row.get("memoryUsage", 0)),
            gpu=bool(row.get("gpu", False)),
        )


@dataclass(frozen=True)
class ModelVersion:
    """A version of a model, as ``GET /models/{name}`` describes it.

    Attributes:
        runtime: ``python``, ``python3`` or ``LSP``.
        batch_size: maximum number of requests in one batch.
        max_batch_delay_ms: milliseconds that it waits for a batch to fill.
        response_timeout_s: seconds that a worker may take for a batch.
        default: whether requests without a version go here.
        traffic: its share of the requests without a version, if it is not the default one; None for none.
    """

    name: str
    version: str
    url: str
    runtime: str
    min_workers: int
    max_workers: int
    batch_size: int
    max_batch_delay_ms: int
    response_timeout_s: int
    default: bool
    workers: tuple[WorkerInfo, ...]
    traffic: TrafficShare | None = None

    @property
    def ready_workers(self) -> int:
        """Number of workers that answer requests."""
        return sum(worker.ready for worker in self.workers)

    @classmethod
    def from_dict(cls, row: Mapping[str, Any], *, default: bool = False) -> ModelVersion:
        """Read one element of a describe answer, which does not say which version is the default one."""
        return cls(
            name=str(row["modelName"]),
            version=str(row.get("modelVersion", "")),
            url=str(row.get("modelUrl", "")),
            runtime=str(row.get("runtime", "")),
            min_workers=int(row.get("minWorkers", 0)),
            max_workers=int(row.get("maxWorkers", 0)),
            batch_size=int(row.get("batchSize", 1)),
            max_batch_delay_ms=int(row.get("maxBatchDelay", 0)),
            response_timeout_s=int(row.get("responseTimeout", 0)),
            default=default,
            workers=tuple(WorkerInfo.from_dict(worker) for worker in row.get("workers") or ()),
            traffic=TrafficShare.from_dict(row["traffic"]) if row.get("traffic") else None,
        )
