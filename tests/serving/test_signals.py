"""Signals that end a command with an event loop."""

from __future__ import annotations

import asyncio
import signal

from serving.signals import signalled


def test_signals_that_end_a_command_are_waited_for_and_ignored_ones_stay_so() -> None:
    async def run(number: int) -> int:
        with signalled() as came:
            for one in (number, signal.SIGTERM):
                signal.raise_signal(one)
            return await came

    def handle(*_: object) -> None:
        raise AssertionError("the loop takes it")

    before = {one: signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGHUP)}
    try:
        for found in (handle, signal.SIG_IGN):
            signal.signal(signal.SIGTERM, handle)
            signal.signal(signal.SIGHUP, found)
            expected = signal.SIGTERM if found is signal.SIG_IGN else signal.SIGHUP
            assert asyncio.run(run(signal.SIGHUP)) == expected
            assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGHUP)) == (handle, found)
    finally:
        for one, found in before.items():
            signal.signal(one, found)
