"""Opens an archive: what it says about itself, what it holds, and unpacking it without harm.

An archive comes from elsewhere. Nothing of it is run, nothing is written outside the folder asked for, and neither
memory nor disk is filled beyond a bound.
"""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final

from archive_tool.containers import (
    MAX_GROWTH,
    MAX_TOTAL,
    Container,
    Entry,
    count_problem,
    growth_problem,
    open_container,
)
from archive_tool.errors import InputError, TargetExistsError, UnreadableArchiveError, UnsafeArchiveError
from archive_tool.layout import MANIFEST_NAME, collisions, name_problem
from archive_tool.manifest import Manifest
from archive_tool.streams import damage_named

if TYPE_CHECKING:
    from collections.abc import Iterator

    from archive_tool.inputs import StrPath

_CHUNK: Final = 1 << 20
_MANIFEST_LIMIT: Final = 16 << 20


@dataclass(frozen=True)
class ArchiveMember:
    """A file of an archive.

    Attributes:
        name: its path in the archive.
        size: bytes when unpacked.
        packed: bytes in the archive; equal to size where members are not packed one by one.
        method: "stored", "deflated", "gzip" or "file".
    """

    name: str
    size: int
    packed: int
    method: str


class Archive:
    """An open archive; made by `open_archive`.

    Attributes:
        path: where it is.
        archive_format: "default", "zip-store", "tgz" or "no-archive", as `build` calls them.
        size: its bytes on disk.
        members: its files, in the archive's order.
        problems: why it is not safe to unpack; empty if it is.
    """

    def __init__(self, path: Path, container: Container, max_total: int) -> None:
        self.path = path
        self.archive_format = container.archive_format
        self._container = container
        self._entries = [entry for entry in container.entries if entry.kind != "folder"]
        self.members = tuple(
            ArchiveMember(entry.name, entry.size, entry.packed, entry.method) for entry in self._entries
        )
        self.size = sum(member.size for member in self.members) if path.is_dir() else path.stat().st_size
        self.problems = tuple(self._problems(max_total))

    def _problems(self, max_total: int) -> Iterator[str]:
        entries = self._container.entries
        for entry in entries:
            if problem := _entry_problem(entry):
                yield f"{entry.raw_name!r} {problem}"
        yield from collisions(entry.name for entry in self._entries)
        total = sum(entry.size for entry in entries)
        if problem := growth_problem(total, self.size) or count_problem(len(entries)):
            yield f"the archive {problem}"
        if total > max(max_total, MAX_GROWTH * self.size):
            yield f"the archive would grow to {total} bytes, more than the limit of {max_total}"

    def check_safe(self) -> None:
        """Refuse an archive that is not safe to unpack.

        Raises:
            UnsafeArchiveError: it names every problem.
        """
        if self.problems:
            lines = "".join(f"\n- {problem}" for problem in self.problems)
            raise UnsafeArchiveError(
                f"{self.path} is not safe to unpack{lines}",
                hint="do not use it; ask for a new one where it comes from",
            )

    @functools.cached_property
    def manifest(self) -> Manifest | None:
        """What the archive says about itself; None if it holds no manifest, which TorchServe allows.

        Raises:
            UnreadableArchiveError: there is one that cannot be read.
        """
        if not any(member.name == MANIFEST_NAME for member in self.members):
            return None
        return Manifest.from_json(self.read(MANIFEST_NAME, _MANIFEST_LIMIT))

    @contextlib.contextmanager
    def open(self, name: str) -> Iterator[IO[bytes]]:
        """Open a member for reading.

        Raises:
            UnreadableArchiveError: there is no such member, or it is damaged.
            UnsafeArchiveError: it is no ordinary file.
        """
        with self._container.open(self._find(name)) as stream:
            yield stream

    def _find(self, name: str) -> Entry:
        entry = next((entry for entry in self._entries if entry.name == name), None)
        if entry is None:
            raise UnreadableArchiveError(f"there is no member {name!r}", where=str(self.path))
        if entry.kind != "file":
            raise UnsafeArchiveError(f"the member {name!r} is {entry.kind}", where=str(self.path))
        return entry

    def peek(self, name: str) -> IO[bytes] | None:
        """Open a member in which one can jump about for nothing; None if it is packed. Checksums are not looked at.

        Raises:
            UnreadableArchiveError, UnsafeArchiveError: as `open`.
        """
        return self._container.peek(self._find(name))

    def read(self, name: str, limit: int) -> bytes:
        """Read a member of at most ``limit`` bytes into memory.

        Raises:
            UnreadableArchiveError: as `open`, or it is longer than the limit.
        """
        with self.open(name) as stream:
            data = stream.read(limit + 1)
            while len(data) <= limit and (more := stream.read(limit + 1 - len(data))):
                data += more
        if len(data) > limit:
            raise UnreadableArchiveError(f"the member {name!r} is longer than {limit} bytes", where=str(self.path))
        return data

    def extract(self, folder: StrPath) -> Path:
        """Unpack every member below a folder that does not exist yet, or is empty. Returns the folder.

        All is unpacked elsewhere first and moved into place at the end, so a failure leaves nothing. Permissions and
        times are not restored.

        Raises:
            UnsafeArchiveError: see `problems`.
            UnreadableArchiveError: a member is damaged.
            TargetExistsError: something is in the folder, or is no folder.
            InputError: the folder cannot be written.
        """
        self.check_safe()
        target = Path(folder)
        occupied = _check_target(target)
        # An empty folder may be somebody's current one or a mount point: it stays, and its content moves into it.
        parent = target if occupied else target.parent
        temporary = parent / f".torchmar-{os.urandom(8).hex()}.tmp"
        try:
            self._unpack(temporary)
            if occupied:
                _move_children(temporary, target)
            else:
                temporary.rename(target)
        except OSError as error:
            raise InputError(f"cannot extract to {target}: {error.strerror or error}", where=str(target)) from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        return target

    def _unpack(self, temporary: Path) -> None:
        temporary.mkdir()
        root = temporary.resolve()
        free = shutil.disk_usage(root).free
        needed = sum(entry.size for entry in self._entries)
        if needed > free:
            raise InputError(f"the archive needs {needed} bytes, {free} are free", where=str(temporary.parent))
        for entry, stream in self._container.stream(self._entries):
            path = root.joinpath(*entry.name.split("/"))
            # The names are checked already. This asks the file system itself, whatever rule the checks may lack.
            if not path.resolve().is_relative_to(root):
                raise UnsafeArchiveError(f"{entry.raw_name!r} leads out of the folder", where=str(self.path))
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("xb") as sink:
                self._copy(entry, stream, sink)

    def _copy(self, entry: Entry, stream: IO[bytes], sink: IO[bytes]) -> None:
        count = 0
        while True:
            chunk = stream.read(_CHUNK)
            count += len(chunk)
            # A file of a folder may grow meanwhile; the sizes were what we checked.
            if not chunk or count > entry.size:
                break
            sink.write(chunk)
        if count != entry.size:
            raise UnreadableArchiveError(
                f"{entry.name!r} has {count} bytes where {entry.size} were announced", where=str(self.path)
            )

    def close(self) -> None:
        """Close the file."""
        self._container.close()


