"""The meters of a server: TorchServe's metrics by their names, and histograms and gauges of our own.

`ServerMeters.answered` is called for every answer; it takes 1.7 us, a `worker_line` that repeats the labels of another
2.9 us, `level` 0.3 us and `responded` 0.2 us (`timeit` with `process_time`, one core of an EPYC, Python 3.11).
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from archive_tool.errors import InputError
from serving.frontend.metering import catalogue as catalogues
from serving.frontend.metering.catalogue import Kind, Specification
from serving.frontend.metering.handlers import HandlerMetrics, RefusedError
from serving.frontend.metering.lines import Entry, entry_of, logged
from serving.frontend.metering.own import (
    CLIENT,
    COPIES,
    COPY_SECONDS,
    DEFAULTED,
    DROPPED,
    GONE,
    MODEL,
    OWN,
    REQUESTS,
    STATUSES,
    UNCOUNTED,
    class_of,
)
from serving.frontend.metering.processes import Processes, Seen
from serving.frontend.metering.series import Family, Registry, Series, Silent
from serving.frontend.settings import Settings

#: The log file of the frontend's own metrics, as the name of its logger.
TS_METRICS: Final = "TS_METRICS"
#: What metrics_mode=legacy shows to Prometheus; the rest of them goes to the log.
LEGACY: Final = frozenset(
    {"ts_inference_requests_total", "ts_inference_latency_microseconds", "ts_queue_latency_microseconds"}
)
#: Series of a metric of the machine: devices of which the collector tells.
MAX_HOST_SERIES: Final = 1000
#: Workers of a version whose times of loading are kept: the last ones.
MAX_LOADED: Final = 64

_log = logging.getLogger(__name__)


class Logged:
    """A series of a metric whose values go to the log."""

    __slots__ = ("_host", "_logger", "_name", "_pairs", "_unit")

    def __init__(self, one: Specification, values: Sequence[str]) -> None:
        self._name = one.name
        self._unit = one.unit
        *self._pairs, (_, self._host) = zip(one.dimensions, values, strict=True)
        self._logger = logging.getLogger(TS_METRICS)

    def add(self, value: float) -> None:
        """Write a value, of a counter what it grows by."""
        if self._logger.isEnabledFor(logging.INFO):
            self._logger.info(logged(self._name, self._unit, value, self._pairs, self._host))


@dataclass(slots=True)
class _Version:
    """The series of a version, at hand."""

    requests: Series
    latency: Series
    queue_latency: Series
    queue: Series
    worker: Series
    total: Series
    batch: Series
    waiting: Series
    running: Series
    resent: Series
    deaths: Series
    load: Series
    statuses: dict[str, Series]
    labels: set[tuple[str, tuple[str, ...]]] = field(default_factory=set)
    loaded: list[tuple[str, ...]] = field(default_factory=list)


class ServerMeters:
    """The `Meters` of a server.

    What is counted by labels is bounded: models and versions are those of the engine, reasons are few, and handlers'
    metrics are capped. Nothing that a client sends becomes a label.
    """

    def __init__(self, settings: Settings) -> None:
        """Make the metrics that metrics.yaml names.

        Raises:
            InputError: metrics.yaml cannot be read, or names what Prometheus cannot show.
        """
        path = catalogues.path_of(settings)
        self._catalogue = catalogues.read(path)
        # TorchServe's default; `torchmar start` sets another one.
        self._mode = (settings.text("metrics_mode") or "log").lower()
        self._host = socket.gethostname()
        self._registry = Registry()
        self._families: dict[str, Family] = {}
        self._versions: dict[tuple[str, str], _Version] = {}
        self._refused: set[tuple[str, str, str]] = set()
        shown = self._mode == "prometheus"
        try:
            for one in self._catalogue.frontend.values():
                if shown or (self._mode == "legacy" and one.name in LEGACY):
                    help_text = f"Torchserve prometheus {one.kind.value} metric with unit: {one.unit}"
                    self._family(one.name, one.kind, one.dimensions, help_text)
            for own in OWN if shown else ():
                self._family(own.name, own.kind, own.labels, own.help, own.bounds)
            auto_detect = settings.on("model_metrics_auto_detect")
            self._handlers = HandlerMetrics(self._catalogue, self._registry if shown else None, auto_detect=auto_detect)
        except ValueError as error:
            raise InputError(f"Prometheus cannot have this metric: {error}", where=str(path)) from None
        self._processes = Processes(self._registry) if shown else None
        # As in TorchServe, what is neither 2XX nor 4XX counts as 5XX.
        self._good, self._bad, self._failed = (
            self._frontend(f"Requests{digit}XX", "Host", self._host) for digit in "245"
        )
        self._queue_time = self._frontend("QueueTime", "Host", self._host)

    # What happens to requests.

    def answered(
        self, name: str, version: str, *, queue_s: float, total_s: float, batch: int, status: int = 200
    ) -> None:
        """Count an answer of a model; see `Meters.answered`."""
        of = self._versions.get((name, version)) or self._version(name, version)
        if status:
            of.requests.add(1.0)
            of.statuses[class_of(status)].add(1.0)
        of.latency.add(total_s * 1e6)
        of.queue_latency.add(queue_s * 1e6)
        self._queue_time.add(int(queue_s * 1e3))
        of.queue.add(queue_s)
        of.worker.add(total_s - queue_s)
        of.total.add(total_s)
        of.batch.add(batch)

    def responded(self, status: int) -> None:
        """Count an HTTP response by its class."""
        if 200 <= status < 300:
            self._good.add(1.0)
        elif 400 <= status < 500:
            self._bad.add(1.0)
        else:
            self._failed.add(1.0)

    def dropped(self, name: str, version: str, reason: str) -> None:
        """Count a request that no model answered; TorchServe counts requests as they come, these too."""
        of = self._versions.get((name, version)) or self._version(name, version)
        of.requests.add(1.0)
        of.statuses[GONE if reason == CLIENT else "5xx"].add(1.0)
        self._own(of, DROPPED, name, version, reason).add(1.0)

    def defaulted(self, name: str, version: str, reason: str) -> None:
        """Count a default answer."""
        of = self._versions.get((name, version)) or self._version(name, version)
        self._own(of, DEFAULTED, name, version, reason).add(1.0)

    def resent(self, name: str, version: str) -> None:
        """Count a request that was sent again."""
        of = self._versions.get((name, version)) or self._version(name, version)
        of.resent.add(1.0)

    def shadowed(self, name: str, version: str, outcome: str, seconds: float) -> None:
        """Count a copy of a request; see `Meters.shadowed`."""
        of = self._versions.get((name, version)) or self._version(name, version)
        self._own(of, COPIES, name, version, outcome).add(1.0)
        if outcome != "dropped":
            self._own(of, COPY_SECONDS, name, version).add(seconds)

    def level(self, name: str, version: str, *, waiting: int, running: int) -> None:
        """Take how many requests wait and run now."""
        of = self._versions.get((name, version)) or self._version(name, version)
        of.waiting.add(waiting)
        of.running.add(running)

    # What happens to models and workers.

    def loaded(self, name: str, version: str, worker: str, seconds: float) -> None:
        """Take how long a worker took to load its model."""
        of = self._versions.get((name, version)) or self._version(name, version)
        of.load.add(seconds)
        # TorchServe's name of a worker.
        values = (f"W-{worker}-{f'{name}_{version}'[:25]}", "Host", self._host)
        self._frontend("WorkerLoadTime", *values).add(int(seconds * 1e3))
        if values in of.loaded:
            return
        of.loaded.append(values)
        if len(of.loaded) > MAX_LOADED:
            self._forget("WorkerLoadTime", of.loaded.pop(0))

    def died(self, name: str, version: str) -> None:
        """Count a worker that ended unasked."""
        of = self._versions.get((name, version)) or self._version(name, version)
        of.deaths.add(1.0)

    def forgotten(self, name: str, version: str) -> None:
        """Drop the series of a version."""
        of = self._versions.pop((name, version), None)
        for family, values in of.labels if of else ():
            self._forget(family, values)
        for values in of.loaded if of else ():
            self._forget("WorkerLoadTime", values)
        self._handlers.forget((name, version))
        self._refused = {one for one in self._refused if one[:2] != (name, version)}

    def worker_line(self, name: str, version: str, line: str) -> bool:
        """Take a line that a worker printed; say whether it was a metric.

        A line that is not counted is one all the same. It is counted as dropped, and the first of each reason logged.
        """
        text = entry_of(line)
        if text is None:
            return False
        try:
            self._handlers.take((name, version), text)
        except RefusedError as error:
            of = self._versions.get((name, version)) or self._version(name, version)
            self._own(of, UNCOUNTED, name, version, error.reason).add(1.0)
            first = (name, version, error.reason)
            # A handler may print what metrics.yaml does not name: TorchServe ignores it.
            if error.reason != "unknown" and first not in self._refused:
                self._refused.add(first)
                _log.warning("A metric of %s %s is not counted, nor are others like it: %s", name, version, error)
        return True

    def host_entry(self, entry: Entry) -> None:
        """Take a value of the machine that the collector printed; one that metrics.yaml does not name is left out."""
        family = self._families.get(entry.name)
        if family is None or entry.values in family or len(family) < MAX_HOST_SERIES:
            self._frontend(entry.name, *entry.values).add(entry.value)

    def watch(self, look: Callable[[], Iterable[Seen]]) -> None:
        """Show from now on the workers of the versions that this tells of."""
        if self._processes is not None:
            self._processes.watch(look)

    def look(self) -> None:
        """See which workers there are; in the loop, before `text`."""
        if self._processes is not None:
            self._processes.look()

    def text(self, names: Sequence[str] | None = None) -> bytes:
        """Write the metrics in Prometheus' text format; may be called in a thread.

        Args:
            names: of samples, to write these alone; None for all.
        """
        return self._registry.text(names)

    def _version(self, name: str, version: str) -> _Version:
        of = self._versions[name, version] = _Version(
            requests=self._frontend("ts_inference_requests_total", name, version, self._host),
            latency=self._frontend("ts_inference_latency_microseconds", name, version, self._host),
            queue_latency=self._frontend("ts_queue_latency_microseconds", name, version, self._host),
            queue=self._series("torchmar_queue_seconds", name, version),
            worker=self._series("torchmar_worker_seconds", name, version),
            total=self._series("torchmar_request_seconds", name, version),
            batch=self._series("torchmar_batch_size", name, version),
            waiting=self._series("torchmar_requests_waiting", name, version),
            running=self._series("torchmar_requests_in_flight", name, version),
            resent=self._series("torchmar_requests_resent_total", name, version),
            deaths=self._series("torchmar_worker_deaths_total", name, version),
            load=self._series("torchmar_load_seconds", name, version),
            statuses={one: self._series(REQUESTS, name, version, one) for one in STATUSES},
        )
        of.labels |= {(one, (name, version, self._host)) for one in LEGACY}
        for own in OWN:
            if own.labels is MODEL:
                of.labels.add((own.name, (name, version)))
            for value in own.values:
                self._own(of, own.name, name, version, value)
        return of

    def _own(self, of: _Version, family: str, *values: str) -> Series:
        of.labels.add((family, values))
        return self._series(family, *values)

    def _frontend(self, name: str, *values: str) -> Series:
        """Make a series of a metric of metrics.yaml: by Prometheus, in the log, or nowhere."""
        one = self._catalogue.frontend.get(name)
        if one is None:
            return Silent()
        if len(values) != len(one.dimensions):
            first = ("", "", name)
            if first not in self._refused:
                self._refused.add(first)
                _log.warning(
                    "metrics.yaml gives %s the dimensions %s; there are %d values, and none is counted",
                    *(name, ", ".join(one.dimensions), len(values)),
                )
            return Silent()
        return self._series(name, *values) if name in self._families else Logged(one, values)

    def _family(
        self, name: str, kind: Kind, labels: Sequence[str], help_text: str, bounds: Sequence[float] = ()
    ) -> None:
        family = Family(name, kind, help_text, labels, bounds) if bounds else Family(name, kind, help_text, labels)
        self._families[name] = self._registry.add(family)

    def _series(self, name: str, *values: str) -> Series:
        family = self._families.get(name)
        return Silent() if family is None else family.series(*values)

    def _forget(self, name: str, values: tuple[str, ...]) -> None:
        if name in self._families:
            self._families[name].forget(*values)
