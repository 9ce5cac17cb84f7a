"""How many workers a version has between minWorkers and maxWorkers: by what waits. Where both are equal, that many.

One is added when requests have waited for a moment while every worker was busy, and several when several batches wait;
never while another one still loads its model, and not soon after one could not: what cannot be loaded is not tried
again and again. One that had nothing to do is taken away after a quiet time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

#: Seconds that a request waits before another worker is started for such as it.
WAITED_S: Final = 0.5
#: Seconds in which a worker was never needed, before it ends: a model takes long to load, and may soon be wanted again.
QUIET_S: Final = 60.0
#: Seconds without a new worker after one gave up.
PAUSE_S: Final = 60.0


@dataclass(frozen=True)
class Seen:
    """A version at a moment.

    Attributes:
        workers: that it has, those that are starting included.
        ready: of them.
        idle: of the ready ones, without anything to do.
        waited_s: seconds that the request has waited that waits longest; 0 if none does.
        batches: that what waits would fill, the last one perhaps in part.
    """

    workers: int
    ready: int
    idle: int
    waited_s: float = 0.0
    batches: int = 0

    @property
    def needs_all(self) -> bool:
        """Whether no worker could be missed now."""
        return self.batches > 0 or not self.idle or self.ready < self.workers


def decide(seen: Seen, least: int, most: int, quiet_s: float) -> int:
    """Say how many workers a version should have.

    Args:
        seen: the version now.
        least, most: bounds; the last worker stays even if none must, since without any nothing would wait.
        quiet_s: seconds since all workers were needed.
    """
    wanted = seen.workers
    if seen.waited_s >= WAITED_S and seen.workers == seen.ready and not seen.idle:
        wanted += min(max(seen.batches, 1), seen.workers)
    elif quiet_s >= QUIET_S and not seen.needs_all:
        wanted -= 1
    return min(max(wanted, least, min(seen.workers, 1)), max(least, most))


class Scaling:
    """Watches a version.

    Args:
        now: on the loop's clock, when it was last told how many workers it should have.
    """

    def __init__(self, now: float) -> None:
        self._needed = now
        self._paused_until = now

    def pause(self, now: float) -> None:
        """Take note that a worker could not load the model, and gave up."""
        self._paused_until = now + PAUSE_S

    def look(self, seen: Seen, least: int, most: int, now: float) -> int:
        """Say how many workers it should have now; called some times a second."""
        if seen.needs_all:
            self._needed = now
        wanted = decide(seen, least, most, now - self._needed)
        if now < self._paused_until:
            wanted = min(wanted, seen.workers)
        if wanted != seen.workers:
            self._needed = now
        return wanted