@contextlib.contextmanager
def open_archive(path: StrPath, *, allow_unsafe: bool = False, max_total: int = MAX_TOTAL) -> Iterator[Archive]:
    """Open a ``.mar``, a ``.tar.gz`` or a folder for reading.

    Args:
        path: where it is.
        allow_unsafe: open it for listing although it is not safe to unpack; see `Archive.problems`.
        max_total: bytes that it may unpack to; always allowed is twenty times its own size.

    Raises:
        UnreadableArchiveError: it is not there, damaged, or no archive.
        UnsafeArchiveError: a member would be written where it must not, or it is a bomb.
    """
    location = Path(path)
    container = open_container(location)
    try:
        with damage_named(location):
            archive = Archive(location, container, max_total)
        if not allow_unsafe:
            archive.check_safe()
        yield archive
    finally:
        container.close()


def _entry_problem(entry: Entry) -> str | None:
    if entry.kind not in ("file", "folder"):
        return f"is {entry.kind}"
    # The cut of a tar's first component must not hide that the whole name leads elsewhere.
    if entry.raw_name != entry.name and (entry.raw_name.startswith("/") or entry.raw_name.startswith("../")):
        return "is an absolute path" if entry.raw_name.startswith("/") else "leads out of the archive ('..')"
    name = entry.name.rstrip("/") if entry.kind == "folder" else entry.name
    if entry.kind == "folder" and name in ("", "."):
        return None  # the folder of all members
    if problem := name_problem(name):
        return problem
    return growth_problem(entry.size, entry.packed)


def _check_target(target: Path) -> bool:
    """Say whether the target is there (an empty folder, then)."""
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
