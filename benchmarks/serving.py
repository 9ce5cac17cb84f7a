"""A request's whole path, torchmar beside TorchServe, in one run: ``python benchmarks/serving.py``.

It starts every contender itself, drives it with load, ends it, and writes ``serving.md``, ``serving.json`` and
``serving.svg``. The contenders take turns, round after round; the medians of the rounds are compared.

::

    python benchmarks/serving.py                                    # everything: about two hours
    python benchmarks/serving.py --quick                            # does it run? a few minutes, rough figures
    python benchmarks/serving.py --workloads mnist --parts load
    python benchmarks/serving.py --contenders stock,shared,shared:4:32:1,dedicated:2

A contender is KIND[:WORKERS[:BATCH_SIZE[:BATCH_DELAY_MS]]]; the numbers are the frontend's. The kinds are stock,
stock-quiet, dedicated, shared, python-dedicated, python-shared, mosec and fastapi; see ``serving_bench/contenders.py``.
Ratios are to the first contender. Beside requests a second and their latency stands the processor time that all
processes of the server took for a request, and the frontend's share of it.

mosec and FastAPI run in an environment of their own below ``~/.cache/torchmar/benchmarks``, which the first run makes;
it shows them our packages, and pip adds theirs, some megabytes. Where that fails the run goes on without them.

wrk drives the load where it is installed. The generator that stands in for it is Python and takes more of the
processor from the server: compare figures of one driver only.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import psutil

sys.path[:0] = [str(Path(__file__).resolve().parents[1])]  # run as a script, only this file's own folder is searched

from archive_tool.errors import TorchmarError  # noqa: E402
from benchmarks import machine  # noqa: E402
from benchmarks.serving_bench import bare, chart, command_line, driver, report  # noqa: E402
from benchmarks.serving_bench.contenders import Contender  # noqa: E402
from benchmarks.serving_bench.peers import environment as peers_environment  # noqa: E402
from benchmarks.serving_bench.peers.server import serving as serving_peer  # noqa: E402
from benchmarks.serving_bench.results import Bare, Life, Load, Results  # noqa: E402
from benchmarks.serving_bench.servers import BenchmarkError, Memory, Server, serving  # noqa: E402
from benchmarks.serving_bench.targets import SCALED  # noqa: E402
from benchmarks.serving_bench.workloads import WORKLOADS, Workload  # noqa: E402

RESULTS = Path(__file__).resolve().parent / "results"
PARTS = ("bare", "load", "life")
BATCHES = (1, 8, 32)
THREADS = (0, 1)  # torch's default, and one
CONTENDERS = (
    "stock,stock-quiet,dedicated,shared,python-dedicated,python-dedicated:1:1,python-shared,"
    "mosec:1:32:0,mosec:1:32:1,fastapi"
)
_SETTLE_S = 1.0  # before memory is read
_WARM_CONNECTIONS = 16
_LOOK_S = 2.0


@dataclass
class Run:
    """A run that measures into `results`.

    Attributes:
        folder: for everything that is written on the way; with a short path, for sockets are below it.
        parts: of `PARTS`.
        seconds: of each measurement; `warm_up` seconds of the same load come before it.
        logs: where to copy the logs of a server that failed.
    """

    results: Results
    workloads: list[Workload]
    folder: Path
    drive: driver.Driver
    parts: Collection[str]
    seconds: float
    warm_up: float
    logs: Path | None = None

    def __post_init__(self) -> None:
        self.begun = time.monotonic()
        self.busy = 0.0
        self._numbers = count()
        self._folder = self.folder  # of the last server
        self._answers: dict[str, list[str]] = {}

    def rounds(self, number: int) -> None:
        """Measure all rounds."""
        for index in range(number):
            self.round(index)
            self.results.settings["took"] = f"{(time.monotonic() - self.begun) / 60:.0f} minutes"

    def round(self, number: int) -> None:
        """Measure every workload with every contender once; each round another contender begins."""
        # None of our processes runs now: this is what others take, and the figures are as good as it is low.
        self.busy = max(self.busy, psutil.cpu_percent(_LOOK_S) / 100)
        busy = f"{self.busy:.0%} of the processor at the most"
        self.results.settings["busy with other things before a round"] = busy
        shift = number % len(self.results.contenders)
        order = self.results.contenders[shift:] + self.results.contenders[:shift]
        for workload in self.workloads:
            if "bare" in self.parts:
                self._bare(number, workload)
            for contender in order if "load" in self.parts else ():
                with self._noted(contender, workload.name):
                    self._load(number, workload, contender)
        scaled = next((workload for workload in self.workloads if workload.name == SCALED), None)
        if "life" in self.parts and scaled is not None:
            for contender in order:
                if contender == self.results.first(contender.kind) and not contender.is_peer:
                    with self._noted(contender, "start and scaling"):
                        self._life(number, scaled, contender)

    @contextmanager
    def _noted(self, contender: Contender, text: str) -> Iterator[None]:
        """Note the failure of a contender, which does not end the others' run."""
        self._say(f"{text}: {contender.label}")
        try:
            yield
        except (BenchmarkError, TorchmarError, RuntimeError) as error:
            problem = f"{contender.label}, {text}: {error}"
            self._say(problem)
            self.results.problems.append(problem)
            if self.logs is not None:
                for path in self._folder.rglob("*.log"):
                    target = self.logs / f"{self._folder.name}-{contender.kind}" / path.relative_to(self._folder)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(path, target)

    def _say(self, text: str) -> None:
        print(f"[{time.monotonic() - self.begun:5.0f} s] {text}", file=sys.stderr, flush=True)

    def _server_folder(self) -> Path:
        self._folder = self.folder / str(next(self._numbers))
        return self._folder

    def _bare(self, number: int, workload: Workload) -> None:
        self._say(f"round {number + 1}, {workload.name}: the handler without a server")
        store = self._server_folder()
        archive = store / workload.build(store, Contender("stock"), 1)
        for threads in THREADS:
            rates = bare.measure(archive, workload.bodies, BATCHES, threads, min(1.0, self.seconds))
            self.results.bares += [Bare(number, workload.name, threads, batch, rate) for batch, rate in rates.items()]
        shutil.rmtree(store)

    def _load(self, number: int, workload: Workload, contender: Contender) -> None:
        folder = self._server_folder()
        start = serving_peer if contender.is_peer else serving
        with start(contender, workload, folder, contender.workers, self.results.problems) as server:
            self._check_answers(workload, server)
            # Java compiles what is called often: the first figures would be of another program.
            self._send(workload, server, _WARM_CONNECTIONS, 2 * self.warm_up)
            for connections in self.results.connections:
                self._send(workload, server, connections, self.warm_up)
                self.results.loads.append(self._measured(number, workload, contender, server, connections))
        shutil.rmtree(folder, ignore_errors=True)

    def _measured(
        self, number: int, workload: Workload, contender: Contender, server: Server, connections: int
    ) -> Load:
        before = server.processor()
        figures = driver.send(self.drive, server.url, workload.bodies, connections, self.seconds)
        taken = server.processor().since(before)
        server.drain(workload.bodies[0].read_bytes())
        times = [1000 * seconds / max(1, figures.requests) for seconds in (taken.total_s, taken.frontend_s)]
        return Load(number, workload.name, contender, connections, figures, *times)

    def _send(self, workload: Workload, server: Server, connections: int, seconds: float) -> None:
        driver.send(self.drive, server.url, workload.bodies, connections, seconds)
        server.drain(workload.bodies[0].read_bytes())

    def _check_answers(self, workload: Workload, server: Server) -> None:
        """Check that all contenders give the same answers."""
        answers = [workload.essence(server.ask(path.read_bytes())) for path in workload.bodies]
        first = self._answers.setdefault(workload.name, answers)
        if answers != first:
            different = sum(mine != other for mine, other in zip(answers, first, strict=True))
            raise BenchmarkError(f"{different} of {len(first)} answers differ from the first contender's")

    def _life(self, number: int, workload: Workload, contender: Contender) -> None:
        folder = self._server_folder()
        with serving(contender, workload, folder, 1, self.results.problems) as server:
            one = self._memory(workload, server, 1)
            seconds = server.scale(self.results.scale_to)
            many = self._memory(workload, server, self.results.scale_to)
            self.results.lives.append(
                Life(
                    number,
                    contender,
                    server.ready_s,
                    seconds,
                    one.backend_mb,
                    many.backend_mb,
                    many.processes,
                    server.start_processor_s,
                    one.frontend_mb,
                )
            )
        shutil.rmtree(folder, ignore_errors=True)

    def _memory(self, workload: Workload, server: Server, workers: int) -> Memory:
        """Measure the memory after every worker had something to do."""
        self._send(workload, server, 2 * workers, 2.0)
        time.sleep(_SETTLE_S)
        return server.memory()


