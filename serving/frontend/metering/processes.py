"""Metrics of the server's own processes: the frontend's by Prometheus' usual names, and each worker's.

They are looked up when somebody asks. Each worker has a series as long as it is there, under its number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import psutil
from prometheus_client.core import Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from serving.frontend.metering.own import MODEL
from serving.frontend.metering.series import Registry

#: Workers that are shown; a version may have as many.
MAX_WORKERS: Final = 1000
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
        left = MAX_WORKERS
        for one in self._seen:
            labels = dict(zip(MODEL, (one.name, one.version), strict=True))
            for state, count in zip(_STATES, (one.ready, len(one.workers) - one.ready), strict=True):
                workers.add_sample(workers.name, {**labels, "state": state}, count)
            wanted.add_sample(wanted.name, labels, one.wanted)
            for number, pid in one.workers[:left]:
                left -= 1
                used = _used(pid)
                if used is not None:
                    own = {**labels, "worker": number}
                    memory.add_sample(memory.name, own, used[0])
                    processor.add_sample(f"{processor.name}_total", own, used[1])
        yield from families

    @staticmethod
    def _families() -> tuple[Metric, Metric, Metric, Metric]:
        return (
            Metric("torchmar_workers", "Workers that have their model, and those that are to have it", "gauge"),
            Metric("torchmar_workers_wanted", "Workers that there are to be at least", "gauge"),
            Metric("torchmar_worker_memory_bytes", "Resident memory of a worker's process", "gauge"),
            Metric("torchmar_worker_cpu_seconds", "Processor time of a worker's process", "counter"),
        )


def _used(pid: int) -> tuple[int, float] | None:
    """Return a process' resident bytes and seconds of processor time; None of one that is not there."""
    if pid <= 0:
        return None
    try:
        process = psutil.Process(pid)
        with process.oneshot():
            times = process.cpu_times()
            return process.memory_info().rss, times.user + times.system
    except (psutil.Error, OSError):
        return None
