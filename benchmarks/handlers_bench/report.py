"""The results as Markdown."""

from __future__ import annotations

from benchmarks.handlers_bench.contenders import STOCK, Tuned
from benchmarks.handlers_bench.loop import STAGES
from benchmarks.handlers_bench.results import HandlerResults, targets
from benchmarks.handlers_bench.workloads import TRAINED
from benchmarks.serving_bench.report import (
    NOTHING,
    compared,
    number,
    settings_lines,
    table,
    target_table,
    workload_tables,
)


def markdown(results: HandlerResults) -> str:
    """Format the whole report."""
    parts = ["# Image classifiers: torchmar beside TorchServe", settings_lines(results)]
    if results.problems:
        parts += ["## What went wrong", "\n".join(f"- {problem}" for problem in results.problems)]
    parts += ["## Targets", target_table(targets(results))]
    if results.bfloat16 is False and results.device == "cpu":
        parts.append(
            "This processor has no instructions for bfloat16: 16-bit types are slower here, and what they should "
            "gain is not asked of this run."
        )
    for workload in results.titles:
        parts += workload_tables(results, workload)
        if results.loops:
            parts += ["Without a server, images per second, of the handler from JPEG to answer / of the model alone:"]
            parts += [_loops(results, workload)]
            parts += ["One request alone, milliseconds:", _stages(results, workload)]
        if workload in results.agreements:
            text = f"Answers with the most probable class of TorchServe's, of {results.pictures} images:"
            parts += [text, _agreement(results, workload)]
            if workload not in TRAINED:
                parts.append(
                    "No target: of random weights many classes are nearly as probable as the best one, and rounding "
                    "decides between them."
                )
    parts += ["## Contenders", "\n".join(f"- {one.label}: {one.about}" for one in _tuned(results))]
    return "\n\n".join(parts) + "\n"


def _tuned(results: HandlerResults) -> list[Tuned]:
    return [one for one in results.contenders if isinstance(one, Tuned)]


def _loops(results: HandlerResults, workload: str) -> str:
    batches = sorted({batch for run in results.loops for batch in run.loop.handler})

    def cell(name: str, batch: int) -> str:
        found = [
            compared(results.loop(workload, name, kind, batch), results.loop(workload, STOCK, kind, batch))
            for kind in ("handler", "model")
        ]
        return " / ".join(found)

    rows = [[one.name, *(cell(one.name, batch) for batch in batches)] for one in _tuned(results)]
    return table(("", *(f"batch {batch}" for batch in batches)), rows)


def _stages(results: HandlerResults, workload: str) -> str:
    """Format the handler's stages, and what is around it: the request's median at one connection without them."""
    rows = []
    for one in _tuned(results):
        found = results.stages(workload, one.name)
        if found is None:
            continue
        whole = results.load(workload, one, 1, "p50_ms")
        around = None if whole is None else max(0.0, whole - sum(found.values()))
        rows.append([one.name, *(number(found[name]) for name in STAGES), number(around), number(whole)])
    return table(("", *STAGES, "frontend, worker", "request"), rows)


def _agreement(results: HandlerResults, workload: str) -> str:
    shares = results.agreements[workload]
    rows = [[one.name, f"{shares[one.name]:.1%}" if one.name in shares else NOTHING] for one in _tuned(results)]
    return table(("", "share"), rows)
