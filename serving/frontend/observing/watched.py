"""An engine whose predictions somebody watches, over HTTP and gRPC alike. Where nobody does, there is none of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Protocol, TypeAlias, cast

from serving.frontend.apps.exchange import close_parts
from serving.frontend.engine import Answer, Call, Engine

Predict: TypeAlias = Callable[[Call], Awaitable[Answer]]


class Watcher(Protocol):
    """Sees predictions."""

    async def predict(self, ask: Predict, call: Call) -> Answer:
        """Pass a request on, and return its answer.

        Args:
            ask: answers it; what that raises is raised.
            call: the request.
        """

    async def end(self) -> None:
        """Keep what has not been kept yet: the server ends."""


def watched(engine: Engine, watchers: Sequence[Watcher]) -> Engine:
    """Return an engine that does what the given one does, with each of the watchers around its predictions.

    Args:
        engine: it is returned as it is if there are no watchers.
        watchers: the last one is the outermost.
    """
    return cast("Engine", _Watched(engine, watchers)) if watchers else engine


class _Watched:
    def __init__(self, engine: Engine, watchers: Sequence[Watcher]) -> None:
        self._engine, self._watchers = engine, watchers
        self.predict: Predict = engine.predict
        for one in watchers:
            self.predict = partial(one.predict, self.predict)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    async def drain(self, grace_s: float) -> None:
        """Take no more, answer what was taken for as long as the grace lasts, and keep what was seen."""
        await self._engine.drain(grace_s)
        for one in self._watchers:
            await one.end()


class Passing(AsyncIterator[bytes | bytearray]):
    """The further parts of a streamed answer, on their way past somebody.

    Args:
        parts: to be passed on.
        see: gets each.
        ended: told once when there are no more: True if that is the end, False if it was cut or nobody wants the rest.
    """

    def __init__(
        self,
        parts: AsyncIterator[bytes | bytearray],
        see: Callable[[bytes | bytearray], None],
        ended: Callable[[bool], None],
    ) -> None:
        self._parts, self._see = parts, see
        self._ended: Callable[[bool], None] | None = ended

    async def __anext__(self) -> bytes | bytearray:
        try:
            part = await anext(self._parts)
        except StopAsyncIteration:
            self._end(whole=True)
            raise
        except BaseException:
            self._end(whole=False)
            raise
        self._see(part)
        return part

    async def aclose(self) -> None:
        """Take no more."""
        self._end(whole=False)
        await close_parts(self._parts)

    def _end(self, *, whole: bool) -> None:
        ended, self._ended = self._ended, None
        if ended is not None:
            ended(whole)
