"""What it costs to watch requests: each kind of it beside none, in turns. ``python benchmarks/observing.py``.

A Python frontend for each runs all the time, with a model that does nothing; they take turns, round after round, and in
each another one begins. Ratios are to the one that watches nothing in the same round, and their medians are shown. That
one is there twice, so that the ratio of the two tells what a ratio is worth. Nothing is written: copy what it prints.

::

    python benchmarks/observing.py                  # seven rounds of 3 s each: five minutes on two cores
    python benchmarks/observing.py --quick          # does it run? a minute, rough figures
    python benchmarks/observing.py --chosen "off; off again; traces, 1.0"
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx

sys.path[:0] = [str(Path(__file__).resolve().parents[1])]  # run as a script, only this file's own folder is searched

from benchmarks import machine, serving  # noqa: E402
from benchmarks.serving_bench import command_line, driver  # noqa: E402
from benchmarks.serving_bench.contenders import Contender  # noqa: E402
from benchmarks.serving_bench.report import number, table  # noqa: E402
from benchmarks.serving_bench.servers import BenchmarkError, Server  # noqa: E402
from benchmarks.serving_bench.servers import serving as serve  # noqa: E402
from benchmarks.serving_bench.workloads import Workload, noop  # noqa: E402

OFF, AGAIN = "off", "off again"
_SETTINGS: dict[str, str] = {
    OFF: "",
    "access log": "torchmar_access_log=true\n",
    "access log, 0.01": "torchmar_access_log=true\ntorchmar_access_log_share=0.01\n",
    "capture, 0.01": "torchmar_capture_share=0.01\n",
    "traces, 0.01": "",
    "traces, 1.0": "",
    AGAIN: "",
}
_TRACED = {"traces, 0.01": "0.01", "traces, 1.0": "1.0"}


@dataclass(frozen=True)
class Turn:
    """A server's turn.

    Attributes:
        processor_us: of the processor that a request took of all of its processes, µs.
        frontend_us: the frontend's share of it.
    """

    rps: float
    p99_ms: float
    errors: int
    processor_us: float
    frontend_us: float


def contender(name: str, receiver: str) -> Contender:
    """Return how a server that watches so is started, whatever the variables of this process say."""
    environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": ""}
    if share := _TRACED.get(name):
        environ = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": receiver,
            "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
            "OTEL_TRACES_SAMPLER_ARG": share,
        }
    return Contender("python-dedicated", 1, 32, settings=_SETTINGS[name], environ=tuple(environ.items()))


@contextmanager
def receiving() -> Iterator[str]:
    """Yield the address of a receiver of traces, which takes and forgets them."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def turn(server: Server, workload: Workload, options: argparse.Namespace) -> Turn:
    """Load a server."""

    def sent(seconds: float) -> driver.Figures:
        return driver.send(options.driver, server.url, workload.bodies, options.connections[0], seconds)

    sent(options.warm_up)
    before = server.processor()
    found = sent(options.seconds)
    server.drain(workload.bodies[0].read_bytes())
    taken = server.processor().since(before)
    each = 1e6 / max(1, found.requests)
    return Turn(found.rps, found.p99_ms, found.errors, taken.total_s * each, taken.frontend_s * each)


def console_ms(server: Server, management: str, seconds: float) -> tuple[float, float]:
    """Return the processor time that an idle frontend takes in a second, ms: by itself, and with a console open.

    Raises:
        BenchmarkError: it has no console.
    """

    def taken() -> float:
        begun, before = time.monotonic(), server.processor()
        time.sleep(seconds)
        return 1e3 * server.processor().since(before).frontend_s / (time.monotonic() - begun)

    alone = taken()
    opened, over = threading.Event(), threading.Event()

    def look() -> None:
        with httpx.Client(base_url=management, timeout=60.0, trust_env=False) as client:
            if client.get("/console").status_code != 200:
                return
            with client.stream("GET", "/console/events") as events:
                for _ in events.iter_lines():
                    opened.set()
                    if over.is_set():
                        return

    thread = threading.Thread(target=look)
    thread.start()
    try:
        if not opened.wait(30.0):
            raise BenchmarkError("the console does not open")
        time.sleep(1.0)  # what the page itself took is no part of it
        return alone, taken()
    finally:
        over.set()
        thread.join()


