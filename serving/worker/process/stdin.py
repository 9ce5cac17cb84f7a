"""The standard input of a worker: a pipe of the frontend's, which never writes to it.

Its end is all that a worker sees when it is not killed itself: one of torchrun's ranks when the frontend kills
torchrun, and every worker when somebody kills the frontend.
"""

from __future__ import annotations

import contextlib
import os
import select
import stat


def watch(poll: select.poll) -> bool:
    """Let a poll tell, by descriptor 0, that nobody wants this worker any more; False if its input is no pipe."""
    with contextlib.suppress(OSError):  # it may be closed
        if stat.S_ISFIFO(os.fstat(0).st_mode):
            poll.register(0, 0)
            return True
    return False


def has_ended() -> bool:
    """Return whether nobody wants this worker any more."""
    poll = select.poll()
    return watch(poll) and bool(poll.poll(0))
