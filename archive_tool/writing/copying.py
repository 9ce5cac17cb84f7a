"""Copying files into an archive, and hashing them beside the copy.

Data flow of a stored file, one block after the other::

    file --copy_file_range--> archive --read--> block --> CRC-32          this thread
                                                  \\-----> SHA-256         a second thread

SHA-256 is the slowest of it, so it has a core to itself. Both sums are of what was read back from the archive: they
describe what is in there, whatever happened to the file meanwhile. Where the kernel cannot copy (other file systems,
other systems than Linux), blocks are read from the file, hashed, and written.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import mmap
import os
import threading
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Final

from archive_tool import files
from archive_tool.errors import BuildError

try:
    from isal.isal_zlib import crc32 as crc32
except ImportError:  # an architecture without a wheel: the same sums, at a quarter of the speed
    from zlib import crc32 as crc32

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from types import TracebackType

#: Bytes that are hashed at once. Large enough that handing a block to a thread costs nothing, small enough for a cache.
BLOCK: Final = 1 << 20
# Blocks under way: how far the copy may be ahead of SHA-256.
_RING: Final = 8
# Bytes that the kernel copies at once: on file systems that share extents (XFS, Btrfs) each call makes an extent.
_STEP: Final = 8 << 20


@dataclass
class Sums:
    """The checksums of a file's bytes. ``sha256`` is complete when `Copier.settle` has returned."""

    size: int
    crc: int = 0
    sha256: Any = field(default_factory=hashlib.sha256)


class Source:
    """A file, or bytes, to be read once from start to end.

    Attributes:
        size: its bytes when it was opened.
        path: where it is; None for bytes.
    """

    def __init__(self, stream: io.FileIO | io.BytesIO, size: int, path: Path | None) -> None:
        self.size = size
        self.path = path
        self._stream = stream

    def fileno(self) -> int | None:
        """Return the file's descriptor; None for bytes."""
        return self._stream.fileno() if isinstance(self._stream, io.FileIO) else None

    def readinto(self, buffer: memoryview, position: int) -> int:
        """Read at a position, as much as there is and fits; always at least one byte.

        Raises:
            BuildError: it cannot be read, or ends before its size.
        """
        try:
            self._stream.seek(position)
            count = self._stream.readinto(buffer)
        except OSError as error:
            raise BuildError(f"cannot read {self.path}: {error.strerror}", where=str(self.path)) from error
        if not count:
            raise self.changed()
        return count

    def changed(self) -> BuildError:
        """Make the error for a file that has changed."""
        return BuildError(
            f"{self.path} changed while it was read", where=str(self.path), hint="build again when it is complete"
        )


@contextlib.contextmanager
def open_source(source: Path | bytes) -> Iterator[Source]:
    """Open the source of a member.

    Raises:
        BuildError: it cannot be opened; or, after the caller has finished, it was changed meanwhile.
    """
    if isinstance(source, bytes):
        yield Source(io.BytesIO(source), len(source), None)
        return
    try:
        stream = io.FileIO(source, opener=files.opener)
    except OSError as error:
        raise BuildError(f"cannot read {source}: {error.strerror}", where=str(source)) from error
    with stream:
        before = os.fstat(stream.fileno())
        opened = Source(stream, before.st_size, source)
        yield opened
        if _state(before) != _state(os.fstat(stream.fileno())):
            raise opened.changed()


def _state(found: os.stat_result) -> tuple[int, int, int]:
    # The change time too: it reveals a write after which the old modification time was set again.
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns


