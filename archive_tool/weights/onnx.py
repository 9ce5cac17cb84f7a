"""The initializers of an ONNX model, found by walking its protobuf: no library is needed, and no numbers are read.

Field numbers are those of onnx.proto. Numbers in files beside the model are counted like the others.
"""

from __future__ import annotations

from typing import IO, TYPE_CHECKING, Final

from archive_tool.weights import dtypes

if TYPE_CHECKING:
    from collections.abc import Iterator

_MODEL_GRAPH: Final = 7
_GRAPH_INITIALIZER: Final = 5
_TENSOR_DIMS: Final = 1
_TENSOR_TYPE: Final = 2
_TENSOR_NAME: Final = 8

#: Fields of a model that are read; one of ten thousand nodes has some hundred thousand.
MAX_FIELDS: Final = 300_000
_MAX_NAME: Final = 4096
_WINDOW: Final = 4096


def read(stream: IO[bytes]) -> Iterator[tuple[str, str, tuple[int, ...]]]:
    """Yield name, type and shape of every initializer.

    Raises:
        ValueError: the file is not a protobuf message, or has too many fields.
        OSError: it cannot be read.
    """
    reader = Fields(stream, MAX_FIELDS)
    for field, wire, start, end in reader.fields(0, stream.seek(0, 2)):
        if field == _MODEL_GRAPH and wire == 2:
            for inner, inner_wire, inner_start, inner_end in reader.fields(start, end):
                if inner == _GRAPH_INITIALIZER and inner_wire == 2:
                    yield _tensor(reader, inner_start, inner_end)


class Fields:
    """The fields of protobuf messages in a seekable stream; their number is bounded, for all messages together.

    Args:
        stream: of the outermost message.
        most: fields that are read.

    Attributes:
        count: fields that were read.
    """

    def __init__(self, stream: IO[bytes], most: int) -> None:
        self._stream = stream
        self._most = most
        self.count = 0
        self._start = 0
        self._window = b""

    def fields(self, start: int, end: int) -> Iterator[tuple[int, int, int, int]]:
        """Yield number, wire type, begin and end of each field between two positions; only lengths are read.

        Raises:
            ValueError: there is no message between them, or there were too many fields.
        """
        position = start
        while position < end:
            self.count += 1
            if self.count > self._most:
                raise ValueError("too many fields")
            tag, position = self.varint(position)
            wire = tag & 7
            if wire == 0:
                begin, (_, position) = position, self.varint(position)
            elif wire == 2:
                length, begin = self.varint(position)
                position = begin + length
            elif wire in (1, 5):
                begin, position = position, position + (8 if wire == 1 else 4)
            else:
                raise ValueError(f"wire type {wire}")
            if position > end:
                raise ValueError("a field leads out of its message")
            yield tag >> 3, wire, begin, position

    def varint(self, position: int) -> tuple[int, int]:
        """Read a number: its value, and where it ends.

        Raises:
            ValueError: there is none.
        """
        offset = position - self._start
        if not 0 <= offset <= len(self._window) - 10:
            self._window, self._start, offset = self.read(position, _WINDOW), position, 0
        value = 0
        for index, byte in enumerate(self._window[offset : offset + 10]):
            value |= (byte & 0x7F) << (7 * index)
            if byte < 0x80:
                return value, position + index + 1
        raise ValueError("not a varint")

    def read(self, position: int, size: int) -> bytes:
        """Read bytes at a position."""
        self._stream.seek(position)
        return self._stream.read(size)


def _tensor(reader: Fields, start: int, end: int) -> tuple[str, str, tuple[int, ...]]:
    name, dtype, dims = "", 0, []
    for field, wire, begin, stop in reader.fields(start, end):
        if field == _TENSOR_DIMS and wire == 0:
            dims.append(reader.varint(begin)[0])
        elif field == _TENSOR_DIMS and wire == 2:  # packed
            while begin < stop and len(dims) < 64:
                size, begin = reader.varint(begin)
                dims.append(size)
        elif field == _TENSOR_TYPE and wire == 0:
            dtype = reader.varint(begin)[0]
        elif field == _TENSOR_NAME and wire == 2:
            name = reader.read(begin, min(stop - begin, _MAX_NAME)).decode("utf-8", "replace")
    if len(dims) > 64 or any(size >= 1 << 63 for size in dims):
        raise ValueError("not a shape")
    return name, dtypes.ONNX.get(str(dtype), f"type {dtype}"), tuple(dims)
