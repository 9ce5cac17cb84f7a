"""TorchServe's context, and what torchmar's own frontend says of a request besides: its deadline, and which try it is.

They come as headers of names that no HTTP request can have, so no client can say them: `serving.protocol.messages`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

from ts.context import Context, RequestProcessor

from serving.protocol import ATTEMPT, DEADLINE, Request

T = TypeVar("T")


class Processor(RequestProcessor):  # type: ignore[misc]
    """TorchServe's view of a request.

    Attributes:
        deadline: when its client has given up, on the clock of `time.monotonic`; None if that is not known.
        attempt: 1, and more where workers died that had the request before.
    """

    deadline: float | None = None
    attempt: int = 1


def processor_of(request: Request, headers: dict[str, Any]) -> Processor:
    """Make the view of a request.

    Args:
        request: as it came.
        headers: that the handler is to see; those of the frontend are taken out.
    """
    processor = Processor(headers)
    given = request.headers
    if DEADLINE in given:
        processor.deadline = float(given[DEADLINE])
        del headers[DEADLINE]
    if ATTEMPT in given:
        processor.attempt = int(given[ATTEMPT])
        del headers[ATTEMPT]
    return processor


class _Shown(Generic[T]):
    """A property that an attribute of the context hides: handlers attach to it what they like, under any name."""

    def __init__(self, of: Callable[[Any], T]) -> None:
        self._of = of
        self.__doc__ = of.__doc__

    def __get__(self, context: Any, owner: object = None) -> T:
        return self._of(context)


class WorkerContext(Context):  # type: ignore[misc]
    """TorchServe's context, which shows the requests of a batch."""

    @_Shown
    def deadline(self) -> float | None:
        """When nobody waits for the batch any more, on the clock of `time.monotonic`; None if somebody may for ever."""
        found = [one.deadline for one in self.request_processor or ()]
        return max(found) if found and None not in found else None

    @_Shown
    def attempt(self) -> int:
        """Highest attempt of its requests."""
        return max((one.attempt for one in self.request_processor or ()), default=1)

    def get_deadline(self, idx: int = 0) -> float | None:
        """Return when the client of a request has given up; None if that is not known."""
        found: float | None = self.request_processor[idx].deadline
        return found

    def get_attempt(self, idx: int = 0) -> int:
        """Return which try of a request it is: 1, and more where workers died that had it before."""
        found: int = self.request_processor[idx].attempt
        return found
