"""A cluster of many nodes on paper, from what ``scale.py`` has measured on one machine: ``python benchmarks/paper.py``.

It prints how many requests a second so many nodes would answer, where that stops being linear, and why; and all that it
took for granted. Nothing is measured here.

::

    python benchmarks/scale.py            # measures what this reckons with; an hour on two cores
    python benchmarks/paper.py            # half a minute
    python benchmarks/paper.py --nodes 1,100 --cores 32 --replicas 16
    python benchmarks/paper.py --inputs results/scale.json other.json
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parents[1])]  # run as a script, only this file's own folder is searched

from benchmarks.scale_bench import idle, paper  # noqa: E402
from benchmarks.scale_bench.entrants import Entrant  # noqa: E402
from benchmarks.scale_bench.paper import ASSUMED, Cluster, Measured  # noqa: E402
from benchmarks.serving_bench.report import number, table  # noqa: E402
from benchmarks.serving_bench.results import median  # noqa: E402

RESULTS = Path(__file__).resolve().parent / "results"
_UNDER_WAY = (1, 2, 4, 8)
_LINEAR = 0.9
# The roles of the processes that a request passes; what else took time meanwhile is the cluster's own.
_ROLES = {"haproxy_ms": ("haproxy",), "manager_ms": ("manager",), "replica_ms": ("replica", "worker")}


BOUNDS = (
    "a check takes HAProxy and the replica what a request takes them: it is one, without a worker",
    "a node that nobody asks takes what a whole cluster of one node took, its controller and control service included",
    "what the controller takes for each replica and node is not known, and neither is where it is full",
)
"""What is put in the place of an idle cluster's figures where these were not measured."""


