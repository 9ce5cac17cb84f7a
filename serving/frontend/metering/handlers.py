"""Metrics of handlers: where the ``[METRICS]`` lines of the workers go, by the rules of metrics.yaml."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Final

from serving.frontend.metering.catalogue import HOSTNAME, Catalogue, Kind, Specification
from serving.frontend.metering.lines import Entry, Pieces, cut, logged, number, understood
from serving.frontend.metering.series import Counter, Family, Registry, Series

#: Series that the handlers of a version may have; a histogram is one.
MAX_SERIES: Final = 100
#: Characters of dimensions that are remembered as they stood in a line.
MAX_SEEN: Final = 1000
#: The log file of handlers' metrics, as the name of its logger.
MODEL_METRICS: Final = "MODEL_METRICS"

Owner = tuple[str, str]


class RefusedError(ValueError):
    """A line that is not counted.

    Attributes:
        reason: a word, of few.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(slots=True)
class _Owned:
    """The series of a version.

    Attributes:
        series: by the name and the labels.
        seen: the same by name, dimensions and host as they stood in a line. They seldom change, and finding them here
            saves most of the time that a line takes.
    """

    series: dict[tuple[str, ...], Series] = field(default_factory=dict)
    seen: dict[tuple[str, str, str], Series] = field(default_factory=dict)


class HandlerMetrics:
    """Counts what handlers print.

    A handler can print what it likes: a wrong number is the worst that comes of it. No line takes the name of another
    metric, and a version has no more than `MAX_SERIES` series. Of labels that two versions share there is one series.
    """

    def __init__(self, catalogue: Catalogue, registry: Registry | None, *, auto_detect: bool) -> None:
        """Make the families that the catalogue names.

        Args:
            catalogue: what metrics.yaml says.
            registry: where the series are; None to write each line into the log.
            auto_detect: count metrics that metrics.yaml does not name, too, as their lines say.

        Raises:
            ValueError: Prometheus knows no such metric; it is named.
        """
        self._named = catalogue.models
        self._registry = registry
        self._auto_detect = auto_detect
        self._logger = logging.getLogger(MODEL_METRICS)
        self._families: dict[str, Family] = {}
        self._owned: dict[Owner, _Owned] = {}
        if registry is not None:
            for one in catalogue.models.values():
                self._add(registry, one)

    def take(self, owner: Owner, text: str) -> None:
        """Count what follows the mark of a line.

        Args:
            owner: name and version of the model.
            text: the line without its mark.

        Raises:
            RefusedError: it is not counted.
        """
        pieces = cut(text)
        if pieces is None:
            raise RefusedError("line", f"not a metric: {text[:200]!r}")
        known = self._named.get(pieces.name)
        if known is None and not self._auto_detect:
            raise RefusedError("unknown", f"metrics.yaml does not name {pieces.name[:200]} in model_metrics")
        if self._registry is None:
            self._log(_entry(pieces), known)
        else:
            self._count(self._registry, owner, pieces)

    def forget(self, owner: Owner) -> None:
        """Drop the series that nobody but this version has."""
        owned = self._owned.pop(owner, None)
        for key in owned.series if owned else ():
            if any(key in others.series for others in self._owned.values()):
                continue
            name, *values = key
            family = self._families[name]
            family.forget(*values)
            if self._registry is not None and not len(family) and name not in self._named:
                self._registry.remove(self._families.pop(name))

    def _count(self, registry: Registry, owner: Owner, pieces: Pieces) -> None:
        owned = self._owned.get(owner)
        if owned is None:
            owned = self._owned[owner] = _Owned()
        seen = (pieces.name, pieces.dimensions, pieces.host)
        series = owned.seen.get(seen)
        if series is None:
            series = self._find(registry, owned, _entry(pieces))
            if len(owned.seen) < 2 * MAX_SERIES and len(pieces.dimensions) <= MAX_SEEN:
                owned.seen[seen] = series
        value = number(pieces.number)
        if value is None or (value < 0 and isinstance(series, Counter)):
            raise RefusedError("value", f"{pieces.name} cannot take the value {pieces.number[:200]}")
        series.add(value)

    def _find(self, registry: Registry, owned: _Owned, entry: Entry) -> Series:
        key = (entry.name, *entry.values)
        if key in owned.series:
            return owned.series[key]
        if len(owned.series) >= MAX_SERIES:
            raise RefusedError("series", f"{entry.name} would be one more than {MAX_SERIES} series")
        family = self._families.get(entry.name)
        try:
            if family is None:
                family = self._add(registry, _specification(entry))
            series = owned.series[key] = family.series(*entry.values)
        except ValueError as error:
            raise RefusedError("name" if family is None else "labels", str(error)) from None
        return series

    def _add(self, registry: Registry, one: Specification) -> Family:
        help_text = f"Torchserve prometheus {one.kind.value} metric with unit: {one.unit}"
        family = Family(one.name, one.kind, help_text, one.dimensions)
        self._families[one.name] = registry.add(family)
        return family

    def _log(self, entry: Entry, known: Specification | None) -> None:
        if not self._logger.isEnabledFor(logging.INFO):
            return
        names = known.dimensions[:-1] if known else [name for name, _ in entry.dimensions]
        pairs = zip(names, entry.values[:-1], strict=False)
        unit = known.unit if known else entry.unit
        self._logger.info(logged(entry.name, unit, entry.value, pairs, entry.host, entry.request_ids))


def _entry(pieces: Pieces) -> Entry:
    entry = understood(pieces)
    if entry is None:
        raise RefusedError("value" if number(pieces.number) is None else "line", f"not a metric: {str(pieces)[:200]}")
    return entry


def _specification(entry: Entry) -> Specification:
    """Return what a line says of its metric.

    Raises:
        ValueError: a type that there is not.
    """
    try:
        kind = Kind[entry.kind or Kind.COUNTER.name]
    except KeyError:
        raise ValueError(f"{entry.name} has the type {entry.kind}, none of COUNTER, GAUGE, HISTOGRAM") from None
    return Specification(entry.name, kind, entry.unit, (*(name for name, _ in entry.dimensions), HOSTNAME))
