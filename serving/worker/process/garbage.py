"""When the garbage collector looks: seldom while a model is imported and loaded, for what comes of that stays."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

#: New objects, more than have gone, before it looks. With Python's 700 its looks are a seventh of importing torch.
_YOUNG: Final = 50_000


@contextmanager
def seldom() -> Iterator[None]:
    """Let it look seldom; what a handler's module itself says of the collector holds."""
    before = gc.get_threshold()
    if not 0 < before[0] < _YOUNG:
        yield
        return
    gc.set_threshold(_YOUNG, *before[1:])
    try:
        yield
    finally:
        if gc.get_threshold()[0] == _YOUNG:
            gc.set_threshold(*before)
