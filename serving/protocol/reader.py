"""Bytes in, in whatever pieces the network makes of them; fields out.

A message is parsed by a generator that keeps its place while it waits for bytes, so nothing is parsed twice and the
cost is linear in the bytes, however small the pieces. The rest of a large body is received into the body itself.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Generator
from contextlib import suppress
from struct import Struct
from typing import Final, Generic, TypeAlias, TypeVar

from serving.protocol.errors import ProtocolError
from serving.protocol.limits import INT_MAX
from serving.protocol.messages import Body

INT: Final = Struct("!i")
int_at: Final = INT.unpack_from

END: Final = -1
"""In the place of a length: the end of a list."""

BUFFER_SIZE: Final = 131_072
"""Bytes asked of the network at once; with half of it a body of 100 KB takes a quarter longer."""

DIRECT_MIN: Final = 65_536
"""A body that lacks this many bytes is received into itself: a copy less, a third of the time from 1 MB on."""

DIRECT_STEP: Final = 1_048_576
"""Bytes reserved ahead of a body's arrival; a larger body doubles at most, as long as more of it arrives."""

M = TypeVar("M")
T = TypeVar("T")
Steps: TypeAlias = Generator[None, None, T]
"""Yields whenever more bytes are needed; returns T."""


class NotWholeError(Exception):
    """A string has not come completely, or is not one."""


