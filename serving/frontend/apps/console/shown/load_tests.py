"""Load tests of the server, one at a time: each is sent by a process of its own, as `torchmar bench` sends one."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any, Final

from archive_tool.building.samples import content_type_of
from archive_tool.errors import TorchmarError
from serving.bench.loads import Load
from serving.bench.page import LEAST_S
from serving.bench.report import Subject
from serving.bench.search import MOST_TRIES
from serving.bench.session import CONNECTIONS, MOST_CONNECTIONS, WARM_UP, Run, Session, connections_name, rate_name
from serving.bench.tally import Second
from serving.bench.targets import Target
from serving.bench.wire.trial import try_each
from serving.frontend.apps.console.given import Given
from serving.frontend.apps.console.shown.calls import torchmar
from serving.frontend.errors import ConflictError, UnavailableError

#: Seconds of all loads of a test together, and requests a second.
MOST_S: Final = 300.0
MOST_RATE: Final = 10_000.0
#: Loads of a search: a closed loop first, and each rate that is tried.
SEARCHED: Final = 1 + MOST_TRIES
_ANSWER_S: Final = 30.0
_WARM_UP_S: Final = 1.0
#: Seconds beside the loads': starting processes, warming up, answers that are late.
_REST_S: Final = 90.0
_STOPPING_S: Final = 3.0

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Wanted:
    """How much is sent, and for how long.

    Attributes:
        connections: of a closed loop; None where there is a rate.
        rate: of an open loop; None where there are connections.
        seconds: of each load.
        slo_ms: what an answer may take; None where that is not asked. Without a rate the highest one is searched.
    """

    connections: int | None
    rate: float | None
    seconds: float
    slo_ms: float | None

    @property
    def searches(self) -> bool:
        """Whether the highest rate is searched."""
        return self.rate is None and self.slo_ms is not None

    @property
    def name(self) -> str:
        """What it is, or begins with, in words."""
        return connections_name(self.connections or 0) if self.rate is None else rate_name(self.rate)

    @property
    def options(self) -> list[str]:
        """Return them as options of ``torchmar bench``."""
        found = ["--connections", str(self.connections)] if self.rate is None else ["--rate", f"{self.rate:.12g}"]
        found += ["--duration", f"{self.seconds:.12g}"]
        return found + (["--slo-ms", f"{self.slo_ms:.12g}"] if self.slo_ms is not None else [])


class LoadTest:
    """A load test.

    Args:
        target: the model, on its server.
        sent: what it is asked with.
        wanted: how much.

    Attributes:
        target, sent, wanted: as they were given.
        begun: when, seconds since the epoch.
        took_s: how long it has run, once it is over.
        subject: what is tested.
        command: that does the same.
        session: its loads, and what came of them.
        seconds: what each second brought, for the charts; of the warm-up no more than that it was.
        over: whether it has ended.
        error: what it failed at, and a hint; empty where it did not.
    """

    def __init__(self, target: Target, sent: Given, wanted: Wanted) -> None:
        kind = sent.content_type or content_type_of(sent.file)
        inputs = [(sent.file, len(sent.body), kind)]
        self.subject = Subject(target.model, target.version, target.address.text, explain=False, inputs=inputs)
        self.command = torchmar(
            ("bench", target.model, "--input"),
            wanted.options,
            target.address.text,
            target.version,
            sent.file,
            kind,
            sent.text,
        )
        self.target, self.sent, self.wanted = target, sent, wanted
        self.begun, self.took_s = time.time(), 0.0
        base = Load(
            target.place,
            target.requests([(sent.body, kind)]),
            wanted.connections or MOST_CONNECTIONS,
            wanted.seconds,
            timeout_s=_ANSWER_S,
            slo_s=wanted.slo_ms / 1e3 if wanted.slo_ms is not None else None,
        )
        self.session = Session(
            base,
            (wanted.connections,) if wanted.connections else CONNECTIONS,
            (wanted.rate,) if wanted.rate else (),
            search=wanted.searches,
            warm_up_s=_WARM_UP_S,
            tell=self._tell,
        )
        self._most_s = wanted.seconds * (SEARCHED if wanted.searches else 1) + _REST_S
        self.seconds: list[dict[str, Any]] = []
        self._last = ("", 0.0)
        self._news = asyncio.Event()
        self.over = False
        self.error = ("", "")

    async def run(self) -> None:
        """Send it."""
        begun = time.monotonic()
        try:
            await self._try()
            if not self.stopped:
                await asyncio.wait_for(self.session.all(), self._most_s)
        except asyncio.TimeoutError:
            self.error = (f"it was ended after {self._most_s:g} s: the server's answers took too long", "")
        except TorchmarError as error:
            self.error = (error.message, error.hint or "")
        except OSError as error:
            self.error = (f"the process that sends the load could not be started: {error.strerror or error}", "")
        except Exception:
            log.exception("A load test has failed")
            self.error = ("it has failed: the server's log says why", "")
        finally:
            self.took_s = time.monotonic() - begun

    async def _try(self) -> None:
        """Send the input once, until somebody stops the test."""
        trial = asyncio.ensure_future(try_each(self.target, self.session.base.requests, _ANSWER_S))
        stop = asyncio.ensure_future(self.session.stop.wait())
        try:
            await asyncio.wait({trial, stop}, return_when=asyncio.FIRST_COMPLETED)
            if trial.done():
                trial.result()
        finally:
            trial.cancel()
            stop.cancel()

    @property
    def stopped(self) -> bool:
        """Return whether somebody has stopped it."""
        return self.session.stop.is_set()

    @property
    def result(self) -> Run | None:
        """The load whose figures are the test's: the only one, or of a search the one at the rate that it found."""
        runs = self.session.runs
        if not self.wanted.searches:
            return runs[-1] if runs else None
        rate = self.session.highest.get(None)
        return next((run for run in runs if rate and run.load.rate == rate), None)

    def stop(self) -> None:
        """Send nothing more: what has come of it is kept."""
        self.session.stop.set()

    def finish(self) -> None:
        """Tell who watches that it is over."""
        self.over = True
        self._say()

    def _tell(self, name: str, second: Second) -> None:
        if name == WARM_UP:
            self._add({"load": name, "warm": True})
            return
        before = self._last[1] if self._last[0] == name else 0.0
        self._last = (name, second.at)
        span = second.at - before
        if span < LEAST_S:
            return  # the rest of a load
        self._add(
            {
                "load": name,
                "requests": round(second.good / span, 1),
                "p50": round(second.p50_ms, 3) if second.good else None,
                "p99": round(second.p99_ms, 3) if second.good else None,
                "failed": round(second.errors / span, 1),
            }
        )

    def _add(self, second: dict[str, Any]) -> None:
        self.seconds.append({"at": round(time.time(), 3), **second})
        self._say()

    def _say(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    async def told(self, after: int = 0) -> AsyncGenerator[tuple[int, dict[str, Any]], None]:
        """Yield what the seconds brought, with their numbers, until it is over.

        Args:
            after: number of the last one that the viewer has.
        """
        seen = after if after <= len(self.seconds) else 0
        while True:
            news = self._news
            while seen < len(self.seconds):
                seen += 1
                yield seen, self.seconds[seen - 1]
            if self.over:
                return
            await news.wait()


class LoadTests:
    """The load tests of a server.

    Attributes:
        last: the one under way, else the last one that was; None before the first.
    """

    def __init__(self) -> None:
        self.last: LoadTest | None = None
        self._task: asyncio.Task[None] | None = None
        self._ended = False

    @property
    def under_way(self) -> bool:
        """Whether there is one."""
        return self.last is not None and not self.last.over

    def refuse_second(self) -> None:
        """Let nobody begin one while there is one.

        Raises:
            ConflictError: there is one.
            UnavailableError: the server ends.
        """
        if self.under_way:
            raise ConflictError("a load test is under way: stop it, or wait for its end")
        if self._ended:
            raise UnavailableError("the server ends")

    def start(self, test: LoadTest) -> None:
        """Begin one.

        Raises:
            ConflictError: there is one.
            UnavailableError: the server ends.
        """
        self.refuse_second()
        self.last = test
        self._task = asyncio.get_running_loop().create_task(test.run())
        self._task.add_done_callback(lambda _: test.finish())

    async def stop(self) -> None:
        """Stop the one under way, and wait a moment for what has come of it."""
        if self.last is not None and self._task is not None and not self._task.done():
            self.last.stop()
            await asyncio.wait({self._task}, timeout=_STOPPING_S)

    def end(self) -> None:
        """End it with the server: its process goes, and nobody begins another one."""
        self._ended = True
        if self._task is not None and self.last is not None and self.under_way:
            self.last.error = ("the server, or its console, has ended before it", "")
            self._task.cancel()
