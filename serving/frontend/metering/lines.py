"""The lines that metrics travel in: what workers and the collector print, and what TorchServe writes into its logs.

::

    line  = ["INFO > "] "[METRICS]" entry                 of a worker; the collector prints entries alone
    entry = name "." unit ":" value "|#" [dim {"," dim}] ["|#type:" TYPE] "|#hostname:" host "," timestamp ["," ids]
    name, unit = letters, digits, "_" and blanks          value = digits and "-" "," "." "e"
    dim   = key ":" value; one with no or several colons is dropped
    ids   = of requests, with commas between them

A handler can print such lines itself: a line may say anything, and must cost no more than an honest one.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain
from typing import Final, NamedTuple

#: Characters of a line; the ids of a batch of a thousand requests take 37,000.
MAX_LINE: Final = 1 << 16
#: Dimensions of a metric.
MAX_DIMENSIONS: Final = 16
#: Characters of a name, a unit, a host, and the name or value of a dimension.
MAX_TEXT: Final = 256
_MARKS: Final = ("[METRICS]", "INFO > [METRICS]")
# Each part ends at a character that it cannot hold, so the time grows with the length alone.
_ENTRY: Final = re.compile(
    r"(\w[\w\s]*)\.([\w\s]+):([0-9\-,.e]+)\|#([^|]*)(?:\|#type:([^|,]+))?\|#hostname:([^,]+),[^,]+(?:,(.*))?", re.ASCII
)


@dataclass(frozen=True, slots=True)
class Entry:
    """A value of a metric.

    Attributes:
        name: of the metric.
        unit: of the value.
        value: a finite number.
        dimensions: their names and values, in the order of the line.
        kind: ``COUNTER``, ``GAUGE``, ``HISTOGRAM`` or whatever else the line says; empty where it says nothing.
        host: the one that the line names.
        request_ids: of the requests that the value is about, with commas between them.
    """

    name: str
    unit: str
    value: float
    dimensions: tuple[tuple[str, str], ...]
    kind: str
    host: str
    request_ids: str

    @property
    def values(self) -> tuple[str, ...]:
        """What labels a series: the values of the dimensions, the host last."""
        return (*(value for _, value in self.dimensions), self.host)


def entry_of(line: str) -> str | None:
    """Return what follows the mark of a worker's metric; None of another line."""
    for mark in _MARKS:
        if line.startswith(mark):
            return line[len(mark) :]
    return None


class Pieces(NamedTuple):
    """An entry, cut up: all that is needed of a metric that is known. The names are those of `Entry`."""

    name: str
    unit: str
    number: str
    dimensions: str
    kind: str
    host: str
    request_ids: str


def cut(text: str) -> Pieces | None:
    """Cut an entry up; None of a text that does not follow the grammar, or is longer than `MAX_LINE`."""
    found = _ENTRY.fullmatch(text.lstrip()) if len(text) <= MAX_LINE else None
    return Pieces._make(found.groups("")) if found else None


def understood(pieces: Pieces) -> Entry | None:
    """Understand an entry; None of one without a finite number, or beyond the bounds of this module."""
    value = number(pieces.number)
    # Control characters would forge lines of a log.
    if value is None or not all(map(str.isprintable, pieces)) or pieces.dimensions.count(",") >= MAX_DIMENSIONS:
        return None
    pairs = tuple(_pairs(pieces.dimensions))
    texts = (pieces.name, pieces.unit, pieces.kind, pieces.host, *chain.from_iterable(pairs))
    if max(map(len, texts)) > MAX_TEXT:
        return None
    return Entry(pieces.name, pieces.unit, value, pairs, pieces.kind, pieces.host, pieces.request_ids)


def parse(text: str) -> Entry | None:
    """Cut an entry up and understand it."""
    pieces = cut(text)
    return understood(pieces) if pieces else None


def number(text: str) -> float | None:
    """Read an entry's value; None of text such as ``1,2`` that the grammar lets pass, and of what is not finite."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _pairs(text: str) -> Iterable[tuple[str, str]]:
    for dimension in text.split(","):
        # As Java splits: what ends in colons ends before them.
        parts = dimension.rstrip(":").split(":")
        if len(parts) == 2:
            yield parts[0], parts[1]


def logged(
    name: str, unit: str, value: float, dimensions: Iterable[tuple[str, str]], host: str, ids: str | None = None
) -> str:
    """Write a value as ts_metrics.log and model_metrics.log have it.

    Args:
        name: of the metric.
        unit: of the value.
        value: of a counter what it has grown by.
        dimensions: names and values, without the host.
        host: that the value is of.
        ids: of the requests that a model's value is about; None for a value of the frontend.
    """
    pairs = ",".join(f"{key}:{text}" for key, text in dimensions)
    # "null" is what TorchServe writes where a worker's line names no request.
    about = "" if ids is None else f",requestID:{ids or 'null'}"
    return f"{name}.{unit}:{java_double(value)}|#{pairs}|#hostname:{host}{about},timestamp:{int(time.time())}"


def java_double(value: float) -> str:
    """Write a finite number as Java does: 5.0, 1.23456789E8, 1.2E-7."""
    value = float(value)
    if value == 0.0 or 1e-3 <= abs(value) < 1e7:
        return repr(value)
    mantissa, _, exponent = repr(value).partition("e")
    sign, digits = ("-", mantissa[1:]) if mantissa.startswith("-") else ("", mantissa)
    whole, _, fraction = digits.partition(".")
    figures = (whole + fraction).lstrip("0")
    power = len(whole) - 1 if whole != "0" else len(figures) - len(fraction) - 1
    return f"{sign}{figures[0]}.{figures[1:].rstrip('0') or '0'}E{power + int(exponent or 0)}"
