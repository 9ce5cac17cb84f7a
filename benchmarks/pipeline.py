"""Two batches at once beside one after the other, in one run: ``python benchmarks/pipeline.py``.

Our shared worker under Java's frontend, or the Python one, as it comes (``ahead``: while the model runs one batch, a
second thread prepares the next) and with ``backend: {pipeline: false}`` (``alone``). A dedicated worker has no such
thread. Both are models of one server and take turns of seconds; ratios are of two turns that follow each other, and the
medians of these are shown. Nothing is written: copy what it prints.

::

    python benchmarks/pipeline.py                        # three rounds: about five minutes on two cores
    python benchmarks/pipeline.py --rounds 1             # about two minutes
    python benchmarks/pipeline.py --frontend python
    python benchmarks/pipeline.py --cores 8              # on so many of this machine's cores, the load's included
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1])]  # run as a script, only this file's own folder is searched

from benchmarks import serving  # noqa: E402
from benchmarks.serving_bench import turns  # noqa: E402
from benchmarks.serving_bench.contenders import Contender, Kind  # noqa: E402
from benchmarks.serving_bench.workloads import mnist, mobilenet, resnet18  # noqa: E402


def _pair(kind: Kind) -> dict[str, Contender]:
    usual = Contender.parse(kind)
    return {"alone": replace(usual, pipeline=False), "ahead": usual}


COMPARISON = turns.Comparison(
    about="Two batches at once beside one after the other, in a shared process.",
    contenders=_pair("shared"),
    python=_pair("python-shared"),
    chosen="alone,ahead",
    workloads={"mnist": mnist, "mobilenet": mobilenet, "resnet18": resnet18},
    connections="8,32",
    together=True,
)


def main() -> int:
    """Measure and print; return 1 if something failed on the way."""
    options = turns.parse(COMPARISON)
    serving.end_at_signals()
    return turns.measure(COMPARISON, options)


if __name__ == "__main__":
    sys.exit(main())
