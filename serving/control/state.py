"""The files kept about a server, so that a later command finds it: one folder for each server name.

``$TORCHMAR_STATE_HOME`` or ``$XDG_STATE_HOME/torchmar`` or ``~/.local/state/torchmar``, in it ``servers/NAME/``::

    server.json        the record of the running server; absent when none runs
    config.properties  what the frontend was started with
    key_file.json      keys of the token authorization, if it is on (written by the frontend)
    signature_key.pem  with --require-signature: the public key, as it was at the start
    last_models.cfg    the models of the run before the last start, for ``torchmar start --restore``
    logs/              of the last start; logs.previous/ of the one before
    lock               held while a server is started or stopped
    load_test.lock     held while a console that stands beside the server loads it
"""

from __future__ import annotations

import fcntl
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from archive_tool.errors import InputError
from serving.errors import NotRunningError

DEFAULT_NAME = "default"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
# psutil derives a start time from the boot time, which moves a little when the clock is set.
_CLOCK_SLACK_S = 2.0


def state_home(environ: Mapping[str, str] = os.environ) -> Path:
    """Return the folder that holds everything we remember between commands."""
    if named := environ.get("TORCHMAR_STATE_HOME"):
        return Path(named).absolute()
    base = environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(base) / "torchmar"


@dataclass(frozen=True)
class ServerRecord:
    """A server that was started.

    Attributes:
        pid: of the frontend's process, which leads the session that all its workers are in.
        started: when that process was created, seconds since the epoch; tells it from a later one of the same pid.
        inference: address of the inference API; management and metrics likewise; empty where it has no metrics.
        model_store: absolute path.
        runtime_folder: sockets and extracted models; removed at the stop.
        log_folder: ts_log.log, model_log.log, and what the frontend prints itself.
        grpc_inference: empty where the frontend has no gRPC; grpc_management likewise.
        worker: whose Python worker runs the models: ``torchmar``, ``torchserve``, or the path of another's home.
        trusted_store: the store that the frontend reads, of checked copies; empty where any archive is served.
        frontend: ``java``, ``python`` or ``ray``.
        identity: of that process, see `identity_of`; empty in a record of before it was written down.
        cluster: address of the Ray cluster that it was deployed to; it has no process then, and lives as long as the
            cluster has it. Empty for a server of this machine.
    """

    name: str
    pid: int
    started: float
    inference: str
    management: str
    metrics: str
    grpc_inference: str
    grpc_management: str
    model_store: str
    runtime_folder: str
    log_folder: str
    worker: str
    trusted_store: str = ""
    frontend: str = "java"
    identity: str = ""
    cluster: str = ""

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> ServerRecord:
        """Read a record.

        Raises:
            KeyError, TypeError, ValueError: it is not a record.
        """
        # A record from before there was a choice does not say which worker, nor of signatures, nor which frontend.
        newer = {"trusted_store": "", "frontend": "java", "identity": "", "cluster": ""}
        document = {"worker": "torchserve", **newer, **document}
        texts = {key: str(document[key]) for key in cls.__annotations__ if key not in ("pid", "started")}
        return cls(pid=int(document["pid"]), started=float(document["started"]), **texts)

    @property
    def whereabouts(self) -> str:
        """Return what it runs as, in words."""
        return f"Ray cluster {self.cluster}" if self.cluster else f"pid {self.pid}"

    @property
    def alive(self) -> bool:
        """Return whether that very process still runs; of a cluster, only who asks there can tell."""
        if self.cluster:
            return True
        try:
            process = psutil.Process(self.pid)
            if self.identity:
                same = identity_of(self.pid) == self.identity
            else:
                same = abs(process.create_time() - self.started) < _CLOCK_SLACK_S
            return same and process.status() != psutil.STATUS_ZOMBIE
        except psutil.Error:
            return False


