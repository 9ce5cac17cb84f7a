"""Image classifiers, torchmar beside TorchServe, in one run: ``python benchmarks/handlers.py``.

Two networks behind `image_classifier`, from JPEG to labels: TorchServe's handler on its worker, and ours on ours, as it
comes and optimized, under the same frontend. It starts every contender itself, asks it about a few hundred images,
drives it with load, ends it, measures its handler without a server, too, and writes ``handlers.md`` and
``handlers.json``. The contenders take turns, round after round; the medians of the rounds are compared.

::

    python benchmarks/handlers.py                                  # everything: forty minutes on two cores
    python benchmarks/handlers.py --quick                          # does it run? some minutes, rough figures
    python benchmarks/handlers.py --workloads lite0 --contenders defaults,compiled --parts load

Weights and photographs are downloaded with pip at the first run, and kept with those of the examples. On a machine
with an NVIDIA GPU the models run there, and there is a load of 64 connections, too.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1])]  # run as a script, only this file's own folder is searched

from benchmarks import machine, serving  # noqa: E402
from benchmarks.handlers_bench import assets, contenders, loop, report  # noqa: E402
from benchmarks.handlers_bench.results import (  # noqa: E402
    CONNECTIONS,
    GPU_CONNECTIONS,
    HandlerResults,
    LoopRun,
    bfloat16_hardware,
)
from benchmarks.handlers_bench.workloads import WORKLOADS  # noqa: E402
from benchmarks.serving_bench import command_line  # noqa: E402
from benchmarks.serving_bench.contenders import Contender  # noqa: E402
from benchmarks.serving_bench.servers import Server  # noqa: E402
from benchmarks.serving_bench.workloads import Workload  # noqa: E402
from examples.downloads import DownloadError  # noqa: E402

PARTS = ("load", "loop")
BATCHES = (1, 8, 32)
_QUICK_PICTURES = 24


@dataclass
class Run(serving.Run):
    """One run; what differs from the other benchmark is what is compared before the load, and the loops."""

    results: HandlerResults
    _best: dict[str, list[str]] = field(default_factory=dict)  # for each workload TorchServe's classes

    def round(self, number: int) -> None:
        """Measure every workload with every contender once; each round another contender begins."""
        super().round(number)
        if "loop" in self.parts:
            for workload in self.workloads:
                for contender in self.results.contenders:
                    with self._noted(contender, f"{workload.name}, without a server"):
                        self._loop(number, workload, contender)

    def _check_answers(self, workload: Workload, server: Server) -> None:
        """Note how often the most probable class is TorchServe's, once for each contender."""
        label, shares = server.contender.label, self.results.agreements.setdefault(workload.name, {})
        if label in shares:
            return
        classes = [workload.essence(server.ask(path.read_bytes())) for path in workload.bodies]
        if label == contenders.STOCK:
            self._best[workload.name] = classes
            self.results.pictures = len(classes)
        if stocks := self._best.get(workload.name):
            shares[label] = sum(mine == other for mine, other in zip(classes, stocks, strict=True)) / len(stocks)

    def _loop(self, number: int, workload: Workload, contender: Contender) -> None:
        store = self._server_folder()
        archive = store / workload.build(store, contender, contender.workers)
        kind = "stock" if contender.kind == "stock" else "ours"
        found = loop.measure(archive, kind, workload.bodies, BATCHES, min(2.0, self.seconds))
        self.results.loops.append(LoopRun(number, workload.name, contender.label, found))
        shutil.rmtree(store)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description="torchmar's image classifier beside TorchServe's.")
    parser.add_argument("--rounds", type=int, help="of every contender (3)")
    parser.add_argument("--seconds", type=float, help="of each measurement (5)")
    parser.add_argument("--warm-up", type=float, help="seconds of load before each measurement (3)")
    parser.add_argument("--connections", help="numbers of connections (1,8; with an NVIDIA GPU 64, too)")
    parser.add_argument("--pictures", type=int, help=f"images to ask about ({assets.PICTURES})")
    parser.add_argument("--workloads", default=",".join(WORKLOADS), help="of %(default)s")
    parser.add_argument(
        "--contenders",
        help=f"of {','.join(contenders.CONTENDERS)}; by default all, those of 16 bits where the processor has them",
    )
    parser.add_argument("--parts", default=",".join(PARTS), help="of %(default)s; loop is without a server")
    parser.add_argument("--driver", choices=["auto", "wrk", "bundled"], default="auto", help="(%(default)s)")
    parser.add_argument("--quick", action="store_true", help="one round of 1 s with few images, unless said otherwise")
    parser.add_argument("--logs", type=Path, metavar="DIR", help="copy the logs of a server that failed there")
    parser.add_argument("--output-dir", type=Path, default=serving.RESULTS, help="default: benchmarks/results")
    options = parser.parse_args(arguments)
    connections = f"1,{CONNECTIONS}" + (f",{GPU_CONNECTIONS}" if shutil.which("nvidia-smi") else "")
    command_line.fill(
        options,
        rounds=(3, 1),
        seconds=(5.0, 1.0),
        warm_up=(3.0, 1.0),
        connections=(connections, connections),
        pictures=(assets.PICTURES, _QUICK_PICTURES),
    )
    command_line.settle(
        parser,
        options,
        counts=("rounds", "seconds", "warm_up", "pictures"),
        told="rounds, seconds, pictures and connections",
        lists={"workloads": WORKLOADS, "parts": PARTS},
        read={"contenders": lambda text: contenders.parse(text or ",".join(_usual_contenders()))},
    )
    return options


