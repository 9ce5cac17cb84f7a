"""The number of intra-op threads that the batches of a model want: its share of the cores, or fewer.

Two threads halve the time of a large model and double that of a small one, whose operators are over before the second
thread is awake, and which competes with the frontend for the cores. No property of a model tells which it is, so the
first batches are run with either, as they come, and the faster setting is kept. Each size of batch has its own.

Waiting threads spin. Where something else needs the cores, they spin through its time slices, and a batch takes many
times the processor that it needs: what wastes it so is not kept, however fast it seemed.
"""

from __future__ import annotations

import logging
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING, Final

from serving.worker.loading import compilations
from serving.worker.process import cores

if TYPE_CHECKING:
    from serving.worker.loading.loader import Model

logger = logging.getLogger(__name__)

# Batches of a size before the trial: the first ones pay for what is made on demand, also by TorchScript's optimizer.
_WARM_UP: Final = 3
# Batches that run with one setting after the other: the first of them is not counted, for caches and threads are those
# of the setting before.
_BLOCK: Final = 5
_ROUNDS: Final = 2
# Seconds; of what takes longer, two batches are run with half the threads, which takes twice the time at the worst.
_LONG_S: Final = 0.1
# A core left to the frontend is worth more than this.
_GAIN: Final = 0.9
# A setting that takes so many times the processor of another one wastes it. Two threads that spin all the time take 1.8
# times as much where they are a tenth faster, which is worth it (`_GAIN`).
_WASTE: Final = 1.8
# Seconds; what takes longer is likely to gain from every core, whatever else was busy during the trial.
_LIKELY_S: Final = 0.02
_MIDDLE: Final = 4


class Threads:
    """The intra-op threads, set before every batch. For the thread that runs the handler, as torch's setting is.

    Args:
        torch: the module.
        most: maximum number of threads, at least 2; what is set now.
        processor: seconds of the processor that this process has taken.
    """

    def __init__(self, torch: ModuleType, most: int, processor: Callable[[], float] = time.process_time) -> None:
        self._torch = torch
        self._processor = processor
        self._begun = 0.0
        self._most = self._now = most
        self._counts = sorted({1, min(_MIDDLE, most), most}, reverse=True)
        self._trials: dict[int, _Trial] = {}
        self._chosen: dict[int, int] = {}
        self._over = False

    def before(self, size: int) -> None:
        """Note that a batch of ``size`` requests is run next."""
        if self._over:
            return
        if self._torch.get_num_threads() != self._now:
            self._over = True  # the handler has chosen another number
            return
        bucket = size.bit_length()
        count = self._chosen.get(bucket)
        if count is None:
            if bucket not in self._trials:
                self._trials[bucket] = _Trial(self._counts)
            elif compilations.count():
                # Compiled code is for one number of threads, and would be compiled again for the other.
                self._over = True
                self._set(self._most)
                return
            count = self._trials[bucket].count()
            self._begun = self._processor()
        self._set(count)

    def after(self, size: int, seconds: float) -> None:
        """Note that the batch was run without an error."""
        bucket = size.bit_length()
        trial = self._trials.get(bucket)
        if trial is None or self._over:
            return
        trial.took(seconds, self._processor() - self._begun)
        if trial.is_over():
            count = self._chosen[bucket] = trial.best()
            del self._trials[bucket]
            logger.info("Threads for batches of %s: %d%s", _sizes(bucket), count, trial.summary())

    def _set(self, count: int) -> None:
        if count != self._now:
            self._torch.set_num_threads(count)
            self._now = count


class _Trial:
    """A trial with batches of about the same size.

    Args:
        counts: numbers of threads to try, the largest first.
    """

    def __init__(self, counts: list[int]) -> None:
        self._counts = counts
        self._schedule = [count for count in counts * _ROUNDS for _ in range(_BLOCK)]
        self._step = -_WARM_UP
        self._seconds: dict[int, list[float]] = defaultdict(list)
        self._processor: dict[int, list[float]] = defaultdict(list)

    def count(self) -> int:
        return self._schedule[max(0, self._step)]

    def took(self, seconds: float, processor: float) -> None:
        count = self.count()
        if self._step >= 0 and self._step % _BLOCK:
            self._seconds[count].append(seconds)
            self._processor[count].append(processor)
        self._step += 1
        if self._step == _BLOCK and statistics.median(self._seconds[count]) > _LONG_S:
            self._counts = [count, count // 2]
            self._schedule[_BLOCK:] = [count // 2] * 2

    def is_over(self) -> bool:
        return self._step >= len(self._schedule)

    def best(self) -> int:
        """Choose few threads, and more only if clearly faster. For long batches choose many. Waste nothing."""
        medians = self._medians()
        bound = _WASTE * min(processor for _, processor in medians.values())
        frugal = [count for count in self._counts if medians[count][1] <= bound]
        best = 0
        for count in frugal if medians[self._counts[0]][0] > _LIKELY_S else reversed(frugal):
            if not best or medians[count][0] < _GAIN * medians[best][0]:
                best = count
        return best

    def summary(self) -> str:
        figures = (
            f"{count}: {1000 * seconds:.2f} / {1000 * processor:.2f}"
            for count, (seconds, processor) in self._medians().items()
        )
        return f" (median in ms, time / processor, by threads: {', '.join(figures)})"

    def _medians(self) -> dict[int, tuple[float, float]]:
        """Seconds of a batch, and those of the processor, by threads."""
        median = statistics.median
        return {count: (median(self._seconds[count]), median(self._processor[count])) for count in self._counts}


def threads_of(model: Model) -> Threads | None:
    """Return `Threads` for the model of this process; None if there is nothing to choose, or the number is set."""
    torch = sys.modules.get("torch")
    if torch is None or not cores.is_automatic(model.backend.threads):
        return None
    most = torch.get_num_threads()
    # On a GPU none of this counts; deterministic algorithms are to give the same bits every time.
    if most < 2 or torch.cuda.is_initialized() or torch.are_deterministic_algorithms_enabled():
        return None
    return Threads(torch, most)


def _sizes(bucket: int) -> str:
    least, most = 1 << (bucket - 1), (1 << bucket) - 1
    return str(least) if least == most else f"{least} to {most}"
