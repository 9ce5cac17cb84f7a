"""One request of a batch, as the hooks for single requests see it."""

from __future__ import annotations

import os
import time
from contextlib import contextmanager
from contextvars import ContextVar
from math import inf
from typing import TYPE_CHECKING, Any

from handlers.batch.inputs import names_of_input
from handlers.batch.isolation import Failed
from handlers.errors import is_out_of_memory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from handlers.context import Context

_DEFAULT_TIMEOUT_S = 120.0  # the frontend's default, for a model with a config file that names none


class RequestContext:
    """What `preprocess_one` and `postprocess_one` know about their request, and may set for its reply.

    It belongs to the request, not to a place in the batch, so it stays right while parts of a batch run. Where there is
    no real request (the handler is called without a worker), there are no headers, and what is set is dropped.

    Attributes:
        parameters: the request's parameters by name, as the row of the batch holds them; `data` or `body`, or the only
            one, is the input.
        state: a dict of the request's own, empty at first: `postprocess_one` finds there what `preprocess_one` put in.
        deadline: when the client or the frontend stops waiting, whichever is first, on the clock of `time.monotonic`;
            the frontend's time is counted from the moment the batch reached the handler. None if neither is known.
    """

    __slots__ = ("_context", "_processor", "deadline", "parameters", "state")

    def __init__(
        self,
        context: Context | None = None,
        processor: Any = None,
        parameters: dict[str, Any] | None = None,
        deadline: float | None = None,
    ) -> None:
        self._context = context
        self._processor = processor
        self.parameters = parameters or {}
        self.state: dict[str, Any] = {}
        self.deadline = deadline

    @property
    def headers(self) -> dict[str, str]:
        """The request's HTTP headers, with names in lower case; a gRPC request has none."""
        found = {} if self._processor is None else self._processor.get_request_properties() or {}
        # The worker keeps a dict of headers for each parameter, too.
        return {str(name).lower(): value for name, value in found.items() if isinstance(value, str)}

    @property
    def is_grpc(self) -> bool:
        """Whether the request came over gRPC: every HTTP request has headers."""
        return self._processor is not None and not self.headers

    @property
    def content_type(self) -> str:
        """The Content-Type of the input, the body's or a form field's; empty if the client named none."""
        found = {} if self._processor is None else self._processor.get_request_properties() or {}
        parts = (found.get(name) for name in names_of_input(self.parameters))
        part = next((one for one in parts if isinstance(one, dict)), None)
        return self.headers.get("content-type", "") if part is None else str(part.get("content-type") or "")

    @property
    def attempt(self) -> int:
        """Which try of the request it is: 1, and more where workers died that had it before."""
        return getattr(self._processor, "attempt", 1)

    @property
    def trace(self) -> str | None:
        """The request's `traceparent`: the worker's span if it is traced, else the client's own; or None."""
        return getattr(self._processor, "trace", None) or self.headers.get("traceparent")

    @property
    def request_id(self) -> str | None:
        """The frontend's identifier of the request, as in its log."""
        index = self._index()
        return None if index is None else _item(getattr(self._context, "request_ids", None), index)

    def set_status(self, code: int, phrase: str = "") -> None:
        """Set the HTTP status of the reply."""
        if self._processor is not None:
            self._processor.report_status(code, reason_phrase=phrase)

    def set_header(self, name: str, value: str) -> None:
        """Set a header of the reply."""
        if self._processor is not None:
            self._processor.add_response_property(name, value)

    def set_content_type(self, value: str) -> None:
        """Set the content type of the reply."""
        self.set_header("content-type", value)

    def add_counter(self, name: str, value: float = 1) -> None:
        """Add to a counter metric."""
        self._record("add_counter", name, value)

    def add_time(self, name: str, milliseconds: float) -> None:
        """Record a metric that is a time."""
        self._record("add_time", name, milliseconds)

    def add_size(self, name: str, megabytes: float) -> None:
        """Record a metric that is a size."""
        self._record("add_size", name, megabytes)

    def add_percent(self, name: str, percent: float) -> None:
        """Record a metric that is a percentage."""
        self._record("add_percent", name, percent)

    def _record(self, kind: str, name: str, value: float) -> None:
        metrics = getattr(self._context, "metrics", None)
        if metrics is not None:
            # A list of its own: TorchServe's default is one list for all models of the process, and it adds to that.
            getattr(metrics, kind)(name, value, self._index(), dimensions=[])

    def _index(self) -> int | None:
        """Return the request's index among those that the context shows now."""
        shown = getattr(self._context, "request_processor", None) or ()
        return next((index for index, one in enumerate(shown) if one is self._processor), None)


def _item(values: Any, index: int) -> Any:
    try:
        return values[index]
    except (LookupError, TypeError):
        return None


def requests_of(context: Context | None, rows: Sequence[Any]) -> list[RequestContext]:
    """Make the contexts of a batch's requests.

    Where an envelope made all rows of one request, they share its headers and reply, but not their `state`. Where it is
    not known which row belongs to which request, the contexts are empty.
    """
    processors: Sequence[Any] = getattr(context, "request_processor", None) or ()
    if len(processors) == 1:
        processors = [processors[0]] * len(rows)
    elif len(processors) != len(rows):
        processors = [None] * len(rows)
    timeout = _timeout(getattr(context, "model_yaml_config", None))
    end = inf if timeout is None else time.monotonic() + timeout
    return [
        RequestContext(context, processor, row if isinstance(row, dict) else None, _deadline(processor, end))
        for row, processor in zip(rows, processors, strict=True)
    ]


def _deadline(processor: Any, end: float) -> float | None:
    """Return when nobody waits any more; only torchmar's own frontend tells of its client."""
    of_client = getattr(processor, "deadline", None)
    found = end if of_client is None else min(end, of_client)
    return None if found == inf else found


def _timeout(config: Any) -> float | None:
    """Return the seconds that the frontend waits for a batch, by its rules for `responseTimeout`."""
    if isinstance(config, dict) and config:
        given = config.get("responseTimeout")
        return float(given) if type(given) is int and given > 0 else _DEFAULT_TIMEOUT_S
    try:
        return float(os.environ["TORCHMAR_RESPONSE_TIMEOUT"])  # the setting of torchmar's server
    except (KeyError, ValueError):
        return None


def each(hook: Callable[[Any, Any], Any], values: Iterable[Any], requests: Sequence[RequestContext]) -> list[Any]:
    """Call a hook for every request; return its results, with `Failed` where it raised.

    Out-of-memory errors and failures of the GPU are raised.
    """
    found: list[Any] = []
    for value, request in zip(values, requests, strict=True):
        try:
            found.append(hook(value, request))
        except Exception as error:
            if is_out_of_memory(error):
                raise
            found.append(Failed(error))
    return found


_batch: ContextVar[Sequence[RequestContext] | None] = ContextVar("batch", default=None)


@contextmanager
def serving(requests: Sequence[RequestContext]) -> Iterator[None]:
    """Make the requests of the batch known to the hooks that run in this thread."""
    token = _batch.set(requests)
    try:
        yield
    finally:
        _batch.reset(token)


def of_batch(count: int) -> Sequence[RequestContext] | None:
    """Return the requests of the batch that is in a hook of this thread, if their number is `count`."""
    found = _batch.get()
    return found if found is not None and len(found) == count else None
