"""A few contenders in turns under load, round after round: what ``frontend.py`` and others like it share.

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
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from archive_tool.errors import TorchmarError
from benchmarks import machine
from benchmarks.serving_bench import command_line, driver
from benchmarks.serving_bench.contenders import Contender
from benchmarks.serving_bench.report import NOTHING, number, table, target_table
from benchmarks.serving_bench.servers import BenchmarkError, Server, serving, serving_together
from benchmarks.serving_bench.targets import Target
from benchmarks.serving_bench.workloads import Shown, Workload


@dataclass(frozen=True)
class Case:
    """A load: what is sent, over how many connections."""

    workload: str
    connections: int


Figures = dict[Case, dict[str, list[driver.Figures]]]
"""Of every case and contender, by rounds."""
Loop = Callable[[Workload, Sequence[int], argparse.Namespace], dict[int, driver.Figures]]
"""What measures a workload without a server, by numbers of connections, for the seconds that the options say."""


@dataclass(frozen=True)
class AtLeast:
    """What one contender's figure must be as a multiple of another's, or of its own in another case."""

    over: tuple[Case, str]
    under: tuple[Case, str]
    bound: float


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
        loops: further contenders, without a server.
        others: the contenders of single workloads, where they are not `contenders`.
        only: numbers of connections of single contenders, where they are not measured at all of them.
        targets: printed if the run has measured what they are about.
    """

    about: str
    contenders: Mapping[str, Contender]
    chosen: str
    workloads: Mapping[str, Callable[[Path], Workload]]
    connections: str
    at: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    together: bool = False
    python: Mapping[str, Contender] = field(default_factory=dict)
    loops: Mapping[str, Loop] = field(default_factory=dict)
    others: Mapping[str, Mapping[str, Contender]] = field(default_factory=dict)
    only: Mapping[str, Collection[int]] = field(default_factory=dict)
    targets: Sequence[AtLeast] = ()

    @property
    def labels(self) -> list[str]:
        """The names of all contenders."""
        others = (label for several in self.others.values() for label in several)
        return [*dict.fromkeys([*self.contenders, *others, *self.loops])]

    def servers(self, workload: str) -> Mapping[str, Contender]:
        """Return the contenders of a workload that are servers."""
        return self.others.get(workload, self.contenders)

    def of(self, workload: str, chosen: Sequence[str]) -> list[str]:
        """Return those of the chosen contenders that a workload has."""
        return [label for label in chosen if label in self.loops or label in self.servers(workload)]


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

    def _order(self, index: int, workload: Workload) -> list[str]:
        """Return a workload's contenders in the order of a round: in each another one begins."""
        chosen = self.comparison.of(workload.name, self.options.contenders)
        shift = index % max(1, len(chosen))
        return chosen[shift:] + chosen[:shift]

    def _every(self, workload: Workload) -> tuple[int, ...]:
        found: tuple[int, ...] = self.comparison.at.get(workload.name, self.options.connections)
        return found

    def _in_turns(self, index: int, workload: Workload) -> None:
        """Measure a server for each contender, one after the other."""
        name, order = workload.name, self._order(index, workload)
        taken: dict[str, dict[int, driver.Figures]] = {}
        for label in order:
            only = self.comparison.only.get(label)
            every = [count for count in self._every(workload) if only is None or count in only]
            if every:
                print(f"round {index + 1}, {name}: {label}", file=sys.stderr, flush=True)
                with self._noted(f"{name}, {label}", f"{index}{name}{label}") as folder:
                    taken[label] = self._of_one(workload, label, every, folder)
            else:
                taken[label] = {}
        if len(taken) == len(order):  # ratios are of one round
            for label, loads in taken.items():
                for count, found in loads.items():
                    self._keep(Case(name, count), label, found)

    def _of_one(self, workload: Workload, label: str, every: Sequence[int], folder: Path) -> dict[int, driver.Figures]:
        if label in self.comparison.loops:
            return self.comparison.loops[label](workload, every, self.options)
        contender = self.comparison.servers(workload.name)[label]
        with serving(contender, workload, folder, contender.workers, self.problems) as server:
            # Java compiles what is called often: the first figures would be of another program.
            self._send(workload, server, max(every), self.options.warm_up)
            return {count: self._measured(workload, server, count) for count in every}

    def _together(self, workload: Workload) -> None:
        """Measure one server, whose models take turns."""
        name, labels = workload.name, self.comparison.of(workload.name, self.options.contenders)
        print(f"{name}: {', '.join(labels)}", file=sys.stderr, flush=True)
        chosen = [self.comparison.servers(name)[label] for label in labels]
        named = [replace(workload, name=f"{name}-{label}") for label in labels]
        models = [(one, model, one.workers) for one, model in zip(chosen, named, strict=True)]
        every = self._every(workload)
        with self._noted(name, name) as folder, serving_together(models, folder, self.problems) as servers:
            by_label = dict(zip(labels, servers, strict=True))
            for server in servers:
                self._send(workload, server, max(every), 2 * self.options.warm_up)
            for index in range(self.options.rounds):
                for count in every:
                    order = self._order(index, workload)
                    taken = {label: self._measured(workload, by_label[label], count) for label in order}
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
        found = workload.load(self.options.driver, server.url, server.contender, connections, seconds)
        server.drain(workload.sent(server.contender)[0].read_bytes())
        return found

    def _keep(self, case: Case, label: str, found: driver.Figures) -> None:
        self.figures.setdefault(case, {}).setdefault(label, []).append(found)


