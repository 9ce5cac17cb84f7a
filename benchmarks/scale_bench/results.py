"""The measurements of one run, the medians of its rounds, the targets, and what they say."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from benchmarks.scale_bench.entrants import Entrant, Kind
from benchmarks.serving_bench.driver import Figures
from benchmarks.serving_bench.report import number
from benchmarks.serving_bench.results import median, ratio
from benchmarks.serving_bench.targets import Target

NAMES = {"noop": "no-op", "mnist": "MNIST"}
LOOPED = "resnet18"  # the model of the loops at once


@dataclass(frozen=True)
class Load:
    """One measurement of one entrant under load.

    Attributes:
        roles: milliseconds of the processor that a request took, by the processes' roles.
        idle_ms: that all processes took in a second without requests.
    """

    round: int
    workload: str
    entrant: Entrant
    connections: int
    figures: Figures
    roles: dict[str, float]
    idle_ms: float

    @property
    def processor_ms(self) -> float:
        """Return the processor time of a request, of all processes."""
        return sum(self.roles.values())

    @property
    def beside_idle_ms(self) -> float:
        """Return what of it the server would not have taken without requests."""
        return self.processor_ms - self.idle_ms / self.figures.rps if self.figures.rps else 0.0

    def value(self, name: str) -> float:
        """Return one of these, or of the figures, by its name."""
        found: float = getattr(self.figures if hasattr(self.figures, name) else self, name)
        return found


@dataclass(frozen=True)
class Loops:
    """Bare loops of one thread at once, each in a process.

    Attributes:
        rate: items a second of all of them.
    """

    round: int
    workload: str
    processes: int
    batch: int
    rate: float


@dataclass
class Results:
    """All results of a run.

    Attributes:
        settings: of the run and of the machine, by name.
        titles: of the workloads, by name.
        front_ms: milliseconds of the processor that a request took which no model's replica answers, by rounds.
        idle: what ``idle.py`` measured.
        problems: what could not be measured, or went wrong without ending the run.
    """

    settings: dict[str, str]
    entrants: tuple[Entrant, ...]
    titles: dict[str, str]
    connections: tuple[int, ...]
    loads: list[Load] = field(default_factory=list)
    loops: list[Loops] = field(default_factory=list)
    front_ms: list[float] = field(default_factory=list)
    idle: list[dict[str, Any]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def load(self, workload: str, entrant: Entrant, connections: int, name: str) -> float | None:
        """Return the median of a figure, such as ``rps``; None if it was not measured."""
        return median(load.value(name) for load in self._loads(workload, entrant, connections))

    def role_ms(self, workload: str, entrant: Entrant, connections: int, role: str) -> float | None:
        """Return the median of the processor time that a request took in the processes of a role."""
        return median(load.roles.get(role, 0.0) for load in self._loads(workload, entrant, connections))

    def limit(self, workload: str, processes: int) -> float | None:
        """Return what so many loops reach at once with the batch that is best for them."""
        chosen = [one for one in self.loops if (one.workload, one.processes) == (workload, processes)]
        rates = (median(one.rate for one in chosen if one.batch == batch) for batch in {one.batch for one in chosen})
        return max((rate for rate in rates if rate is not None), default=None)

    def errors(self, workload: str, entrant: Entrant) -> int:
        """Count the errors of all rounds and all numbers of connections."""
        return sum(one.figures.errors for one in self.loads if (one.workload, one.entrant) == (workload, entrant))

    def against(self, workload: str, pair: tuple[Entrant, Entrant], connections: int, name: str) -> float | None:
        """Return a figure of the first as a multiple of the second's."""
        mine, base = (self.load(workload, entrant, connections, name) for entrant in pair)
        return ratio(mine, base)

    def replicas(self) -> list[int]:
        """Return the numbers of replicas."""
        return sorted({entrant.replicas for entrant in self.entrants})

    def _loads(self, workload: str, entrant: Entrant, connections: int) -> list[Load]:
        wanted = (workload, entrant, connections)
        return [load for load in self.loads if (load.workload, load.entrant, load.connections) == wanted]

    def document(self) -> dict[str, Any]:
        """Return all results for JSON; entrants by their labels."""

        def row(load: Load) -> dict[str, Any]:
            values = asdict(load)
            figures: dict[str, Any] = values.pop("figures")
            return values | {"entrant": load.entrant.label} | figures

        return {
            "settings": self.settings,
            "loads": [row(load) for load in self.loads],
            "loops": [asdict(one) for one in self.loops],
            "front_ms": self.front_ms,
            "idle": self.idle,
            "problems": self.problems,
        }


def targets(results: Results) -> Iterator[Target]:
    """Yield the targets, with what this run measured."""
    one, two = Entrant("ray", 1), Entrant("ray", 2)
    by_hand = Entrant("two-hops", 1)
    for connections in results.connections:
        where = f"no-op on Ray, 1 replica, {_connections(connections)}"
        taken = results.load("noop", one, connections, "processor_ms")
        yield Target(f"{where}: processor of a request, ms", "<=", 1.0, taken)
        taken = results.load("noop", one, connections, "beside_idle_ms")
        yield Target(f"{where}: the same without what the cluster takes when idle, ms", "<=", 1.0, taken)
        times = results.against("noop", (by_hand, one), connections, "processor_ms")
        yield Target(f"{where}: processor of the two hops by hand as a multiple of it", ">=", 20.0, times)
    most = max(results.connections)
    reached = ratio(results.load(LOOPED, two, most, "rps"), results.limit(LOOPED, 2))
    text = f"{LOOPED} on Ray, 2 replicas of one thread, {_connections(most)}: requests/s against two such loops at once"
    yield Target(text, ">=", 0.8, reached)


def readings(results: Results) -> Iterator[str]:
    """Yield what the figures say, a sentence for each workload and number of replicas."""
    most = max(results.connections)
    for workload in results.titles:
        for replicas in results.replicas():
            said = list(_clauses(results, workload, replicas, most))
            if said:
                what = f"{NAMES.get(workload, workload)}, {replicas} replica{'s' if replicas > 1 else ''}"
                yield f"{what}, {_connections(most)}: on Ray Serve there are {'; '.join(said)}."


def _clauses(results: Results, workload: str, replicas: int, connections: int) -> Iterator[str]:
    """Yield what Ray reaches beside the others, as far as it was measured."""
    mine = Entrant("ray", replicas)
    bases: dict[Kind, str] = {
        "python": "our frontend's requests/s without Ray",
        "two-hops": "those of two hops written by hand",
        "two-hops-tuned": "those of two hops behind HAProxy",
    }
    for kind, words in bases.items():
        pair = (mine, Entrant(kind, replicas))
        rate = results.against(workload, pair, connections, "rps")
        taken = results.against(workload, pair, connections, "processor_ms")
        if rate is not None and taken is not None:
            yield f"{number(rate)} of {words}, with {number(taken)} of the processor a request"
    if (
        limit := ratio(results.load(workload, mine, connections, "rps"), results.limit(workload, replicas))
    ) is not None:
        yield f"{number(limit)} of what {replicas} bare loop{'s' if replicas > 1 else ''} of one thread gave at once"
    fewer = Entrant("ray", 1)
    if replicas > 1 and (more := results.against(workload, (mine, fewer), connections, "rps")) is not None:
        yield f"{number(more)} of those with one replica"


def _connections(count: int) -> str:
    return f"{count} connection{'s' if count > 1 else ''}"
