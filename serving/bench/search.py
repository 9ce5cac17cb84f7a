"""The highest rate of requests at which a server keeps its promise."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from serving.bench.tally import Figures, Second

#: Of all requests, those that must keep the SLO.
SHARE: Final = 0.99
_BEGIN: Final = 0.8  # of what the server does when it is never idle
_UP: Final = 1.25
_NEAR: Final = 1.05
#: Rates that are tried, at the most.
MOST_TRIES: Final = 14
_LEAST: Final = 1 / 64


def kept(figures: Figures) -> bool:
    """Whether enough requests of a load kept the SLO."""
    return figures.requests > 0 and figures.within_share >= SHARE


@dataclass
class Search:
    """A search between a rate that was kept and one that was not.

    Attributes:
        capacity: what the server answers in a second when it is never idle.
        kept: the highest rate that was kept, 0 for none.
        missed: the lowest one that was not.
        tries: how many were tried.
    """

    capacity: float
    kept: float = 0.0
    missed: float = math.inf
    tries: int = 0

    def next(self) -> float | None:
        """Return the rate to try; None once the answer is known to a twentieth, or there is none."""
        if self.tries >= MOST_TRIES or self.missed <= self.kept * _NEAR or self.missed < self.capacity * _LEAST:
            return None
        if not self.tries:
            rate = self.capacity * _BEGIN
        elif math.isinf(self.missed):
            rate = self.kept * _UP
        elif not self.kept:
            rate = self.missed / 2
        else:
            rate = math.sqrt(self.kept * self.missed)
        return float(f"{rate:.3g}")

    def tried(self, rate: float, *, kept: bool) -> None:
        """Note what came of a rate."""
        self.tries += 1
        if kept:
            self.kept = max(self.kept, rate)
        else:
            self.missed = min(self.missed, rate)


class Hopeless:
    """Whether a rate will not be kept any more, whatever the rest of the time brings.

    Args:
        planned: requests of the load, about.
    """

    def __init__(self, planned: float) -> None:
        # Some more than that: at random times it may be more requests.
        self._most = math.ceil(1.5 * (1 - SHARE) * planned) + 2
        self._missed = 0

    def seen(self, second: Second) -> bool:
        """Count a second's misses."""
        self._missed += second.missed
        return self._missed > self._most
