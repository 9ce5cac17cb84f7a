"""Streams from an archive: damage is reported as our error, and reads are bounded."""

from __future__ import annotations

import contextlib
import gzip
import io
import struct
import tarfile
import zipfile
import zlib
from typing import IO, TYPE_CHECKING, Any, Final

from archive_tool import files
from archive_tool.errors import UnreadableArchiveError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# tarfile reads an extended header at once and keeps all consecutive ones; an honest one has a few hundred bytes.
MAX_READ: Final = 1 << 20
_PACKED_CHUNK: Final = 1 << 17

#: The errors of zipfile, tarfile, gzip and zlib for damaged input, found by mutating good archives.
DAMAGE: Final = (
    zipfile.BadZipFile,
    zipfile.LargeZipFile,
    tarfile.TarError,
    zlib.error,
    gzip.BadGzipFile,
    EOFError,
    struct.error,
    NotImplementedError,
    RuntimeError,
    ValueError,
    OverflowError,
    LookupError,
    MemoryError,
)


@contextlib.contextmanager
def damage_named(path: Path) -> Iterator[None]:
    """Turn the standard library's errors for a damaged archive into ours.

    Raises:
        UnreadableArchiveError: in place of each of them.
    """
    try:
        yield
    except DAMAGE as error:
        reason = str(error).strip("'\"") or type(error).__name__
        raise UnreadableArchiveError(f"{path} is damaged or no archive: {reason}", where=str(path)) from error
    except OSError as error:
        raise UnreadableArchiveError(f"cannot read {path}: {error.strerror or error}", where=str(path)) from error


class _Guarded(io.RawIOBase):
    """A stream whose own errors are converted as in `damage_named`, while those of its user stay as they are."""

    def __init__(self, stream: IO[bytes], path: Path) -> None:
        self._stream = stream
        self._path = path

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return self._stream.seekable()

    def readinto(self, buffer: Any, /) -> int:
        with damage_named(self._path):
            data = self._stream.read(min(len(buffer), MAX_READ))
        buffer[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = 0, /) -> int:
        with damage_named(self._path):
            return self._stream.seek(offset, whence)

    def tell(self) -> int:
        return self._stream.tell()


def guarded(stream: IO[bytes], path: Path) -> IO[bytes]:
    """Wrap a stream from an archive so that reading it raises only our errors."""
    return io.BufferedReader(_Guarded(stream, path))


class _Window(io.RawIOBase):
    """A part of a file as a file of its own; closes the file, too, if asked to."""

    def __init__(self, stream: IO[bytes], start: int, size: int, *, closes: bool) -> None:
        self._stream = stream
        self._closes = closes
        self._start = start
        self._size = size
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        if self._position >= self._size:
            return 0
        self._stream.seek(self._start + self._position)
        data = self._stream.read(max(0, min(len(buffer), self._size - self._position)))
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)

    def seek(self, offset: int, whence: int = 0, /) -> int:
        self._position = max(0, offset + (0, self._position, self._size)[whence])
        return self._position

    def tell(self) -> int:
        return self._position

    def close(self) -> None:
        if self._closes:
            self._stream.close()
        super().close()


class _Inflate(io.RawIOBase):
    """The first member of a gzip file, unpacked; of the rest only its presence is checked."""

    def __init__(self, path: Path) -> None:
        self._stream = files.open_regular(path)
        self._restart()

    def _restart(self) -> None:
        self._stream.seek(0)
        self._packed = zlib.decompressobj(16 + zlib.MAX_WBITS)  # 16: with the header and the checksum of a gzip
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        data = b""
        while not data and not self._packed.eof and len(buffer):
            chunk = self._packed.unconsumed_tail or self._stream.read(_PACKED_CHUNK)
            try:
                data = self._packed.decompress(chunk, len(buffer))
            except zlib.error as error:
                raise gzip.BadGzipFile(f"what is packed, or its checksum (CRC), is wrong: {error}") from error
            if not data and not chunk:
                raise EOFError("the file ends in the middle of what is packed")
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)

    def seek(self, offset: int, whence: int = 0, /) -> int:
        if whence == 2:
            raise io.UnsupportedOperation("the size of what is packed is not known")
        target = offset + (self._position if whence else 0)
        if target < self._position:
            self._restart()
        while self._position < target and self.read(min(MAX_READ, target - self._position)):
            pass
        return self._position

    def tell(self) -> int:
        return self._position

    def followed(self) -> bool:
        """Return whether more than zeros, with which tapes are padded, follows the end."""
        rest = self._packed.unused_data
        while rest or (rest := self._stream.read(_PACKED_CHUNK)):
            if rest.strip(b"\0"):
                return True
            rest = b""
        return False

    def close(self) -> None:
        self._stream.close()
        super().close()


class Gzip(io.BufferedReader):
    """The content of a gzip file, as TorchServe reads it: its first member. It refuses to return very much at once.

    Args:
        path: of the file.
        most: bytes that may be read, so that a chain of headers comes to an end; None for no bound. Bytes that are
            skipped, the contents of ignored members, are not counted.
    """

    def __init__(self, path: Path, most: int | None = None) -> None:
        self._inflate = _Inflate(path)
        self._most = self._left = most
        super().__init__(self._inflate, _PACKED_CHUNK)

    def grant(self, count: int) -> None:
        """Allow this many more bytes to be read, up to the initial number."""
        if self._left is not None and self._most is not None:
            self._left = min(self._most, self._left + count)

    def unbind(self) -> None:
        """Remove the bound on the bytes to be read."""
        self._left = None

    def read(self, size: int | None = -1, /) -> bytes:
        """Read at most `MAX_READ` bytes.

        Raises:
            tarfile.ReadError: more are requested, or more than were granted.
        """
        if size is None or not 0 <= size <= MAX_READ:
            raise tarfile.ReadError("a header of the archive is too long")
        if self._left is not None:
            self._left -= size
            if self._left < 0:
                raise tarfile.ReadError("the headers of a member of the archive are too long")
        return super().read(size)

    def followed(self) -> bool:
        """Return whether the file continues after its first member, which must have been read to its end."""
        return self._inflate.followed()


def window(stream: IO[bytes], start: int, size: int, *, closes: bool = True) -> IO[bytes]:
    """Return a part of a file as a file of its own; closing it closes the file by default."""
    return io.BufferedReader(_Window(stream, start, size, closes=closes))
