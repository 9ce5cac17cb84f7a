"""What a process inherits from the one that started it, and passes to those that it starts.

A forked worker is to be the process that the frontend would have started. But it is a child of the prefork process,
which may be older than the frontend: Java raises the limit of open files for all that it starts, and a server's
priority may have changed since. So the thin process, which the frontend did start, says what it
has, and the forked one makes it its own.

Only what a thin process needs is imported here, for there is one of them for every worker; and only in the functions
what is not on every system.
"""

from __future__ import annotations

import contextlib
import os
import signal
from typing import Any

_OOM = "/proc/self/oom_score_adj"


def take() -> dict[str, Any]:
    """Return what this process has of what `put` can give another one: plain values that can be sent."""
    import resource

    umask = os.umask(0o077)
    os.umask(umask)
    names = [name for name in dir(resource) if name.startswith("RLIMIT_")]
    return {
        "umask": umask,
        "blocked": sorted(map(int, signal.pthread_sigmask(signal.SIG_BLOCK, ()))),
        "ignored": sorted(map(int, _ignored())),
        "limits": {name: resource.getrlimit(getattr(resource, name)) for name in names},
        "nice": os.getpriority(os.PRIO_PROCESS, 0),
        "cores": sorted(os.sched_getaffinity(0)),
        "oom": _oom(),
    }


def put(inherited: dict[str, Any]) -> None:
    """Give this process, which ignores SIGINT, what another one had, as far as the system lets it.

    It still withstands SIGINT, but what it starts does not.
    """
    import resource

    os.umask(inherited["umask"])
    if signal.SIGINT not in inherited["ignored"]:
        _withstand_interrupts()
    for number in _ignored() - set(inherited["ignored"]):
        signal.signal(number, signal.SIG_DFL)
    for number in inherited["ignored"]:
        with contextlib.suppress(OSError, ValueError):
            signal.signal(number, signal.SIG_IGN)
    for name, limits in inherited["limits"].items():
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(getattr(resource, name), limits)
    with contextlib.suppress(OSError):
        if os.getpriority(os.PRIO_PROCESS, 0) != inherited["nice"]:
            os.setpriority(os.PRIO_PROCESS, 0, inherited["nice"])
    with contextlib.suppress(OSError):
        if os.sched_getaffinity(0) != set(inherited["cores"]):
            os.sched_setaffinity(0, inherited["cores"])
    if _oom() != inherited["oom"]:
        with contextlib.suppress(OSError), open(_OOM, "w") as file:  # noqa: PTH123 (pathlib takes long to import)
            file.write(inherited["oom"])
    signal.pthread_sigmask(signal.SIG_SETMASK, inherited["blocked"])


def _withstand_interrupts() -> None:
    """Ignore Ctrl-C, which reaches all processes of a terminal: the frontend decides what it means.

    Nothing of it is inherited: a function does not survive exec, as ``SIG_IGN`` would, so a program that a handler
    starts gets the signal as it does under TorchServe's worker; and a forked process gets Python's own reaction back.
    """
    signal.signal(signal.SIGINT, _pass)
    signal.siginterrupt(signal.SIGINT, False)
    os.register_at_fork(after_in_child=_react_again)


def _pass(*_: object) -> None:
    return


def _react_again() -> None:
    if signal.getsignal(signal.SIGINT) is _pass:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _ignored() -> set[int]:
    """Return the signals that this process ignores."""
    return {number for number in signal.valid_signals() if signal.getsignal(number) is signal.SIG_IGN}


def _oom() -> str:
    """Read how much sooner than others this process is killed when memory runs out; empty where that is unknown."""
    try:
        with open(_OOM) as file:  # noqa: PTH123
            return file.read().strip()
    except OSError:
        return ""
