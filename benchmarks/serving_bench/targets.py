"""The targets, as ratios within one run; one is a difference."""

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
    """A bound on a ratio, or on what the text names.

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
    for each in ("python-dedicated", "python-shared"):
        if (contender := results.first(each)) is not None:
            yield from _python_targets(results, contender)
            yield from _peer_targets(results, contender)
    yield from _batch_targets(results)


def _python_targets(results: Results, python: Contender) -> Iterator[Target]:
    """Yield the targets of the Python frontend, for one of its contenders."""
    stock, quiet, java = results.first("stock"), results.first("stock-quiet"), results.first("shared")

    def against(base: Contender | None, workload: str, connections: int, name: str) -> float | None:
        mine = results.load(workload, python, connections, name)
        return ratio(mine, results.load(workload, base, connections, name))

    def rps(text: str, bound: float, measured: float | None) -> Target:
        return Target(f"{python.kind}: {text}", ">=", bound, measured)

    def at_most(text: str, bound: float, measured: float | None) -> Target:
        return Target(f"{python.kind}: {text}", "<=", bound, measured)

    for connections, of_stock, of_java in ((1, 1.5, 1.0), (32, 5.0, 1.3)):
        text = f"no-op, {connections} connection{'s' if connections > 1 else ''}: requests/s against"
        yield rps(f"{text} stock quiet", of_stock, against(quiet, "noop", connections, "rps"))
        yield rps(f"{text} Java and shared", of_java, against(java, "noop", connections, "rps"))
    yield rps("MNIST, 32 connections: requests/s against stock quiet", 4.0, against(quiet, "mnist", 32, "rps"))
    for workload, connections, bound in (("mnist", 32, 0.85), ("resnet18", 8, 0.95)):
        loop = results.bare(workload, 1, LIMIT_BATCH) if workload == "mnist" else results.limit(workload, connections)
        threads = " with one thread" if workload == "mnist" else ""
        text = f"{workload}, {connections} connections: requests/s against the loop without a server{threads}"
        yield rps(text, bound, ratio(results.load(workload, python, connections, "rps"), loop))
    one = ratio(1000.0, results.bare("mnist", 1, 1))
    text = "MNIST, 1 connection: p50 against the loop's time for one, with one thread"
    yield at_most(text, 1.5, ratio(results.load("mnist", python, 1, "p50_ms"), one))
    for workload in ("noop", "mnist"):
        for connections, bound in ((1, 0.3), (32, 0.6)):
            text = f"{workload}, {connections} connection{'s' if connections > 1 else ''}: p99 against Java and shared"
            yield at_most(text, bound, against(java, workload, connections, "p99_ms"))
    for text, name, bound in (
        ("start to READY", "ready_s", 0.4),
        ("processor time of the start", "processor_s", 0.5),
        ("PSS of the frontend's process", "frontend_mb", 0.3),
    ):
        measured = ratio(results.life(python, name), results.life(stock, name))
        yield at_most(f"MNIST, {text} against stock", bound, measured)


def _peer_targets(results: Results, python: Contender) -> Iterator[Target]:
    """Yield the targets against mosec, the better of its waits, and FastAPI, for a contender of the Python frontend."""
    fastapi = results.first("fastapi")
    peers = [contender for contender in results.contenders if contender.kind == "mosec"]
    if peers:
        for connections, bound in ((1, 1.5), (8, 1.3), (32, 1.3), (64, 1.3)):
            rates = (results.load("mnist", peer, connections, "rps") for peer in peers)
            best = max((rate for rate in rates if rate is not None), default=None)
            text = f"MNIST, {connections} connection{'s' if connections > 1 else ''}: requests/s against mosec"
            measured = ratio(results.load("mnist", python, connections, "rps"), best)
            yield Target(f"{python.kind}: {text}", ">=", bound, measured)
    if fastapi is not None:
        mine, its = (results.load("mnist", each, 1, "p50_ms") for each in (python, fastapi))
        measured = None if mine is None or its is None else mine - its
        yield Target(f"{python.kind}: MNIST, 1 connection: p50 minus FastAPI's, in ms", "<=", 0.3, measured)


def _batch_targets(results: Results) -> Iterator[Target]:
    """Yield what batches may cost and must bring to a dedicated worker behind the Python frontend."""
    dedicated = [contender for contender in results.contenders if contender.kind == "python-dedicated"]
    one, many = (
        next((each for each in dedicated if (each.workers, each.batch_size) == (1, size)), None)
        for size in (1, LIMIT_BATCH)
    )
    if one is None or many is None:
        return
    name = f"python-dedicated, batchSize {LIMIT_BATCH}"
    for workload in ("noop", "mnist"):
        text = f"{name}: {workload}, 1 connection: p50 against batchSize 1"
        cost = ratio(results.load(workload, many, 1, "p50_ms"), results.load(workload, one, 1, "p50_ms"))
        yield Target(text, "<=", 1.05, cost)
    java = results.load("mnist", results.first("shared"), 32, "rps")
    text = f"{name}: MNIST, 32 connections: requests/s against Java and shared"
    yield Target(text, ">=", 1.0, ratio(results.load("mnist", many, 32, "rps"), java))
