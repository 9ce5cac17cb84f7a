"""What the charts show: rates and percentiles between two looks at a server's metrics, while somebody watches."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
import re
import time
from collections import deque
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from archive_tool.errors import TorchmarError
from serving.frontend.apps.console.sources import Served, Source
from serving.frontend.errors import FrontendError

#: Seconds between two looks, looks that are kept, and models of which each version is told.
EVERY_S: Final = 2.0
KEPT: Final = 300
MOST_MODELS: Final = 100
# With many models a look takes longer, and comes less often: half a percent of a processor for each half of it.
_PAUSE: Final = 200

_REQUESTS: Final = "ts_inference_requests_total"
_LATENCY: Final = "ts_inference_latency_microseconds"
_BUCKET: Final = "torchmar_request_seconds_bucket"
_RUNNING: Final = "torchmar_requests_in_flight"
# Java's frontend counts the requests that name no version as this one's.
_UNNAMED: Final = "default"
_BAD: Final = "Requests4XX"
_FAILED: Final = "Requests5XX"
#: The samples that are read.
NAMES: Final = (_REQUESTS, _LATENCY, _BUCKET, _RUNNING, _BAD, _FAILED)
_SAMPLE: Final = re.compile(rf"^({'|'.join(NAMES)})(?:\{{(.*)\}})? (\S+)", re.MULTILINE)
_LABEL: Final = re.compile(r'(model_name|model_version|le)="((?:[^"\\]|\\.)*)"')
_ESCAPES: Final = {'\\"': '"', "\\\\": "\\", "\\n": "\n"}

#: Name and version of a model; of the whole server both are empty.
Key: TypeAlias = tuple[str, str]


@dataclass
class Counts:
    """What a server has counted.

    Attributes:
        known: whether it tells what it counts: then what is not there has not happened.
        values: by metric, model and version.
        below: requests of a version that took no longer than so many seconds.
    """

    known: bool = False
    values: dict[str, dict[Key, float]] = field(default_factory=dict)
    below: dict[Key, dict[float, float]] = field(default_factory=dict)


def read(text: str) -> Counts:
    """Read samples of Prometheus' text format."""
    counts = Counts()
    for name, labels, value in _SAMPLE.findall(text):
        counts.known = True
        found = {
            key: re.sub(r"\\.", lambda one: _ESCAPES.get(one[0], one[0]), raw) for key, raw in _LABEL.findall(labels)
        }
        key = found.get("model_name", ""), found.get("model_version", "")
        if name == _BUCKET:
            counts.below.setdefault(key, {})[float(found.get("le", "inf"))] = float(value)
        else:
            counts.values.setdefault(name, {})[key] = float(value)
    return counts


def percentile(share: float, now: Mapping[float, float], before: Mapping[float, float]) -> float | None:
    """Return how long such a share of the requests between two looks took at the most, seconds; None without one.

    As Prometheus does it: within a bucket they are taken to be spread evenly, and above the last one nothing is known.
    """
    bounds = sorted(now)
    counts = [now[bound] - before.get(bound, 0.0) for bound in bounds]
    if not counts or counts[-1] <= 0:
        return None
    wanted = share * counts[-1]
    low, under = 0.0, 0.0
    for bound, count in zip(bounds, counts, strict=True):
        if count >= wanted:
            if bound == math.inf:
                return low
            return low + (bound - low) * (wanted - under) / max(count - under, 1e-9)
        low, under = bound, count
    return low


def _merged(many: Iterable[Mapping[float, float]]) -> dict[float, float]:
    found: dict[float, float] = {}
    for one in many:
        for bound, count in one.items():
            found[bound] = found.get(bound, 0.0) + count
    return found


def _times(now: Mapping[float, float], before: Mapping[float, float]) -> dict[str, float | None]:
    found = {name: percentile(share, now, before) for name, share in (("p50", 0.5), ("p99", 0.99))}
    return {name: None if value is None else round(1000 * value, 3) for name, value in found.items()}


