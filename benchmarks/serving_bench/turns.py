"""A few contenders in turns under load, round after round: what ``frontend.py`` and ``pipeline.py`` share.

Ratios are of one round, and the medians of these are shown: what the machine does beside it meets both sides.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from archive_tool.errors import TorchmarError
from benchmarks import machine
from benchmarks.serving_bench import command_line, driver
from benchmarks.serving_bench.contenders import Contender
from benchmarks.serving_bench.report import number, table
from benchmarks.serving_bench.servers import BenchmarkError, Server, serving, serving_together
from benchmarks.serving_bench.workloads import Workload


@dataclass(frozen=True)
class Comparison:
    """The contenders of a script, and what it does with them unless told otherwise.

    Attributes:
        about: one line for ``--help``.
        contenders: by their names in tables; ratios are to the first that is chosen.
        chosen: names of those that run if none are named.
        workloads: what makes each of them, by name.
        connections: numbers of connections.
        at: those of single workloads, where they have others.
        together: whether one server has a model for each contender. Then turns take seconds, and what the machine does
            beside it changes less between them; else each contender has a server of its own, round after round.
        python: what ``--frontend python`` puts in the place of `contenders`, by the same names; none: no such option.
    """

    about: str
    contenders: Mapping[str, Contender]
    chosen: str
    workloads: Mapping[str, Callable[[Path], Workload]]
    connections: str
    at: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    together: bool = False
    python: Mapping[str, Contender] = field(default_factory=dict)


@dataclass(frozen=True)
class Case:
    """A load: what is sent, over how many connections."""

    workload: str
    connections: int


Figures = dict[Case, dict[str, list[driver.Figures]]]
"""Of every case and contender, by rounds."""


@dataclass
class Run:
    """A run that measures into `figures`; failures are in `problems`."""

    comparison: Comparison
    options: argparse.Namespace
    folder: Path
    workloads: list[Workload]
    figures: Figures = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def all(self) -> None:
        """Measure every workload with every contender in each round."""
        if self.comparison.together:
            for workload in self.workloads:
                self._together(workload)
            return
        for index in range(self.options.rounds):
            for workload in self.workloads:
                self._in_turns(index, workload)

    def _order(self, index: int) -> list[str]:
        """Return the contenders in the order of a round: in each another one begins."""
        chosen: list[str] = self.options.contenders
        shift = index % len(chosen)
        return chosen[shift:] + chosen[:shift]

    def _every(self, workload: Workload) -> tuple[int, ...]:
        found: tuple[int, ...] = self.comparison.at.get(workload.name, self.options.connections)
        return found

    def _in_turns(self, index: int, workload: Workload) -> None:
        """Measure a server for each contender, one after the other."""
        name, order = workload.name, self._order(index)
        every = self._every(workload)
        taken: dict[str, dict[Case, driver.Figures]] = {}
        for label in order:
            print(f"round {index + 1}, {name}: {label}", file=sys.stderr, flush=True)
            contender = self.comparison.contenders[label]
            with (
                self._noted(f"{name}, {label}", f"{index}{name}{label}") as folder,
                serving(contender, workload, folder, contender.workers, self.problems) as server,
            ):
                # Java compiles what is called often: the first figures would be of another program.
                self._send(workload, server, max(every), self.options.warm_up)
                taken[label] = {Case(name, count): self._measured(workload, server, count) for count in every}
        if len(taken) == len(order):  # ratios are of one round
            for label, loads in taken.items():
                for case, found in loads.items():
                    self._keep(case, label, found)

    def _together(self, workload: Workload) -> None:
        """Measure one server, whose models take turns."""
        name, labels = workload.name, self.options.contenders
        print(f"{name}: {', '.join(labels)}", file=sys.stderr, flush=True)
        chosen = [self.comparison.contenders[label] for label in labels]
        named = [replace(workload, name=f"{name}-{label}") for label in labels]
        models = [(one, model, one.workers) for one, model in zip(chosen, named, strict=True)]
        every = self._every(workload)
        with self._noted(name, name) as folder, serving_together(models, folder, self.problems) as servers:
            by_label = dict(zip(labels, servers, strict=True))
            for server in servers:
                self._send(workload, server, max(every), 2 * self.options.warm_up)
            for index in range(self.options.rounds):
                for count in every:
                    taken = {label: self._measured(workload, by_label[label], count) for label in self._order(index)}
                    for label, found in taken.items():
                        self._keep(Case(name, count), label, found)

    @contextmanager
    def _noted(self, what: str, name: str) -> Iterator[Path]:
        """Yield a folder; what fails does not end the run."""
        folder = self.folder / name
        try:
            yield folder
        except (BenchmarkError, TorchmarError, RuntimeError) as error:
            self.problems.append(f"{what}: {error}")
        shutil.rmtree(folder, ignore_errors=True)

    def _measured(self, workload: Workload, server: Server, connections: int) -> driver.Figures:
        self._send(workload, server, connections, self.options.warm_up)
        return self._send(workload, server, connections, self.options.seconds)

    def _send(self, workload: Workload, server: Server, connections: int, seconds: float) -> driver.Figures:
        found = driver.send(self.options.driver, server.url, workload.bodies, connections, seconds)
        server.drain(workload.bodies[0].read_bytes())
        return found

    def _keep(self, case: Case, label: str, found: driver.Figures) -> None:
        self.figures.setdefault(case, {}).setdefault(label, []).append(found)


def report(figures: Figures, contenders: Sequence[str]) -> str:
    """Return the medians of the rounds, and of their ratios to the first contender, as Markdown."""
    base = contenders[0]

    def cell(found: dict[str, list[driver.Figures]], name: str, what: str) -> str:
        mine, bases = ([getattr(one, what) for one in found[label]] for label in (name, base))
        text = number(statistics.median(mine))
        ratios = [value / other for value, other in zip(mine, bases, strict=True) if other]
        return text if name == base or not ratios else f"{text} ({number(statistics.median(ratios))})"

    rows = [
        [
            f"{case.workload}, {case.connections}",
            *(cell(found, name, what) for what in ("rps", "p99_ms") for name in contenders),
            str(sum(one.errors for several in found.values() for one in several)),
        ]
        for case, found in figures.items()
    ]
    heads = [f"{name}, {what}" for what in ("requests/s", "p99 ms") for name in contenders]
    return table(("workload, connections", *heads, "errors"), rows)


def parse(comparison: Comparison, arguments: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=comparison.about)
    parser.add_argument("--rounds", type=int, default=3, help="of every contender (%(default)s)")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement (%(default)s)")
    parser.add_argument("--warm-up", type=float, default=1.0, help="seconds of load before each (%(default)s)")
    some = f"; {', '.join(comparison.at)}: others" if comparison.at else ""
    parser.add_argument("--connections", default=comparison.connections, help=f"numbers of them (%(default)s{some})")
    parser.add_argument("--workloads", default=",".join(comparison.workloads), help="of %(default)s")
    names = ",".join(comparison.contenders)
    parser.add_argument("--contenders", default=comparison.chosen, help=f"of {names} (%(default)s)")
    if comparison.python:
        parser.add_argument("--frontend", choices=["java", "python"], default="java", help="(%(default)s)")
    parser.add_argument("--cores", type=int, default=2, help="to run on, of those of this machine (%(default)s)")
    parser.add_argument("--driver", choices=["auto", "wrk", "bundled"], default="auto", help="(%(default)s)")
    parser.add_argument("--quick", action="store_true", help="does it run? One round of half a second at 1 and 8")
    options = parser.parse_args(arguments)
    if options.quick:
        options.rounds, options.seconds, options.warm_up, options.connections = 1, 0.5, 0.2, "1,8"
    command_line.settle(
        parser,
        options,
        counts=("rounds", "seconds", "warm_up", "cores"),
        told="rounds, seconds, cores and connections",
        lists={"workloads": comparison.workloads, "contenders": comparison.contenders},
    )
    return options


def measure(comparison: Comparison, options: argparse.Namespace) -> int:
    """Measure and print; return 1 if something failed on the way."""
    if not command_line.take_cores(options.cores):  # the servers' and the load's, too
        return 2
    frontend = getattr(options, "frontend", "java")
    if frontend == "python":
        comparison = replace(comparison, contenders=comparison.python)
    machine.compile_packages()
    begun, busy = time.monotonic(), os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="tmbench-", ignore_cleanup_errors=True) as folder:
        workloads = [comparison.workloads[name](Path(folder)) for name in options.workloads]
        run = Run(comparison, options, Path(folder), workloads)
        run.all()
    took = f"took {(time.monotonic() - begun) / 60:.1f} minutes"
    where = f"{frontend} frontend; {machine.describe()}; {options.cores} cores used"
    print(f"{where}; {options.driver}; {options.rounds} rounds; {took}")
    print(f"load average {busy:.2f} before, {os.getloadavg()[0]:.2f} after\n")
    print(report(run.figures, options.contenders))
    print("\n".join(["", *run.problems]) if run.problems else "")
    return 1 if run.problems else 0
