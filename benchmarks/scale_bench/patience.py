"""Ray on a busy machine: it gives its agents seconds to begin, and ends where they take longer."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import ray

T = TypeVar("T")
_TRIES = 3


def begun(start: Callable[[], T]) -> T:
    """Return what a start of Ray returns, of the first that does not fail.

    Raises:
        Exception: none did; Ray knows nothing narrower.
    """
    for left in reversed(range(_TRIES)):
        try:
            return start()
        except Exception:
            if not left:
                raise
            ray.shutdown()
    raise AssertionError
