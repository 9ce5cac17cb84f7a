"""How messages name several things."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")


def first_of(things: Sequence[T], most: int, between: str = ", ", shown: Callable[[T], str] = str) -> str:
    """Return the first `most` of some things, each as `shown` writes it, and how many more there are."""
    first = between.join(map(shown, things[:most]))
    link = " " if between == ", " else between
    return first if len(things) <= most else f"{first}{link}and {len(things) - most} more"
