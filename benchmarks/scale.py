"""One model on Ray Serve beside our own frontend, and beside what is written by hand: ``python benchmarks/scale.py``.

It starts every entrant itself on the same cores, drives it with load, ends it, and writes ``scale.md`` and
``scale.json``. The entrants take turns, round after round; the medians of the rounds are compared. Each replica has one
torch thread.

::

    pip install 'torchmar[ray]'
    python benchmarks/scale.py                                  # everything: about an hour on two cores
    python benchmarks/scale.py --quick --workloads noop         # does it run? some minutes, rough figures
    python benchmarks/scale.py --entrants ray:1,two-hops:1,two-hops-tuned:1 --parts load
    python benchmarks/scale.py --parts idle                     # what a cluster takes while nobody asks

An entrant is KIND:REPLICAS. ``python`` is our frontend without Ray, ``ray`` is `torchmar deploy ray`, ``two-hops`` is a
router deployment before the model's on Ray as it comes, ``two-hops-tuned`` the same with what `torchmar deploy ray`
sets. The parts are load, loops (the handler without a server, several processes at once) and idle.

Ray's processes take a while to start: on a busy machine Ray itself gives up, which is told at the end, and the others
go on. `benchmarks/paper.py` reckons with what this has measured, in one run or in several of other names (--name).
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from urllib.parse import urlsplit

sys.path[:0] = [str(Path(__file__).resolve().parents[1])]  # run as a script, only this file's own folder is searched

from archive_tool.errors import TorchmarError  # noqa: E402
from benchmarks import machine, serving  # noqa: E402
from benchmarks.scale_bench import entrants, idle, loops, report, roles  # noqa: E402
from benchmarks.scale_bench.entrants import Entrant  # noqa: E402
from benchmarks.scale_bench.results import LOOPED, Load, Loops, Results  # noqa: E402
from benchmarks.serving_bench import command_line, driver  # noqa: E402
from benchmarks.serving_bench.servers import BenchmarkError, Server, marked_processes  # noqa: E402
from benchmarks.serving_bench.workloads import WORKLOADS, Workload  # noqa: E402

RESULTS = Path(__file__).resolve().parent / "results"
PARTS = ("load", "loops", "idle")
ENTRANTS = "python:1,ray:1,two-hops:1,python:2,ray:2,two-hops:2"
_LOOP_BATCHES = (1, 4, 8)
_FRONT_REQUESTS = 300
_FRONT_PATH = "/models"


@dataclass
class Run:
    """A run that measures into `results`.

    Attributes:
        folder: for everything that is written on the way; with a short path, for sockets are below it.
        seconds: of each measurement; `warm_up` seconds of the same load come before it.
    """

    results: Results
    workloads: list[Workload]
    folder: Path
    drive: driver.Driver
    parts: Collection[str]
    seconds: float
    warm_up: float

    def __post_init__(self) -> None:
        self.begun = time.monotonic()
        self._numbers = count()
        self._answers: dict[str, list[str]] = {}

    def rounds(self, number: int) -> None:
        """Measure all rounds, and then what does not need them."""
        for index in range(number):
            for workload in self.workloads:
                if "loops" in self.parts and workload.name == LOOPED:
                    self._loops(index, workload)
                for entrant in self._order(index) if "load" in self.parts else ():
                    with self._noted(f"round {index + 1}, {workload.name}, {entrant.label}") as folder:
                        self._load(index, workload, entrant, folder)
            self.results.settings["took"] = f"{(time.monotonic() - self.begun) / 60:.0f} minutes"
        if "idle" in self.parts:
            with self._noted("idle") as folder:
                idle.measure(folder, self.results.idle)
        self.results.settings["load average at the end"] = f"{os.getloadavg()[0]:.1f}"

    def _order(self, index: int) -> tuple[Entrant, ...]:
        """Return the entrants in the order of a round: in each another one begins."""
        shift = index % len(self.results.entrants)
        return self.results.entrants[shift:] + self.results.entrants[:shift]

    @contextmanager
    def _noted(self, text: str) -> Iterator[Path]:
        """Yield a folder; what fails is noted, and does not end the run."""
        print(f"[{time.monotonic() - self.begun:5.0f} s] {text}", file=sys.stderr, flush=True)
        folder = self.folder / str(next(self._numbers))
        try:
            yield folder
        except (BenchmarkError, TorchmarError, RuntimeError) as error:
            print(f"{text}: {error}", file=sys.stderr, flush=True)
            self.results.problems.append(f"{text}: {error}")
        shutil.rmtree(folder, ignore_errors=True)

    def _loops(self, number: int, workload: Workload) -> None:
        with self._noted(f"round {number + 1}, {workload.name}: the handler without a server") as store:
            archive = store / workload.build(store, Entrant("python", 1).contender, 1)
            for processes in self.results.replicas():
                for batch in _LOOP_BATCHES:
                    rate = loops.measure(archive, workload.bodies, batch, processes, self.seconds)
                    self.results.loops.append(Loops(number, workload.name, processes, batch, rate))

    def _load(self, number: int, workload: Workload, entrant: Entrant, folder: Path) -> None:
        with entrants.serving(entrant, workload, folder, self.results.problems) as server:
            self._check_answers(workload, server)
            self._send(workload, server, max(self.results.connections), self.warm_up)
            idle_ms = self._idle_ms(server)
            for connections in self.results.connections:
                self._send(workload, server, connections, self.warm_up)
                figures, taken = self._measured(workload, server, connections)
                load = Load(number, workload.name, entrant, connections, figures, taken, idle_ms)
                self.results.loads.append(load)
            if (entrant.kind, entrant.replicas, workload.name) == ("ray", 1, "noop"):
                self.results.front_ms.append(_front_ms(server))

    def _measured(
        self, workload: Workload, server: Server, connections: int
    ) -> tuple[driver.Figures, dict[str, float]]:
        before, _ = roles.processor(marked_processes(server.mark))
        figures = self._send(workload, server, connections, self.seconds)
        now, _ = roles.processor(marked_processes(server.mark))
        requests = max(1, figures.requests)
        return figures, {name: 1000 * value / requests for name, value in roles.since(now, before).items()}

    def _send(self, workload: Workload, server: Server, connections: int, seconds: float) -> driver.Figures:
        return driver.send(self.drive, server.url, workload.bodies, connections, seconds)

    def _idle_ms(self, server: Server) -> float:
        """Return what its processes take in a second without requests, in milliseconds."""
        before, begin = roles.processor(marked_processes(server.mark))[0], time.monotonic()
        time.sleep(self.seconds)
        now, end = roles.processor(marked_processes(server.mark))[0], time.monotonic()
        return 1000 * sum(roles.since(now, before).values()) / (end - begin)

    def _check_answers(self, workload: Workload, server: Server) -> None:
        """Check that all entrants give the same answers."""
        answers = [workload.essence(server.ask(path.read_bytes())) for path in workload.bodies]
        if answers != self._answers.setdefault(workload.name, answers):
            raise BenchmarkError("its answers differ from those of the first entrant")


def _front_ms(server: Server) -> float:
    """Return the milliseconds of the processor that a request takes which no model's replica answers.

    Raises:
        BenchmarkError: it was refused.
    """
    address = urlsplit(server.inference)
    connection = http.client.HTTPConnection(str(address.hostname), address.port, timeout=60)
    before, _ = roles.processor(marked_processes(server.mark))
    for _ in range(_FRONT_REQUESTS):
        connection.request("GET", _FRONT_PATH)
        answer = connection.getresponse()
        answer.read()
        if answer.status != 200:
            raise BenchmarkError(f"GET {_FRONT_PATH}: {answer.status}")
    now, _ = roles.processor(marked_processes(server.mark))
    connection.close()
    return 1000 * sum(roles.since(now, before).values()) / _FRONT_REQUESTS


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description="One model on Ray Serve, beside our frontend and two hops by hand.")
    parser.add_argument("--rounds", type=int, help="of every entrant (3)")
    parser.add_argument("--seconds", type=float, help="of each measurement (5)")
    parser.add_argument("--warm-up", type=float, help="seconds of load before each measurement (2)")
    parser.add_argument("--connections", default="1,8", help="numbers of connections (%(default)s)")
    parser.add_argument("--workloads", default=",".join(WORKLOADS), help="of %(default)s")
    parser.add_argument("--entrants", default=ENTRANTS, help="KIND:REPLICAS each (%(default)s)")
    parser.add_argument("--parts", default=",".join(PARTS), help="of %(default)s")
    parser.add_argument("--cores", type=int, default=2, help="to run on, the load's included (%(default)s)")
    parser.add_argument("--driver", choices=["auto", "wrk", "bundled"], default="auto", help="(%(default)s)")
    parser.add_argument("--quick", action="store_true", help="one round of 1 s, unless said otherwise")
    parser.add_argument("--output-dir", type=Path, default=RESULTS, help="default: benchmarks/results")
    parser.add_argument("--name", default="scale", help="of the two files (%(default)s)")
    options = parser.parse_args(arguments)
    command_line.fill(options, rounds=(3, 1), seconds=(5.0, 1.0), warm_up=(2.0, 1.0))
    command_line.settle(
        parser,
        options,
        counts=("rounds", "seconds", "warm_up", "cores"),
        told="rounds, seconds, cores and connections",
        lists={"workloads": WORKLOADS, "parts": PARTS},
        read={"entrants": lambda text: tuple(map(Entrant.parse, text.split(",")))},
    )
    return options


def prepare(options: argparse.Namespace, folder: Path) -> Run:
    """Return a run that has measured nothing yet."""
    prepared = [WORKLOADS[name](folder) for name in options.workloads]
    needs_ray = "idle" in options.parts or any(entrant.is_ray for entrant in options.entrants)
    about = {
        "machine": f"{machine.describe()}; {options.cores} of them used",
        "versions": machine.versions("torch", "torchmar", *(["ray"] if needs_ray else [])),
        "load": f"{options.driver}, {options.seconds:g} s after {options.warm_up:g} s of warm-up, "
        f"median of {options.rounds} round{'s' if options.rounds > 1 else ''}",
        "load average at the beginning": f"{os.getloadavg()[0]:.1f}",
    }
    titles = {workload.name: workload.title for workload in prepared}
    results = Results(about, options.entrants, titles, options.connections)
    return Run(results, prepared, folder, options.driver, options.parts, options.seconds, options.warm_up)


def write(results: Results, folder: Path, name: str) -> str:
    """Write the two files; return the Markdown."""
    folder.mkdir(parents=True, exist_ok=True)
    text = report.markdown(results)
    (folder / f"{name}.md").write_text(text, encoding="utf-8")
    (folder / f"{name}.json").write_text(json.dumps(results.document(), indent=1) + "\n", encoding="utf-8")
    return text


def main() -> int:
    """Measure, print the report and write it; return 1 if something failed on the way."""
    options = parse()
    if not command_line.take_cores(options.cores):  # the servers' and the load's, too
        return 2
    machine.compile_packages()
    serving.end_at_signals()
    with tempfile.TemporaryDirectory(prefix="tms-", ignore_cleanup_errors=True) as folder:
        run = prepare(options, Path(folder))
        return serving.carry_out(
            run,
            options.rounds,
            write=lambda: write(run.results, options.output_dir, options.name),
            show=lambda: report.markdown(run.results),
        )


if __name__ == "__main__":
    sys.exit(main())