def settings(options: argparse.Namespace, chosen: driver.Driver) -> dict[str, str]:
    """Return what the figures depend on."""
    return {
        "machine": machine.describe(),
        "versions": machine.versions("torch", "torchserve", "torchmar"),
        "load": f"{chosen}, {options.seconds:g} s after {options.warm_up:g} s of warm-up, "
        f"median of {options.rounds} round{'s' if options.rounds > 1 else ''}",
    }


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description="torchmar beside TorchServe, from the start to a request's answer.")
    parser.add_argument("--rounds", type=int, help="of every contender (3)")
    parser.add_argument("--seconds", type=float, help="of each measurement (5)")
    parser.add_argument("--warm-up", type=float, help="seconds of load before each measurement (2)")
    parser.add_argument("--connections", help="numbers of connections (1,8,32,64)")
    parser.add_argument("--workloads", default=",".join(WORKLOADS), help="of %(default)s")
    parser.add_argument("--contenders", default=CONTENDERS, help="KIND[:WORKERS[:BATCH[:DELAY_MS]]] each (%(default)s)")
    parser.add_argument("--scale-to", type=int, default=8, help="workers to scale to (%(default)s)")
    parser.add_argument("--parts", default=",".join(PARTS), help="of %(default)s; life is starting, scaling and memory")
    parser.add_argument("--driver", choices=["auto", "wrk", "bundled"], default="auto", help="(%(default)s)")
    parser.add_argument(
        "--quick", action="store_true", help="one round of 1 s at 1 and 8 connections, unless said otherwise"
    )
    parser.add_argument("--logs", type=Path, metavar="DIR", help="copy the logs of a server that failed there")
    parser.add_argument("--output-dir", type=Path, default=RESULTS, help="default: benchmarks/results")
    options = parser.parse_args(arguments)
    command_line.fill(options, rounds=(3, 1), seconds=(5.0, 1.0), warm_up=(2.0, 1.0), connections=("1,8,32,64", "1,8"))
    command_line.settle(
        parser,
        options,
        counts=("rounds", "seconds", "warm_up", "scale_to"),
        told="rounds, seconds, connections and workers",
        lists={"workloads": WORKLOADS, "parts": PARTS},
        read={"contenders": lambda text: tuple(map(Contender.parse, text.split(",")))},
    )
    return options


