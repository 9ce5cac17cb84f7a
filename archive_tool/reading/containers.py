"""Read access to the three containers of an archive: zip, tar.gz, folder.

Each lists its entries and opens them. `archive` decides whether they are safe to use.
"""

from __future__ import annotations

import contextlib
import os
import stat
import struct
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final, Protocol

from archive_tool import files
from archive_tool.errors import UnreadableArchiveError, UnsafeArchiveError
from archive_tool.issues import Issue, Kind
from archive_tool.reading import zip_consistency
from archive_tool.reading.streams import MAX_READ, Gzip, damage_named, guarded, window

if TYPE_CHECKING:
    from collections.abc import Iterator

#: An archive may not unpack to more than this, or than twenty times its own size if that is more: real weights never
#: shrink to a twentieth, and a machine that unpacks models can be expected to have 64 GiB.
MAX_TOTAL: Final = 64 << 30
MAX_GROWTH: Final = 20
#: Deflate cannot do much better than a thousandfold, and only with zeros. Small files may.
MAX_RATIO: Final = 1000
RATIO_FROM: Final = 100_000_000
MAX_MEMBERS: Final = zip_consistency.MAX_ENTRIES
#: Bytes of headers of a tar's member; one with a long name has several blocks.
_HEADERS_OF_ONE: Final = 2048
#: Names for which a tar may set values for all of its members; each member gets a copy of them.
_MAX_SHARED: Final = 1000


@dataclass(frozen=True)
class Entry:
    """An entry of an archive, as it is written there.

    Attributes:
        name: as an unpacker would see it; in a tar, without the first component, which Java cuts off.
        size: bytes when unpacked.
        packed: bytes in the archive; in a tar the same as size, because the tar is compressed as a whole.
        method: "stored", "deflated", "gzip" or "file".
        kind: "file" or "folder", else what makes it unsafe, such as "a symbolic link".
        raw_name: as the archive has it.
        index: its place in the archive.
    """

    name: str
    size: int
    packed: int
    method: str
    kind: str
    raw_name: str
    index: int


class Container(Protocol):
    """The access to an archive's entries that `archive` needs."""

    archive_format: str
    entries: tuple[Entry, ...]

    def open(self, entry: Entry) -> contextlib.AbstractContextManager[IO[bytes]]:
        """Open one entry as a stream; seekable unless it is a tar's."""

    def peek(self, entry: Entry) -> IO[bytes] | None:
        """Open an entry for cheap random access; return None where that is not possible."""

    def stream(self, wanted: list[Entry]) -> Iterator[tuple[Entry, IO[bytes]]]:
        """Yield several entries, in the archive's order; read each before the next one is requested."""

    def layout(self) -> tuple[Issue, ...]:
        """Report where TorchServe would find other content in the file than we do; cheap."""

    def ends_early(self, entry: Entry) -> bool:
        """Return whether TorchServe would take some of an entry's packed bytes for further members; may unpack it."""

    def close(self) -> None:
        """Close the file."""


def open_container(path: Path) -> Container:
    """Open an archive by its content, not by its name.

    Raises:
        UnreadableArchiveError: it does not exist, is damaged, or has none of the three forms.
        UnsafeArchiveError: a tar that would expand without bound; a zip can be listed without expanding it.
    """
    with damage_named(path):
        if path.is_dir():
            return FolderContainer(path)
        if not path.exists():
            raise UnreadableArchiveError(f"there is no archive {path}", where=str(path))
        if not path.is_file():
            raise UnreadableArchiveError(f"{path} is not a regular file", where=str(path))
        with files.open_regular(path) as stream:
            head = stream.read(4)
        if head.startswith(b"\x1f\x8b"):
            return TarContainer(path)
        if head.startswith(b"PK"):
            return ZipContainer(path)
    what = "is empty" if not head else "is neither a zip (.mar) nor a .tar.gz"
    raise UnreadableArchiveError(f"{path} {what}", where=str(path))