def sample_of(
    served: Sequence[Served], now: Counts, before: Counts | None, seconds: float, at: float
) -> dict[str, Any]:
    """Make what the charts and tables show of two looks.

    Args:
        served: the versions.
        now, before: what was counted; None for the first look.
        seconds: between the two.
        at: seconds since the epoch.
    """

    def rate(name: str, wanted: Sequence[Key] | None = None) -> float | None:
        if before is None or not now.known:
            return None
        new, old = now.values.get(name, {}), before.values.get(name, {})
        keys = list(new) if wanted is None else wanted
        grown = sum(max(0.0, new.get(one, 0.0) - old.get(one, 0.0)) for one in keys)
        return round(grown / seconds, 2)

    def mean(wanted: Sequence[Key] | None) -> float | None:
        """Where there is no histogram, as of Java's frontend, the mean is all that there is."""
        requests, spent = rate(_REQUESTS, wanted), rate(_LATENCY, wanted)
        return round(spent / requests / 1000, 3) if requests and spent is not None else None

    def times(wanted: Sequence[Key] | None) -> dict[str, float | None]:
        if before is None:
            return {"p50": None, "p99": None, "mean": None}
        if wanted is None:
            found = _times(_merged(now.below.values()), _merged(before.below.values()))
        else:
            found = _times(now.below.get(wanted[0], {}), before.below.get(wanted[0], {}))
        return {**found, "mean": mean(wanted)}

    rows = []
    for one in served:
        key = one.of.name, one.of.version
        keys = [key, (one.of.name, _UNNAMED)] if one.of.default else [key]
        rows.append(
            {
                "name": key[0],
                "version": key[1],
                "state": one.state,
                "ready": one.of.ready_workers,
                "workers": len(one.of.workers),
                "waiting": one.waiting,
                "running": now.values.get(_RUNNING, {}).get(key),
                # Of workers that have just begun nothing is known yet.
                "memory": sum(worker.memory_bytes for worker in one.of.workers) or None,
                "requests": rate(_REQUESTS, keys),
                **times(keys),
            }
        )
    running = now.values.get(_RUNNING)
    return {
        "at": round(at, 3),
        "requests": rate(_REQUESTS),
        "bad": rate(_BAD),
        "failed": rate(_FAILED),
        "waiting": sum(one.waiting for one in served),
        "running": None if running is None else sum(running.values()),
        "memory": sum(row["memory"] or 0 for row in rows) or None,
        **times(None),
        "models": rows,
    }


async def all_of(source: Source, names: Iterable[str]) -> list[Served]:
    """Return the versions of models, as far as they are still there."""
    found: list[Served] = []
    for name in names:
        with contextlib.suppress(FrontendError, TorchmarError):
            found += await source.versions(name)
    return found


class Watch:
    """Looks at a server every two seconds, for all who watch, and not at all when nobody does.

    Args:
        source: the server.
        every_s: seconds between two looks.
    """

    def __init__(self, source: Source, every_s: float = EVERY_S) -> None:
        self._source, self._every_s = source, every_s
        self._kept: deque[tuple[int, dict[str, Any]]] = deque(maxlen=KEPT)
        self._numbers = itertools.count(1)
        self._viewers = 0
        self._task: asyncio.Task[None] | None = None
        self._news = asyncio.Condition()
        self._last: tuple[float, Counts] | None = None
        self._spent_s = 0.0
        self.ended = False

    def end(self) -> None:
        """Let all who watch go."""
        self.ended = True
        if self._task is not None:
            self._task.cancel()

    async def samples(self, after: int = 0) -> AsyncGenerator[tuple[int, dict[str, Any]], None]:
        """Yield the looks that are kept, and then each new one, with their numbers.

        Args:
            after: number of the last one that the viewer has.
        """
        self._viewers += 1
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._look())
        seen = after if any(number == after for number, _ in self._kept) else 0
        try:
            while not self.ended:
                news = [kept for kept in self._kept if kept[0] > seen]
                for number, one in news:
                    seen = number
                    # What tables show is told of the last one alone.
                    last = number == news[-1][0]
                    yield number, one if last else {key: one[key] for key in one if key != "models"}
                async with self._news:
                    with contextlib.suppress(asyncio.TimeoutError):
                        await asyncio.wait_for(self._news.wait(), 2 * self._every_s)
        finally:
            self._viewers -= 1
            if not self._viewers and self._task is not None:
                self._task.cancel()
                self._task = None

    async def _look(self) -> None:
        try:
            while True:
                with contextlib.suppress(FrontendError, TorchmarError):  # of a server beside, which may be restarted
                    self._kept.append((next(self._numbers), await self._sample()))
                async with self._news:
                    self._news.notify_all()
                await asyncio.sleep(max(self._every_s, _PAUSE * self._spent_s))
        finally:
            if self.ended:
                async with self._news:
                    self._news.notify_all()

    async def _sample(self) -> dict[str, Any]:
        text = await self._source.metrics(NAMES)
        begun = time.thread_time()
        now, counts = time.monotonic(), read(text)
        last, self._last = self._last, (now, counts)
        before, seconds = (last[1], max(now - last[0], 1e-3)) if last else (None, 1.0)
        served = await all_of(self._source, (await self._source.names())[:MOST_MODELS])
        # Charts want times that do not fall, also where somebody sets the clock back.
        at = max(time.time(), self._kept[-1][1]["at"] if self._kept else 0.0)
        sample = sample_of(served, counts, before, seconds, at)
        self._spent_s = time.thread_time() - begun
        return sample
