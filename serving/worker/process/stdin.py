"""The standard input of a worker: a pipe of the frontend's, which never writes to it.

Its end is all that a worker sees when it is not killed itself: one of torchrun's ranks when the frontend kills
torchrun, and every worker when somebody kills the frontend.
"""

from __future__ import annotations

import contextlib
import os
import select
import stat


def watch(poll: select.poll, descriptor: int = 0) -> bool:
    """Let a poll tell, by a descriptor, that nobody wants this worker any more; False if its input is no pipe.

    Args:
        descriptor: of the standard input. Descriptor 0 is the handler's to close, and to give to something else.
    """
    with contextlib.suppress(OSError):  # it may be closed
        if stat.S_ISFIFO(os.fstat(descriptor).st_mode):
            poll.register(descriptor, 0)
            return True
    return False


def has_ended() -> bool:
    """Return whether nobody wants this worker any more."""
    poll = select.poll()
    return watch(poll) and bool(poll.poll(0))
