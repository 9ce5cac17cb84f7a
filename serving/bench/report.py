"""What a load test has come to: rows for a table, and a document for programs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from serving.bench.search import SHARE, kept
from serving.bench.session import Run, Session
from serving.bench.tally import Figures, Summary


@dataclass(frozen=True)
class Subject:
    """What was tested.

    Attributes:
        inputs: name, length and MIME type of each.
    """

    model: str
    version: str | None
    address: str
    explain: bool
    inputs: Sequence[tuple[str, int, str]]

    @property
    def title(self) -> str:
        """Return it in words."""
        version = f" {self.version}" if self.version else ""
        return f"{self.model}{version} at {self.address}" + (", explanations" if self.explain else "")


def heads(session: Session) -> list[str]:
    """Return the heads of the columns of `rows`."""
    slo = session.base.slo_s
    first = ["first part p50", "p99"] if streams(session) else []
    within = [f"within {slo * 1e3:g} ms"] if slo is not None else []
    workers = ["workers"] if session.scaling else []
    stages = [f"server: {name}" if not number else name for number, name in enumerate(_stages(session))]
    return ["load", *workers, "requests/s", "p50 ms", "p90", "p99", "max", *first, *within, "errors", *stages]


def rows(session: Session) -> list[list[str]]:
    """Return a row for each load: milliseconds, and what the server says of its stages, on average."""
    return [_row(session, run) for run in session.runs]


def _row(session: Session, run: Run) -> list[str]:
    figures, cells = run.figures, [run.name, f"{run.figures.rate:,.1f}"]
    if session.scaling:
        cells.insert(1, "" if run.workers is None else str(run.workers))
    took = figures.latency_ms
    cells += [number(value) if figures.good else "" for value in (took.p50, took.p90, took.p99, took.max)]
    if streams(session):
        first = figures.first_part_ms
        cells += [number(first.p50), number(first.p99)] if first else ["", ""]
    if session.base.slo_s is not None:
        cells.append(percent(figures.within_share))
    cells.append(f"{figures.failed:,}")
    return cells + [number(figures.server[name].mean) if name in figures.server else "" for name in _stages(session)]


def notes(session: Session) -> list[str]:
    """Return what else there is to say: errors by kind, the rate that was found, what speaks against the figures."""
    found = [line for run in session.runs for line in _errors(run)]
    found += [highest(session, workers, rate) for workers, rate in session.highest.items()]
    seen: dict[str, list[str]] = {}
    for run in session.runs:
        for warning in run.warnings:
            seen.setdefault(warning.partition(":")[2], []).append(run.name)
    said = {warning.partition(":")[2]: warning for run in session.runs for warning in run.warnings}
    return found + [f"warning, {', '.join(names)}: {said[key]}" for key, names in seen.items()]


def highest(session: Session, workers: int | None, rate: float) -> str:
    """Say which rate was found."""
    slo = f"{(session.base.slo_s or 0.0) * 1e3:g} ms"
    where = f" with {workers} worker{'s' if workers != 1 else ''}" if workers is not None else ""
    if not rate:
        return f"no rate{where} was found at which {SHARE:.0%} of the requests are answered within {slo}"
    return f"up to {rate:g} requests/s{where}, {SHARE:.0%} of them are answered within {slo}"


def _errors(run: Run) -> list[str]:
    figures = run.figures
    return [
        f"{run.name}: {count:,} x {kind}" + (f": {figures.messages[kind]}" if kind in figures.messages else "")
        for kind, count in figures.errors.items()
    ]


def document(subject: Subject, session: Session) -> dict[str, Any]:
    """Return everything, for JSON."""
    slo = session.base.slo_s
    return {
        "model": subject.model,
        "version": subject.version,
        "address": subject.address,
        "explain": subject.explain,
        "inputs": [{"file": name, "bytes": size, "content_type": kind} for name, size, kind in subject.inputs],
        "slo_ms": slo * 1e3 if slo is not None else None,
        "runs": [_run(run) for run in session.runs],
        "highest_rates": [{"workers": workers, "rate": rate or None} for workers, rate in session.highest.items()],
        "interrupted": session.stop.is_set(),
    }


def _run(run: Run) -> dict[str, Any]:
    figures = run.figures
    return {
        "load": run.name,
        "workers": run.workers,
        "connections": run.load.connections,
        "rate": run.load.rate,
        "seconds": round(figures.seconds, 3),
        "requests": figures.requests,
        "good": figures.good,
        "requests_per_second": round(figures.rate, 3),
        "latency_ms": _summary(figures.latency_ms),
        "first_part_ms": _summary(figures.first_part_ms) if figures.first_part_ms else None,
        "parts": figures.parts,
        "within_slo": round(figures.within_share, 6) if run.load.slo_s is not None else None,
        "errors": figures.errors,
        "messages": figures.messages,
        "server_timing": {name: _summary(values) for name, values in figures.server.items()},
        "load_core_share": round(figures.own_core, 4),
        "machine_busy_share": round(run.busy, 4),
        "warnings": list(run.warnings),
        "timeline": [
            {"at": one.at, "good": one.good, "errors": one.errors, "p50_ms": round(one.p50_ms, 3)}
            | {"p99_ms": round(one.p99_ms, 3), "busy": one.busy, "waiting": one.waiting}
            for one in run.seconds
        ],
    }


def _summary(values: Summary) -> dict[str, float]:
    return {name: round(value, 4) for name, value in vars(values).items()}


def streams(session: Session) -> bool:
    """Return whether answers came in parts."""
    return any(run.figures.first_part_ms for run in session.runs)


def _stages(session: Session) -> list[str]:
    """Return what the server tells of, in its own order."""
    return list(dict.fromkeys(name for run in session.runs for name in run.figures.server))


def number(value: float) -> str:
    """Return a number with three digits that count."""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def percent(share: float) -> str:
    """Return a share; 100 % only of everything."""
    return f"{int(share * 10000) / 100:g} %"


def all_failed(session: Session) -> Figures | None:
    """Return the first figures if no load had a good answer; None if one had."""
    if not session.runs or any(run.figures.good for run in session.runs):
        return None
    return session.runs[0].figures


def missed(session: Session) -> str:
    """Return what a test has not kept, of what was asked of it, in a sentence; empty where it has."""
    if failed := all_failed(session):
        return f"no request got a good answer: {next(iter(failed.errors), 'no request was sent')}"
    for workers, rate in session.highest.items():
        if not rate:
            return highest(session, workers, rate)
    for run in session.runs if session.base.slo_s is not None and session.rates else ():
        if not kept(run.figures):
            share = percent(run.figures.within_share)
            return f"{run.name}: {share} of the requests were answered within the SLO, not {percent(SHARE)}"
    return ""
