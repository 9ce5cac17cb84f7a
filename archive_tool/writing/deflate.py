"""Deflating on several cores, with the same bytes on any number of them.

The stream is cut into blocks of a fixed size. Each is compressed separately, with the last 32 KiB before it as its
dictionary, and ends at a byte boundary (RFC 1951, an empty stored block), so that the results only need to be
concatenated, as in pigz. The result is one stream, which any inflater reads.
"""

from __future__ import annotations

import os
import struct
import threading
import zlib
from collections import deque
from queue import SimpleQueue
from typing import TYPE_CHECKING, Final

from archive_tool.writing.copying import BLOCK, crc32

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

_LEVEL: Final = 6  # torch-model-archiver's, and zlib's own default
_WINDOW: Final = 32 << 10  # how far back deflate can refer
# More would keep more blocks in memory than a build may use; 16 cores deflate half a gigabyte a second.
_MAX_THREADS: Final = 16


class Compressor:
    """The threads that deflate; a context manager. One stream at a time.

    Plain threads and queues, not an executor: a signal whose handler raises can leave a lock inside one held, for which
    its threads, and so the end of the build, would wait for ever.

    Attributes:
        threads: their largest number.
    """

    def __init__(self, threads: int | None = None) -> None:
        self.threads = min(_MAX_THREADS, threads or _cores())
        self._waiting: SimpleQueue[_Task | None] = SimpleQueue()
        self._started: list[threading.Thread] = []

    def __enter__(self) -> Compressor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._waiting.put(None)
        for thread in self._started:
            thread.join()

    def stream(self, write: Callable[[bytes], object]) -> DeflateStream:
        """Begin a stream whose deflated bytes are passed to ``write``, in order."""
        return DeflateStream(self, write)

    def submit(self, block: bytes, before: bytes, last: bool) -> _Task:
        """Deflate a block in a thread; ``before`` is the end of the block before it."""
        while len(self._started) < self.threads:
            thread = threading.Thread(target=self._work, name="deflate", daemon=True)
            thread.start()
            # Not before: who is interrupted in the start of one must not wait for it. So one may run that is not here.
            self._started.append(thread)
        task = _Task(block, before, last)
        self._waiting.put(task)
        return task

    def _work(self) -> None:
        while (task := self._waiting.get()) is not None:
            task.run()
        self._waiting.put(None)  # for the next thread, however many there are


class _Task:
    """A block that a thread deflates."""

    def __init__(self, block: bytes, before: bytes, last: bool) -> None:
        self._arguments = block, before, last
        self._done: SimpleQueue[bytes | BaseException] = SimpleQueue()

    def run(self) -> None:
        """Deflate it."""
        try:
            self._done.put(_deflate(*self._arguments))
        except BaseException as error:  # raised again by `result`, in the other thread
            self._done.put(error)

    def result(self) -> bytes:
        """Wait for what it is deflated to; once.

        Raises:
            BaseException: what failed in the thread.
        """
        found = self._done.get()
        if isinstance(found, BaseException):
            raise found
        return found


class DeflateStream:
    """A raw deflate stream; made by `Compressor.stream`."""

    def __init__(self, compressor: Compressor, write: Callable[[bytes], object]) -> None:
        self._compressor = compressor
        self._write = write
        self._before = b""
        self._under_way: deque[_Task] = deque()

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
