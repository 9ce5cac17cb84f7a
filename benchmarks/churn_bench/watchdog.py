"""A watchdog that writes down where every thread of every process of a server is.

Python processes tell it at a signal, for which a ``sitecustomize`` module on the server's path prepares each of them;
Java does at SIGQUIT, in its own log. What the kernel knows of a process is written, too: it may be stopped, or not be
Python at all.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from benchmarks.soak_bench.processes import members

_SIGNAL: Final = signal.SIGUSR2
_WAIT_S: Final = 5.0
_STATUS: Final = ("Name", "State", "PPid", "Threads", "SigPnd", "ShdPnd", "SigBlk", "SigIgn", "SigCgt")

_PREPARE: Final = """\
import faulthandler, os, signal
faulthandler.register(signal.{signal}, file=open(os.environ["CHURN_STACKS"], "ab", buffering=0), all_threads=True)
"""


class Watchdog:
    """A writer of a server's stacks into a folder.

    Make it before the server is started: it prepares this process's environment, which the server's processes have.

    Args:
        torch: whether they are to find torch.
    """

    def __init__(self, folder: Path, *, torch: bool) -> None:
        self._folder = folder
        self._stacks = folder / "stacks.txt"
        self._stacks.touch()
        prepared = folder / "prepared"
        prepared.mkdir()
        (prepared / "sitecustomize.py").write_text(_PREPARE.format(signal=_SIGNAL.name))
        if not torch:
            (prepared / "torch.py").write_text("raise ImportError('not here')\n")
        os.environ["CHURN_STACKS"] = str(self._stacks)
        os.environ["PYTHONPATH"] = str(prepared)

    def dump(self, leader: int) -> Path:
        """Write what all processes of the server of this Java process do. Return the file; Java's part is in its log.

        Everything is asked twice: what stands at one place both times hangs there.
        """
        for _ in range(2):
            with self._stacks.open("a", encoding="utf-8") as file:
                file.write(f"\n======== {time.strftime('%H:%M:%S')}\n")
            for member in members(leader):
                pid = member.process.pid
                with self._stacks.open("a", encoding="utf-8") as file:
                    file.writelines(f"{line}\n" for line in (f"\n---- {member.role} {pid}", *_kernel(pid)))
                with suppress(ProcessLookupError):
                    if pid == leader:
                        os.kill(pid, signal.SIGQUIT)
                    elif _catches(pid, _SIGNAL):
                        os.kill(pid, _SIGNAL)
                time.sleep(0.1)  # one after the other, or their lines would be mixed
            time.sleep(_WAIT_S)
        return self._stacks


def _catches(pid: int, number: signal.Signals) -> bool:
    """Return whether a process has a handler of a signal, which would end it otherwise."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("SigCgt:"):
                return bool(int(line.split()[1], 16) >> (number - 1) & 1)
    return False


def _kernel(pid: int) -> Iterator[str]:
    """Yield what the kernel knows of a process."""
    place = Path(f"/proc/{pid}")
    with suppress(OSError):
        yield place.joinpath("cmdline").read_text().replace("\0", " ")
        for line in place.joinpath("status").read_text().splitlines():
            if line.partition(":")[0] in _STATUS:
                yield line
        for task in sorted(place.joinpath("task").iterdir()):
            yield f"thread {task.name}: waits in {task.joinpath('wchan').read_text()}"
        for link in sorted(place.joinpath("fd").iterdir(), key=lambda link: int(link.name)):
            with suppress(OSError):
                yield f"fd {link.name} -> {link.readlink()}"
