"""Archives on a node: fetched, checked and unpacked once, for all replicas that run there, and removed after the last.

::

    $TORCHMAR_RAY_CACHE or TMPDIR/torchmar-ray-UID/    the user's alone
        SHA256.lock     held by whoever uses what is beside it, until he ends, however he ends
        SHA256/making   held while it is unpacked
        SHA256/archive/ the file, in the registry's node
        SHA256/model-KEY/  unpacked, and signed with that key; KEY is ``any`` where none is asked for
        run-TOKEN.lock, run-TOKEN/  the same for what a replica, or the front, has for itself

Everything here waits for disks and the network: it runs in a thread, not in an event loop.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import secrets
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from archive_tool import files
from archive_tool.errors import TorchmarError
from archive_tool.verification.signing import SUFFIX, check_signature, signature_path
from serving.frontend.errors import BadRequestError, InternalError, ModelError
from serving.frontend.local.models import archives
from serving.frontend.settings import Settings

#: Names another folder for archives.
VARIABLE: Final = "TORCHMAR_RAY_CACHE"
#: Bytes that are read, sent or written at a time: what an archive takes of anybody's memory.
PIECE: Final = 8 << 20
#: Bytes of an archive.
MAX_ARCHIVE: Final = 256 << 30
#: Bytes of a signature.
_MAX_SIGNATURE: Final = 16 << 20
# What nobody holds is kept for as long: a replica that is started anew finds it.
_KEPT_S: Final = 600.0
_ANY: Final = "any"
# A socket's path has 103 bytes at the most, and a name below the folder of archives forty.
_ROOT_MOST: Final = 63

#: Gives a piece of an archive: its hash, where it begins, most bytes.
Read = Callable[[str, int, int], bytes]


@dataclass(frozen=True)
class Archive:
    """An archive, by what is in it.

    Attributes:
        name: of the file.
        sha256: of it, in hexadecimal digits.
        size: bytes of it.
        path: where it was found; a node that has the same file there takes that one.
        signature: beside it; empty where there is none.
    """

    name: str
    sha256: str
    size: int
    path: str = ""
    signature: bytes = b""


def root() -> Path:
    """Return the folder of archives on this machine, for this user alone.

    Raises:
        InternalError: it cannot be had, or somebody else can write to it: what lies in it is run.
    """
    named = os.environ.get(VARIABLE)
    folder = Path(named) if named else Path(tempfile.gettempdir()) / f"torchmar-ray-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, parents=bool(named), exist_ok=True)
        found = folder.lstat()
    except OSError as error:
        raise InternalError(f"the folder of archives {folder} cannot be made: {error.strerror}") from error
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise InternalError(f"the folder of archives {folder} is not this user's alone; {VARIABLE} names another one")
    return folder


def close(folder: Path) -> bool:
    """Make a folder of this node this user's alone.

    Returns:
        Whether it is: not where somebody else has made it, or can put another one in its place.
    """
    with contextlib.suppress(OSError):
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
        above, found = folder.parent.lstat(), folder.lstat()
        shared = above.st_mode & 0o022 and not above.st_mode & stat.S_ISVTX
        if stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and above.st_uid in (0, os.getuid()):
            folder.chmod(0o700)
            return not shared
    return False


def look(path: Path) -> Archive:
    """Read an archive from its begin to its end, and its signature, if there is one.

    Raises:
        BadRequestError: it cannot be read, is too large, or is a folder.
    """
    if path.is_dir():
        raise BadRequestError(f"{path} is a folder; to Ray Serve goes a file: build it with --archive-format default")
    try:
        found, size = hashlib.sha256(), 0
        with files.open_regular(path) as stream:
            while piece := stream.read(PIECE):
                found.update(piece)
                size += len(piece)
                if size > MAX_ARCHIVE:
                    raise BadRequestError(f"{path} has more than {MAX_ARCHIVE} bytes")
        beside = signature_path(path)
        signature = files.read_regular(beside, _MAX_SIGNATURE) if beside.exists() else b""
    except OSError as error:
        raise BadRequestError(f"{path} cannot be read: {error.strerror or error}") from error
    return Archive(path.name, found.hexdigest(), size, str(path.absolute()), signature)


class Held:
    """A folder of an archive that stays for as long as this is held.

    Attributes:
        folder: of everything about it.
    """

    def __init__(self, folder: Path, descriptor: int) -> None:
        self.folder, self._descriptor = folder, descriptor

    def remove(self) -> None:
        """Remove it: nobody else has it."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.with_suffix(".lock").unlink(missing_ok=True)
        self.release()

    def release(self) -> None:
        """Hold it no longer."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def hold(sha256: str) -> Held:
    """Hold the folder of an archive; others may, too.

    Raises:
        InternalError: it cannot be made.
    """
    folder = root() / sha256
    lock = folder.with_suffix(".lock")
    while True:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_SH)  # waits for a sweep alone
        with contextlib.suppress(OSError):
            if os.fstat(descriptor).st_ino == lock.stat().st_ino:
                folder.mkdir(mode=0o700, exist_ok=True)
                os.utime(descriptor)
                return Held(folder, descriptor)
        os.close(descriptor)  # it was swept away meanwhile


def workplace() -> Held:
    """Hold a new folder for sockets and the like; who is killed leaves it to the next sweep.

    Raises:
        InternalError: the folder of archives has too long a path for sockets below it.
    """
    if len(str(root()).encode()) > _ROOT_MOST:
        raise InternalError(f"the path {root()} is too long for sockets below it; {VARIABLE} names another folder")
    return hold(f"run-{secrets.token_hex(4)}")


def sweep(now: float | None = None) -> None:
    """Remove what nobody has held for a while."""
    before = (time.time() if now is None else now) - _KEPT_S
    for lock in root().glob("*.lock"):
        with contextlib.suppress(OSError):
            if lock.stat().st_mtime > before:
                continue
            descriptor = os.open(lock, os.O_RDWR | os.O_CLOEXEC)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(lock.with_suffix(""), ignore_errors=True)
                lock.unlink()
            finally:
                os.close(descriptor)


def clear() -> None:
    """Remove what nobody holds now, and the folder of archives where that is all."""
    with contextlib.suppress(InternalError, OSError):
        sweep(time.time() + 2 * _KEPT_S)
        root().rmdir()


def unpacked(archive: Archive, read: Read, key: bytes, settings: Settings) -> tuple[Path, Held]:
    """Return the folder of an archive's members, and what holds it.

    Args:
        archive: to be had.
        read: gives its pieces, where no file of this machine has them.
        key: public key in PEM that it must be signed with; empty for none.
        settings: of the server.

    Raises:
        ModelError: it is not what it was, not signed with the key, or not safe to unpack.
        InternalError: it cannot be had or stored.
    """
    held = hold(archive.sha256)
    try:
        checked = hashlib.sha256(key).hexdigest()[:16] if key else _ANY
        folder = held.folder / f"model-{checked}"
        with (held.folder / "making").open("wb") as alone:
            fcntl.flock(alone, fcntl.LOCK_EX)
            if not folder.is_dir():
                with tempfile.TemporaryDirectory(prefix="new-", dir=held.folder) as scratch:
                    made = _made(archive, read, key, Path(scratch), settings)
                    made.rename(folder)
        sweep()
    except OSError as error:
        held.release()
        raise InternalError(f"{archive.name} cannot be stored: {error.strerror or error}") from error
    except BaseException:
        held.release()
        raise
    return folder, held


def _made(archive: Archive, read: Read, key: bytes, scratch: Path, settings: Settings) -> Path:
    store, runtime = scratch / "store", scratch / "runtime"
    for made in (store, runtime):
        made.mkdir(mode=0o700)
    copy = store / archive.name
    _copied(archive, read, copy)
    if key:
        _signed(archive, copy, key)
    place = replace(settings.place, model_store=store, runtime=runtime)
    return archives.unpack(archive.name, replace(settings, place=place)).folder


def _copied(archive: Archive, read: Read, copy: Path) -> None:
    """Copy an archive from the same path of this node, else from the registry; what is copied is what is hashed."""
    sources = [_pieces_of(Path(archive.path))] if archive.path else []
    for pieces in (*sources, _fetched(archive, read)):
        found, size = hashlib.sha256(), 0
        with contextlib.suppress(_OtherFileError), copy.open("wb") as target:
            for piece in pieces:
                found.update(piece)
                size += len(piece)
                if size > archive.size:
                    break
                target.write(piece)
        if found.hexdigest() == archive.sha256:
            return
    raise ModelError(f"{archive.name} is not the archive that was registered: its SHA-256 is another one on this node")


class _OtherFileError(Exception):
    """There is no such file here."""


def _pieces_of(path: Path) -> Iterator[bytes]:
    try:
        with files.open_regular(path) as stream:
            while piece := stream.read(PIECE):
                yield piece
    except OSError as error:
        raise _OtherFileError from error


def _fetched(archive: Archive, read: Read) -> Iterator[bytes]:
    place = 0
    while place < archive.size:
        piece = read(archive.sha256, place, PIECE)
        if not piece:
            return
        yield piece
        place += len(piece)


def _signed(archive: Archive, copy: Path, key: bytes) -> None:
    if not archive.signature:
        raise ModelError(f"{archive.name} is not signed: there was no {archive.name}{SUFFIX} beside it")
    signature, public = signature_path(copy), copy.with_name("key.pem")
    signature.write_bytes(archive.signature)
    public.write_bytes(key)
    try:
        check_signature(copy, public, signature=signature)
    except TorchmarError as error:
        # The user knows the archive, not the copy.
        raise ModelError(error.message.replace(str(copy), archive.name)) from error
    finally:
        public.unlink()
