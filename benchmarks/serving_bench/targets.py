"""The targets, as ratios within one run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from benchmarks.serving_bench.contenders import Contender
from benchmarks.serving_bench.results import Results, ratio

LIMIT_BATCH = 32
SCALED = "mnist"  # the model that is started and scaled


@dataclass(frozen=True)
class Target:
    """A bound on a ratio.

    Attributes:
        measured: None if the run did not measure it.
    """

    text: str
    sign: Literal[">=", "<="]
    bound: float
    measured: float | None

    @property
    def met(self) -> bool | None:
        """Whether it holds; None if it was not measured."""
        if self.measured is None:
            return None
        return self.measured >= self.bound if self.sign == ">=" else self.measured <= self.bound


def targets(results: Results) -> Iterator[Target]:
    """Yield all targets, with what this run measured; of several contenders of a kind, for the first."""
    stock, dedicated, shared = results.first("stock"), results.first("dedicated"), results.first("shared")

    def load(workload: str, contender: Contender | None, connections: int, name: str) -> float | None:
        mine = results.load(workload, contender, connections, name)
        return ratio(mine, results.load(workload, stock, connections, name))

    def life(contender: Contender | None, name: str) -> float | None:
        return ratio(results.life(contender, name), results.life(stock, name))

    for contender, kind in ((dedicated, "dedicated"), (shared, "shared")):
        text = f"no-op, 1 connection, {kind}: requests/s against stock"
        yield Target(text, ">=", 1.6, load("noop", contender, 1, "rps"))
    text = "no-op, 32 connections, shared: requests/s against stock"
    yield Target(text, ">=", 3.0, load("noop", shared, 32, "rps"))
    text = "MNIST, 32 connections, shared: requests/s against stock"
    yield Target(text, ">=", 3.5, load("mnist", shared, 32, "rps"))
    text = f"MNIST, 32 connections, shared: requests/s against the bare handler at batch {LIMIT_BATCH}"
    limit = results.limit("mnist", LIMIT_BATCH)
    yield Target(text, ">=", 0.7, ratio(results.load("mnist", shared, 32, "rps"), limit))
    yield Target("MNIST, 1 connection, shared: p50 against stock", "<=", 0.8, load("mnist", shared, 1, "p50_ms"))
    for contender, kind, bound in ((shared, "shared", 0.05), (dedicated, "dedicated", 0.15)):
        text = f"MNIST, from 1 to {results.scale_to} workers, {kind}: time against stock"
        yield Target(text, "<=", bound, life(contender, "scale_s"))
    for contender, kind, bound in ((shared, "shared", 0.25), (dedicated, "dedicated", 0.3)):
        text = f"MNIST, {results.scale_to} workers, {kind}: PSS against stock"
        yield Target(text, "<=", bound, life(contender, "memory_many_mb"))
    for contender, kind in ((dedicated, "dedicated"), (shared, "shared")):
        text = f"MNIST, start to READY, one worker, {kind}: time against stock"
        yield Target(text, "<=", 0.8, life(contender, "ready_s"))
    for workload in results.titles:
        text = f"{workload}, 32 connections, shared: p99 against stock"
        yield Target(text, "<=", 0.5, load(workload, shared, 32, "p99_ms"))
