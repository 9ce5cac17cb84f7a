"""What must hold, whether it did, and the report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

from benchmarks.soak_bench.clients import Tally
from benchmarks.soak_bench.models import WORKERS
from benchmarks.soak_bench.processes import DEDICATED_ROLE, EXPECTED, FRONTEND, PREFORK, SHARED_ROLE, THIN, Footprint
from serving.bench.tally import Times

GOOD_SHARE = 0.8
BACKEND_GROWTH, FRONTEND_GROWTH = 0.2, 0.3
SPARE_DESCRIPTORS = 2
_TOLD = 8  # failed requests of a model that are shown in full


@dataclass(frozen=True)
class Check:
    """One thing that must hold."""

    name: str
    held: bool
    figures: str


@dataclass
class Results:
    """All results of a run.

    Attributes:
        kills: by what was killed.
        early, late: what the server took before the kills and after; None if it never came to that.
    """

    tallies: dict[str, Tally] = field(default_factory=lambda: {model: Tally() for model in WORKERS})
    kills: Counter[str] = field(default_factory=Counter)
    scalings: int = 0
    checks: list[Check] = field(default_factory=list)
    early: Footprint | None = None
    late: Footprint | None = None

    def check(self, name: str, held: bool, figures: str) -> None:
        """Note whether something held."""
        self.checks.append(Check(name, held, figures))

    @property
    def held(self) -> bool:
        """Whether all did."""
        return bool(self.checks) and all(check.held for check in self.checks)


def answered(tallies: Mapping[str, Tally], excused: Collection[str] | None = None) -> Iterator[Check]:
    """Yield whether every request was answered, and well.

    Args:
        excused: names of requests that two kills met, which alone may have got an error; None where a kill costs
            requests, so that most must be answered well.
    """
    for model, tally in tallies.items():
        total = tally.statuses.total() + sum("no answer" in failure for failure in tally.failures)
        figures = f"{len(tally.failures)} of {total} were not"
        yield Check(f"every request to {model} gets an answer, its own", not tally.failures, figures)
        if excused is None:
            yield Check(f"most answers of {model} are good", tally.good_share >= GOOD_SHARE, f"{tally.good_share:.1%}")
            continue
        lost = [f"{name} ({status})" for name, status in tally.refused.items() if name not in excused]
        figures = f"{len(tally.refused)} errors, {len(tally.refused) - len(lost)} of requests that two kills met"
        named = f"; not excused: {', '.join(lost[:_TOLD])}" if lost else ""
        yield Check(f"a kill costs {model} no request", not lost, figures + named)


def flat(early: Footprint, late: Footprint) -> Iterator[Check]:
    """Yield whether a server takes as much after the kills as before."""
    same = dict(late.processes) == EXPECTED
    yield Check("there are the processes that there should be", same, listed(late.processes))
    for name, before, after, bound in (
        ("memory of the backend is flat", early.backend, late.backend, BACKEND_GROWTH),
        ("memory of the frontend is flat", early.frontend, late.frontend, FRONTEND_GROWTH),
    ):
        change = after / max(1, before) - 1
        figures = f"{before / 1e6:.0f} MB, then {after / 1e6:.0f} MB: {change:+.0%}, at most {bound:+.0%}"
        yield Check(name, change < bound, figures)
    for role in (FRONTEND, PREFORK, SHARED_ROLE):
        before, after = early.descriptors.get(role, 0), late.descriptors.get(role, 0)
        held = 0 < after <= before + SPARE_DESCRIPTORS
        yield Check(f"open files of the {role} process do not grow", held, f"{before}, then {after}")


def listed(numbers: Mapping[str, int]) -> str:
    """Format numbers of things in words."""
    return ", ".join(f"{number} {name}" for name, number in sorted(numbers.items()) if number) or "none"


def report(results: Results, settings: str) -> str:
    """Format the results as Markdown."""
    lines = [
        f"# Soak: {'all held' if results.held else 'SOMETHING DID NOT HOLD'}",
        "",
        f"{settings}. Killed {results.kills.total()} times: {listed(results.kills)}. Scaled {results.scalings} times.",
        "",
        *_table("must hold", "did it", "figures"),
        *(_row(check.name, "yes" if check.held else "**no**", check.figures) for check in results.checks),
        "",
        *_answers(results.tallies),
    ]
    if results.early and results.late:
        lines += ["", *_footprints(results.early, results.late)]
    told = [failure for tally in results.tallies.values() for failure in tally.failures[:_TOLD]]
    lines += ["", *(f"- {failure}" for failure in told)] if told else []
    return "\n".join(lines)


def _answers(tallies: Mapping[str, Tally]) -> Iterator[str]:
    statuses = sorted({status for tally in tallies.values() for status in tally.statuses})
    yield from _table("answers", *statuses, "none or wrong", "p50 ms", "p99 ms", "longest ms")
    for model, tally in tallies.items():
        seen = Times()
        for seconds in tally.seconds:
            seen.add(seconds)
        times = [f"{seen.percentile(share) * 1e3:.1f}" for share in (0.5, 0.99, 1.0)]
        yield _row(model, *(tally.statuses[status] for status in statuses), len(tally.failures), *times)


def _footprints(early: Footprint, late: Footprint) -> Iterator[str]:
    yield from _table("footprint", "before the kills", "after")
    for role in (PREFORK, SHARED_ROLE, DEDICATED_ROLE, THIN):
        yield _row(f"{role}, MB", early.memory.get(role, 0) // 10**6, late.memory.get(role, 0) // 10**6)
    yield _row("frontend, MB (RSS)", early.frontend // 10**6, late.frontend // 10**6)
    yield _row("threads of the frontend", early.frontend_threads, late.frontend_threads)
    for role in (FRONTEND, PREFORK, SHARED_ROLE, DEDICATED_ROLE, THIN):
        yield _row(f"open files: {role}", early.descriptors.get(role, 0), late.descriptors.get(role, 0))


def _table(*titles: object) -> tuple[str, str]:
    return _row(*titles), "|---" * len(titles) + "|"


def _row(*cells: object) -> str:
    return f"| {' | '.join(map(str, cells))} |"
