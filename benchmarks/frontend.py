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

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1])]  # run as a script, only this file's own folder is searched

from benchmarks import serving  # noqa: E402
from benchmarks.serving_bench import turns  # noqa: E402
from benchmarks.serving_bench.contenders import SHARED_WORKERS, Contender  # noqa: E402
from benchmarks.serving_bench.workloads import mnist, noop, stream, upload  # noqa: E402
from serving.control.configuration.few_cores import COLLECTOR, THREADS  # noqa: E402

_USUAL_COLLECTOR = "-XX:+UseG1GC"  # of Java on two cores and 2 GB, or more
_USUAL_THREADS = dict.fromkeys(THREADS, "0")  # Netty's number: two a core
_SOME_CONNECTIONS = (8,)


def _contender(collector: str, threads: dict[str, str]) -> Contender:
    # Said in the configuration, so that it is the same whatever `torchmar start` does unasked.
    lines = [f"vmargs={collector}", *(f"{key}={value}" for key, value in threads.items()), ""]
    return Contender("shared", SHARED_WORKERS, settings="\n".join(lines))


COMPARISON = turns.Comparison(
    about="The Java frontend's settings for few cores beside its usual ones.",
    contenders={
        "usual": _contender(_USUAL_COLLECTOR, _USUAL_THREADS),
        "collector": _contender(COLLECTOR, _USUAL_THREADS),
        "few": _contender(COLLECTOR, THREADS),
    },
    chosen="usual,few",
    workloads={"mnist": mnist, "noop": noop, "upload": upload, "stream": stream},
    connections="1,8,32,64",
    at={"upload": _SOME_CONNECTIONS, "stream": _SOME_CONNECTIONS},
)


def main() -> int:
    """Measure and print; return 1 if something failed on the way."""
    options = turns.parse(COMPARISON)
    serving.end_at_signals()
    return turns.measure(COMPARISON, options)


if __name__ == "__main__":
    sys.exit(main())
