"""Metrics of the server's own processes: the frontend's by Prometheus' usual names, and each worker's.

They are looked up when somebody asks. Each worker has a series as long as it is there, under its number.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import psutil
from prometheus_client.core import Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from serving.frontend.metering.own import MODEL
from serving.frontend.metering.series import Registry
from serving.worker.scripts import collector
from serving.worker.scripts import registry as prefork

#: Workers that are shown; a version may have as many.
MAX_WORKERS: Final = 1000
#: Seconds that the prefork process may take to say what it has forked; it imports modules in between.
WITHIN_S: Final = 1.0
_STATES: Final = ("ready", "starting")


@dataclass(frozen=True, slots=True)
class Seen:
    """A version and its workers, as they are now.

    Attributes:
        wanted: how many workers there are to be at least.
        ready: how many have their model.
        workers: numbers and pids of all of them.
    """

    name: str
    version: str
    wanted: int
    ready: int
    workers: Sequence[tuple[str, int]]


class Processes(Collector):
    """The workers' processes, and what there is of them.

    Args:
        registry: gets these metrics, and the frontend's own.
    """

    def __init__(self, registry: Registry) -> None:
        self._look: Callable[[], Iterable[Seen]] = tuple
        self._seen: Sequence[Seen] = ()
        self._behind: Mapping[int, tuple[int, int]] = {}
        self._processor = Processor()
        registry.add_collector(ProcessCollector(registry=None))
        registry.add_collector(self)

    def watch(self, look: Callable[[], Iterable[Seen]]) -> None:
        """Ask from now on for the versions that there are."""
        self._look = look

    def look(self) -> None:
        """See what there is; in the loop, before each `collect`."""
        self._seen = tuple(self._look())

    def describe(self) -> Iterator[Metric]:
        """Tell the registry, which then lets nobody else have the names."""
        yield from self._families()

    def collect(self) -> Iterator[Metric]:
        """Give the series; called in a thread."""
        workers, wanted, memory, processor = families = self._families()
        shown: list[tuple[dict[str, str], int]] = []
        for one in self._seen:
            labels = dict(zip(MODEL, (one.name, one.version), strict=True))
            for state, count in zip(_STATES, (one.ready, len(one.workers) - one.ready), strict=True):
                workers.add_sample(workers.name, {**labels, "state": state}, count)
            wanted.add_sample(wanted.name, labels, one.wanted)
            shown += [({**labels, "worker": number}, pid) for number, pid in one.workers]
        shown = [(own, pid) for own, pid in shown[:MAX_WORKERS] if pid > 0]
        if shown:
            with suppress(OSError, ValueError):  # what it said before still holds for those that it named
                self._behind = prefork.backends(os.getpid(), WITHIN_S)
        pids = [pid for _, pid in shown]
        sizes = collector.sizes(pids, self._behind)
        taken = self._processor.taken({pid: collector.parts(pid, self._behind) for pid in pids})
        for (own, pid), (_, size) in zip(shown, sizes, strict=True):
            if size and pid in taken:  # else it has just ended
                memory.add_sample(memory.name, own, size)
                processor.add_sample(f"{processor.name}_total", own, taken[pid])
        yield from families

    @staticmethod
    def _families() -> tuple[Metric, Metric, Metric, Metric]:
        return (
            Metric("torchmar_workers", "Workers that have their model, and those that are to have it", "gauge"),
            Metric("torchmar_workers_wanted", "Workers that there are to be at least", "gauge"),
            Metric("torchmar_worker_memory_bytes", "Memory of a worker's processes; shared pages in part", "gauge"),
            Metric("torchmar_worker_cpu_seconds", "Processor time of a worker's processes", "counter"),
        )


class Processor:
    """Adds up the processor time of workers, as it grows.

    What a process has taken since the last look is divided among the workers that share it now. Its whole time divided
    would shrink with each further one, which Prometheus takes for a restart, and counts all of it again.
    """

    def __init__(self) -> None:
        self._seen: dict[int, float] = {}
        self._taken: dict[int, float] = {}

    def taken(self, workers: Mapping[int, Sequence[tuple[int, int]]]) -> Mapping[int, float]:
        """Return the seconds of each worker by pid; those that are gone are left out.

        Args:
            workers: processes that each consists of, its own first, and how many workers share each.
        """
        processes = {process for parts in workers.values() for process, _ in parts}
        now = {process: found for process in processes if (found := _seconds(process)) is not None}
        grown = {process: max(0.0, found - self._seen.get(process, 0.0)) for process, found in now.items()}
        self._taken = {
            pid: self._taken.get(pid, 0.0) + sum(grown.get(process, 0.0) / sharers for process, sharers in parts)
            for pid, parts in workers.items()
            if pid in now
        }
        self._seen = now
        return self._taken


def _seconds(pid: int) -> float | None:
    """Return the seconds of the processor that a process has taken; None of one that is not there."""
    try:
        times = psutil.Process(pid).cpu_times()
    except (psutil.Error, OSError):
        return None
    return times.user + times.system
