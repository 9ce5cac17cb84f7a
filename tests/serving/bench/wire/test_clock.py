from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Callable

from serving.bench.wire.clock import Alarm

# 2.4 ms: the event loop's own timers are late by half a millisecond then, or more.
_WAIT_S = 0.0024


def late(tries: int, until: float, change: Callable[[Alarm], None] = lambda _: None) -> list[float]:
    """Return by how much an alarm was late, of tries until one was late by no more than that."""
    found: list[float] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        while len(found) < tries and min(found, default=1.0) > until:
            rung = asyncio.Event()
            alarm = Alarm(loop, rung.set)
            change(alarm)
            at = time.monotonic() + _WAIT_S
            alarm.set(at)
            await rung.wait()
            found.append(time.monotonic() - at)
            alarm.close()

    asyncio.run(main())
    return found


def test_the_clock_is_finer_than_a_millisecond() -> None:
    """Times from the intended start would else be those of the event loop's own timers."""
    if sys.platform == "linux":
        assert min(late(1000, 0.0004)) <= 0.0004


def test_a_clock_is_never_early_whatever_it_was_set_to() -> None:
    assert min(late(5, 0.0, lambda alarm: alarm.set(time.monotonic() + 60))) >= -1e-6
    assert min(late(5, 0.0, lambda alarm: alarm.set(time.monotonic() + 0.001))) >= -0.0015


def test_without_the_kernels_clock_the_loops_own_is_used() -> None:
    def hide(alarm: Alarm) -> None:
        asyncio.get_running_loop().remove_reader(alarm._descriptor)
        os.close(alarm._descriptor)
        alarm._descriptor = -1
        alarm.set(time.monotonic() + 60)

    if sys.platform == "linux":
        assert min(late(3, 0.0, hide)) >= -0.001


def test_what_is_over_is_called_soon() -> None:
    async def main() -> None:
        rung = asyncio.Event()
        alarm = Alarm(asyncio.get_running_loop(), rung.set)
        alarm.set(time.monotonic() - 5)
        await asyncio.wait_for(rung.wait(), 20)
        alarm.set(-1.0)
        await asyncio.wait_for(rung.wait(), 20)
        alarm.close()
        alarm.close()

    asyncio.run(main())
