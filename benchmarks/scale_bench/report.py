"""The results as Markdown."""

from __future__ import annotations

from collections.abc import Iterable

from benchmarks.scale_bench.entrants import KINDS, Entrant
from benchmarks.scale_bench.idle import NAMES as IDLE_NAMES
from benchmarks.scale_bench.idle import figures as idle_figures
from benchmarks.scale_bench.results import LOOPED, Results, readings, targets
from benchmarks.serving_bench.report import NOTHING, compared, number, table, target_table

_SHOWN_MS = 0.005  # roles that take less of a request are no column


def markdown(results: Results) -> str:
    """Format the whole report."""
    parts = [
        "# Scale: one model on Ray Serve",
        "\n".join(f"- {name}: {text}" for name, text in results.settings.items()),
    ]
    if results.problems:
        parts += ["## What went wrong", "\n".join(f"- {problem}" for problem in results.problems)]
    if results.loads:
        parts += ["## Targets", target_table(targets(results))]
        parts += ["## What it says", "\n".join(f"- {sentence}" for sentence in readings(results))]
    for workload in results.titles if results.loads else ():
        parts += [f"## {workload}: {results.titles[workload]}", _rates(results, workload)]
        parts += [
            "Milliseconds of the processor that a request took, by what the processes do:",
            _roles(results, workload),
        ]
    if results.loops:
        parts += [f"## {LOOPED} without a server, each process with one thread, items a second of all", _loops(results)]
    if results.front_ms:
        text = f"A request that no model's replica answers took {number(min(results.front_ms))} ms of the processor."
        parts += ["## Other requests", text]
    if results.idle and (rows := _idle(results)):
        parts += ["## While nobody asks", table(("", "measured"), rows)]
    parts += ["## Entrants", "\n".join(f"- {kind}: {KINDS[kind]}" for kind in dict.fromkeys(_kinds(results)))]
    return "\n\n".join(parts) + "\n"


def _kinds(results: Results) -> Iterable[str]:
    return (entrant.kind for entrant in results.entrants)


def _measured(results: Results, workload: str) -> list[Entrant]:
    there = {load.entrant for load in results.loads if load.workload == workload}
    return sorted((one for one in results.entrants if one in there), key=lambda one: one.replicas)


def _rates(results: Results, workload: str) -> str:
    """Format rates, latencies and processor time; in brackets the ratio to our frontend with as many workers."""

    def cells(entrant: Entrant) -> Iterable[str]:
        base = Entrant("python", entrant.replicas)
        for name in ("rps", "p50_ms", "p99_ms", "processor_ms", "beside_idle_ms"):
            for connections in results.connections:
                pair = (results.load(workload, one, connections, name) for one in (entrant, base))
                yield compared(*pair)
        idle = results.load(workload, entrant, results.connections[0], "idle_ms")
        yield number(idle)
        yield str(results.errors(workload, entrant))

    names = ("requests/s", "p50 ms", "p99 ms", "processor ms a request", "the same without idle")
    head = [f"{name}, {count}" for name in names for count in results.connections]
    rows = [[entrant.label, *cells(entrant)] for entrant in _measured(results, workload)]
    return table(("connections", *head, "processor ms a second when idle", "errors"), rows)


def _roles(results: Results, workload: str) -> str:
    """Format the share of each role, at the most connections."""
    most = max(results.connections)
    entrants = _measured(results, workload)
    there = sorted({name for load in results.loads if load.workload == workload for name in load.roles})
    found = {name: [results.role_ms(workload, one, most, name) for one in entrants] for name in there}
    columns = [name for name, values in found.items() if max(value or 0.0 for value in values) >= _SHOWN_MS]
    rows = [
        [entrant.label, *(number(found[name][place]) for name in columns)] for place, entrant in enumerate(entrants)
    ]
    return table((f"{most} connections", *columns), rows)


def _loops(results: Results) -> str:
    batches = sorted({one.batch for one in results.loops})

    def rate(processes: int, batch: int) -> str:
        rates = sorted(one.rate for one in results.loops if (one.processes, one.batch) == (processes, batch))
        return number(rates[len(rates) // 2]) if rates else NOTHING

    rows = [
        [f"{processes} process{'es' if processes > 1 else ''}", *(rate(processes, batch) for batch in batches)]
        for processes in sorted({one.processes for one in results.loops})
    ]
    return table(("", *(f"batch {batch}" for batch in batches)), rows)


def _idle(results: Results) -> list[tuple[str, str]]:
    try:
        found = idle_figures(results.idle)
    except KeyError:  # a size failed, which the report tells
        return []
    return [(text, number(found[name])) for name, text in IDLE_NAMES.items()]
