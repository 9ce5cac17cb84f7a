"""Churn of models: registered and removed at once, round after round; is every registration answered?

In a round four models are removed and, within a tenth of a second, four others are registered, each of which is asked
once. In one of five rounds SIGKILL meets a process that works for a model, or the one that all are forked from. Other
processes keep the cores busy. Every hundred rounds there is a new server, for what it imports first it imports
meanwhile; three of four find no torch, so that forks are quicker and more of them meet.

::

    python benchmarks/churn.py --rounds 2000            # make churn ROUNDS=2000
    python benchmarks/churn.py --rounds 100 --seed 7    # another order

When an answer does not come within a minute, the stacks of every thread of every process are written down, and the run
goes on with another server. Prints a report in Markdown. Exit code 0 if all held, 1 if not; then the folder with logs
and stacks stays.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1])]  # run as a script, only this file's own folder is searched

from archive_tool.errors import TorchmarError  # noqa: E402
from benchmarks.churn_bench.models import CONFIG, build  # noqa: E402
from benchmarks.churn_bench.rounds import HangError, Rounds, Tally  # noqa: E402
from benchmarks.churn_bench.watchdog import Watchdog  # noqa: E402
from benchmarks.soak import end, ended, leftovers, use_only  # noqa: E402
from serving.control import StartOptions, StateFolder, start  # noqa: E402

_TORCH_EVERY = 4


def churn(options: argparse.Namespace, folder: Path, tally: Tally) -> list[str]:
    """Play all rounds, against one server after the other. Return what did not hold, in words."""
    begun = time.monotonic()
    wrong: list[str] = []

    def say(text: str) -> None:
        print(f"{time.monotonic() - begun:7.1f} s  {text}", file=sys.stderr, flush=True)

    with _busy(options.busy):
        while tally.rounds < options.rounds and time.monotonic() - begun < options.minutes * 60:
            rounds = min(options.server_rounds, options.rounds - tally.rounds)
            own = folder / f"from-round-{tally.rounds}"
            own.mkdir()
            torch = tally.rounds // options.server_rounds % _TORCH_EVERY == 0
            found = _session(rounds, own, torch, Rounds(tally, seed=options.seed + tally.rounds, say=say))
            wrong += found
            say(f"{tally.rounds} rounds; {'; '.join(found) or 'all held'}")
            if not found:
                shutil.rmtree(own, ignore_errors=True)
    return wrong + tally.failures


def _session(count: int, folder: Path, torch: bool, rounds: Rounds) -> list[str]:
    """Start a server in a folder, play rounds, end it. Return what did not hold, in words."""
    temp = folder / "tmp"
    temp.mkdir()
    use_only(temp)
    watchdog = Watchdog(folder, torch=torch)
    config = folder / "config.properties"
    config.write_text(CONFIG)
    state = StateFolder(home=folder / "state")
    started = start(StartOptions(model_store=build(folder), ts_config=config, port="auto"), state)
    wrong: list[str] = []
    try:
        for _ in range(count):
            rounds.play(started.record)
    except HangError as error:
        wrong.append(f"{error}; where all processes were: {watchdog.dump(started.record.pid)}, and java.log")
    finally:
        killed = end(started, state)
    if killed:
        wrong.append(f"{killed} processes had to be killed at the end")
    left = leftovers(started, state, temp)
    return [*wrong, f"left behind: {', '.join(left)}"] if left else wrong


@contextmanager
def _busy(count: int) -> Iterator[None]:
    """Keep that many cores busy."""
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def report(tally: Tally, wrong: list[str], seconds: float) -> str:
    """Format the results as Markdown."""
    kills = ", ".join(f"{number} {role}" for role, number in sorted(tally.kills.items())) or "none"
    lines = [
        f"# Churn: {'SOMETHING DID NOT HOLD' if wrong else 'all held'}",
        "",
        f"{tally.rounds} rounds in {seconds / 60:.0f} minutes. Killed processes: {kills}.",
        "",
        "| asked | answers | longest s |",
        "|---|---|---|",
    ]
    for what, longest in sorted(tally.longest.items()):
        counts = sorted((status, count) for (asked, status), count in tally.answers.items() if asked == what)
        answers = ", ".join(f"{count} with {status or 'no status'}" for status, count in counts)
        lines.append(f"| {what} | {answers} | {longest:.1f} |")
    return "\n".join([*lines, *([""] if wrong else []), *(f"- {text}" for text in wrong)])


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description="Registers and removes models at once: is every request answered?")
    parser.add_argument("--rounds", type=int, default=200, help="to play (%(default)s)")
    parser.add_argument("--server-rounds", type=int, default=100, help="of one server; then another one is started")
    parser.add_argument("--minutes", type=float, default=600.0, help="after which no round begins (%(default)g)")
    parser.add_argument("--busy", type=int, default=2, metavar="N", help="cores to keep busy meanwhile (%(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of the order of events (%(default)s)")
    options = parser.parse_args(arguments)
    if options.rounds < 1 or options.server_rounds < 1 or options.busy < 0 or not options.minutes > 0:
        parser.error("rounds and minutes are numbers above 0")
    return options


def main() -> int:
    """Run and print the report; return 1 if something did not hold."""
    options = parse()
    if not sys.platform.startswith("linux"):
        print("The processes that this would kill exist on Linux only.", file=sys.stderr)
        return 2
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, ended)  # as an exception, so that the server and its files are taken away
    folder = Path(tempfile.mkdtemp(prefix="tmchurn-")).resolve()
    tally = Tally()
    wrong: list[str] = []
    begun = time.monotonic()
    try:
        wrong = churn(options, folder, tally)
    except KeyboardInterrupt:
        return 130
    except TorchmarError as error:
        wrong = [str(error)]
        print(f"the server does not start: {error}", file=sys.stderr)
    finally:  # also of a run that is cut short
        print(report(tally, wrong, time.monotonic() - begun))
        if not wrong:
            shutil.rmtree(folder, ignore_errors=True)
    if wrong:
        print(f"\nThe logs and the stacks: {folder}")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
