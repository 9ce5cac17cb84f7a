"""Reads Prometheus' text format, by Prometheus' own parser."""

from __future__ import annotations

import re

from prometheus_client.parser import text_string_to_metric_families


def samples(text: bytes) -> dict[str, float]:
    """Return samples by name and labels."""
    # The parser would call all counters "..._total", as its library does.
    untyped = re.sub(r"(?m)^# TYPE .*\n", "", text.decode())
    return {
        f"{one.name}{dict(sorted(one.labels.items()))}": one.value
        for family in text_string_to_metric_families(untyped)
        for one in family.samples
    }
