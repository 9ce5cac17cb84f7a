"""The workers of a version: how many there are, from their start until they have left."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Iterator
from typing import Protocol

from serving.frontend.local.models.model import Model
from serving.frontend.local.scaling import Scaling, Seen
from serving.frontend.local.worker import Owner, Worker

logger = logging.getLogger(__name__)


class Queue(Protocol):
    """What waits for workers."""

    def __len__(self) -> int:
        """How many requests wait."""

    @property
    def oldest(self) -> float | None:
        """When the one came that waits longest, on the loop's clock; None if none does."""


class Crew(Collection[Worker]):
    """The workers that take requests, and those that leave.

    Args:
        owner: whose they are; its `model` says how many there are to be.
        numbers: gives the next number of a worker, of so many processes.
        gpus: gives the next GPU of the model; None for the processor.
        grace_s: seconds that one which leaves may take for what it has.
        needed: whether one that has nothing to do must stay.
    """

    def __init__(
        self,
        owner: Owner,
        numbers: Callable[[int], int],
        gpus: Callable[[Model], int | None],
        grace_s: float,
        needed: Callable[[Worker], bool],
    ) -> None:
        self._owner, self._numbers, self._gpus = owner, numbers, gpus
        self._grace_s, self._needed = grace_s, needed
        self._loop = asyncio.get_running_loop()
        self._workers: list[Worker] = []
        self._leaving: set[Worker] = set()
        self._scaling = Scaling(self._loop.time())

    def __len__(self) -> int:
        return len(self._workers)

    def __iter__(self) -> Iterator[Worker]:
        return iter(self._workers)

    def __contains__(self, worker: object) -> bool:
        return worker in self._workers

    @property
    def can_serve(self) -> bool:
        """Whether one has its model, or may yet have it."""
        return any(not (worker.ended or worker.failing) for worker in self._workers)

    @property
    def ready(self) -> int:
        """How many have their model."""
        return sum(worker.ready for worker in self._workers)

    @property
    def alive(self) -> int:
        """How many are ready or on their way."""
        return sum(not worker.ended for worker in self._workers)

    @property
    def running(self) -> int:
        """Requests that they have, without those of workers that leave."""
        return sum(worker.running for worker in self._workers)

    @property
    def awaited(self) -> bool:
        """Whether one, also of those that leave, has a request whose client has not left."""
        return any(worker.awaited for worker in (*self._workers, *self._leaving))

    def check(self, now: float) -> None:
        """Look at the clocks of all of them."""
        for worker in (*self._workers, *self._leaving):
            worker.check(now)

    # ---- how many ---------------------------------------------------------------------------------------------------

    def adapt(self, now: float, waiting: Queue) -> None:
        """Be as many as what waits asks for."""
        model = self._owner.model
        surplus = max(0, len(self._workers) - model.least)
        for worker in [worker for worker in self._workers if worker.ended][:surplus]:
            self._workers.remove(worker)  # it gave up, and need not be there
            self._scaling.pause(now)
        idle = [one for one in self._workers if one.ready and not one.running and not self._needed(one)]
        waited_s = now - waiting.oldest if waiting.oldest is not None else 0.0
        seen = Seen(len(self._workers), self.ready, len(idle), waited_s, -(-len(waiting) // model.batch_size))
        wanted = self._scaling.look(seen, model.least, model.most, now)
        if wanted != seen.workers:
            logger.info("%s gets %d workers; it had %d", model.label, wanted, seen.workers)
        self._grow(wanted)
        self._release(idle[len(idle) - max(0, seen.workers - wanted) :])

    async def scale(self, *, wait: bool) -> None:
        """Be at least and at most as many as the model now says.

        Raises:
            FrontendError: a new one could not load the model.
        """
        model = self._owner.model
        self._scaling = Scaling(self._loop.time())
        self._workers = [worker for worker in self._workers if not worker.ended]  # who gave up is replaced
        new = self._grow(model.least)
        ends = self._release(self._workers[model.most :])
        if wait:
            await asyncio.gather(*ends)
            await asyncio.gather(*(asyncio.shield(worker.loaded) for worker in new))

    def _grow(self, count: int) -> list[Worker]:
        """Start workers until there are as many; returns the new ones."""
        model = self._owner.model
        new = []
        while len(self._workers) < count:
            new.append(Worker(self._owner, self._numbers(model.levels), self._gpus(model)))
            self._workers.append(new[-1])
        return new

    def _release(self, workers: list[Worker]) -> list[asyncio.Future[bool]]:
        """Give workers nothing more and let them end when they have answered what they have."""
        for worker in workers:
            self._workers.remove(worker)
            self._owner.left(worker)
            self._leaving.add(worker)
        return [asyncio.ensure_future(self._retire(worker)) for worker in workers]

    async def _retire(self, worker: Worker) -> bool:
        try:
            return await worker.leave(self._grace_s)
        finally:
            self._leaving.discard(worker)

    async def end(self, grace_s: float) -> None:
        """Let all of them end, within seconds."""
        workers, self._workers = self._workers, []
        await asyncio.gather(*(worker.leave(grace_s) for worker in (*workers, *self._leaving)))
