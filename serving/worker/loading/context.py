"""TorchServe's context, and what torchmar's own frontend says of a request besides: deadline, which try it is, trace.

A header is found whatever the case of its name, for names of HTTP have none; TorchServe's context compares the text.

They come as headers of names that no HTTP request can have, so no client can say them: `serving.protocol.messages`.
Importing this adds them to TorchServe's own classes. Subclasses would be other types, and handlers look at the type.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

from ts.context import Context, RequestProcessor

from serving.protocol import ATTEMPT, DEADLINE, TRACE, Request, header_of

T = TypeVar("T")


def processor_of(request: Request, headers: dict[str, Any]) -> RequestProcessor:
    """Make the view of a request.

    Args:
        request: as it came.
        headers: that the handler is to see; those of the frontend are taken out.
    """
    processor = RequestProcessor(headers)
    given = request.headers
    if DEADLINE in given:
        processor.deadline = float(given[DEADLINE])
        del headers[DEADLINE]
    if ATTEMPT in given:
        processor.attempt = int(given[ATTEMPT])
        del headers[ATTEMPT]
    if TRACE in given:
        processor.trace = given[TRACE]
        del headers[TRACE]
    return processor


class _Shown(Generic[T]):
    """A property that an attribute of the context hides: handlers attach to it what they like, under any name."""

    def __init__(self, of: Callable[[Any], T]) -> None:
        self._of = of
        self.__doc__ = of.__doc__

    def __get__(self, context: Any, owner: object = None) -> T:
        return self._of(context)


def _deadline(context: Any) -> float | None:
    """When nobody waits for the batch any more, on the clock of `time.monotonic`; None if somebody may for ever."""
    found = [one.deadline for one in context.request_processor or ()]
    return max(found) if found and None not in found else None


def _attempt(context: Any) -> int:
    """Highest attempt of its requests."""
    return max((one.attempt for one in context.request_processor or ()), default=1)


def _trace(context: Any) -> str | None:
    """Return the trace of its first request that has one."""
    requests = range(len(context.request_processor or ()))
    return next(filter(None, (get_trace(context, index) for index in requests)), None)


def get_deadline(self: Any, idx: int = 0) -> float | None:
    """Return when the client of a request has given up; None if that is not known."""
    found: float | None = self.request_processor[idx].deadline
    return found


def get_attempt(self: Any, idx: int = 0) -> int:
    """Return which try of a request it is: 1, and more where workers died that had it before."""
    found: int = self.request_processor[idx].attempt
    return found


def get_trace(self: Any, idx: int = 0) -> str | None:
    """Return a request's ``traceparent``: of its worker's span, else the client's own; None without either."""
    processor = self.request_processor[idx]
    texts = {str(name): value for name, value in processor.get_request_properties().items() if isinstance(value, str)}
    return processor.trace or header_of(texts, "traceparent") or None


def get_request_property(self: Any, key: Any) -> Any:
    """Return a header of the request, whatever the case of its name: many proxies write names in small letters."""
    headers = self.get_request_properties()
    found = headers.get(key)
    if found is None and isinstance(key, str):
        wanted = key.lower()
        return next((value for name, value in headers.items() if str(name).lower() == wanted), None)
    return found


# Of a request of which nothing is said.
RequestProcessor.deadline, RequestProcessor.attempt, RequestProcessor.trace = None, 1, None
Context.deadline, Context.attempt, Context.trace = _Shown(_deadline), _Shown(_attempt), _Shown(_trace)
Context.get_deadline, Context.get_attempt, Context.get_trace = get_deadline, get_attempt, get_trace
RequestProcessor.get_request_property = get_request_property
#: Where handlers of the SDK write down when each part of their work began and ended; None where nobody asks.
Context.torchmar_parts = None
