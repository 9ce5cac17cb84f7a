"""One run against a started server: load, kills, scaling, and what must hold in between."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from functools import partial
from pathlib import Path

import psutil

from benchmarks.soak_bench.clients import CLIENTS, Client, load
from benchmarks.soak_bench.models import METRICS_S, SHARED, WORKERS
from benchmarks.soak_bench.processes import (
    DEDICATED_ROLE,
    EXPECTED,
    FRONTEND,
    OTHER,
    PREFORK,
    ROLE_OF_MODEL,
    SHARED_ROLE,
    THIN,
    WORKING,
    Member,
    counts,
    footprint,
    members,
)
from benchmarks.soak_bench.results import Results, flat, listed
from serving.client import ManagementClient, ModelVersion
from serving.control.server import Started
from serving.errors import ServingError

EVERYTHING = "everything at once"
ALL_KINDS = (THIN, THIN, DEDICATED_ROLE, DEDICATED_ROLE, SHARED_ROLE, SHARED_ROLE, PREFORK, EVERYTHING)
SOME_KINDS = (THIN, DEDICATED_ROLE)  # the prefork and the shared process live on
SCALE_TO = (2, 12)
READY_S = 60.0
_WARM_SHARE, _STORM_SHARE = 0.15, 0.5
_WARM_MAX_S = 30.0
_SCALE_EVERY_S = 30.0
_CALM_S = 20.0  # for unwanted processes to end
_LOG_S = 10.0
_AGAIN_S = 0.5
_QUESTIONS = 25


class ServerEndedError(Exception):
    """The frontend has ended by itself."""


class Run:
    """A run of load and kills against a server.

    Args:
        results: what held and what did not is noted there.
        seconds: of load.
        kill_every: seconds, on average.
        seed: of what is killed and when.
        say: called with what happens, as it happens.
        connections: of the clients.
    """

    def __init__(
        self,
        started: Started,
        management: ManagementClient,
        results: Results,
        *,
        seconds: float,
        kill_every: float,
        seed: int,
        say: Callable[[str], None],
        connections: int = CLIENTS,
    ) -> None:
        self._started = started
        self._leader = started.record.pid
        self._management = management
        self._results = results
        self._seconds = seconds
        self._kill_every = kill_every
        self._seed = seed
        self._random = random.Random(seed)  # noqa: S311 (a run that can be repeated is what is wanted)
        self._say = say
        self._connections = connections

    def whole(self) -> None:
        """Run all parts.

        Raises:
            ServerEndedError: the frontend has ended.
            ServingError: it does not answer.
        """
        results = self._results
        warm_s = min(_WARM_MAX_S, self._seconds * _WARM_SHARE)
        storm_s = self._seconds * _STORM_SHARE
        with self._load("calm"):
            self._wait(warm_s)
        self._come_back("before anything is killed")
        results.early = footprint(self._leader)
        self._say("everything is killed now")
        self._storm("rough", storm_s, ALL_KINDS)
        self._come_back("after kills of every kind")
        self._nothing_outlives_its_worker()
        self._say("thin and dedicated processes are killed now")
        self._storm("fair", self._seconds - warm_s - storm_s, SOME_KINDS)
        self._come_back("after kills of thin and dedicated processes")
        results.late = footprint(self._leader)
        results.checks += flat(results.early, results.late)
        self._memory_is_collected()
        for model in WORKERS:
            self._answers_and_prints(model)
        traces = self._log().count("Traceback (most recent call last)")
        results.check("no worker failed by itself", not traces, f"{traces} tracebacks in the log")

    # ---- load and kills --------------------------------------------------------------------------------------------

    def _storm(self, label: str, seconds: float, kinds: Sequence[str]) -> None:
        deck = self._deck(kinds)
        kind = next(deck)
        end = time.monotonic() + seconds
        kill_at, scale_at = time.monotonic() + self._gap(), time.monotonic() + min(_SCALE_EVERY_S, seconds / 3)
        with self._load(label):
            while (now := time.monotonic()) < end:
                if now >= kill_at:
                    killed = self._kill(kind)
                    kind = next(deck) if killed else kind  # what has just been killed may not be back yet
                    kill_at = time.monotonic() + (self._gap() if killed else _AGAIN_S)
                elif now >= scale_at:
                    self._scale({SHARED: self._random.randint(*SCALE_TO)})
                    scale_at = time.monotonic() + _SCALE_EVERY_S
                else:
                    self._wait(min(kill_at, scale_at, end) - now)

    def _load(self, label: str) -> AbstractContextManager[None]:
        return load(self._started.record.inference, self._seed, label, self._results.tallies, self._connections)

    def _gap(self) -> float:
        """Return the seconds to the next kill; some follow at once, and so meet workers that are just starting."""
        return float(max(0.05, min(3 * self._kill_every, self._random.expovariate(1 / self._kill_every))))

    def _deck(self, kinds: Sequence[str]) -> Iterator[str]:
        """Yield the kinds in random order, again and again, so that a short run meets all of them, too."""
        while True:
            yield from self._random.sample(kinds, len(kinds))

    def _kill(self, kind: str) -> bool:
        """Kill one process of the kind, or all; False if there is none."""
        victims = choose(members(self._leader), kind, self._random)
        for member in victims:
            with suppress(psutil.NoSuchProcess):
                member.process.kill()
        if victims:
            self._results.kills[kind] += 1
            self._say(f"kill {kind}: {', '.join(str(member.process.pid) for member in victims)}")
        return bool(victims)

    def _scale(self, wanted: Mapping[str, int]) -> None:
        for model, workers in wanted.items():
            self._say(f"scale {model} to {workers}")
            self._results.scalings += 1
            try:
                self._management.scale(model, min_workers=workers, wait=False)
            except ServingError as error:
                self._results.check(f"the frontend scales {model} to {workers}", False, str(error))

    def _wait(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            if (code := self._started.process.poll()) is not None:
                raise ServerEndedError(f"the frontend ended with exit code {code}")
            time.sleep(min(left, 1.0))

    # ---- what must hold --------------------------------------------------------------------------------------------

    def _come_back(self, when: str) -> None:
        """Check that every worker that is wanted gets ready again, and only these."""
        self._scale(WORKERS)
        begin = time.monotonic()
        ready = self._poll(lambda: all(_is_ready(self._describe(model), n) for model, n in WORKERS.items()), READY_S)
        seconds = time.monotonic() - begin
        numbers = [f"{self._describe(model).ready_workers} of {n} {model}" for model, n in WORKERS.items()]
        self._results.check(f"all workers are ready {when}", ready, f"{', '.join(numbers)} after {seconds:.1f} s")

    def _nothing_outlives_its_worker(self) -> None:
        """Scale to nothing and back: a process that then still works for a worker was forgotten."""
        self._scale(dict.fromkeys(WORKERS, 0))
        ended = self._poll(lambda: counts(self._leader).keys().isdisjoint(WORKING), _CALM_S)
        self._results.check("no worker's process outlives it", ended, listed(counts(self._leader)))
        self._come_back("again after none was")
        same = self._poll(lambda: counts(self._leader) == EXPECTED, _CALM_S)
        self._results.check("they have the processes that they should", same, listed(counts(self._leader)))

    def _memory_is_collected(self) -> None:
        """Check that memory is still collected: one wrong line would have ended the frontend's collecting for good."""

        def told() -> bool:
            workers = [worker for model in WORKERS for worker in self._describe(model).workers]
            return all(worker.memory_bytes > 0 for worker in workers)

        held = self._poll(told, 3.0 * METRICS_S)
        self._results.check("the frontend knows every worker's memory", held, f"it asks every {METRICS_S} s")

    def _answers_and_prints(self, model: str) -> None:
        """Check that all workers are ready, answers are good and from the right process, and prints are logged."""
        client = Client(
            self._started.record.inference, model, f"{model}-last", self._seed, self._results.tallies[model]
        )
        name, good = "", 0
        for _ in range(_QUESTIONS):
            name, pid = client.ask(say=True)
            workers = {one.process.pid for one in members(self._leader) if one.role == ROLE_OF_MODEL[model]}
            good += pid in workers
        self._results.check(f"{model} answers at the end", good == _QUESTIONS, f"{good} of {_QUESTIONS}")
        logged = self._poll(partial(self._is_logged, f"soak says {name}\n"), _LOG_S)
        lines = self._log().count(f"soak says {model}-")
        self._results.check(f"what {model} prints is in the log", logged, f"{lines} lines")

    def _describe(self, model: str) -> ModelVersion:
        return self._management.default_version(model)

    def _is_logged(self, text: str) -> bool:
        return text in self._log()

    def _log(self) -> str:
        path = Path(self._started.record.log_folder) / "model_log.log"
        return path.read_text(encoding="utf-8", errors="replace")

    def _poll(self, holds: Callable[[], bool], seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while True:
            with suppress(ServingError):
                if holds():
                    return True
            if time.monotonic() > deadline:
                return False
            self._wait(0.2)


def choose(found: Sequence[Member], kind: str, order: random.Random) -> list[Member]:
    """Choose what to kill: one process of that role, or all but the frontend and those that are not of the backend."""
    if kind == EVERYTHING:
        return [member for member in found if member.role not in (FRONTEND, OTHER)]
    candidates = [member for member in found if member.role == kind]
    return [order.choice(candidates)] if candidates else []


def _is_ready(model: ModelVersion, workers: int) -> bool:
    return model.ready_workers == len(model.workers) == workers