def measure(
    options: argparse.Namespace, folder: Path, problems: list[str]
) -> tuple[dict[str, list[Turn]], tuple[float, float]]:
    """Return the turns of each server, and what an idle one takes without and with a console."""
    workload = noop(folder)
    found: dict[str, list[Turn]] = {name: [] for name in options.chosen}
    with ExitStack() as stack:
        receiver = stack.enter_context(receiving())
        servers: dict[str, Server] = {}
        for index, name in enumerate(options.chosen):
            print(f"starting: {name}", file=sys.stderr, flush=True)
            place = folder / str(index)
            servers[name] = stack.enter_context(serve(contender(name, receiver), workload, place, 1, problems))
        for index in range(options.rounds):
            print(f"round {index + 1} of {options.rounds}", file=sys.stderr, flush=True)
            shift = index % len(options.chosen)
            for name in options.chosen[shift:] + options.chosen[:shift]:
                found[name].append(turn(servers[name], workload, options))
        print("console", file=sys.stderr, flush=True)
        config = (folder / "0" / "config.properties").read_text(encoding="utf-8").splitlines()
        management = next(line.partition("=")[2] for line in config if line.startswith("management_address="))
        return found, console_ms(servers[options.chosen[0]], management, options.idle)


def report(found: Mapping[str, Sequence[Turn]], console: tuple[float, float]) -> str:
    """Return the medians as Markdown, with the medians of the ratios to the first in the same round."""
    base = next(iter(found.values()))
    rows = []
    for name, turns in found.items():
        cells = [name]
        for what in ("rps", "processor_us", "frontend_us", "p99_ms"):
            mine, others = ([getattr(one, what) for one in several] for several in (turns, base))
            ratios = [value / other for value, other in zip(mine, others, strict=True) if other]
            ratio = f" ({statistics.median(ratios):.3f})" if turns is not base and ratios else ""
            cells.append(f"{number(statistics.median(mine))}{ratio}")
        rows.append([*cells, str(sum(one.errors for one in turns))])
    heads = ("", "requests/s", "processor, µs a request", "of it the frontend", "p99 ms", "errors")
    alone, opened = console
    return (
        f"{table(heads, rows)}\n\nAn idle frontend takes {alone:.1f} ms of the processor in a second, "
        f"with a console open {opened:.1f} ms."
    )


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description="What it costs to watch requests.")
    parser.add_argument("--rounds", type=int, help="(7)")
    parser.add_argument("--seconds", type=float, help="of each turn (3)")
    parser.add_argument("--warm-up", type=float, help="seconds of load before each (1)")
    parser.add_argument("--idle", type=float, help="seconds of an idle server, without and with a console (20)")
    parser.add_argument("--connections", default="8", help="(%(default)s)")
    parser.add_argument("--chosen", default="", help=f"names with ; between them, of {'; '.join(_SETTINGS)} (all)")
    parser.add_argument("--cores", type=int, default=2, help="to run on, of those of this machine (%(default)s)")
    parser.add_argument("--driver", choices=["auto", "wrk", "bundled"], default="auto", help="(%(default)s)")
    parser.add_argument("--quick", action="store_true", help="does it run? One round")
    options = parser.parse_args(arguments)
    command_line.fill(options, rounds=(7, 1), seconds=(3.0, 1.0), warm_up=(1.0, 0.2), idle=(20.0, 3.0))
    counts = ("rounds", "seconds", "warm_up", "idle", "cores")
    command_line.settle(parser, options, counts=counts, told="rounds, seconds, cores and connections", lists={})
    options.chosen = [one.strip() for one in options.chosen.split(";")] if options.chosen else list(_SETTINGS)
    if unknown := set(options.chosen) - set(_SETTINGS):
        parser.error(f"--chosen takes {'; '.join(_SETTINGS)}, not {'; '.join(sorted(unknown))}")
    return options


def main() -> int:
    """Measure and print; return 1 if something failed on the way."""
    options = parse()
    if not command_line.take_cores(options.cores):  # the servers' and the load's, too
        return 2
    machine.compile_packages()
    serving.end_at_signals()
    problems: list[str] = []
    begun, busy = time.monotonic(), os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="tmbench-", ignore_cleanup_errors=True) as folder:
        try:
            found, console = measure(options, Path(folder), problems)
        except (BenchmarkError, RuntimeError) as error:
            print("\n".join([f"error: {error}", *problems]), file=sys.stderr)
            return 1
    print(f"{machine.describe()}; {options.cores} cores used; {machine.versions('torchmar', 'uvloop')}")
    print(f"no-op model, {options.connections[0]} connections, {options.driver}; {options.rounds} rounds", end="; ")
    print(f"took {(time.monotonic() - begun) / 60:.1f} minutes; load average before: {busy:.2f}\n")
    print(report(found, console))
    print("\n".join(["", *problems]) if problems else "")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
