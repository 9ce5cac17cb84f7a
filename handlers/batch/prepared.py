"""A batch between the two halves of a handler's work, of which a worker may run the first ahead of time."""

from __future__ import annotations

import inspect
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from handlers.batch.request import RequestContext
    from handlers.context import Context

_PACKAGE = __name__.partition(".")[0]


@dataclass(eq=False)
class Prepared:
    """What `BaseHandler.prepare` gives for `BaseHandler.complete`.

    `rows` are the requests. `done` tells whether preprocess has run for them; else all is left to `complete`, for they
    are no plain predictions. `value` is what preprocess gave, or `error` what it raised. `failed` has what it raised
    for single requests, by their index; then `value` is of the others. `requests` are the contexts of the requests.
    `seconds` is the time it took.
    """

    rows: Sequence[Any]
    done: bool = False
    value: Any = None
    error: Exception | None = None
    failed: dict[int, Exception] = field(default_factory=dict)
    requests: Sequence[RequestContext] = ()
    seconds: float = 0.0

    def take(self) -> Any:
        """Give the value, once, or raise the error."""
        if self.error is not None:
            raise self.error
        value, self.value = self.value, None
        return value


class Preparation:
    """A batch of a handler that is being prepared in this thread, while another thread may run the one before."""

    __slots__ = ("context", "handler")

    def __init__(self, handler: object, context: Context | None) -> None:
        self.handler = handler
        self.context = context


current: ContextVar[Preparation | None] = ContextVar("preparation", default=None)
"""What is being prepared in this thread."""


def is_sdks(hook: Any) -> bool:
    """Tell whether a hook is the SDK's own."""
    return str(getattr(hook, "__module__", None)).startswith(f"{_PACKAGE}.")


def is_computed(handler: object, name: str) -> bool:
    """Tell whether an attribute is a method or a property of the handler's own class."""
    found = inspect.getattr_static(handler, name, None)
    return inspect.isfunction(found) or isinstance(found, property | classmethod)