def prepare(options: argparse.Namespace, folder: Path) -> Run:
    """Return a run that has measured nothing yet.

    Raises:
        BenchmarkError: there is nobody to measure.
    """
    contenders, problems = available(options.contenders) if "load" in options.parts else (options.contenders, [])
    prepared = [WORKLOADS[name](folder) for name in options.workloads]
    about = settings(options, options.driver)
    if "load" in options.parts and any(contender.is_peer for contender in contenders):
        about["peers"] = peers_environment.versions("mosec", "fastapi", "uvicorn", "uvloop", "httptools")
    results = Results(
        settings=about,
        contenders=contenders,
        titles={workload.name: workload.title for workload in prepared},
        connections=options.connections,
        scale_to=options.scale_to,
        problems=problems,
    )
    return Run(
        results=results,
        workloads=prepared,
        folder=folder,
        drive=options.driver,
        seconds=options.seconds,
        warm_up=options.warm_up,
        parts=options.parts,
        logs=options.logs,
    )


def available(chosen: tuple[Contender, ...]) -> tuple[tuple[Contender, ...], list[str]]:
    """Return the contenders that can run here, and why the others cannot.

    Raises:
        BenchmarkError: none can.
    """
    if not any(contender.is_peer for contender in chosen):
        return chosen, []
    print(f"the environment of mosec and FastAPI: {peers_environment.folder()}", file=sys.stderr, flush=True)
    try:
        peers_environment.python()
    except BenchmarkError as error:
        problem = f"mosec and FastAPI are left out, their environment cannot be made; without a network? {error}"
        ours = tuple(contender for contender in chosen if not contender.is_peer)
        if not ours:
            raise BenchmarkError(problem) from error
        print(problem, file=sys.stderr, flush=True)
        return ours, [problem]
    return chosen, []


def write(results: Results, folder: Path) -> str:
    """Write the three files; return the Markdown."""
    folder.mkdir(parents=True, exist_ok=True)
    text = report.markdown(results, plot="serving.svg")
    (folder / "serving.md").write_text(text, encoding="utf-8")
    (folder / "serving.json").write_text(json.dumps(results.document(), indent=1) + "\n", encoding="utf-8")
    (folder / "serving.svg").write_text(chart.svg(results), encoding="utf-8")
    return text


def end_at_signals() -> None:
    """Let a signal end the run as an exception, so that servers and files are removed."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _raise_exit)


def _raise_exit(number: int, _frame: object) -> None:
    for one in (signal.SIGTERM, signal.SIGHUP):  # no further one disturbs what is done at the end
        signal.signal(one, signal.SIG_IGN)
    sys.exit(128 + number)


def carry_out(run: Run, rounds: int, write: Callable[[], str], show: Callable[[], str]) -> int:
    """Measure, print the report and write it; return 1 if something failed on the way.

    Args:
        write: writes the files, and returns the report.
        show: returns the report alone, of a run that was interrupted.
    """
    try:
        run.rounds(rounds)
    except (KeyboardInterrupt, SystemExit) as ended:
        run.results.problems.append("the run was interrupted: some medians are of fewer rounds, and nothing is written")
        print(show())
        return ended.code if isinstance(ended, SystemExit) and isinstance(ended.code, int) else 130
    print(write())
    return 1 if run.results.problems else 0


def main() -> int:
    """Measure, print the report and write it; return 1 if something failed on the way."""
    options = parse()
    machine.compile_packages()
    end_at_signals()
    with tempfile.TemporaryDirectory(prefix="tmbench-", ignore_cleanup_errors=True) as folder:
        try:
            run = prepare(options, Path(folder))
        except BenchmarkError as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
        return carry_out(
            run,
            options.rounds,
            write=lambda: write(run.results, options.output_dir),
            show=lambda: report.markdown(run.results),
        )


if __name__ == "__main__":
    sys.exit(main())