def _usual_contenders() -> list[str]:
    """Return the names of those that are worth their time: 16-bit types in software take a hundred times longer."""
    slow = bfloat16_hardware() is False and not shutil.which("nvidia-smi")
    return [one.name for one in contenders.CONTENDERS.values() if not (slow and one.is_16_bit)]


def prepare(options: argparse.Namespace, folder: Path) -> Run:
    """Return a run that has measured nothing yet.

    Raises:
        DownloadError: weights or photographs cannot be downloaded.
    """
    pictures = assets.pictures(assets.photographs(), folder / "pictures", options.pictures)
    prepared = [WORKLOADS[name](folder, pictures) for name in options.workloads]
    bfloat16 = bfloat16_hardware()
    words = {True: "yes", False: "no", None: "not known"}
    settings = serving.settings(options, options.driver) | {
        "bfloat16 in the processor": words[bfloat16],
        "pictures": f"{len(pictures)} JPEG images made of {len(assets.PHOTOGRAPHS)} photographs, "
        f"{sum(path.stat().st_size for path in pictures) / len(pictures) / 1000:.0f} kB on average",
    }
    results = HandlerResults(
        settings=settings,
        contenders=options.contenders,
        titles={workload.name: workload.title for workload in prepared},
        connections=options.connections,
        scale_to=1,
        bfloat16=bfloat16,
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


def write(results: HandlerResults, folder: Path) -> str:
    """Write both files; return the Markdown."""
    folder.mkdir(parents=True, exist_ok=True)
    text = report.markdown(results)
    (folder / "handlers.md").write_text(text, encoding="utf-8")
    (folder / "handlers.json").write_text(json.dumps(results.document(), indent=1) + "\n", encoding="utf-8")
    return text


def main() -> int:
    """Measure, print the report and write it; return 1 if something failed on the way."""
    options = parse()
    machine.compile_packages()
    serving.end_at_signals()
    with tempfile.TemporaryDirectory(prefix="tmbench-", ignore_cleanup_errors=True) as folder:
        # What is compiled for one server is there for the next, as on a machine that starts it a second time.
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(Path(folder) / "inductor")
        try:
            run = prepare(options, Path(folder))
        except DownloadError as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
        return serving.carry_out(
            run,
            options.rounds,
            write=lambda: write(run.results, options.output_dir),
            show=lambda: report.markdown(run.results),
        )


if __name__ == "__main__":
    sys.exit(main())