class ZipContainer:
    """A ``.mar``: a zip whose entries are stored or deflated."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with contextlib.ExitStack() as stack:
            stream = stack.enter_context(files.open_regular(path))
            try:
                self._zip = zip_consistency.open_zip(stream, MAX_MEMBERS)
            except zip_consistency.TooManyEntriesError as error:
                raise UnsafeArchiveError(f"{path} {error}", where=str(path)) from error
            self._infos = self._zip.infolist()
            self.entries = tuple(self._entry(index, info) for index, info in enumerate(self._infos))
            self._stream = stack.pop_all()
        stored = all(entry.method == "stored" for entry in self.entries)
        self.archive_format = "zip-store" if stored else "default"

    def _entry(self, index: int, info: zipfile.ZipInfo) -> Entry:
        # Not info.filename: zipfile cuts it at a NUL and so hides what another unpacker would see.
        name = info.orig_filename
        kind = "folder" if name.endswith("/") else "file"
        mode = stat.S_IFMT(info.external_attr >> 16)
        if mode not in (0, stat.S_IFREG, stat.S_IFDIR):
            kind = "a symbolic link" if mode == stat.S_IFLNK else "a device or another special file"
        elif info.flag_bits & 1:
            kind = "encrypted"
        methods = {zipfile.ZIP_STORED: "stored", zipfile.ZIP_DEFLATED: "deflated"}
        method = methods.get(info.compress_type)
        if method is None:
            raise UnreadableArchiveError(
                f"{name!r} is packed by method {info.compress_type}; TorchServe reads stored and deflated only",
                where=str(self._path),
            )
        return Entry(name, info.file_size, info.compress_size, method, kind, name, index)

    @contextlib.contextmanager
    def open(self, entry: Entry) -> Iterator[IO[bytes]]:
        """See `Container.open`."""
        with damage_named(self._path):
            stream = self._zip.open(self._infos[entry.index])
        with stream:
            yield guarded(stream, self._path)

    def peek(self, entry: Entry) -> IO[bytes] | None:
        """See `Container.peek`. A checksum is not checked."""
        if entry.method != "stored":
            return None
        start = self._infos[entry.index].header_offset
        with damage_named(self._path), contextlib.ExitStack() as stack:
            stream = stack.enter_context(files.open_regular(self._path))
            stream.seek(start)
            # The local header has 30 bytes, then a name and an extra field, whose lengths are its last two numbers.
            name_length, extra_length = struct.unpack("<26x2H", stream.read(30))
            stack.pop_all()
        return window(stream, start + 30 + name_length + extra_length, entry.size)

    def stream(self, wanted: list[Entry]) -> Iterator[tuple[Entry, IO[bytes]]]:
        """See `Container.stream`."""
        for entry in wanted:
            with self.open(entry) as stream:
                yield entry, stream

    def layout(self) -> tuple[Issue, ...]:
        """See `Container.layout`."""
        with damage_named(self._path), files.open_regular(self._path) as stream:
            return tuple(zip_consistency.issues(stream, self._zip))

    def ends_early(self, entry: Entry) -> bool:
        """See `Container.ends_early`."""
        info = self._infos[entry.index]
        if entry.method != "deflated" or not info.flag_bits & zip_consistency.DESCRIPTOR:
            return False  # the frontend compares the size that precedes the bytes
        with damage_named(self._path), files.open_regular(self._path) as stream:
            return not zip_consistency.inflates_exactly(stream, info)

    def close(self) -> None:
        """See `Container.close`."""
        self._zip.close()
        self._stream.close()


class TarContainer:
    """A ``.tar.gz``, unpacked as a stream: once to list it, once more for each use."""

    archive_format = "tgz"

    def __init__(self, path: Path) -> None:
        self._path = path
        self._packed = path.stat().st_size
        entries: list[Entry] = []
        total = 0
        with self._tar(MAX_READ) as (archive, stream):
            for index, info in enumerate(archive):
                if info.size < 0:  # tarfile would go back, and find the same members for ever
                    raise UnreadableArchiveError(f"the member {info.name!r} has a size of {info.size}", where=str(path))
                total += info.size
                # Reported before the content is unpacked: a bomb would keep us busy for hours.
                problem = growth_problem(total, self._packed) or count_problem(index + 1)
                if len(archive.pax_headers) > _MAX_SHARED:
                    problem = f"gives more than {_MAX_SHARED} values for all of its members"
                if problem:
                    raise UnsafeArchiveError(f"{path} {problem}", where=str(path))
                entries.append(self._entry(index, info))
                stream.grant(_HEADERS_OF_ONE)
            stream.unbind()
            # tarfile takes a damaged header for the end of the list, which another reader does not. And the checksum of
            # a gzip is at its end.
            stream.seek(archive.offset)
            zeros = True
            while chunk := stream.read(MAX_READ):
                zeros = zeros and not chunk.strip(b"\0")
                total += len(chunk)
                if problem := growth_problem(total, self._packed):
                    raise UnsafeArchiveError(f"{path} {problem}", where=str(path))
            self._layout = tuple(_tar_layout(zeros=zeros, followed=stream.followed()))
        self.entries = tuple(entries)

    @contextlib.contextmanager
    def _tar(self, headers: int | None = None) -> Iterator[tuple[tarfile.TarFile, Gzip]]:
        with (
            damage_named(self._path),
            Gzip(self._path, headers) as stream,
            tarfile.open(fileobj=stream, mode="r:") as archive,
        ):
            yield archive, stream

    def _entry(self, index: int, info: tarfile.TarInfo) -> Entry:
        kind = "file"
        if info.isdir():
            kind = "folder"
        elif info.issym() or info.islnk():
            kind = "a symbolic link" if info.issym() else "a hard link"
        elif not info.isreg() or info.issparse():
            kind = "a device or another special file"
        name = info.name + "/" if kind == "folder" else info.name
        cut = name[name.find("/") + 1 :]  # as Java does; a name without a slash stays
        return Entry(cut, info.size, info.size, "gzip", kind, name, index)

    def peek(self, entry: Entry) -> IO[bytes] | None:  # noqa: ARG002
        """See `Container.peek`."""
        return None

    @contextlib.contextmanager
    def open(self, entry: Entry) -> Iterator[IO[bytes]]:
        """See `Container.open`."""
        for _, stream in self.stream([entry]):
            yield stream

    def stream(self, wanted: list[Entry]) -> Iterator[tuple[Entry, IO[bytes]]]:
        """See `Container.stream`."""
        by_index = {entry.index: entry for entry in wanted}
        with self._tar() as (archive, _):
            for index, info in enumerate(archive):
                entry = by_index.pop(index, None)
                stream = archive.extractfile(info) if entry and info.isreg() else None
                if entry and stream:
                    yield entry, guarded(stream, self._path)
                if not by_index:
                    return

    def layout(self) -> tuple[Issue, ...]:
        """See `Container.layout`."""
        return self._layout

    def ends_early(self, entry: Entry) -> bool:  # noqa: ARG002
        """See `Container.ends_early`."""
        return False

    def close(self) -> None:
        """See `Container.close`."""


class FolderContainer:
    """An archive that was never packed (``no-archive``), or was unpacked."""

    archive_format = "no-archive"

    def __init__(self, path: Path) -> None:
        children = list(path.iterdir())
        # Java enters a folder that contains only one folder.
        only = children[0] if len(children) == 1 else None
        enter = only is not None and only.is_dir() and not only.is_symlink() and only.name != "MAR-INF"
        self._root = only if enter and only is not None else path
        self._real = self._root.resolve()
        entries: list[Entry] = []
        for index, found in enumerate(self._walk(self._root, "")):
            if problem := count_problem(index + 1):
                raise UnsafeArchiveError(f"{path} {problem}", where=str(path))
            entries.append(self._entry(index, found))
        self.entries = tuple(entries)

    def _walk(self, folder: Path, prefix: str) -> Iterator[tuple[str, os.DirEntry[str]]]:
        with os.scandir(folder) as found:
            items = sorted(found, key=lambda item: item.name)
        for item in items:
            if item.is_dir(follow_symlinks=False):
                yield from self._walk(folder / item.name, f"{prefix}{item.name}/")
            else:
                yield prefix + item.name, item

    def _entry(self, index: int, found: tuple[str, os.DirEntry[str]]) -> Entry:
        name, item = found
        kind, size = "file", 0
        if item.is_symlink():
            target = Path(item.path).resolve()
            # A link that stays inside is read as its target; the local cache of a model hub consists of such links.
            inside = target.is_relative_to(self._real) and target.is_file()
            kind = "file" if inside else "a symbolic link"
        if kind == "file":
            state = item.stat()
            size = state.st_size
            kind = "file" if stat.S_ISREG(state.st_mode) else "a device or another special file"
        return Entry(name, size, size, "file", kind, name, index)

    @contextlib.contextmanager
    def open(self, entry: Entry) -> Iterator[IO[bytes]]:
        """See `Container.open`."""
        with self.peek(entry) as stream:
            yield guarded(stream, self._root)

    def peek(self, entry: Entry) -> IO[bytes]:
        """See `Container.peek`."""
        path = self._root.joinpath(*entry.name.split("/"))
        with damage_named(path):
            return files.open_regular(path)

    def stream(self, wanted: list[Entry]) -> Iterator[tuple[Entry, IO[bytes]]]:
        """See `Container.stream`."""
        for entry in wanted:
            with self.open(entry) as stream:
                yield entry, stream

    def layout(self) -> tuple[Issue, ...]:
        """See `Container.layout`."""
        return ()

    def ends_early(self, entry: Entry) -> bool:  # noqa: ARG002
        """See `Container.ends_early`."""
        return False

    def close(self) -> None:
        """See `Container.close`."""


def _tar_layout(*, zeros: bool, followed: bool) -> Iterator[Issue]:
    if not zeros:
        yield Issue(Kind.UNSAFE, "after the last member follow bytes that belong to no member, or to a damaged one")
    if followed:
        yield Issue(Kind.UNSAFE, "after the gzip stream that TorchServe reads follow further bytes")


def growth_problem(size: int, packed: int) -> str | None:
    """Return the problem if this many bytes from so few are a bomb."""
    if size > RATIO_FROM and size > MAX_RATIO * packed:
        return f"would grow from {packed} to more than {size - 1} bytes, more than {MAX_RATIO} times"
    return None


def count_problem(count: int) -> str | None:
    """Return the problem if there are too many members."""
    return f"has more than {MAX_MEMBERS} members" if count > MAX_MEMBERS else None
