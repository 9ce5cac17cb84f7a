"""Unpacking an archive safely: what `verify` refuses is refused here too, and a failure leaves nothing."""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final

from archive_tool.errors import InputError, TargetExistsError, UnreadableArchiveError, UnsafeArchiveError
from archive_tool.issues import Kind, refuse, worst
from archive_tool.pickles.budget import Budget
from archive_tool.reading import archive as reading
from archive_tool.verification import rules

if TYPE_CHECKING:
    from collections.abc import Collection

    from archive_tool.files import StrPath
    from archive_tool.issues import Issue
    from archive_tool.reading.containers import Entry

_CHUNK: Final = 1 << 20
_HEAD: Final = 512


class Archive(reading.Archive):
    """An open archive that can be unpacked, too: `archive_tool.Archive`."""

    def extract(self, folder: StrPath, *, allow_pickles: Collection[str] = (), complete: bool = True) -> Path:
        """Unpack every member into a folder that does not exist yet, or is empty; see `extract`."""
        return extract(self, folder, allow_pickles=allow_pickles, complete=complete)


#: Open an archive for reading and unpacking: `archive_tool.open_archive`; see `Archive.opened`.
open_archive = Archive.opened


def extract(
    archive: reading.Archive, folder: StrPath, *, allow_pickles: Collection[str] = (), complete: bool = True
) -> Path:
    """Unpack every member into a folder that does not exist yet, or is empty; return the folder.

    All is unpacked elsewhere first, compared with the manifest's record, and moved into place at the end, so a failure
    leaves nothing. Permissions and times are not restored.

    Args:
        archive: an open one.
        folder: the target.
        allow_pickles: names of members that may run code when they are loaded.
        complete: refuse also an archive that lacks something, or cannot be served as it is.

    Raises:
        UnsafeArchiveError, AlteredArchiveError, UnreadableArchiveError: `verify` would find an issue; all are named.
        TargetExistsError: the folder is not empty, or not a folder.
        InputError: the folder cannot be written.
    """
    archive.check_safe()  # nothing of it is read before
    issues = [*archive.issues, *rules.static_issues(archive, complete=complete)]
    if worst(issues) is Kind.UNSAFE:
        refuse(archive.path, issues)
    target = Path(folder)
    occupied = _check_target(target)
    # An empty folder may be a current directory or a mount point: it stays, and its content moves into it.
    parent = target if occupied else target.parent
    temporary = parent / f".torchmar-{secrets.token_hex(8)}.tmp"
    try:
        refuse(archive.path, [*issues, *_unpack(archive, temporary, allow_pickles)])
        if occupied:
            _move_children(temporary, target)
        else:
            temporary.rename(target)
    except OSError as error:
        raise InputError(f"cannot extract to {target}: {error.strerror or error}", where=str(target)) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target


def _unpack(archive: reading.Archive, temporary: Path, allow_pickles: Collection[str]) -> list[Issue]:
    temporary.mkdir()
    root = temporary.resolve()
    free = shutil.disk_usage(root).free
    needed = sum(entry.size for entry in archive.entries)
    if needed > free:
        raise InputError(f"the archive needs {needed} bytes, {free} are free", where=str(temporary.parent))
    found: list[Issue] = []
    budget = Budget(archive.size)
    for entry, stream in archive.stream(list(archive.entries)):
        path = root.joinpath(*entry.name.split("/"))
        # The names are checked already. This asks the file system itself, in case the checks lack a rule.
        if not path.resolve().is_relative_to(root):
            raise UnsafeArchiveError(f"{entry.raw_name!r} leads out of the folder", where=str(archive.path))
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x+b") as sink:
            digest = _copy(archive, entry, stream, sink)
            sink.seek(0)
            found += rules.head_issues(archive, entry, sink.read(_HEAD))
            found += rules.hash_issues(archive, entry, digest)
            found += rules.early_end_issues(archive, entry)
            if entry.name not in allow_pickles:
                sink.seek(0)
                found += rules.pickle_issues(archive, entry.name, sink, budget)
    return found


def _copy(archive: reading.Archive, entry: Entry, stream: IO[bytes], sink: IO[bytes]) -> str:
    """Copy a member and return its SHA-256."""
    count = 0
    digest = hashlib.sha256()
    while True:
        chunk = stream.read(_CHUNK)
        count += len(chunk)
        # A file of a folder may grow meanwhile; the sizes were checked.
        if not chunk or count > entry.size:
            break
        digest.update(chunk)
        sink.write(chunk)
    if count != entry.size:
        raise UnreadableArchiveError(
            f"{entry.name!r} has {count} bytes where {entry.size} were announced", where=str(archive.path)
        )
    return digest.hexdigest()


def _check_target(target: Path) -> bool:
    """Return whether the target exists (as an empty folder, then)."""
    try:
        if not os.path.lexists(target):
            if not target.parent.is_dir():
                raise InputError(f"the folder {target.parent} does not exist", hint=f"mkdir -p {target.parent}")
            return False
        if target.is_dir() and not any(target.iterdir()):
            return True
    except OSError as error:
        raise InputError(f"cannot look at {target}: {error.strerror}", where=str(target)) from error
    what = "is not empty" if target.is_dir() else "exists already and is no folder"
    raise TargetExistsError(f"{target} {what}", hint="choose a folder that does not exist yet")


def _move_children(source: Path, target: Path) -> None:
    moved: list[Path] = []
    try:
        for child in sorted(source.iterdir()):
            destination = target / child.name
            moved.append(destination)
            child.rename(destination)
    except BaseException:
        for path in moved:
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
        raise
