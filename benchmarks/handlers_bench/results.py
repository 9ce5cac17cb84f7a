"""The measurements of one run, and the targets."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.handlers_bench.contenders import BEST_16_BIT, CONTENDERS, DEFAULTS, STOCK, Tuned
from benchmarks.handlers_bench.loop import STAGES, Loop
from benchmarks.handlers_bench.workloads import TRAINED
from benchmarks.serving_bench.results import Results, median, ratio
from benchmarks.serving_bench.targets import Target
from handlers.optimization import machine

CONNECTIONS = 8  # at which the targets are
GPU_CONNECTIONS = 64


@dataclass(frozen=True)
class LoopRun:
    """The loop of one contender in one round."""

    round: int
    workload: str
    contender: str
    loop: Loop


@dataclass
class HandlerResults(Results):
    """All results of a run.

    Attributes:
        bfloat16: whether the processor computes with such numbers itself; None if that is not known.
        pictures: how many images were asked about.
        agreements: for each workload and contender the share of images with TorchServe's most probable class.
    """

    bfloat16: bool | None = None
    pictures: int = 0
    loops: list[LoopRun] = field(default_factory=list)
    agreements: dict[str, dict[str, float]] = field(default_factory=dict)

    def contender(self, name: str) -> Tuned | None:
        """Return the contender of a name, if it was measured."""
        wanted = CONTENDERS[name]
        return wanted if wanted in self.contenders else None

    def gain(self, workload: str, name: str, connections: int) -> float | None:
        """Return the requests a second against TorchServe's."""
        mine = self.load(workload, self.contender(name), connections, "rps") if self.contender(name) else None
        return ratio(mine, self.load(workload, CONTENDERS[STOCK], connections, "rps"))

    def loop(self, workload: str, contender: str, kind: str, batch: int) -> float | None:
        """Return the median images a second of a loop; `kind` is ``handler`` or ``model``."""
        found = [getattr(run.loop, kind).get(batch) for run in self._loops(workload, contender)]
        return median(rate for rate in found if rate is not None)

    def loop_limit(self, workload: str, contender: str, kind: str = "handler") -> float | None:
        """Return the most images a second that a loop reached at any batch size."""
        batches = {batch for run in self._loops(workload, contender) for batch in getattr(run.loop, kind)}
        rates = [rate for batch in batches if (rate := self.loop(workload, contender, kind, batch)) is not None]
        return max(rates, default=None)

    def stages(self, workload: str, contender: str) -> dict[str, float] | None:
        """Return the median milliseconds of each stage for one image."""
        found = [run.loop.stages for run in self._loops(workload, contender)]
        return {name: statistics.median(one[name] for one in found) for name in STAGES} if found else None

    @property
    def device(self) -> str:
        """Return where the models were, such as ``cpu`` or ``cuda:0``."""
        return next((run.loop.device for run in self.loops), "cpu")

    def _loops(self, workload: str, contender: str) -> list[LoopRun]:
        return [run for run in self.loops if (run.workload, run.contender) == (workload, contender)]

    def document(self) -> dict[str, Any]:
        """Return all results for JSON."""
        document = super().document()
        document.pop("scale_to")
        document.pop("bare")
        document.pop("lives")
        return document | {
            "bfloat16": self.bfloat16,
            "pictures": self.pictures,
            "agreements": self.agreements,
            "loops": [asdict(run) for run in self.loops],
        }


def bfloat16_hardware(cpuinfo: Path = machine.CPU_INFO) -> bool | None:
    """Return whether the processor multiplies bfloat16 numbers itself; None where Linux does not tell."""
    known = machine.instruction_sets(cpuinfo)
    return None if known is None else not machine.INSTRUCTIONS["bfloat16"].isdisjoint(known)


def targets(results: HandlerResults) -> Iterator[Target]:
    """Yield all targets, with what this run measured."""
    for workload in results.titles:
        gain = results.gain(workload, DEFAULTS, CONNECTIONS)
        yield Target(f"{workload}, {CONNECTIONS} connections, defaults: requests/s against stock", ">=", 1.3, gain)
        if results.bfloat16 or results.device != "cpu":
            gain = results.gain(workload, BEST_16_BIT, CONNECTIONS)
            yield Target(
                f"{workload}, {CONNECTIONS} connections, {BEST_16_BIT}: requests/s against stock", ">=", 3.0, gain
            )
        for name, share in results.agreements.get(workload, {}).items():
            if workload in TRAINED and CONTENDERS[name].section:
                yield Target(f"{workload}, {name}: share of TorchServe's best classes", ">=", 0.99, share)
        if results.device != "cpu":
            for name in (DEFAULTS, "shared", BEST_16_BIT):
                contender = results.contender(name)
                if contender is not None and contender.kind == "shared":
                    rate = results.load(workload, contender, GPU_CONNECTIONS, "rps")
                    yield Target(
                        f"{workload}, {GPU_CONNECTIONS} connections, {name}: images/s against its own loop",
                        ">=",
                        0.85,
                        ratio(rate, results.loop_limit(workload, name)),
                    )
