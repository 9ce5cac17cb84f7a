"""The measurements of one run, and the medians of its rounds."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from benchmarks.serving_bench.contenders import Contender
from benchmarks.serving_bench.driver import Figures


@dataclass(frozen=True)
class Load:
    """One measurement of one contender under load.

    Attributes:
        processor_ms: that all processes of the server took for a request, in user and system mode.
        frontend_ms: the frontend's share of it.
    """

    round: int
    workload: str
    contender: Contender
    connections: int
    figures: Figures
    processor_ms: float = 0.0
    frontend_ms: float = 0.0

    def value(self, name: str) -> float:
        """Return one of these, or of the figures, by its name."""
        found: float = getattr(self.figures if hasattr(self.figures, name) else self, name)
        return found


@dataclass(frozen=True)
class Bare:
    """The handler without a server. No threads means torch's default.

    Attributes:
        rate: items a second.
    """

    round: int
    workload: str
    threads: int
    batch: int
    rate: float


@dataclass(frozen=True)
class Life:
    """Starting and scaling a server with one model.

    Attributes:
        ready_s: from the start command until one worker was READY.
        scale_s: from then to more workers, all of them READY.
        memory_one_mb: PSS of all processes but the frontend's with one worker; 0 where the system does not tell.
        memory_many_mb: the same with the more workers.
        processes_many: how many processes these are.
        processor_s: of the start, the start command's included.
        frontend_mb: PSS of the frontend's process, with one worker.
    """

    round: int
    contender: Contender
    ready_s: float
    scale_s: float
    memory_one_mb: float
    memory_many_mb: float
    processes_many: int
    processor_s: float = 0.0
    frontend_mb: float = 0.0


@dataclass
class Results:
    """All results of a run.

    Attributes:
        settings: of the run and of the machine, by name.
        titles: of the workloads, by name.
        problems: what could not be measured, or went wrong without ending the run.
    """

    settings: dict[str, str]
    contenders: tuple[Contender, ...]
    titles: dict[str, str]
    connections: tuple[int, ...]
    scale_to: int
    loads: list[Load] = field(default_factory=list)
    bares: list[Bare] = field(default_factory=list)
    lives: list[Life] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def first(self, kind: str) -> Contender | None:
        """Return the first contender of a kind."""
        return next((contender for contender in self.contenders if contender.kind == kind), None)

    def load(self, workload: str, contender: Contender | None, connections: int, name: str) -> float | None:
        """Return the median of a figure, such as ``rps``; None if it was not measured."""
        return median(load.value(name) for load in self._loads(workload, contender, connections))

    def errors(self, workload: str, contender: Contender) -> int:
        """Count the errors of all rounds and all numbers of connections."""
        return sum(
            load.figures.errors for load in self.loads if (load.workload, load.contender) == (workload, contender)
        )

    def bare(self, workload: str, threads: int, batch: int) -> float | None:
        """Return the median items a second."""
        wanted = (workload, threads, batch)
        return median(bare.rate for bare in self.bares if (bare.workload, bare.threads, bare.batch) == wanted)

    def limit(self, workload: str, batch: int) -> float | None:
        """Return the better of torch's default threads and one: the most that a server can reach with such batches."""
        rates = [rate for threads in self.threads if (rate := self.bare(workload, threads, batch)) is not None]
        return max(rates, default=None)

    def life(self, contender: Contender | None, name: str) -> float | None:
        """Return the median of a figure of `Life`; None if it was not measured."""
        return median(getattr(life, name) for life in self.lives if life.contender == contender) or None

    @property
    def threads(self) -> list[int]:
        """Return the numbers of threads that the bare handler ran with."""
        return sorted({bare.threads for bare in self.bares})

    @property
    def batches(self) -> list[int]:
        """Return the batch sizes that the bare handler ran with."""
        return sorted({bare.batch for bare in self.bares})

    @property
    def spread(self) -> float:
        """Return the median over all measurements of (largest - smallest) / median of the rounds' requests a second."""
        keys = {(load.workload, load.contender, load.connections) for load in self.loads}
        found = []
        for key in keys:
            rates = [load.figures.rps for load in self._loads(*key)]
            if middle := statistics.median(rates):
                found.append((max(rates) - min(rates)) / middle)
        return median(found) or 0.0

    def _loads(self, workload: str, contender: Contender | None, connections: int) -> list[Load]:
        wanted = (workload, contender, connections)
        return [load for load in self.loads if (load.workload, load.contender, load.connections) == wanted]

    def document(self) -> dict[str, Any]:
        """Return all results for JSON; contenders by their labels."""

        def row(entry: Load | Bare | Life) -> dict[str, Any]:
            values = asdict(entry)
            if not isinstance(entry, Bare):
                values["contender"] = entry.contender.label
            figures: dict[str, Any] = values.pop("figures", {})
            return values | figures

        return {
            "settings": self.settings,
            "contenders": {contender.label: asdict(contender) for contender in self.contenders},
            "scale_to": self.scale_to,
            "loads": [row(load) for load in self.loads],
            "bare": [row(bare) for bare in self.bares],
            "lives": [row(life) for life in self.lives],
            "problems": self.problems,
        }


def median(values: Iterable[float]) -> float | None:
    """Return the median; None of nothing."""
    found = list(values)
    return statistics.median(found) if found else None


def ratio(value: float | None, base: float | None) -> float | None:
    """Return how many times the base a value is; None if either is unknown."""
    return None if value is None or not base else value / base
