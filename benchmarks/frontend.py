"""The Java frontend's settings for few cores beside its usual ones, in one run: ``python benchmarks/frontend.py``.

Our shared worker is behind all of them. They take turns, round after round; ratios are of one round, and the medians of
these are shown. Nothing is written: copy what it prints.

::

    python benchmarks/frontend.py                        # three rounds: about eight minutes on two cores
    python benchmarks/frontend.py --rounds 1             # about three minutes
    python benchmarks/frontend.py --cores 4              # on so many of this machine's cores, the load's included
    python benchmarks/frontend.py --contenders usual,collector,few
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1])]  # run as a script, only this file's own folder is searched

from archive_tool.errors import TorchmarError  # noqa: E402
from benchmarks import machine, serving  # noqa: E402
from benchmarks.serving_bench import driver  # noqa: E402
from benchmarks.serving_bench.contenders import SHARED_WORKERS, Contender  # noqa: E402
from benchmarks.serving_bench.report import number, table  # noqa: E402
from benchmarks.serving_bench.servers import BenchmarkError, Server  # noqa: E402
from benchmarks.serving_bench.servers import serving as running  # noqa: E402
from benchmarks.serving_bench.workloads import Workload, mnist, noop, stream, upload  # noqa: E402
from serving.control.configuration.few_cores import COLLECTOR, THREADS  # noqa: E402

_USUAL_COLLECTOR = "-XX:+UseG1GC"  # of Java on two cores and 2 GB, or more
_USUAL_THREADS = dict.fromkeys(THREADS, "0")  # Netty's number: two a core


def _contender(collector: str, threads: dict[str, str]) -> Contender:
    # Said in the configuration, so that it is the same whatever `torchmar start` does unasked.
    lines = [f"vmargs={collector}", *(f"{key}={value}" for key, value in threads.items()), ""]
    return Contender("shared", SHARED_WORKERS, settings="\n".join(lines))


CONTENDERS = {
    "usual": _contender(_USUAL_COLLECTOR, _USUAL_THREADS),
    "collector": _contender(COLLECTOR, _USUAL_THREADS),
    "few": _contender(COLLECTOR, THREADS),
}
WORKLOADS = {"mnist": mnist, "noop": noop, "upload": upload, "stream": stream}
_AT_ALL_CONNECTIONS = ("mnist", "noop")  # the others at 8 only
_SOME_CONNECTIONS = (8,)


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

    options: argparse.Namespace
    folder: Path
    workloads: list[Workload]
    figures: Figures
    problems: list[str]

    def round(self, index: int) -> None:
        """Measure every workload with every contender once; each round another contender begins."""
        shift = index % len(self.options.contenders)
        order = self.options.contenders[shift:] + self.options.contenders[:shift]
        for workload in self.workloads:
            name = workload.name
            taken: dict[str, list[tuple[Case, driver.Figures]]] = {}
            for contender in order:
                print(f"round {index + 1}, {name}: {contender}", file=sys.stderr, flush=True)
                folder = self.folder / f"{index}{name}{contender}"
                try:
                    with running(CONTENDERS[contender], workload, folder, SHARED_WORKERS, self.problems) as server:
                        taken[contender] = list(self._loads(workload, server))
                except (BenchmarkError, TorchmarError, RuntimeError) as error:
                    self.problems.append(f"{name}, {contender}: {error}")
                shutil.rmtree(folder, ignore_errors=True)
            if len(taken) == len(order):  # ratios are of one round
                for contender, loads in taken.items():
                    for case, found in loads:
                        self.figures.setdefault(case, {}).setdefault(contender, []).append(found)

    def _loads(self, workload: Workload, server: Server) -> Iterator[tuple[Case, driver.Figures]]:
        options = self.options
        every = options.connections if workload.name in _AT_ALL_CONNECTIONS else _SOME_CONNECTIONS
        # Java compiles what is called often: the first figures would be of another program.
        for connections in (max(every), *every):
            driver.send(options.driver, server.url, workload.bodies, connections, options.warm_up)
            server.drain(workload.bodies[0].read_bytes())
            if connections in every:
                found = driver.send(options.driver, server.url, workload.bodies, connections, options.seconds)
                server.drain(workload.bodies[0].read_bytes())
                yield Case(workload.name, connections), found


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


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description="The Java frontend's settings for few cores beside its usual ones.")
    parser.add_argument("--rounds", type=int, default=3, help="of every contender (%(default)s)")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement (%(default)s)")
    parser.add_argument("--warm-up", type=float, default=1.0, help="seconds of load before each (%(default)s)")
    parser.add_argument("--connections", default="1,8,32,64", help="of mnist and noop (%(default)s)")
    parser.add_argument("--workloads", default=",".join(WORKLOADS), help="of %(default)s")
    parser.add_argument("--contenders", default="usual,few", help=f"of {','.join(CONTENDERS)} (%(default)s)")
    parser.add_argument("--cores", type=int, default=2, help="to run on, of those of this machine (%(default)s)")
    parser.add_argument("--driver", choices=["auto", "wrk", "bundled"], default="auto", help="(%(default)s)")
    parser.add_argument("--quick", action="store_true", help="does it run? One round of half a second at 1 and 8")
    options = parser.parse_args(arguments)
    if options.quick:
        options.rounds, options.seconds, options.warm_up, options.connections = 1, 0.5, 0.2, "1,8"
    for name, known in (("workloads", WORKLOADS), ("contenders", CONTENDERS)):
        chosen = getattr(options, name).split(",")
        setattr(options, name, chosen)
        if unknown := set(chosen) - set(known):
            parser.error(f"--{name} takes {', '.join(known)}, not {', '.join(sorted(unknown))}")
    try:
        options.connections = tuple(int(text) for text in options.connections.split(","))
        options.driver = driver.choose(options.driver)
    except ValueError as error:
        parser.error(str(error))
    if min(options.rounds, options.seconds, options.warm_up, options.cores, *options.connections) <= 0:
        parser.error("rounds, seconds, cores and connections are numbers above 0")
    return options


def main() -> int:
    """Measure and print; return 1 if something failed on the way."""
    options = parse()
    own = sorted(os.sched_getaffinity(0))
    if len(own) < options.cores:
        print(f"error: --cores {options.cores}: this process may use {len(own)}", file=sys.stderr)
        return 2
    os.sched_setaffinity(0, own[: options.cores])  # the servers' and the load's, too
    machine.compile_packages()
    serving.end_at_signals()
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="tmbench-", ignore_cleanup_errors=True) as folder:
        workloads = [WORKLOADS[name](Path(folder)) for name in options.workloads]
        run = Run(options, Path(folder), workloads, {}, [])
        for index in range(options.rounds):
            run.round(index)
    took = f"took {(time.monotonic() - begun) / 60:.1f} minutes"
    print(f"{machine.describe()}; {options.cores} cores used; {options.driver}; {options.rounds} rounds; {took}\n")
    print(report(run.figures, options.contenders))
    print("\n".join(["", *run.problems]) if run.problems else "")
    return 1 if run.problems else 0


if __name__ == "__main__":
    sys.exit(main())
