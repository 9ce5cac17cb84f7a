"""The role of each process of a server, and what all of them take; from what the system tells, without asking them."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.soak_bench.models import DEDICATED, SHARED, WORKERS
from serving.control.processes import session_members

FRONTEND, PREFORK, THIN, DEDICATED_ROLE, SHARED_ROLE = "frontend", "prefork", "thin", "dedicated", "shared"
STARTING = "starting"
"""Just forked, and not yet at home in its model's folder."""
OTHER = "other"
"""The collector of metrics, or what the frontend starts processes with: comes and goes."""
WORKING = (THIN, DEDICATED_ROLE, SHARED_ROLE, STARTING)
ROLE_OF_MODEL = {DEDICATED: DEDICATED_ROLE, SHARED: SHARED_ROLE}
EXPECTED = {
    FRONTEND: 1,
    PREFORK: 1,
    THIN: sum(WORKERS.values()),
    DEDICATED_ROLE: WORKERS[DEDICATED],
    SHARED_ROLE: 1,
}

_SCRIPT = "model_service_worker.py"
_UNIX_SOCKETS = Path("/proc/net/unix")
_LISTENS = 0x10000  # the kernel's __SO_ACCEPTCON: connections to a socket bear its name, too


@dataclass(frozen=True)
class Member:
    """A process of the server's session."""

    process: psutil.Process
    role: str


def role_of(argv: Sequence[str], *, leads: bool, listens: bool, model: str) -> str:
    """Return the role of a process of the server's session.

    Args:
        argv: its command line, which a forked process shares with the prefork process.
        leads: it leads the session.
        listens: it holds the prefork process's listening socket.
        model: whose files are in its working folder; empty if none are.
    """
    if leads:
        return FRONTEND
    if not any(argument.endswith(_SCRIPT) for argument in argv[:3]):
        return OTHER
    if "--prefork" not in argv:
        return THIN
    return PREFORK if listens else ROLE_OF_MODEL.get(model, STARTING)


def listening_sockets(table: str, owner: int) -> list[str]:
    """Return the inodes of the sockets, from ``/proc/net/unix``, that prefork processes of a server listen on."""
    name = re.compile(rf"@torchmar-\d+-\d+-{owner}-")
    rows = (line.split() for line in table.splitlines()[1:])
    return [row[6] for row in rows if len(row) == 8 and int(row[3], 16) & _LISTENS and name.match(row[7])]


def open_sockets(leader: int) -> list[str]:
    """Return the same as `listening_sockets`, of a server by the pid of its frontend, now."""
    return listening_sockets(_UNIX_SOCKETS.read_text(), leader)


def members(leader: int) -> list[Member]:
    """Return the processes of a server, in the order of their pids."""
    sockets = {f"socket:[{inode}]" for inode in open_sockets(leader)}
    found = []
    for process in session_members(leader):
        with suppress(psutil.Error, OSError):
            argv = process.cmdline()
            listens = "--prefork" in argv and not sockets.isdisjoint(_open_files(process.pid))
            role = role_of(argv, leads=process.pid == leader, listens=listens, model=_model_of(process.pid))
            found.append(Member(process, role))
    return sorted(found, key=lambda member: member.process.pid)


def counts(leader: int) -> dict[str, int]:
    """Count the processes of each role of a server, without those that come and go."""
    return without_others(Counter(member.role for member in members(leader)))


def without_others(numbers: Mapping[str, int]) -> dict[str, int]:
    """Return those that stay."""
    return {role: number for role, number in numbers.items() if role != OTHER and number}


def _open_files(pid: int) -> list[str]:
    found = []
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):  # closed meanwhile
            found.append(str(link.readlink()))
    return found


def _model_of(pid: int) -> str:
    try:
        manifest = json.loads(Path(f"/proc/{pid}/cwd/MAR-INF/MANIFEST.json").read_text())
        return str(manifest["model"]["modelName"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


@dataclass(frozen=True)
class Footprint:
    """The resources of a server.

    Attributes:
        processes: how many, by role.
        memory: bytes by role that are no file's, pages that several processes share counted once (PSS), without the
            frontend and others. The libraries' pages may be shared with programs that are not ours, which come and go.
        frontend: resident bytes of its process.
        frontend_threads: how many it has.
        descriptors: open files of the process of a role that has most of them.
    """

    processes: Mapping[str, int]
    memory: Mapping[str, int]
    frontend: int
    frontend_threads: int
    descriptors: Mapping[str, int]

    @property
    def backend(self) -> int:
        """Return the bytes of all processes of the backend."""
        return sum(self.memory.values())


def footprint(leader: int) -> Footprint:
    """Measure a server."""
    numbers: Counter[str] = Counter()
    memory: Counter[str] = Counter()
    descriptors: dict[str, int] = {}
    frontend = threads = 0
    for member in members(leader):
        process, role = member.process, member.role
        with suppress(psutil.Error, OSError):
            if role == FRONTEND:
                frontend, threads = process.memory_info().rss, process.num_threads()
            elif role != OTHER:
                memory[role] += own_kb(Path(f"/proc/{process.pid}/smaps_rollup").read_text()) * 1024
            numbers[role] += 1
            descriptors[role] = max(descriptors.get(role, 0), process.num_fds())
    return Footprint(without_others(numbers), memory, frontend, threads, descriptors)


def own_kb(text: str) -> int:
    """Return ``Pss_Anon`` of a smaps_rollup file; ``Pss`` on a kernel that does not tell it apart (before 5.9)."""
    rows = (line.split() for line in text.splitlines()[1:])
    found = {row[0]: int(row[1]) for row in rows}
    return found.get("Pss_Anon:", found.get("Pss:", 0))
