"""Descriptions of how a process ended."""

from __future__ import annotations

import signal
from typing import Final

# The number that a shell, and Java, give to a process ended by SIGKILL.
_KILLED: Final = (-9, 128 + 9)
_ASKED: Final = ("SIGHUP", "SIGINT", "SIGTERM")


def how_it_ended(code: int) -> str:
    """Describe the end of a process; the text follows its name.

    Args:
        code: its exit code; a negative one is the signal that ended it, as in `subprocess`.
    """
    if code in _KILLED:
        return "was killed (by the system, for lack of memory?)"
    if code >= 0:
        return f"ended with the exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"was ended by {name}" if name in _ASKED else f"crashed: {name}"
