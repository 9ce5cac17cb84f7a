"""Series: numbers by their labels, and how prometheus-client sees them.

prometheus-client's own metrics cannot stand here. A counter of theirs is always called ``..._total``, where TorchServe
has ``Requests2XX``; they lock for each number, where one loop counts; and they keep every series for ever. So a family
is a collector of theirs, which reads plain numbers when somebody asks.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import Final, Protocol

from prometheus_client.core import Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector, CollectorRegistry

from serving.frontend.metering.catalogue import Kind

#: Bounds that a histogram has which names none, as in TorchServe.
BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
_NAME: Final = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_LABEL: Final = re.compile(r"(?!__)[a-zA-Z_][a-zA-Z0-9_]*")
_TOTAL: Final = "_total"


class Series(Protocol):
    """What takes the values of a metric."""

    def add(self, value: float) -> None:
        """Take a value: a counter grows by it, a gauge shows it, a histogram counts it."""


class Silent:
    """A series of a metric that this server does not have."""

    __slots__ = ()

    def add(self, value: float) -> None:
        """Take no notice."""


class Counter:
    """What only grows."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0

    def add(self, value: float) -> None:
        """Grow by a value."""
        self.value += value


class Gauge:
    """What goes up and down."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0

    def add(self, value: float) -> None:
        """Show a value from now on."""
        self.value = value


class Histogram:
    """How many values are how large."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def add(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value


class Family(Collector):
    """The series of a metric."""

    def __init__(self, name: str, kind: Kind, help_text: str, labels: Sequence[str], bounds: Sequence[float] = BUCKETS):
        """Make a family without a series.

        Raises:
            ValueError: Prometheus knows no such name, or no such label, or not with this kind.
        """
        if not _NAME.fullmatch(name):
            raise ValueError(f"no name of a metric: {name!r}")
        reserved = {"le"} if kind is Kind.HISTOGRAM else set()
        if len(set(labels)) < len(labels) or not all(_LABEL.fullmatch(one) and one not in reserved for one in labels):
            raise ValueError(f"no labels of a {kind.value}: {', '.join(labels)}")
        self.name = name
        self.kind = kind
        self.labels = tuple(labels)
        self._help = help_text
        self._bounds = tuple(bounds)
        self._series: dict[tuple[str, ...], Counter | Gauge | Histogram] = {}

    def __len__(self) -> int:
        return len(self._series)

    def __contains__(self, values: tuple[str, ...]) -> bool:
        return values in self._series

    def series(self, *values: str) -> Counter | Gauge | Histogram:
        """Return the series with these values of the labels; a new one if there was none.

        Raises:
            ValueError: there are more or fewer labels.
        """
        found = self._series.get(values)
        if found is None:
            if len(values) != len(self.labels):
                raise ValueError(f"{self.name} has the labels {', '.join(self.labels)}, not {len(values)} of them")
            found = self._series[values] = self._new()
        return found

    def forget(self, *values: str) -> None:
        """Drop a series."""
        self._series.pop(values, None)

    def describe(self) -> Iterator[Metric]:
        """Tell the registry, which then lets nobody else have the name."""
        yield self._metric()

    def collect(self) -> Iterator[Metric]:
        """Give all series; called in a thread, while the loop counts on."""
        metric = self._metric()
        for values, one in tuple(self._series.items()):
            labels = dict(zip(self.labels, values, strict=True))
            if isinstance(one, Histogram):
                self._add_histogram(metric, labels, one)
            else:
                metric.add_sample(self.name, labels, one.value)
        yield metric

    def _new(self) -> Counter | Gauge | Histogram:
        if self.kind is Kind.HISTOGRAM:
            return Histogram(self._bounds)
        return Counter() if self.kind is Kind.COUNTER else Gauge()

    def _metric(self) -> Metric:
        # The library's model adds "_total" to the name of a counter.
        name = self.name.removesuffix(_TOTAL) if self.kind is Kind.COUNTER else self.name
        return Metric(name, self._help, self.kind.value)

    def _add_histogram(self, metric: Metric, labels: dict[str, str], one: Histogram) -> None:
        below = 0
        for bound, count in zip((*self._bounds, math.inf), tuple(one.counts), strict=True):
            below += count
            metric.add_sample(
                f"{self.name}_bucket", {**labels, "le": "+Inf" if bound == math.inf else str(bound)}, below
            )
        metric.add_sample(f"{self.name}_count", labels, below)
        metric.add_sample(f"{self.name}_sum", labels, one.total)


class Registry:
    """The families of a server."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._families: dict[str, Family] = {}

    def add(self, family: Family) -> Family:
        """Take a family.

        Raises:
            ValueError: another one has its name, or that of one of its samples.
        """
        self._registry.register(family)
        self._families[family.name] = family
        return family

    def remove(self, family: Family) -> None:
        """Forget a family."""
        self._registry.unregister(family)
        del self._families[family.name]

    def add_collector(self, collector: Collector) -> None:
        """Take another collector of prometheus-client's kind.

        Raises:
            ValueError: another one has the name of one of its samples.
        """
        self._registry.register(collector)

    def text(self, names: Sequence[str] | None = None) -> bytes:
        """Write the families in Prometheus' text format.

        Args:
            names: of samples, such as ``x_bucket``, to write these alone; None for all.
        """
        chosen = self._registry if names is None else self._registry.restricted_registry(names)
        # "# TYPE Requests2XX_total counter" is about nothing, for its samples are called Requests2XX.
        bare = [one.name for one in tuple(self._families.values()) if one.kind is Kind.COUNTER]
        pattern = "|".join(re.escape(name) for name in bare if not name.endswith(_TOTAL))
        written = generate_latest(chosen)
        return (
            re.sub(rb"(?m)^(# (?:HELP|TYPE) (?:%b))_total " % pattern.encode(), rb"\1 ", written) if bare else written
        )
