"""The contenders: how each one's server is started, and the model-config.yaml of its archives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import yaml

Kind = Literal["stock", "stock-quiet", "dedicated", "shared", "python-dedicated", "python-shared", "mosec", "fastapi"]

KINDS: dict[Kind, str] = {
    "stock": "TorchServe as it comes: `torchserve --start`, its own worker, its default log and metrics mode",
    "stock-quiet": "the same worker with a quiet log and prometheus metrics: `torchmar start --stock-worker`",
    "dedicated": "our worker, a process each: `torchmar start`",
    "shared": "our worker, one process behind all connections: `backend: {mode: shared}` in model-config.yaml",
    "python-dedicated": "our worker, a process each, batchSize 32: `torchmar start --frontend python`",
    "python-shared": "our worker, one process behind all connections, batchSize 32: the same with `mode: shared`",
    "mosec": "mosec with the same handler in one process, batches of up to 32: peers/mosec_app.py",
    "fastapi": "FastAPI with the same handler in the event loop of uvicorn, uvloop and httptools: peers/fastapi_app.py",
}
PEERS = ("mosec", "fastapi")
SHARED_WORKERS = 16
SHARED_BATCH = 32
# Workers, batchSize and milliseconds. In Java's frontend a batch waits to be filled; in the Python one nothing does.
# With 2 connections in place of 16 a shared process would get its second batch too early, and small.
_USUAL: dict[Kind, tuple[int, int, int]] = {
    "stock": (1, 1, 1),
    "stock-quiet": (1, 1, 1),
    "dedicated": (1, 1, 1),
    "shared": (SHARED_WORKERS, 1, 1),
    "python-dedicated": (1, 32, 1),
    "python-shared": (SHARED_WORKERS, 32, 1),
    "mosec": (1, 32, 0),
    "fastapi": (1, 1, 1),
}
_LEAST: dict[Kind | None, tuple[int, ...]] = {"mosec": (1, 1, 0), "fastapi": ()}  # the others: 1


@dataclass(frozen=True)
class Contender:
    """One way to serve a model.

    Attributes:
        workers: of the frontend, while the load is measured.
        batch_size: of the frontend; 1 leaves batching to the worker.
        batch_delay_ms: how long Java's frontend, or mosec, waits for such a batch to fill.
        settings: further lines of its config.properties.
        pipeline: what a shared one says of preparing the next batch while one runs; None leaves it to the handler.
        threads: of torch; None leaves them to the worker.
        environ: further variables of its processes, which may be empty.
    """

    kind: Kind
    workers: int = 1
    batch_size: int = 1
    batch_delay_ms: int = 1
    settings: str = ""
    pipeline: bool | None = None
    threads: int | None = None
    environ: tuple[tuple[str, str], ...] = ()

    @classmethod
    def parse(cls, text: str) -> Contender:
        """Parse ``KIND[:WORKERS[:BATCH_SIZE[:BATCH_DELAY_MS]]]``, such as ``shared`` or ``shared:4:32:1``.

        Only mosec takes a delay of 0: in TorchServe that means its default. FastAPI takes no numbers.

        Raises:
            ValueError: it is not of that form.
        """
        name, *numbers = text.strip().split(":")
        kind = next((known for known in KINDS if known == name), None)
        least = _LEAST.get(kind, (1, 1, 1))
        if (
            kind is None
            or len(numbers) > len(least)
            or not all(number.isdigit() and int(number) >= bound for number, bound in zip(numbers, least, strict=False))
        ):
            raise ValueError(f"not a contender: {text!r}; write {', '.join(KINDS)} or KIND:WORKERS:BATCH:DELAY_MS")
        workers, batch_size, delay = [*map(int, numbers), *_USUAL[kind][len(numbers) :]]
        return cls(kind, workers, batch_size, delay)

    @property
    def is_python(self) -> bool:
        """Whether its frontend is the Python one."""
        return self.kind in ("python-dedicated", "python-shared")

    @property
    def is_peer(self) -> bool:
        """Whether it is a server of somebody else's, with neither workers to scale nor a model-config.yaml."""
        return self.kind in PEERS

    @property
    def is_shared(self) -> bool:
        """Whether one process has the model for all workers."""
        return self.kind in ("shared", "python-shared")

    @property
    def label(self) -> str:
        """Its name in tables."""
        text = self.kind.replace("-", " ")
        if self.workers > 1:
            text += f", {self.workers} workers"
        if self.batch_size > 1:
            text += f", batchSize {self.batch_size}"
            text += "" if self.is_python else f" after {self.batch_delay_ms} ms"
        return text

    def model_config(self, workers: int) -> str:
        """Return the model-config.yaml of its archives, for so many workers."""
        document: dict[str, object] = {"minWorkers": workers, "maxWorkers": workers, "batchSize": self.batch_size}
        if self.batch_size > 1 and not self.is_peer:
            document["maxBatchDelay"] = self.batch_delay_ms
        backend: dict[str, object] = {}
        if self.is_shared:
            backend = {"mode": "shared", "max_batch_size": SHARED_BATCH}
            if self.pipeline is not None:
                backend["pipeline"] = self.pipeline
        if self.threads is not None:
            backend["threads"] = self.threads
        if backend:
            document["backend"] = backend
        return yaml.safe_dump(document, sort_keys=False)
