"""Rounds: a set of models is removed while another one is registered, and processes are killed meanwhile."""

from __future__ import annotations

import http.client
import random
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit

import psutil

from benchmarks.churn_bench.models import SETS
from benchmarks.soak_bench.processes import FRONTEND, OTHER, PREFORK, members
from serving.control.state import ServerRecord

ANSWER_S: Final = 60.0
"""Seconds after which an answer counts as one that never comes."""
_GIVE_UP_S: Final = 60.0  # the watchdog looks meanwhile
_MAX_PAUSE_S: Final = 0.1
_KILL_SHARE, _PREFORK_SHARE = 0.2, 0.05
_MAX_KILL_AFTER_S: Final = 0.5


class HangError(Exception):
    """An answer did not come."""


@dataclass
class Tally:
    """What became of all rounds.

    Attributes:
        answers: by what was asked and the status.
        failures: of what must not fail, in words: rounds without kills.
        longest: seconds, by what was asked.
    """

    rounds: int = 0
    kills: Counter[str] = field(default_factory=Counter)
    answers: Counter[tuple[str, int]] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    longest: dict[str, float] = field(default_factory=dict)


class Rounds:
    """The rounds of one server.

    Args:
        seed: of the order in which things happen.
        say: called with what went wrong, as it happens.
    """

    def __init__(self, tally: Tally, *, seed: int, say: Callable[[str], None]) -> None:
        self._tally = tally
        self._random = random.Random(seed)  # noqa: S311 (a run that can be repeated is what is wanted)
        self._say = say
        self._present: tuple[str, ...] = ()

    def play(self, record: ServerRecord) -> None:
        """Play one round against a server.

        Raises:
            HangError: an answer did not come in time.
        """
        self._record = record
        number = self._tally.rounds
        self._tally.rounds += 1
        coming = SETS[number % len(SETS)]
        kills = self._random.random() < _KILL_SHARE
        pool = ThreadPoolExecutor(len(coming) * 2 + 1)
        try:
            leaving = [pool.submit(self._unregister, model) for model in self._present]
            if self._random.random() < 0.5:
                self._answers(leaving)
            time.sleep(self._random.uniform(0, _MAX_PAUSE_S))
            arriving = {model: pool.submit(self._register, model) for model in coming}
            killed = pool.submit(self._kill, self._random.uniform(0, _MAX_KILL_AFTER_S)) if kills else None
            self._answers([*leaving, *arriving.values(), *([killed] if killed else [])])
            asked = {model: pool.submit(self._predict, model) for model in coming}
            self._answers(list(asked.values()))
        finally:
            pool.shutdown(wait=False)
        if not kills:
            for model in coming:
                got = arriving[model].result(), asked[model].result()
                if got != (200, 200):
                    self._tally.failures.append(f"round {number}: {model} was registered and asked: {got}")
                    self._say(self._tally.failures[-1])
        self._present = coming

    def _answers(self, futures: list[Future[int]]) -> None:
        if wait(futures, ANSWER_S).not_done:
            raise HangError(f"round {self._tally.rounds - 1}: no answer within {ANSWER_S:g} s")

    def _register(self, model: str) -> int:
        path = f"/models?url={model}.mar&initial_workers=1&synchronous=true"
        return self._ask("register", self._record.management, "POST", path)

    def _unregister(self, model: str) -> int:
        return self._ask("unregister", self._record.management, "DELETE", f"/models/{model}")

    def _predict(self, model: str) -> int:
        return self._ask("predict", self._record.inference, "POST", f"/predictions/{model}")

    def _ask(self, what: str, address: str, method: str, path: str) -> int:
        """Return the status of an answer; 0 for none."""
        parts = urlsplit(address)
        begin = time.monotonic()
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=ANSWER_S + _GIVE_UP_S)
        status = 0
        with suppress(OSError, http.client.HTTPException):
            connection.request(method, path, b"x")
            response = connection.getresponse()
            response.read()
            status = response.status
        connection.close()
        self._tally.answers[what, status] += 1
        self._tally.longest[what] = max(self._tally.longest.get(what, 0.0), time.monotonic() - begin)
        return status

    def _kill(self, after_s: float) -> int:
        """Kill a process that works for a model, and seldom the one that all are forked from."""
        time.sleep(after_s)
        with_prefork = self._random.random() < _PREFORK_SHARE
        found = [member for member in members(self._record.pid) if member.role not in (FRONTEND, OTHER)]
        victims = [member for member in found if (member.role == PREFORK) == with_prefork]
        if not victims:
            return 0
        victim = self._random.choice(victims)
        with suppress(psutil.NoSuchProcess):
            victim.process.kill()
            self._tally.kills[victim.role] += 1
        return 0
