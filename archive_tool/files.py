"""Opening untrusted files: beside an archive, in a model store, in a folder.

A name can stand for anything: a pipe without a writer blocks its reader for ever, a device gives bytes without end. So
each file that is read whole is opened here: it must be a regular file, and is read up to a bound. A failure is an
`OSError`, as for a missing file, so that callers report both in the same words.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import IO, Final

#: A path, as users give it.
StrPath = str | os.PathLike[str]

#: Bytes of a key in PEM; one of the largest curve has less than a kilobyte.
MAX_KEY: Final = 1 << 20
#: Bytes of a text file that people write: a project file, requirements, source code, settings.
MAX_TEXT: Final = 16 << 20
#: Bytes of a file that is sent as a request, or compared with an answer.
MAX_BODY: Final = 1 << 30

_CHUNK: Final = 1 << 20
_KINDS: Final = (
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def opener(path: str, flags: int) -> int:
    """Open a regular file for `open` and `io.FileIO`, without blocking on any other kind.

    Raises:
        OSError: it cannot be opened, or is not a regular file.
    """
    # Neither flag exists on Windows, which has no pipes or devices among its files either.
    flags |= getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0) | getattr(os, "O_CLOEXEC", 0)
    try:
        descriptor = os.open(path, flags)
    except OSError as error:
        # Linux reports this for a socket, and for a device without a driver.
        if error.errno == errno.ENXIO:
            raise _not_regular(path, os.stat(path).st_mode) from error  # noqa: PTH116 - may be bytes
        raise
    try:
        # Asked of the open file: the name may stand for another one since.
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            raise _not_regular(path, mode)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def open_regular(path: StrPath) -> IO[bytes]:
    """Open a regular file for reading.

    Raises:
        OSError: it cannot be opened, or is not a regular file.
    """
    return open(path, "rb", opener=opener)


def read_regular(path: StrPath, limit: int = MAX_TEXT) -> bytes:
    """Read a regular file of at most `limit` bytes.

    Raises:
        OSError: it cannot be read, is not a regular file, or is longer.
    """
    with open_regular(path) as stream:
        # Not limit + 1 at once: Python allocates as much memory as it is asked for. A file may grow, or hide its size.
        data = stream.read(min(limit, os.fstat(stream.fileno()).st_size) + 1)
        while len(data) <= limit and (more := stream.read(min(_CHUNK, limit + 1 - len(data)))):
            data += more
    if len(data) > limit:
        raise OSError(errno.EFBIG, f"it is longer than {limit} bytes", os.fspath(path))
    return data


def read_text(path: StrPath, limit: int = MAX_TEXT, *, encoding: str = "utf-8", errors: str = "strict") -> str:
    """Read a regular file of text; line ends become ``\\n``.

    Raises:
        OSError: as `read_regular`.
        UnicodeDecodeError: it is not in that encoding.
    """
    text = read_regular(path, limit).decode(encoding, errors)
    return text.replace("\r\n", "\n").replace("\r", "\n")


def go_to(stream: IO[bytes], position: int) -> None:
    """Seek a position, or the end if that comes before it.

    Numbers of foreign input may name any position, and the system refuses one that no file can have.
    """
    stream.seek(min(position, stream.seek(0, 2)))


def _not_regular(path: str, mode: int) -> OSError:
    if stat.S_ISDIR(mode):
        return IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    kind = next((name for test, name in _KINDS if test(mode)), "something else")
    return OSError(errno.EINVAL, f"it is {kind}, and not a regular file", path)
