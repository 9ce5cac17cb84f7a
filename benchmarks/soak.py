"""Kills of backend processes under load; does the server hold? ``python benchmarks/soak.py``.

One server in a folder of its own and on free ports, two models: one in dedicated mode, one in shared mode. Clients keep
both busy. Meanwhile SIGKILL meets processes of every kind, and the shared model is scaled up and down. The frontend is
spared: what is tested is what runs under it. With Java's a kill costs the requests that its worker had; the Python one
sends them again, so that there a request may fail only if its log says that two kills met it.

::

    python benchmarks/soak.py --minutes 10 --kill-every 4     # make soak MINUTES=10
    python benchmarks/soak.py --minutes 1.5 --seed 7 -v       # another order of kills, shown as they happen
    python benchmarks/soak.py --frontend python --connections 32 --kill-every 2

The run has three parts. After the first, without kills, memory is measured. In the second everything is killed; then
all workers are scaled away, after which no process of theirs may live, and back. In the third only thin and dedicated
processes are killed, so that the prefork and the shared process live through it, and what they leak is seen at the end.

Prints a report in Markdown. Exit code 0 if all held, 1 if not; then the folder with the logs stays. The same seed gives
the same order of kills, not the same run: when a process is back to be killed again is the machine's.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1])]  # run as a script, only this file's own folder is searched

from archive_tool.errors import TorchmarError  # noqa: E402
from benchmarks.soak_bench.clients import CLIENTS  # noqa: E402
from benchmarks.soak_bench.models import CONFIG, JAVAS_CONFIG, WORKERS, build  # noqa: E402
from benchmarks.soak_bench.processes import members, open_sockets  # noqa: E402
from benchmarks.soak_bench.results import Results, answered, report  # noqa: E402
from benchmarks.soak_bench.run import Run, ServerEndedError  # noqa: E402
from serving.control import StartOptions, StateFolder, start, stop  # noqa: E402
from serving.control.server import Started, management_client  # noqa: E402
from serving.errors import ServingError  # noqa: E402
from serving.frontend.local.version import POISONED  # noqa: E402


def soak(options: argparse.Namespace, folder: Path) -> Results:
    """Start a server in a folder, torture it, end it, and look at what is left."""
    temp = folder / "tmp"
    temp.mkdir()
    use_only(temp)
    config = folder / "config.properties"
    python = options.frontend == "python"
    config.write_text(CONFIG if python else JAVAS_CONFIG)
    state = StateFolder(home=folder / "state")
    begun = time.monotonic()

    def say(text: str) -> None:
        if options.verbose:
            print(f"{time.monotonic() - begun:7.1f} s  {text}", file=sys.stderr, flush=True)

    models = tuple(f"{model}={model}.mar" for model in WORKERS)
    started = start(
        StartOptions(
            models=models, model_store=build(folder), ts_config=config, port="auto", frontend=options.frontend
        ),
        state,
    )
    say(f"started in {started.seconds:.1f} s, pid {started.record.pid}, logs in {started.record.log_folder}")
    results = Results()
    killed = 0
    try:
        with management_client(started.record, state) as management:
            run = Run(
                started,
                management,
                results,
                seconds=options.minutes * 60,
                kill_every=options.kill_every,
                seed=options.seed,
                say=say,
                connections=options.connections,
            )
            run.whole()
    except (ServingError, ServerEndedError) as error:
        results.check("the frontend answers", False, str(error))
    finally:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)  # what was started is ended, however impatient they are
        killed = end(started, state)
    results.check("all processes end by themselves when the server is stopped", not killed, f"{killed} did not")
    left = leftovers(started, state, temp)
    results.check("nothing is left behind", not left, ", ".join(left) or "no process, socket or temporary file")
    log = Path(started.record.log_folder) / "ts_log.log"
    excused = met_by_two(log.read_text(encoding="utf-8", errors="replace")) if python else None
    results.checks[:0] = answered(results.tallies, excused)
    return results


def met_by_two(log: str) -> set[str]:
    """Return the requests of which the Python frontend's log says that two workers died of them, or with them."""
    return set(re.findall(POISONED % (r"(\S+)", r"\S+"), log))


def use_only(temp: Path) -> None:
    """Keep settings of the caller's from the server, and its temporary files in one place."""
    for name in [name for name in os.environ if name.startswith(("TS_", "TORCHMAR_"))]:
        del os.environ[name]
    os.environ["TMPDIR"] = tempfile.tempdir = str(temp)


def end(started: Started, state: StateFolder) -> int:
    """Stop the server; return how many processes had to be killed."""
    try:
        return stop(state)
    except ServingError:  # it had ended by itself, which has been reported; what was left of it is gone now
        return 0
    finally:
        started.process.wait()


def leftovers(started: Started, state: StateFolder, temp: Path) -> list[str]:
    """List what a server that was stopped must not leave."""
    leader = started.record.pid
    left = [f"{member.role} {member.process.pid}" for member in members(leader)]
    left += [f"socket {inode}" for inode in open_sockets(leader)]
    # torch keeps a folder for what it compiles, for later processes.
    files = {path for path in temp.iterdir() if not path.name.startswith("torchinductor_")}
    files |= {Path(started.record.runtime_folder), state.path / "server.json"}
    return left + sorted(str(path) for path in files if path.exists())


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description="Kills processes of the backend under load: does the server hold?")
    parser.add_argument("--minutes", type=float, default=10.0, help="of load, the checks come on top (%(default)g)")
    parser.add_argument("--kill-every", type=float, default=4.0, metavar="SECONDS", help="on average (%(default)g)")
    parser.add_argument("--frontend", choices=["java", "python"], default="java", help="(%(default)s)")
    parser.add_argument("--connections", type=int, default=CLIENTS, help="of the clients (%(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of what is killed, and when (%(default)s)")
    parser.add_argument("-v", "--verbose", action="store_true", help="tell on standard error what happens")
    options = parser.parse_args(arguments)
    if not (options.minutes > 0 and options.kill_every > 0 and options.connections > 0):
        parser.error("minutes, seconds and connections are numbers above 0")
    return options


def ended(number: int, _frame: object) -> None:
    """End this process at a signal, as an exception, so that the server and its files are removed."""
    sys.exit(128 + number)


def main() -> int:
    """Run and print the report; return 1 if something did not hold."""
    options = parse()
    if not sys.platform.startswith("linux"):
        print("The processes that this would kill exist on Linux only.", file=sys.stderr)
        return 2
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, ended)  # as an exception, so that the server and its files are taken away
    folder = Path(tempfile.mkdtemp(prefix="tmsoak-")).resolve()
    failed = False
    try:
        results = soak(options, folder)
        failed = not results.held
        settings = (
            f"{options.frontend} frontend, {options.connections} connections, {options.minutes:g} minutes of load, "
            f"a kill every {options.kill_every:g} s, seed {options.seed}"
        )
        print(report(results, settings))
    except KeyboardInterrupt:
        return 130
    except TorchmarError as error:
        failed = True
        print(f"the server does not start: {error}", file=sys.stderr)
    finally:
        if not failed:
            shutil.rmtree(folder, ignore_errors=True)
    if failed:
        print(f"\nThe logs: {folder / 'state'}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