def identity_of(pid: int) -> str:
    """Return what tells a process from every other that has its number, then or later: the boot, and the ticks since.

    Not a time: the system derives it from the clock, and a clock that is set would make another process of it. Empty
    where the system does not tell.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        ticks = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""
    return f"{boot} {ticks}"


class StateFolder:
    """The folder of one server name.

    Raises:
        InputError: the name is not letters, digits, ``_``, ``.`` and ``-``.
    """

    def __init__(self, name: str = DEFAULT_NAME, home: Path | None = None) -> None:
        if not _NAME.fullmatch(name):
            raise InputError(f"not a server name: {name!r}", hint="use letters, digits, '_', '.' and '-'")
        self.name = name
        self.path = (home or state_home()) / "servers" / name

    @property
    def config(self) -> Path:
        """What the frontend was started with."""
        return self.path / "config.properties"

    @property
    def logs(self) -> Path:
        """Logs of the last start."""
        return self.path / "logs"

    @property
    def last_models(self) -> Path:
        """The models of the last run, once another one has begun."""
        return self.path / "last_models.cfg"

    @property
    def keys(self) -> Path:
        """The frontend's key file."""
        return self.path / "key_file.json"

    @property
    def load_test(self) -> Path:
        """What a console that stands beside the server locks while it loads it."""
        return self.path / "load_test.lock"

    @property
    def signature_key(self) -> Path:
        """The public key with which every archive must be signed, if the server asks for signatures."""
        return self.path / "signature_key.pem"

    def create(self) -> None:
        """Make the folder, for its owner only whatever the umask: it may hold keys.

        Raises:
            InputError: it cannot be made, or it belongs to another user.
        """
        home = self.path.parent.parent
        missing = [folder for folder in (home, *home.parents) if not folder.exists()]
        try:
            for folder in (*reversed(missing), self.path.parent, self.path):
                _make_private(folder)
        except OSError as error:
            raise InputError(
                f"the state folder {self.path} cannot be made: {error.strerror}",
                hint="name a folder that you may write to in TORCHMAR_STATE_HOME",
            ) from error

    def record(self) -> ServerRecord | None:
        """Return the record of the last start that was not stopped, alive or not; None if there is none.

        Raises:
            InputError: we may not read the folder.
        """
        try:
            return ServerRecord.from_dict(json.loads((self.path / "server.json").read_text(encoding="utf-8")))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except PermissionError as error:
            raise InputError(f"the state folder {self.path} is not yours to read: {error.strerror}") from error
        except (KeyError, TypeError, ValueError):
            # Written by another version, or cut short by a full disk: no server can be found through it.
            return None

    def write(self, record: ServerRecord) -> None:
        """Write the record of a server atomically."""
        temporary = self.path / f"server.json.{os.getpid()}"
        temporary.write_text(json.dumps(asdict(record), indent=2) + "\n", encoding="utf-8")
        temporary.replace(self.path / "server.json")

    def forget(self) -> None:
        """Remove the record and the keys."""
        (self.path / "server.json").unlink(missing_ok=True)
        self.keys.unlink(missing_ok=True)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other commands from starting or stopping the same server meanwhile.

        Raises:
            InputError: the state folder belongs to another user.
        """
        self.create()
        try:
            lock = (self.path / "lock").open("w")
        except OSError as error:
            raise InputError(f"the state folder {self.path} is not yours to write: {error.strerror}") from error
        with lock as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _make_private(folder: Path) -> None:
    """Make a folder, or take one, that only its owner can look into.

    Raises:
        OSError: it cannot be made, or it belongs to another user.
    """
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_mode & 0o777 != 0o700:
        folder.chmod(0o700)


def name_of(folder: Path, home: Path | None = None) -> str:
    """Return the name of the server whose folder this is; empty for any other folder."""
    fits = _NAME.fullmatch(folder.name) and StateFolder(folder.name, home).path.resolve() == folder.resolve()
    return folder.name if fits else ""


def named(name: str) -> str:
    """Return the option of a command that names a server, with a blank before it; empty for the usual one."""
    return "" if name == DEFAULT_NAME else f" --name {name}"


def not_running(name: str, home: Path | None = None) -> NotRunningError:
    """Return the error for a server that does not run: it names those that do, or says how to start this one."""
    others = [record.name for record in running_servers(home)]
    if others:
        hint = f"running: {', '.join(others)}; name one with --name"
    else:
        hint = f"torchmar start{named(name)} begins it, and torchmar deploy ray{named(name)} on Ray"
    return NotRunningError(f"no server {name!r} is running", hint=hint)


def known_servers(home: Path | None = None) -> list[StateFolder]:
    """Return the folders of all servers that have a record, by name."""
    root = (home or state_home()) / "servers"
    if not root.is_dir():
        return []
    folders = [StateFolder(path.name, home) for path in sorted(root.iterdir()) if _NAME.fullmatch(path.name)]
    return [folder for folder in folders if folder.record()]


def running_servers(home: Path | None = None) -> list[ServerRecord]:
    """Return the records of all servers that run, by name; unreadable records belong to other users' servers."""
    with suppress(InputError, OSError):
        records = [state.record() for state in known_servers(home)]
        return [record for record in records if record is not None and record.alive]
    return []
