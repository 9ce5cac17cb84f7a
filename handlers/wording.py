"""How messages name several things."""

from __future__ import annotations

from collections.abc import Sequence


def first_of(texts: Sequence[str], most: int, between: str = ", ") -> str:
    """Return the first `most` of some texts, and how many more there are."""
    shown = between.join(texts[:most])
    link = " " if between == ", " else between
    return shown if len(texts) <= most else f"{shown}{link}and {len(texts) - most} more"
