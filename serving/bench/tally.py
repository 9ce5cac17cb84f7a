"""Counting answers: times in buckets, errors by their kind."""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any, Final

# Buckets are half a percent wide, and that of the least value has a number above 0.
_STEPS: Final = 200
_FIRST: Final = 2800
_LEAST: Final = 1e-6
_TIMING: Final = re.compile(rb"([\w.-]{1,40})\s*;\s*(?:dur|desc)\s*=\s*\"?(\d{1,15}(?:\.\d{1,15})?)")
_MOST_NAMES: Final = 16  # of stages that a server tells of
_MOST_KINDS: Final = 32
_MOST_MESSAGE: Final = 300


class Times:
    """Values, kept in buckets: bounded, however many there are, and half a percent wide."""

    __slots__ = ("buckets", "highest", "number", "total")

    def __init__(self) -> None:
        self.buckets: Counter[int] = Counter()
        self.number = 0
        self.total = self.highest = 0.0

    def add(self, value: float) -> None:
        """Count a value that is not negative."""
        self.buckets[int(math.log(max(_LEAST, value)) * _STEPS + _FIRST)] += 1
        self.number += 1
        self.total += value
        if value > self.highest:
            self.highest = value

    def merge(self, other: Times) -> None:
        """Count what the other one has."""
        self.buckets.update(other.buckets)
        self.number += other.number
        self.total += other.total
        self.highest = max(self.highest, other.highest)

    def percentile(self, share: float) -> float:
        """Return the nearest-rank percentile, 0 of nothing; 1 for the highest value, which is exact."""
        wanted = max(1, math.ceil(self.number * share - 1e-9))
        if wanted >= self.number:
            return self.highest
        seen = 0
        for bucket in sorted(self.buckets):
            seen += self.buckets[bucket]
            if seen >= wanted:
                break
        return min(self.highest, math.exp((bucket + 0.5 - _FIRST) / _STEPS))

    def summary(self, factor: float = 1.0) -> Summary:
        """Return mean and percentiles, times a factor."""
        points = (factor * self.percentile(share) for share in (0.5, 0.9, 0.95, 0.99, 0.999, 1.0))
        return Summary(factor * self.total / max(1, self.number), *points)


@dataclass(frozen=True)
class Summary:
    """Mean and percentiles of values."""

    mean: float
    p50: float
    p90: float
    p95: float
    p99: float
    p999: float
    max: float


@dataclass(frozen=True)
class Second:
    """What a second of a load has brought.

    Attributes:
        at: seconds since the beginning, at its end.
        good: answers with a status of 2xx.
        errors: requests that got something else, or nothing.
        missed: of both, those that did not keep the SLO.
        busy: connections that wait for an answer now.
        waiting: requests that wait for a connection now.
    """

    at: float
    good: int
    errors: int
    missed: int
    p50_ms: float
    p99_ms: float
    busy: int
    waiting: int


@dataclass(frozen=True)
class Figures:
    """The figures of a load, or of what there was until it was stopped.

    Attributes:
        seconds: during which requests began.
        requests: those that began, or that were to begin.
        good: answers with a status of 2xx, `good_in_time` of them before the time was over.
        latency_ms: of good answers, from the time that the request was to begin.
        first_part_ms: until the first part of those that came in parts; None where none did.
        parts: of these, altogether.
        errors: requests without a good answer, by kind; `messages` has the first one's own words.
        within: good answers that kept the SLO; all good ones where there is none.
        server: what the answers' Server-Timing said: milliseconds, or for ``batch`` a number of requests.
        own_core: processor time that the generator took, of one core.
    """

    seconds: float
    requests: int
    good: int
    good_in_time: int
    latency_ms: Summary
    first_part_ms: Summary | None
    parts: int
    errors: dict[str, int]
    messages: dict[str, str]
    within: int
    server: dict[str, Summary]
    own_core: float

    @property
    def rate(self) -> float:
        """Return the good answers a second."""
        return self.good_in_time / self.seconds if self.seconds else 0.0

    @property
    def failed(self) -> int:
        """Return the number of errors."""
        return sum(self.errors.values())

    @property
    def within_share(self) -> float:
        """Return the share of all requests that kept the SLO; an error keeps none."""
        return self.within / self.requests if self.requests else 0.0

    def document(self) -> dict[str, Any]:
        """Return it for JSON."""
        return asdict(self)

    @classmethod
    def from_document(cls, document: dict[str, Any]) -> Figures:
        """Read what `document` has written."""
        first = document["first_part_ms"]
        changed = {
            "latency_ms": Summary(**document["latency_ms"]),
            "first_part_ms": Summary(**first) if first else None,
            "server": {name: Summary(**values) for name, values in document["server"].items()},
        }
        return cls(**(document | changed))


@dataclass
class Tally:
    """The answers so far; attributes as in `Figures`, in seconds."""

    slo_s: float | None = None
    latencies: Times = field(default_factory=Times)
    firsts: Times = field(default_factory=Times)
    parts: int = 0
    in_time: int = 0
    within: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    messages: dict[str, str] = field(default_factory=dict)
    server: dict[bytes, Times] = field(default_factory=dict)

    def answered(self, seconds: float, *, in_time: bool, timing: bytes) -> None:
        """Count a good answer."""
        self.latencies.add(seconds)
        self.in_time += in_time
        if self.slo_s is None or seconds <= self.slo_s:
            self.within += 1
        if timing:
            for name, value in _TIMING.findall(timing):
                if (stage := self._stage(name)) is not None:
                    stage.add(float(value))

    def failed(self, kind: str, message: str = "", number: int = 1) -> None:
        """Count a request, or so many, without a good answer."""
        if kind not in self.errors and len(self.errors) >= _MOST_KINDS:
            kind = "other"
        self.errors[kind] += number
        if message and kind not in self.messages:
            self.messages[kind] = message[:_MOST_MESSAGE]

    def _stage(self, name: bytes) -> Times | None:
        """Return the times of a stage; None of one too many."""
        stage = self.server.get(name)
        if stage is None and len(self.server) < _MOST_NAMES:
            stage = self.server[name] = Times()
        return stage

    @property
    def missed(self) -> int:
        """Return how many did not keep the SLO."""
        return self.latencies.number - self.within + self.errors.total()

    def second(self, at: float, busy: int, waiting: int) -> Second:
        """Return this as that of one second."""
        p50, p99 = (1e3 * self.latencies.percentile(share) for share in (0.5, 0.99))
        return Second(at, self.latencies.number, self.errors.total(), self.missed, p50, p99, busy, waiting)

    def merge(self, other: Tally) -> None:
        """Count what the other one has."""
        self.latencies.merge(other.latencies)
        self.firsts.merge(other.firsts)
        self.parts += other.parts
        self.in_time += other.in_time
        self.within += other.within
        for kind, number in other.errors.items():
            self.failed(kind, other.messages.get(kind, ""), number)
        for name, times in other.server.items():
            if (stage := self._stage(name)) is not None:
                stage.merge(times)

    def figures(self, seconds: float, own_core: float) -> Figures:
        """Return the figures of so many seconds."""
        return Figures(
            seconds=seconds,
            requests=self.latencies.number + self.errors.total(),
            good=self.latencies.number,
            good_in_time=self.in_time,
            latency_ms=self.latencies.summary(1e3),
            first_part_ms=self.firsts.summary(1e3) if self.firsts.number else None,
            parts=self.parts,
            errors=dict(self.errors.most_common()),
            messages=self.messages,
            within=self.within,
            server={name.decode(): times.summary() for name, times in self.server.items()},
            own_core=own_core,
        )
