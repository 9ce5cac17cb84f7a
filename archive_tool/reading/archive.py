"""An open archive: its manifest and its members.

An archive is untrusted. Nothing of it is run, and memory is bounded.
"""

from __future__ import annotations

import contextlib
import functools
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, TypeVar

from archive_tool import json_text
from archive_tool.errors import UnreadableArchiveError, UnsafeArchiveError
from archive_tool.issues import Issue, Kind, refuse
from archive_tool.metadata.manifest import Manifest
from archive_tool.metadata.names import MANIFEST_NAME, collisions, name_problem
from archive_tool.reading.containers import (
    MAX_GROWTH,
    MAX_TOTAL,
    Container,
    Entry,
    growth_problem,
    open_container,
)
from archive_tool.reading.streams import damage_named

if TYPE_CHECKING:
    from collections.abc import Iterator

    from archive_tool.files import StrPath

A = TypeVar("A", bound="Archive")


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
        entries: the same with all that the container says about them, and also those that are not files.
        is_bomb: it would grow without bound, so nothing of it should be unpacked.
        issues: problems found without reading its members; `verify` reads them too.
    """

    def __init__(self, path: Path, container: Container, max_total: int) -> None:
        self.path = path
        self.archive_format = container.archive_format
        self._container = container
        self.entries = tuple(entry for entry in container.entries if entry.kind != "folder")
        self.members = tuple(
            ArchiveMember(entry.name, entry.size, entry.packed, entry.method) for entry in self.entries
        )
        self.size = sum(member.size for member in self.members) if path.is_dir() else path.stat().st_size
        self._by_name = {entry.name: entry for entry in reversed(self.entries)}  # the first of several
        whole = tuple(self._size_issues(max_total))
        self.is_bomb = bool(whole)
        self.issues = (*self._name_issues(), *whole, *container.layout())

    @classmethod
    @contextlib.contextmanager
    def opened(cls: type[A], path: StrPath, *, allow_unsafe: bool = False, max_total: int = MAX_TOTAL) -> Iterator[A]:
        """Open a ``.mar``, a ``.tar.gz`` or a folder.

        Args:
            path: where it is.
            allow_unsafe: open it for listing although it is not safe to unpack; see `Archive.problems`.
            max_total: bytes that it may unpack to; twenty times its own size is always allowed.

        Raises:
            UnreadableArchiveError: it is missing, damaged, or not an archive.
            UnsafeArchiveError: a member would be written outside the folder, or it is a bomb.
        """
        location = Path(path)
        container = open_container(location)
        try:
            with damage_named(location):
                archive = cls(location, container, max_total)
            if not allow_unsafe:
                archive.check_safe()
            yield archive
        finally:
            container.close()

    def _name_issues(self) -> Iterator[Issue]:
        entries = self._container.entries
        for entry in entries:
            if problem := _entry_problem(entry):
                yield Issue(Kind.UNSAFE, f"{entry.raw_name!r} {problem}", entry.raw_name)
        for problem in collisions(entry.name for entry in self.entries):
            yield Issue(Kind.UNSAFE, problem)

    def _size_issues(self, max_total: int) -> Iterator[Issue]:
        entries = self._container.entries
        total = sum(entry.size for entry in entries)
        if problem := growth_problem(total, self.size):
            yield Issue(Kind.UNSAFE, f"the archive {problem}")
        if total > max(max_total, MAX_GROWTH * self.size):
            yield Issue(Kind.UNSAFE, f"the archive would grow to {total} bytes, more than the limit of {max_total}")

    @property
    def problems(self) -> tuple[str, ...]:
        """Why it is not safe to unpack; empty if it is."""
        return tuple(issue.message for issue in self.issues if issue.kind is Kind.UNSAFE)

    def check_safe(self) -> None:
        """Refuse an archive that is not safe to unpack.

        Raises:
            UnsafeArchiveError: it names every problem.
        """
        refuse(self.path, [issue for issue in self.issues if issue.kind is Kind.UNSAFE])

    @functools.cached_property
    def manifest(self) -> Manifest | None:
        """The archive's manifest; None if it has none, which TorchServe allows.

        Raises:
            UnreadableArchiveError: there is one that cannot be read.
        """
        if MANIFEST_NAME not in self._by_name:
            return None
        return Manifest.from_json(self.read(MANIFEST_NAME, json_text.MAX_BYTES))

    def has(self, name: str) -> bool:
        """Return whether there is a member of that name."""
        return name in self._by_name

    @contextlib.contextmanager
    def open(self, name: str) -> Iterator[IO[bytes]]:
        """Open a member for reading.

        Raises:
            UnreadableArchiveError: there is no such member, or it is damaged.
            UnsafeArchiveError: it is not an ordinary file.
        """
        with self._container.open(self._find(name)) as stream:
            yield stream

    def _find(self, name: str) -> Entry:
        entry = self._by_name.get(name)
        if entry is None:
            raise UnreadableArchiveError(f"there is no member {name!r}", where=str(self.path))
        if entry.kind != "file":
            raise UnsafeArchiveError(f"the member {name!r} is {entry.kind}", where=str(self.path))
        return entry

    def peek(self, name: str) -> IO[bytes] | None:
        """Open a member for cheap random access; None if it is packed. Checksums are not checked.

        Raises:
            UnreadableArchiveError, UnsafeArchiveError: as `open`.
        """
        return self.peek_entry(self._find(name))

    def peek_entry(self, entry: Entry) -> IO[bytes] | None:
        """Do the same as `peek` for an entry of kind "file"; it can open each of several with one name."""
        return self._container.peek(entry)

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

    def stream(self, wanted: list[Entry]) -> Iterator[tuple[Entry, IO[bytes]]]:
        """Yield several entries of kind "file", in the archive's order; read each before the next one is requested."""
        return self._container.stream(wanted)

    def ends_early(self, entry: Entry) -> bool:
        """Return whether TorchServe would take some of an entry's packed bytes for further members.

        Raises:
            UnreadableArchiveError: it is damaged.
        """
        return self._container.ends_early(entry)

    def close(self) -> None:
        """Close the file."""
        self._container.close()


#: Open a ``.mar``, a ``.tar.gz`` or a folder for reading; see `Archive.opened`.
open_archive = Archive.opened


def _entry_problem(entry: Entry) -> str | None:
    if entry.kind not in ("file", "folder"):
        return f"is {entry.kind}"
    # The cut of a tar's first component must not hide that the whole name leads elsewhere.
    if entry.raw_name != entry.name and (entry.raw_name.startswith("/") or entry.raw_name.startswith("../")):
        return "is an absolute path" if entry.raw_name.startswith("/") else "leads out of the archive ('..')"
    if entry.kind == "folder" and entry.size:
        return f"is a folder, and has {entry.size} bytes: some readers take these for the next member"
    name = entry.name.rstrip("/") if entry.kind == "folder" else entry.name
    if entry.kind == "folder" and name in ("", "."):
        return None  # the folder of all members
    if problem := name_problem(name):
        return problem
    return growth_problem(entry.size, entry.packed)