def report(figures: Figures, contenders: Sequence[str], shown: Sequence[Shown] = Workload.shown) -> str:
    """Return the medians of the rounds, and of their ratios to the first contender, as Markdown."""
    base = contenders[0]

    def cell(found: dict[str, list[driver.Figures]], name: str, what: Shown) -> str:
        mine, bases = ([getattr(one, what.field) for one in found.get(label, ())] for label in (name, base))
        if not mine:
            return NOTHING
        text = number(what.each * statistics.median(mine))
        ratios = [value / other for value, other in zip(mine, bases, strict=True) if other] if bases else []
        return text if name == base or not ratios else f"{text} ({number(statistics.median(ratios))})"

    rows = [
        [
            f"{case.workload}, {case.connections}",
            *(cell(found, name, what) for what in shown for name in contenders),
            str(sum(one.errors for several in found.values() for one in several)),
        ]
        for case, found in figures.items()
    ]
    heads = [f"{name}, {what.name}" for what in shown for name in contenders]
    return table(("workload, connections", *heads, "errors"), rows)


def reports(run: Run) -> str:
    """Return a table for the workloads that have the same contenders and figures, and one of the targets."""
    groups: dict[tuple[tuple[str, ...], tuple[Shown, ...]], Figures] = {}
    for workload in run.workloads:
        key = (*run.comparison.of(workload.name, run.options.contenders),), (*workload.shown,)
        cases = {case: found for case, found in run.figures.items() if case.workload == workload.name}
        groups.setdefault(key, {}).update(cases)
    parts = [report(figures, contenders, shown) for (contenders, shown), figures in groups.items() if figures]
    fields = {workload.name: workload.shown[0] for workload in run.workloads}
    found = [one for each in run.comparison.targets if (one := _target(run.figures, each, fields)) is not None]
    return "\n\n".join([*parts, target_table(found)] if found else parts)


def _target(figures: Figures, asked: AtLeast, shown: Mapping[str, Shown]) -> Target | None:
    """Return a target with the median of its ratios, each of one round; None if it was not measured."""
    (case, label), (other, base) = asked.over, asked.under
    mine, bases = figures.get(case, {}).get(label), figures.get(other, {}).get(base)
    if not mine or not bases:
        return None
    what = shown[case.workload]
    pairs = zip((getattr(one, what.field) for one in mine), (getattr(one, what.field) for one in bases), strict=True)
    against = base if case == other else f"{base} at {other.connections}"
    text = f"{case.workload} at {case.connections}, {label}: {what.name} against {against}"
    return Target(text, ">=", asked.bound, statistics.median(value / (under or 1e-9) for value, under in pairs))


def parse(comparison: Comparison, arguments: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=comparison.about)
    parser.add_argument("--rounds", type=int, default=3, help="of every contender (%(default)s)")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement (%(default)s)")
    parser.add_argument("--warm-up", type=float, default=1.0, help="seconds of load before each (%(default)s)")
    some = f"; {', '.join(comparison.at)}: others" if comparison.at else ""
    parser.add_argument("--connections", default=comparison.connections, help=f"numbers of them (%(default)s{some})")
    parser.add_argument("--workloads", default=",".join(comparison.workloads), help="of %(default)s")
    names = ",".join(comparison.labels)
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
        lists={"workloads": comparison.workloads, "contenders": comparison.labels},
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
    print(reports(run))
    print("\n".join(["", *run.problems]) if run.problems else "")
    return 1 if run.problems else 0
