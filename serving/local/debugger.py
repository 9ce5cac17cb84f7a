"""``breakpoint()`` in a handler: leaving the debugger ends the run.

The debugger's quit is an Exception, which a worker takes for a failed request: it would run the handler on, or again.
"""

from __future__ import annotations

import bdb
import os
import pdb
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


class _Debugger(pdb.Pdb):
    def trace_dispatch(self, frame: FrameType, event: str, arg: Any) -> Any:
        try:
            return super().trace_dispatch(frame, event, arg)
        except bdb.BdbQuit:
            raise KeyboardInterrupt from None


@contextmanager
def debugger() -> Iterator[None]:
    """Let ``breakpoint()`` start this debugger, unless the user has chosen another one."""
    if "PYTHONBREAKPOINT" in os.environ or sys.breakpointhook is not sys.__breakpointhook__:
        yield
        return

    def hook(*_: Any, **options: Any) -> None:
        _Debugger().set_trace(sys._getframe().f_back, **options)

    sys.breakpointhook = hook
    try:
        yield
    finally:
        sys.breakpointhook = sys.__breakpointhook__
