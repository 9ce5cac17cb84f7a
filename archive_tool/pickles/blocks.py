"""Reading a stream by blocks, in bounded memory, and without reading what is skipped."""

from __future__ import annotations

from typing import IO, Final

from archive_tool.files import go_to

_LONGEST_LINE: Final = 1 << 16
# Most streams show at once that they are not what the reader looks for, so the first block is small.
_FIRST_BLOCK: Final = 1 << 9
_BLOCK: Final = 1 << 16


class ShortError(Exception):
    """The stream ends before the requested bytes."""


class Blocks:
    """A stream in blocks: `buffer` is in memory, consumed up to `position`; `ended` says that nothing follows it."""

    def __init__(self, stream: IO[bytes]) -> None:
        self.buffer = b""
        self.position = 0
        self._stream = stream
        self._before = 0  # bytes of the stream before the buffer
        self._block = _FIRST_BLOCK
        self.ended = False

    def told(self) -> int:
        """Return the number of consumed bytes."""
        return self._before + self.position

    def fill(self, count: int) -> None:
        """Buffer this many bytes, or all that are left."""
        missing = count - (len(self.buffer) - self.position)
        if missing <= 0 or self.ended:
            return
        chunks = [self.buffer[self.position :]]
        self._before += self.position
        self.position = 0
        while missing > 0 and not self.ended:
            chunk = self._stream.read(self._block)
            self._block = min(self._block * 2, _BLOCK)
            self.ended = not chunk
            missing -= len(chunk)
            chunks.append(chunk)
        self.buffer = b"".join(chunks)

    def take(self, count: int) -> bytes:
        """Consume some bytes and return them.

        Raises:
            ShortError: the stream ends before.
        """
        self.fill(count)
        data = self.buffer[self.position : self.position + count]
        if len(data) < count:
            raise ShortError
        self.position += count
        return data

    def skip(self, count: int) -> None:
        """Skip bytes that are not instructions; the next read finds out if they are missing at the end."""
        here = min(count, len(self.buffer) - self.position)
        self.position += here
        count -= here
        if count > _BLOCK and self._stream.seekable():
            self._before += self.position + count
            self.buffer, self.position = b"", 0
            go_to(self._stream, self._stream.tell() + count)
            return
        while count:
            count -= len(self.take(min(count, _BLOCK)))

    def line(self) -> bytes | None:
        """Consume a line; return None for one that is longer than anyone writes.

        Raises:
            ShortError: the stream is at its end.
        """
        long = False
        while (end := self.buffer.find(b"\n", self.position)) < 0:
            at_hand = len(self.buffer) - self.position
            if at_hand >= _LONGEST_LINE:
                self.position, at_hand, long = len(self.buffer), 0, True
            self.fill(at_hand + 1)
            if self.ended and not at_hand:
                raise ShortError
            if self.ended:  # an unpickler takes the last byte for the end of the line
                end = len(self.buffer) - 1
                break
        data = self.buffer[self.position : end]
        self.position = end + 1
        return None if long else data
