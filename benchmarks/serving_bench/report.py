"""The results as Markdown."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from benchmarks.serving_bench.contenders import KINDS, Contender
from benchmarks.serving_bench.results import Results, ratio
from benchmarks.serving_bench.targets import SCALED, Target, targets

NOTHING = "-"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Format a Markdown table; the first column is text, the others are numbers."""
    lines = [list(head), ["---", *["---:"] * (len(head) - 1)], *map(list, rows)]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def number(value: float | None) -> str:
    """Format a number with about three digits, thousands separated."""
    if value is None:
        return NOTHING
    digits = next((digits for least, digits in ((100, 0), (10, 1), (0.1, 2)) if abs(value) >= least), 3 if value else 0)
    return f"{value:,.{digits}f}"


def compared(value: float | None, base: float | None) -> str:
    """Format a value with its ratio to another."""
    times = ratio(value, base)
    return number(value) if times is None else f"{number(value)} ({number(times)})"


def markdown(results: Results, plot: str | None = None) -> str:
    """Format the whole report.

    Args:
        results: of a run.
        plot: address of the chart, to be shown at the top.
    """
    parts = ["# Serving: torchmar beside TorchServe", settings_lines(results)]
    if plot:
        parts.append(f"![requests per second, start, scaling and memory]({plot})")
    if results.problems:
        parts += ["## What went wrong", "\n".join(f"- {problem}" for problem in results.problems)]
    parts += ["## Targets", target_table(targets(results))]
    if results.loads or results.bares:
        parts += [part for workload in results.titles for part in workload_tables(results, workload)]
    if results.lives:
        parts += [f"## Start, scaling and memory ({SCALED})", _lives(results)]
    parts += ["## Contenders", _contenders(results)]
    return "\n\n".join(parts) + "\n"


def settings_lines(results: Results) -> str:
    """Format what the figures depend on, as a list."""
    lines = [f"- {name}: {value}" for name, value in results.settings.items()]
    lines.append(f"- typical spread between rounds, (largest - smallest) / median: {results.spread:.0%}")
    lines.append("- a number in brackets is the ratio to the first row")
    return "\n".join(lines)


def target_table(bounds: Iterable[Target]) -> str:
    """Format the targets, and whether they were met."""
    words = {True: "yes", False: "**no**", None: "not measured"}
    rows = [
        (target.text, f"{target.sign} {target.bound:g}", number(target.measured), words[target.met])
        for target in bounds
    ]
    return table(("ratio", "target", "measured", "met?"), rows)


def workload_tables(results: Results, workload: str) -> list[str]:
    """Format the parts of the report about the load of one workload, and its bare handler."""
    base = results.contenders[0]
    head = [f"{count} connection{'s' if count > 1 else ''}" for count in results.connections]

    def rates(contender: Contender) -> list[str]:
        return [
            compared(results.load(workload, contender, count, "rps"), results.load(workload, base, count, "rps"))
            for count in results.connections
        ]

    def pair(contender: Contender, count: int, names: tuple[str, str]) -> str:
        found = [results.load(workload, contender, count, name) for name in names]
        bases = [results.load(workload, base, count, name) for name in names]
        return NOTHING if None in found else " / ".join(map(compared, found, bases))

    def latencies(contender: Contender) -> list[str]:
        return [pair(contender, count, ("p50_ms", "p99_ms")) for count in results.connections]

    def processor(contender: Contender) -> list[str]:
        return [pair(contender, count, ("processor_ms", "frontend_ms")) for count in results.connections]

    def rows(cells: Callable[[Contender], list[str]]) -> list[list[str]]:
        return [[contender.label, *cells(contender)] for contender in results.contenders]

    rate_rows = [
        [*row, f"{results.errors(workload, each)}"] for row, each in zip(rows(rates), results.contenders, strict=True)
    ]
    parts = [f"## {workload}: {results.titles[workload]}"]
    if results.loads:
        parts += ["Requests per second:", table(("", *head, "errors"), rate_rows)]
        parts += ["Latency, p50 / p99 in ms:", table(("", *head), rows(latencies))]
        title = "Processor time that the server took for a request, all processes / the frontend's own, in ms:"
        parts += [title, table(("", *head), rows(processor))]
    if results.batches:
        title = "The same handler in a loop without a server, decoding the bodies included, items per second:"
        parts += [title, _bare(results, workload)]
    return parts


def _bare(results: Results, workload: str) -> str:
    rows = [
        (
            f"{threads or 'default'} torch thread{'' if threads == 1 else 's'}",
            *(number(results.bare(workload, threads, batch)) for batch in results.batches),
        )
        for threads in results.threads
    ]
    return table(("", *(f"batch {batch}" for batch in results.batches)), rows)


def _lives(results: Results) -> str:
    base = results.contenders[0]
    names = ("ready_s", "processor_s", "scale_s", "memory_one_mb", "memory_many_mb", "frontend_mb")
    rows = [
        (
            contender.kind.replace("-", " "),
            *(compared(results.life(contender, name), results.life(base, name)) for name in names),
            number(results.life(contender, "processes_many")).split(".")[0],
        )
        for contender in dict.fromkeys(life.contender for life in results.lives)
    ]
    many = results.scale_to
    head = (
        "",
        "start to READY, s",
        "processor time of the start, s",
        f"1 to {many} workers, s",
        "PSS of 1 worker, MB",
        f"PSS of {many} workers, MB",
        "PSS of the frontend, MB",
        f"processes with {many}",
    )
    return table(head, rows)


def _contenders(results: Results) -> str:
    kinds = dict.fromkeys(contender.kind for contender in results.contenders)
    return "\n".join(f"- {kind.replace('-', ' ')}: {KINDS[kind]}" for kind in kinds)
