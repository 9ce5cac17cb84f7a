"""A batch between the two halves of a handler's work. A worker may run the first half ahead of time."""

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
    """The result of `BaseHandler.prepare`, for `BaseHandler.complete`.

    `rows` are the requests. `done` says whether preprocess has run for them; if not, they are not plain predictions and
    all work is left to `complete`. `value` is the result of preprocess, or `error` what it raised. `failed` has what it
    raised for single requests, by their index; `value` then belongs to the others. `requests` are the contexts of the
    requests. `seconds` is the time it took.
    """

    rows: Sequence[Any]
    done: bool = False
    value: Any = None
    error: Exception | None = None
    failed: dict[int, Exception] = field(default_factory=dict)
    requests: Sequence[RequestContext] = ()
    seconds: float = 0.0

    def take(self) -> Any:
        """Return the value, once.

        Raises:
            Exception: what preprocess raised.
        """
        if self.error is not None:
            raise self.error
        value, self.value = self.value, None
        return value


class Preparation:
    """A batch that a handler prepares in this thread, while another thread may run the batch before."""

    __slots__ = ("context", "handler")

    def __init__(self, handler: object, context: Context | None) -> None:
        self.handler = handler
        self.context = context


current: ContextVar[Preparation | None] = ContextVar("preparation", default=None)
"""The batch that this thread prepares."""


def is_sdks(hook: Any) -> bool:
    """Return whether a hook is the SDK's own."""
    return str(getattr(hook, "__module__", None)).startswith(f"{_PACKAGE}.")


def is_computed(handler: object, name: str) -> bool:
    """Return whether an attribute is a method or a property of the handler's own class."""
    found = inspect.getattr_static(handler, name, None)
    return inspect.isfunction(found) or isinstance(found, property | classmethod)
