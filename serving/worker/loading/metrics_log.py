"""Metrics as the frontend reads them from the log, line by line."""

from __future__ import annotations

import logging
import re

_LOGGER = "ts.metrics.caching_metric"
_PREFIX = "[METRICS]"
# Metric.java has this pattern, and ignores every other line.
_KNOWN = re.compile(r"\[METRICS\][\w\s]+\.[\w\s]+:[0-9\-,.e]+\|#", re.ASCII)
_OTHER = re.compile(r"[^\w\s]", re.ASCII)


def install() -> None:
    """Keep TorchServe's metrics from writing a line that the frontend cannot read."""
    logger = logging.getLogger(_LOGGER)
    if not any(isinstance(one, _Grammar) for one in logger.filters):
        logger.addFilter(_Grammar())


def readable(line: str) -> str:
    """Return a metric's line in the frontend's grammar: no plus sign in numbers, word characters in name and unit."""
    head, separator, rest = line.partition("|#")
    if _KNOWN.match(line) or not separator or not head.startswith(_PREFIX):
        return line
    names, _, value = head.removeprefix(_PREFIX).rpartition(":")
    name, _, unit = names.rpartition(".")
    name, unit = _OTHER.sub("_", name), _OTHER.sub("_", unit)
    return f"{_PREFIX}{name}.{unit}:{value.replace('e+', 'e')}{separator}{rest}"


class _Grammar(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        if isinstance(record.msg, str) and not record.args:
            record.msg = readable(record.msg)
        return True