def together(documents: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what runs of ``scale.py`` have measured as one run: all loads, and the first idle cluster."""
    return {
        "settings": [one["settings"] for one in documents],
        "loads": [load for one in documents for load in one["loads"]],
        "idle": next((one["idle"] for one in documents if one["idle"]), []),
    }


def measured(document: Mapping[str, Any], workload: str) -> Measured | None:
    """Return what runs of ``scale.py`` have measured of one workload; None if that was not part of them.

    Where they did not measure an idle cluster, these are bounds; see `BOUNDS`.

    Raises:
        KeyError: a size of the idle cluster is missing.
    """
    label = Entrant("ray", 1).label
    loads = [one for one in document["loads"] if (one["workload"], one["entrant"]) == (workload, label)]
    if not loads:
        return None
    most = max(one["connections"] for one in loads)
    chosen = [one for one in loads if one["connections"] == most]

    def taken(*roles: str) -> float:
        return median(sum(one["roles"].get(role, 0.0) for role in roles) for one in chosen) or 0.0

    if document["idle"]:
        figures = idle.figures(document["idle"])
        figures["idle_replica_ms"] = figures.pop("replica_ms")
    else:
        figures = dict.fromkeys((one.name for one in fields(Measured)), 0.0)
        figures["node_ms"] = median(one["idle_ms"] for one in chosen) or 0.0
        figures["haproxy_check_ms"], figures["replica_check_ms"] = taken("haproxy"), taken("replica")
    for name, roles in _ROLES.items():
        figures[name] = taken(*roles)
    return Measured.of(figures)


def report(document: Mapping[str, Any], sizes: Sequence[int], usual: Cluster) -> str:
    """Format what a cluster reaches, for each workload that was measured, as Markdown.

    Raises:
        KeyError: the run did not measure what an idle cluster takes.
    """
    parts = [f"# {max(sizes)} nodes on paper", f"Each with {usual.cores} cores and {usual.replicas} replicas."]
    for workload in dict.fromkeys(one["workload"] for one in document["loads"]):
        if (found := measured(document, workload)) is not None:
            said = limits(found, usual, whole=bool(document["idle"]))
            parts += [f"## {workload}", _table(found, sizes, usual, whole=bool(document["idle"]))]
            parts += ["\n".join(f"- {text}" for text in said)]
    parts += ["## The balance", _balance(sizes, usual.replicas)]
    parts += ["## Measured", "By `python benchmarks/scale.py`; what a request took is in its tables. Beside it:"]
    if document["idle"]:
        found = idle.figures(document["idle"])
        parts += [
            table(("ms of the processor", ""), [(text, number(found[name])) for name, text in idle.NAMES.items()])
        ]
    parts += ["\n".join(f"- {name}: {text}" for name, text in one.items()) for one in document["settings"]]
    assumed = [*ASSUMED.values(), *(() if document["idle"] else BOUNDS)]
    parts += ["## Assumed", "\n".join(f"- {text}" for text in assumed)]
    return "\n\n".join(parts) + "\n"


def _table(found: Measured, sizes: Sequence[int], usual: Cluster, *, whole: bool) -> str:
    """Format what each size reaches; what the controller takes only if it was measured."""
    rows = []
    for nodes in sizes:
        outcome = paper.reckon(found, replace(usual, nodes=nodes))
        scaled = paper.reckon(found, replace(usual, nodes=nodes, autoscaled=True))
        shares = [outcome.rps, outcome.linear, outcome.checks_cores]
        if whole:
            shares += [outcome.controller, scaled.controller, outcome.gcs, outcome.update_s]
        rows.append([str(nodes), *map(number, shares)])
    heads = ["nodes", "requests/s", "of linear", "a node's cores for checks"]
    if whole:
        heads += ["controller", "the same, autoscaling", "gcs", "s to replace all, at least"]
    return table(heads, rows)


def limits(found: Measured, usual: Cluster, *, whole: bool) -> Iterator[str]:
    """Yield where the requests stop growing with the nodes, and what is full before."""
    below = paper.falls_below(found, usual, _LINEAR)
    where = f"from {below:,} nodes on" if below else "nowhere below 100,000 nodes"
    why = "each of N nodes asks the replicas of all, so checks grow with N squared"
    yield f"Less than {_LINEAR:g} of linear {where}: {why}."
    for autoscaled in (False, True) if whole else ():
        full = paper.full_at(found, replace(usual, autoscaled=autoscaled))
        kind = "replicas that autoscale" if autoscaled else "a fixed number of replicas"
        reached = f"from {full:,} nodes on" if full else "never"
        yield (
            f"With {kind} the controller needs more than its one core {reached}: requests go on, "
            "while dead replicas are noticed and numbers changed later."
        )


def _balance(sizes: Sequence[int], replicas: int) -> str:
    """Format the share of their time in which the replicas work, by how many requests are under way."""
    rows = [
        [str(nodes), *(number(paper.spread(nodes, nodes * replicas, under_way)) for under_way in _UNDER_WAY)]
        for nodes in sizes
    ]
    text = "The share of their time in which the replicas work, by the requests under way for each"
    return f"{text}; no HAProxy knows what the others send.\n\n{table(('nodes', *map(str, _UNDER_WAY)), rows)}"


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description="A cluster of many nodes on paper.")
    parser.add_argument("--inputs", type=Path, nargs="+", help="of scale.py (benchmarks/results/scale*.json)")
    parser.add_argument("--nodes", default="1,2,10,50,100", help="numbers of nodes (%(default)s)")
    parser.add_argument("--cores", type=int, default=16, help="of each node (%(default)s)")
    parser.add_argument("--replicas", type=int, default=12, help="of the model, on each node (%(default)s)")
    options = parser.parse_args(arguments)
    try:
        options.nodes = [int(text) for text in options.nodes.split(",")]
    except ValueError:
        parser.error(f"--nodes takes whole numbers with commas between, not {options.nodes!r}")
    if min(options.cores, options.replicas, *options.nodes) <= 0:
        parser.error("nodes, cores and replicas are numbers above 0")
    return options


def main() -> int:
    """Print the report; return 1 if there is nothing to reckon with."""
    options = parse()
    try:
        inputs = options.inputs or sorted(RESULTS.glob("scale*.json"))
        document = together([json.loads(path.read_text(encoding="utf-8")) for path in inputs])
        print(report(document, options.nodes, Cluster(1, options.cores, options.replicas)))
    except FileNotFoundError as error:
        print(f"error: {error.filename} is not there: run python benchmarks/scale.py first", file=sys.stderr)
        return 1
    except KeyError as error:
        print(f"error: nothing was measured of {error}: run python benchmarks/scale.py whole", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