class Copier:
    """A copier of sources, one after the other; a context manager, because it has a thread.

    The thread is a plain one: the import of `concurrent.futures` takes longer than a copy of a few megabytes.

    Args:
        advance: called after each block with its number of bytes.
    """

    def __init__(self, advance: Callable[[int], None] | None = None) -> None:
        self._advance = advance
        self._waiting: SimpleQueue[tuple[Sums, memoryview] | None] = SimpleQueue()
        # One entry for each free buffer. They are used in turn and hashed in turn, so the next one is free if any is.
        # Not a semaphore: a signal whose handler raises can leave the lock inside it held, and the thread waits for it.
        self._free: SimpleQueue[None] = SimpleQueue()
        for _ in range(_RING):
            self._free.put(None)
        # Page-aligned: on an AMD processor the kernel copies at a third of the speed to an address a few bytes behind
        # the beginning of a page, which is where malloc puts large blocks.
        pages = memoryview(mmap.mmap(-1, _RING * BLOCK))
        self._ring = [pages[start : start + BLOCK] for start in range(0, len(pages), BLOCK)]
        self._turn = 0
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="sha256", daemon=True)

    def __enter__(self) -> Copier:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._waiting.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (item := self._waiting.get()) is not None:
            sums, block = item
            try:
                sums.sha256.update(block)  # releases the GIL meanwhile
            except BaseException as error:  # raised again by `settle`, in the other thread
                self._failure = error
            self._free.put(None)

    def copy(self, source: Source, sink: io.FileIO, offset: int = 0) -> Sums:
        """Copy a source to an offset in a file that is open for reading and writing.

        Raises:
            BuildError: the source cannot be read, or has become shorter.
            OSError: the file cannot be written.
        """
        sums = Sums(source.size)
        position = copied = 0
        descriptor = source.fileno() if hasattr(os, "copy_file_range") else None
        while position < source.size:
            if descriptor is not None and copied == position:
                count = min(_STEP, source.size - position)
                copied += _kernel_copy(descriptor, position, sink.fileno(), offset + position, count)
                descriptor = descriptor if copied > position else None
            end = source.size if descriptor is None else copied
            block = self._buffer()[: min(BLOCK, end - position)]
            if descriptor is not None:
                count = _read_back(sink, block, offset + position)
            else:
                count = source.readinto(block, position)
                write_all(sink, block[:count], offset + position)
            self._hash(block[:count], sums)
            position += count
        return sums

    def blocks(self, source: Source, sums: Sums) -> Iterator[bytes]:
        """Yield a source in blocks of `BLOCK` bytes, the last one with the rest; no blocks if the source is empty.

        Raises:
            BuildError: as `copy`.
        """
        position = 0
        while True:
            block = self._buffer()[: min(BLOCK, source.size - position)]
            filled = 0
            while filled < len(block):
                filled += source.readinto(block[filled:], position + filled)
            self._hash(block, sums)
            yield bytes(block)
            position += filled
            if position == source.size:
                return

    def settle(self) -> None:
        """Wait until everything copied so far is hashed.

        Raises:
            BaseException: what failed in the thread that hashes.
        """
        for _ in range(_RING):
            self._free.get()
        for _ in range(_RING):
            self._free.put(None)
        if self._failure is not None:
            raise self._failure

    def _buffer(self) -> memoryview:
        """Return the next buffer of the ring; each is hashed before it is used again."""
        self._free.get()
        self._turn = (self._turn + 1) % _RING
        return self._ring[self._turn]

    def _hash(self, block: memoryview, sums: Sums) -> None:
        self._waiting.put((sums, block))
        sums.crc = crc32(block, sums.crc)
        if self._advance is not None:
            self._advance(len(block))


def _kernel_copy(source: int, position: int, sink: int, offset: int, count: int) -> int:
    """Copy bytes in the kernel; return their number, 0 where that does not work."""
    try:
        return os.copy_file_range(source, sink, count, position, offset)
    except OSError:
        # Not between these file systems, or not here; or a real failure, which reading and writing will report.
        return 0


def _read_back(sink: io.FileIO, block: memoryview, offset: int) -> int:
    count = os.preadv(sink.fileno(), [block], offset)
    if not count:
        raise OSError(errno.EIO, "it was cut short while it was written")
    return count


def write_all(sink: io.FileIO, data: bytes | memoryview, offset: int | None = None) -> None:
    """Write at an offset in a file, or at its position, in as many calls as the system needs."""
    if offset is not None:
        sink.seek(offset)
    view = memoryview(data)
    while view:
        view = view[sink.write(view) :]