class Reader(ABC, Generic[M]):
    """A parser that makes messages of bytes.

    Give it bytes with `feed`, or receive into `get_buffer()` and say how many with `advance`; then take messages with
    `next_message` until it returns None.

    Args:
        max_frame: bytes that one message may have.
    """

    def __init__(self, *, max_frame: int) -> None:
        self._max_frame = max_frame
        self._fed: deque[bytes] = deque()
        # The piece being parsed, the place in it, and the place of its first byte in the message.
        self._data = b""
        self._pos = 0
        self._base = 0
        # Where a string must end for the int after it to lie in this piece, and for both to lie in the frame.
        self._whole = 0
        # A body that is still arriving.
        self._body = bytearray()
        self._filled = 0
        self._missing = 0
        self._buffer: memoryview | None = None
        self._offered: memoryview | None = None
        self._error: ProtocolError | None = None
        self._parser = self._parse()

    def feed(self, data: Body) -> None:
        """Take bytes from the network; anything but bytes is copied."""
        self._fed.append(bytes(data))

    def get_buffer(self) -> memoryview:
        """Return where to receive the next bytes, to be followed by `advance`. Keep no view of it beyond that."""
        if self._missing >= DIRECT_MIN and not self._fed:
            body, filled = self._body, self._filled
            if len(body) == filled:
                body += bytes(min(self._missing, max(DIRECT_STEP, filled)))
            self._offered = memoryview(body)[filled:]
        else:
            if self._buffer is None:
                self._buffer = memoryview(bytearray(BUFFER_SIZE))
            self._offered = self._buffer
        return self._offered

    def advance(self, count: int) -> None:
        """Take the first ``count`` bytes of the buffer that `get_buffer` returned.

        Raises:
            ValueError: the buffer has fewer bytes.
        """
        offered, self._offered = self._offered, None
        if offered is None or not 0 <= count <= len(offered):
            raise ValueError(f"get_buffer did not offer {count} bytes")
        if offered is self._buffer:
            self.feed(offered[:count])
        else:
            with suppress(BufferError):  # uvloop holds it until it is told; it lets go before it asks for the next
                offered.release()
            self._filled += count
            self._missing -= count

    def next_message(self) -> M | None:
        """Return the next message; None if it has not arrived completely.

        Raises:
            ProtocolError: these bytes are not a message. Every later call raises it again.
        """
        if self._error is not None:
            raise self._error
        try:
            return next(self._parser)
        except ProtocolError as error:
            self._error = error
            raise

    def close(self) -> None:
        """Stop reading. A parser that waits holds its reader, with all buffers, until the garbage collector comes."""
        self._parser.close()

    @abstractmethod
    def _message(self) -> Steps[M]:
        """Parse one message from the current place."""

    def _parse(self) -> Generator[M | None, None, None]:
        while True:
            self._turn_to(self._data, self._pos, 0)
            message = yield from self._message()
            yield message

    def _turn_to(self, data: bytes, pos: int, offset: int) -> None:
        """Continue in ``data`` at ``pos``, which is at ``offset`` in the message."""
        self._data, self._pos, self._base = data, pos, offset - pos
        left = self._max_frame - self._base
        self._whole = min(len(data), left) - 4

    def _more(self, count: int) -> Steps[None]:
        """Wait until ``count`` bytes lie at the current place."""
        rest, offset = self._data[self._pos :], self._base + self._pos
        if len(rest) < count:
            while not self._fed:
                yield
            # As a rule the next piece has it all, and nothing is left of the one before: then nothing is copied.
            rest = rest + self._fed.popleft() if rest else self._fed.popleft()
        if len(rest) < count:
            pending = bytearray(rest)
            while len(pending) < count:
                while not self._fed:
                    yield
                pending += self._fed.popleft()
            rest = bytes(pending)
        self._turn_to(rest, 0, offset)

    def _take(self, count: int) -> Steps[bytes]:
        if self._pos + count > len(self._data):
            yield from self._more(count)
        start = self._pos
        self._pos = start + count
        return self._data[start : start + count]

    def _int(self) -> Steps[int]:
        if self._pos + 4 > len(self._data):
            yield from self._more(4)
        return self._ready_int()

    def _ready_int(self) -> int:
        value: int = int_at(self._data, self._pos)[0]
        self._pos += 4
        return value

    def _string_at(self, pos: int, limit: int) -> tuple[bytes, int]:
        """Return a string that lies in this piece, its length at ``pos``, and the place of the int that follows it.

        Raises:
            NotWholeError: it does not, or the int does not, or it is longer than the limit.
        """
        data, whole = self._data, self._whole
        if pos > whole:
            raise NotWholeError
        size: int = int_at(data, pos)[0]
        start = pos + 4
        stop = start + size
        if not 0 <= size <= limit or stop > whole:
            raise NotWholeError
        return data[start:stop], stop

    def _strings(self, most: int, what: str, *, bodies: bool = False) -> Steps[list[bytes | bytearray]]:
        """Read a list of strings and its END; every string is followed by the length of the next one, or by END.

        The hottest loop: it holds the place in local variables. With a generator for each field the decoding of a small
        request took a third longer.

        Args:
            most: maximum number of strings.
            what: what a string is, for errors.
            bodies: whether every third string is a body, which is received into itself if it has not come completely.
        """
        strings: list[bytes | bytearray] = []
        size = (yield from self._int()) if self._pos > self._whole else self._ready_int()
        data, pos, whole = self._data, self._pos, self._whole
        for _ in range(most + 1):
            if size == END:
                break
            stop = pos + size
            if pos <= stop <= whole:
                strings.append(data[pos:stop])
                size = int_at(data, stop)[0]
                pos = stop + 4
                continue
            self._pos = pos
            if bodies and len(strings) % 3 == 2:
                strings.append((yield from self._bytes(size, what, INT_MAX)))
            else:
                self._check_size(size, what, INT_MAX)
                strings.append((yield from self._take(size)))
            size = yield from self._int()
            data, pos, whole = self._data, self._pos, self._whole
        else:
            raise self._wrong(f"the end of a list of {most}", "one more", pos - 4)
        self._pos = pos
        return strings

    def _text(self, size: int, what: str, limit: int) -> Steps[str]:
        """Read a string of ``size`` bytes, strictly UTF-8."""
        self._check_size(size, what, limit)
        data = yield from self._take(size)
        return strict(data, what, self._base + self._pos - size)

    def _bytes(self, size: int, what: str, limit: int) -> Steps[bytearray]:
        """Read a body of ``size`` bytes."""
        self._check_size(size, what, limit)
        start, stop = self._pos, self._pos + size
        if stop <= len(self._data):
            self._pos = stop
            return bytearray(memoryview(self._data)[start:stop])
        return (yield from self._large_body(size))

    def _large_body(self, size: int) -> Steps[bytearray]:
        body = bytearray(memoryview(self._data)[self._pos :])
        offset = self._base + self._pos + size
        self._body, self._filled, self._missing = body, len(body), size - len(body)
        data, used = b"", 0
        while self._missing:
            if not self._fed:
                yield
                continue
            data = self._fed.popleft()
            used = min(len(data), self._missing)
            # The part reserved for receiving into the body and not used.
            del body[self._filled :]
            body += memoryview(data)[:used]
            self._filled += used
            self._missing -= used
        self._body = bytearray()
        self._turn_to(data, used, offset)
        return body

    def _check_size(self, size: int, what: str, limit: int) -> None:
        left = self._max_frame - self._base - self._pos
        if not 0 <= size <= limit or size > left:
            raise self._wrong(f"the length of {what}, 0 to {min(limit, left)}", str(size), self._pos - 4)

    def _wrong(self, expected: str, found: str, pos: int) -> ProtocolError:
        return ProtocolError(expected, found, self._base + pos)


def strict(data: bytes | bytearray, what: str, offset: int) -> str:
    """Decode what will be compared, opened or sent back: UTF-8 without exception.

    Raises:
        ProtocolError: it is not UTF-8; ``offset`` is its place in the message.
    """
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise ProtocolError(f"{what} in UTF-8", str(error), offset + error.start) from None
