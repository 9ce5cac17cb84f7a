"""How many files, and so connections, a process may have open at once."""

from __future__ import annotations

import contextlib


def allow() -> None:
    """Allow as many as the system lets this process have, where it has limits; what it forks has them, too."""
    try:
        import resource
    except ImportError:
        return
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
