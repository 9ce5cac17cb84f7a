"""The folder of a server, or of a job, for sockets and extracted models: short, ours alone, gone at the end."""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

from serving.errors import StartError

# The system's limit for the path of a unix socket is 104 (macOS) to 108 bytes with its end mark.
_SOCKET_PATH_MAX = 103
_SOCKET_NAME_MAX = len("/.ts.sock.65535")
_PREFIX = "torchmar-"


def make_runtime_folder() -> Path:
    """Make a folder of our own for sockets and extracted models, with a path short enough for a socket.

    Raises:
        StartError: there is no place for one.
    """
    candidates = [tempfile.gettempdir(), "/tmp"]  # noqa: S108 (mkdtemp makes a private folder in it)
    for parent in candidates:
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent)).resolve()
        if len(str(folder).encode()) + _SOCKET_NAME_MAX <= _SOCKET_PATH_MAX:
            return folder
        folder.rmdir()
    raise StartError("no temporary folder with a path short enough for a socket", hint="set TMPDIR to a shorter one")


def remove_runtime_folder(folder: Path) -> None:
    """Remove a folder that `make_runtime_folder` has made, and nothing else: who notes one could be altered."""
    with suppress(OSError):
        found = folder.lstat()
        if folder.name.startswith(_PREFIX) and not folder.is_symlink() and found.st_uid == os.getuid():
            shutil.rmtree(folder, ignore_errors=True)
