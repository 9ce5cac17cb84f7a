"""Deflating on several cores, with the same bytes on any number of them.

The stream is cut into blocks of a fixed size. Each is compressed separately, with the last 32 KiB before it as its
dictionary, and ends at a byte boundary (RFC 1951, an empty stored block), so that the results only need to be
concatenated, as in pigz. The result is one stream, which any inflater reads.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections import deque
from typing import TYPE_CHECKING, Final

from archive_tool.writing.copying import BLOCK, crc32

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future, ThreadPoolExecutor
    from types import TracebackType

_LEVEL: Final = 6  # torch-model-archiver's, and zlib's own default
_WINDOW: Final = 32 << 10  # how far back deflate can refer
# More would keep more blocks in memory than a build may use; 16 cores deflate half a gigabyte a second.
_MAX_THREADS: Final = 16


class Compressor:
    """The threads that deflate; a context manager. One stream at a time.

    Attributes:
        threads: their largest number.
    """

    def __init__(self, threads: int | None = None) -> None:
        self.threads = min(_MAX_THREADS, threads or _cores())
        self._pool: ThreadPoolExecutor | None = None

    def __enter__(self) -> Compressor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def stream(self, write: Callable[[bytes], object]) -> DeflateStream:
        """Begin a stream whose deflated bytes are passed to ``write``, in order."""
        return DeflateStream(self, write)

    def submit(self, block: bytes, before: bytes, last: bool) -> Future[bytes]:
        """Deflate a block in a thread; ``before`` is the end of the block before it."""
        if self._pool is None:
            # Most archives have no text that is long enough, and avoid the cost of this import.
            from concurrent.futures import ThreadPoolExecutor

            self._pool = ThreadPoolExecutor(self.threads, thread_name_prefix="deflate")
        return self._pool.submit(_deflate, block, before, last)


class DeflateStream:
    """A raw deflate stream; made by `Compressor.stream`."""

    def __init__(self, compressor: Compressor, write: Callable[[bytes], object]) -> None:
        self._compressor = compressor
        self._write = write
        self._before = b""
        self._under_way: deque[Future[bytes]] = deque()

    def add(self, block: bytes, *, last: bool) -> None:
        """Deflate the next block: `BLOCK` bytes, or fewer if it is the last one. After the last one all is written."""
        if last and not self._before:
            # A stream of one block, as nearly all texts are: no thread is faster.
            self._write(_deflate(block, b"", last))
            return
        self._under_way.append(self._compressor.submit(block, self._before, last))
        self._before = block[-_WINDOW:]
        # Two blocks a thread are enough to keep it busy; more would only take memory.
        while len(self._under_way) > (0 if last else 2 * self._compressor.threads):
            self._write(self._under_way.popleft().result())


def _deflate(block: bytes, before: bytes, last: bool) -> bytes:
    settings = (_LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS, zlib.DEF_MEM_LEVEL, zlib.Z_DEFAULT_STRATEGY)
    packer = zlib.compressobj(*settings, before) if before else zlib.compressobj(*settings)
    return packer.compress(block) + packer.flush(zlib.Z_FINISH if last else zlib.Z_SYNC_FLUSH)


def max_deflated(size: int) -> int:
    """Return the largest deflated size of this many bytes: where nothing is gained, deflate stores small pieces."""
    return size + size // 512 + 1024


def _cores() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        return os.cpu_count() or 1


class GzipWriter:
    """A gzip file that is deflated on several cores.

    Attributes:
        size: bytes that were written to it, before they were deflated.
    """

    def __init__(self, compressor: Compressor, write: Callable[[bytes], object]) -> None:
        self._write = write
        self._stream = compressor.stream(write)
        self._waiting = bytearray()
        self._crc = 0
        self.size = 0
        # No name and no time, since both would differ from build to build; "unknown" as the system (RFC 1952).
        write(b"\x1f\x8b\x08\x00" + bytes(4) + b"\x00\xff")

    def write(self, data: bytes) -> None:
        """Add bytes."""
        self._crc = crc32(data, self._crc)
        self.size += len(data)
        self._waiting += data
        while len(self._waiting) > BLOCK:  # one always stays, because the last block must be marked
            self._stream.add(bytes(self._waiting[:BLOCK]), last=False)
            del self._waiting[:BLOCK]

    def close(self) -> None:
        """Write the rest, and the checksums at the end."""
        self._stream.add(bytes(self._waiting), last=True)
        self._write(struct.pack("<2L", self._crc, self.size & 0xFFFFFFFF))
