"""A load test: several loads, one after the other, while workers are scaled, until the highest rate is found."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Final

from serving.bench.loads import Load
from serving.bench.machine import Processors, is_here, warnings
from serving.bench.running import run
from serving.bench.search import Hopeless, Search, kept
from serving.bench.tally import Figures, Second
from serving.bench.wire.sending import KEY
from serving.client import ManagementClient
from serving.errors import INVALID_KEY, ReplyError

#: Connections of each closed loop, where nobody says how many.
CONNECTIONS: Final = (1, 8, 32)
#: Connections of a load with a rate, at the most, where nobody says how many.
MOST_CONNECTIONS: Final = 256
#: What the seconds before the first load are called, which are in no run.
WARM_UP: Final = "warm-up"
_UNTIL_STOPPED_S: Final = 3600.0
_AFTER_S: Final = 1.0


@dataclass(frozen=True)
class Run:
    """A load that was sent.

    Attributes:
        name: what it was, in words.
        workers: of the model, where they were scaled.
        busy: the share of this machine's processors that was busy meanwhile.
        warnings: what speaks against the figures.
    """

    name: str
    workers: int | None
    load: Load
    figures: Figures
    seconds: tuple[Second, ...]
    busy: float
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Scaling:
    """Who scales the workers, and to how many."""

    client: ManagementClient
    model: str
    version: str | None
    numbers: tuple[int, ...]

    def bounds(self) -> tuple[int, int]:
        """Return the least and the most workers now."""
        client = self.client
        one = client.describe(self.model, self.version)[0] if self.version else client.default_version(self.model)
        return one.min_workers, one.max_workers

    def to(self, least: int, most: int | None = None) -> None:
        """Scale, and wait until the workers are ready."""
        self.client.scale(self.model, min_workers=least, max_workers=most, version=self.version)


@dataclass
class Session:
    """A load test.

    Attributes:
        base: where to, what, for how long; its connections and rate are those of a search and of rates.
        connections: of each closed loop.
        rates: of each open one, in place of closed ones.
        search: find the highest rate that keeps the SLO of `base`.
        warm_up_s: seconds of load before, which count for nothing; 0 for none.
        tell: called with the name of a load, or `WARM_UP`, and each of its seconds.
        stop: once it is set the test ends; `runs` has what there is.
        runs: what was sent so far.
        highest: the highest rate found, by number of workers (None where they are not scaled); 0 for none.
    """

    base: Load
    connections: tuple[int, ...]
    rates: tuple[float, ...] = ()
    search: bool = False
    warm_up_s: float = 1.0
    scaling: Scaling | None = None
    tell: Callable[[str, Second], None] = lambda *_: None
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    runs: list[Run] = field(default_factory=list)
    highest: dict[int | None, float] = field(default_factory=dict)

    async def all(self) -> None:
        """Send everything.

        Raises:
            ReplyError: the workers could not be scaled, the key is not good any more, or no request of the warm-up got
                a good answer.
            ServingError: the generator failed.
        """
        self._here = await asyncio.to_thread(is_here, self.base.place)
        if self.warm_up_s:
            await self._warm_up()
        if self.scaling is None:
            await self._loads(None)
        else:
            await self._scaled(self.scaling)

    async def _warm_up(self) -> None:
        """Send no more than the test does: whoever asks for 20 requests a second has a server for them, perhaps."""
        if self.rates:
            load = replace(self.base, rate=min(self.rates))
        else:  # a search asks how much is too much; closed loops are the most from the beginning
            load = self._closed((min if self.search else max)(self.connections))
        figures, _ = await self._figures(WARM_UP, replace(load, seconds=self.warm_up_s))
        if figures.errors and not figures.good and not self.stop.is_set():
            kind = next(iter(figures.errors))
            said = f": {figures.messages[kind]}" if kind in figures.messages else ""
            count = f"{figures.requests:,}"
            raise ReplyError(f"of {count} requests of the warm-up none got a good answer: {kind}{said}", status=0)

    def _closed(self, connections: int) -> Load:
        return replace(self.base, connections=connections, rate=None)

    async def _scaled(self, scaling: Scaling) -> None:
        """Send all loads with each number of workers, and one while they are scaled."""
        bounds = await asyncio.to_thread(scaling.bounds)
        before = bounds[0]
        first = replace(self.base, rate=self.rates[0]) if self.rates else self._closed(self.connections[0])
        try:
            for number in scaling.numbers:
                if self.stop.is_set():
                    break
                await self._while_scaled(scaling, first, before, number)
                await self._loads(number)
                before = number
        finally:
            await asyncio.to_thread(scaling.to, *bounds)

    async def _while_scaled(self, scaling: Scaling, load: Load, before: int, number: int) -> None:
        """Send a load from a second before the workers are scaled to a second after."""
        begun, over = asyncio.Event(), asyncio.Event()

        async def change() -> None:
            try:
                await begun.wait()
                await asyncio.to_thread(scaling.to, number)
                await asyncio.sleep(_AFTER_S)
            finally:
                over.set()

        changing = asyncio.ensure_future(change())
        interrupt = asyncio.ensure_future(self.stop.wait())
        interrupt.add_done_callback(lambda _: over.set())
        name = f"{before} to {number} workers" if before != number else f"{number} workers, scaled to as many"
        try:
            await self._send(name, number, replace(load, seconds=_UNTIL_STOPPED_S), over, begun=begun)
        finally:
            interrupt.cancel()
            if not begun.is_set():
                changing.cancel()
            await asyncio.wait([changing])
        if not changing.cancelled():
            changing.result()

    async def _loads(self, workers: int | None) -> None:
        if self.stop.is_set():
            return
        if self.search:
            self.highest[workers] = await self._search(workers)
            return
        loads = [(rate_name(rate), replace(self.base, rate=rate)) for rate in self.rates]
        loads = loads or [(connections_name(number), self._closed(number)) for number in self.connections]
        for name, load in loads:
            if not self.stop.is_set():
                await self._send(name, workers, load, self.stop)

    async def _search(self, workers: int | None) -> float:
        """Return the highest rate that was kept."""
        most = max(self.connections)
        first = await self._send(connections_name(most), workers, self._closed(most), self.stop)
        found = Search(first.figures.rate)
        while first.figures.good and not self.stop.is_set() and (rate := found.next()) is not None:
            given = await self._send(rate_name(rate), workers, replace(self.base, rate=rate), self.stop, hopeless=True)
            if not self.stop.is_set():
                found.tried(rate, kept=kept(given.figures))
        return found.kept

    async def _send(
        self,
        name: str,
        workers: int | None,
        load: Load,
        stop: asyncio.Event,
        *,
        hopeless: bool = False,
        begun: asyncio.Event | None = None,
    ) -> Run:
        """Send a load and keep what came of it.

        Args:
            hopeless: end it as soon as the SLO is missed for good.
            begun: set when the first second is over.

        Raises:
            ReplyError: the key is not good any more.
        """
        processors = Processors()
        figures, seconds = await self._figures(name, load, stop, hopeless=hopeless, begun=begun)
        busy = processors.busy()
        said = warnings(figures, busy if self._here else None)
        one = Run(name, workers, load, figures, tuple(seconds), busy, tuple(said))
        self.runs.append(one)
        if KEY in figures.errors:
            raise ReplyError(
                f"{KEY}: it was renewed during the test, or has expired",
                status=400,
                kind=INVALID_KEY,
                hint="begin the test again: it then takes the key that is good",
            )
        return one

    async def _figures(
        self,
        name: str,
        load: Load,
        stop: asyncio.Event | None = None,
        *,
        hopeless: bool = False,
        begun: asyncio.Event | None = None,
    ) -> tuple[Figures, list[Second]]:
        given_up = Hopeless((load.rate or 0.0) * load.seconds)
        enough = asyncio.Event()
        outer = asyncio.ensure_future((stop or self.stop).wait())
        outer.add_done_callback(lambda _: enough.set())
        seconds: list[Second] = []
        try:
            async with aclosing(run(load, enough)) as telling:
                async for told in telling:
                    if isinstance(told, Figures):
                        return told, seconds
                    seconds.append(told)
                    self.tell(name, told)
                    if begun is not None:
                        begun.set()
                    if hopeless and given_up.seen(told):
                        enough.set()
        finally:
            outer.cancel()
        raise AssertionError("run() ends with figures")


def connections_name(number: int) -> str:
    """Return the name of a closed loop."""
    return f"{number} connection{'s' if number != 1 else ''}"


def rate_name(rate: float) -> str:
    """Return the name of an open loop."""
    return f"{rate:g}/s"
