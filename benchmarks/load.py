"""`torchmar bench` beside wrk: do they measure the same? ``python benchmarks/load.py``.

Both load the same server with MNIST pictures, always over as many connections, in turns: round after round another
begins. The medians of the rounds are compared; a tenth of difference is what there may be. wrk must be installed.

::

    python benchmarks/load.py                       # five rounds of 5 s each: two minutes
    python benchmarks/load.py --workload noop       # without a model: what the two themselves take is seen
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1])]  # run as a script, only this file's own folder is searched

from benchmarks import machine, serving  # noqa: E402
from benchmarks.serving_bench import driver  # noqa: E402
from benchmarks.serving_bench.contenders import Contender  # noqa: E402
from benchmarks.serving_bench.report import number, table  # noqa: E402
from benchmarks.serving_bench.servers import BenchmarkError  # noqa: E402
from benchmarks.serving_bench.servers import serving as serve  # noqa: E402
from benchmarks.serving_bench.workloads import mnist, noop  # noqa: E402

LIMIT = 0.1
_WORKLOADS = {"mnist": mnist, "noop": noop}
_NAMES: dict[driver.Driver, str] = {"wrk": "wrk", "bundled": "torchmar bench"}
_SHOWN = ("rps", "p50_ms", "p99_ms")
_WARM_UP_S = 3.0

Rounds = dict[driver.Driver, list[driver.Figures]]


def measure(options: argparse.Namespace, folder: Path, problems: list[str]) -> Rounds:
    """Return the figures of each round."""
    workload = _WORKLOADS[options.workload](folder)
    found: Rounds = {"wrk": [], "bundled": []}
    with serve(Contender("python-dedicated", 1, 32), workload, folder / "s", 1, problems) as server:
        for one in found:
            driver.send(one, server.url, workload.bodies, options.connections, _WARM_UP_S)
        for index in range(options.rounds):
            for one in list(found)[:: 1 if index % 2 else -1]:
                print(f"round {index + 1}: {_NAMES[one]}", file=sys.stderr, flush=True)
                found[one].append(driver.send(one, server.url, workload.bodies, options.connections, options.seconds))
                server.drain(workload.bodies[0].read_bytes())
    return found


def ratio(found: Rounds) -> float:
    """Return our requests a second as a multiple of wrk's: of medians."""
    ours, theirs = (statistics.median(one.rps for one in found[name]) for name in ("bundled", "wrk"))
    return ours / theirs


def report(found: Rounds, options: argparse.Namespace, busy: float) -> str:
    """Return the medians as Markdown."""
    rows = []
    for name, figures in found.items():
        medians = [number(statistics.median(getattr(one, what) for one in figures)) for what in _SHOWN]
        every = ", ".join(number(one.rps) for one in figures)
        rows.append([_NAMES[name], *medians, str(sum(one.errors for one in figures)), every])
    heads = ("", "requests/s", "p50 ms", "p99 ms", "errors", "requests/s of each round")
    agrees = "yes" if abs(ratio(found) - 1) <= LIMIT else "**no**"
    return (
        "# `torchmar bench` beside wrk\n\n"
        f"`python benchmarks/load.py`: {options.workload}, {options.connections} connections, {options.rounds} rounds "
        f"of {options.seconds:g} s in turns, medians; the Python frontend on the same machine.\n\n"
        f"- machine: {machine.describe()}\n- versions: {machine.versions('torch', 'torchmar', 'uvloop')}\n"
        f"- load average before: {busy:.2f}\n\n{table(heads, rows)}\n\n"
        f"Ratio of requests/s: {ratio(found):.3f}. Within a tenth: {agrees}.\n"
    )


def main() -> int:
    """Measure and print; return 1 if the two do not agree."""
    parser = argparse.ArgumentParser(description="torchmar bench beside wrk.")
    parser.add_argument("--rounds", type=int, default=5, help="(%(default)s)")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each load (%(default)s)")
    parser.add_argument("--connections", type=int, default=8, help="(%(default)s)")
    parser.add_argument("--workload", choices=list(_WORKLOADS), default="mnist", help="(%(default)s)")
    parser.add_argument("--output-dir", type=Path, help="write load.md there, besides printing it")
    options = parser.parse_args()
    try:
        driver.choose("wrk")
    except ValueError as error:
        parser.error(str(error))
    machine.compile_packages()
    serving.end_at_signals()
    problems: list[str] = []
    busy = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="tmbench-", ignore_cleanup_errors=True) as folder:
        try:
            found = measure(options, Path(folder), problems)
        except (BenchmarkError, RuntimeError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
    text = report(found, options, busy)
    print(text)
    print("\n".join(problems))
    if options.output_dir is not None:
        (options.output_dir / "load.md").write_text(text, encoding="utf-8")
    return 1 if problems or abs(ratio(found) - 1) > LIMIT else 0


if __name__ == "__main__":
    sys.exit(main())
