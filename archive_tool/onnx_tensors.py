"""The initializers of an ONNX model, by walking its protobuf: no library is needed, and no numbers are read.

Field numbers are those of onnx.proto. Numbers that lie in files beside the model are counted like the others.
"""

from __future__ import annotations

from typing import IO, TYPE_CHECKING, Final

from archive_tool import dtypes

if TYPE_CHECKING:
    from collections.abc import Iterator

_MODEL_GRAPH: Final = 7
_GRAPH_INITIALIZER: Final = 5
_TENSOR_DIMS: Final = 1
_TENSOR_TYPE: Final = 2
_TENSOR_NAME: Final = 8

_MAX_FIELDS: Final = 500_000
_MAX_NAME: Final = 4096


def read(stream: IO[bytes]) -> Iterator[tuple[str, str, tuple[int, ...]]]:
    """Yield name, type and shape of every initializer.

    Raises:
        ValueError: the file is not a protobuf message, or has too many fields.
        OSError: it cannot be read.
    """
    reader = _Reader(stream)
    for field, wire, start, end in reader.fields(0, stream.seek(0, 2)):
        if field == _MODEL_GRAPH and wire == 2:
            for inner, inner_wire, inner_start, inner_end in reader.fields(start, end):
                if inner == _GRAPH_INITIALIZER and inner_wire == 2:
                    yield reader.tensor(inner_start, inner_end)


class _Reader:
    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._count = 0

    def fields(self, start: int, end: int) -> Iterator[tuple[int, int, int, int]]:
        """Yield number, wire type, begin and end of each field between two places; only lengths are read."""
        position = start
        while position < end:
            self._count += 1
            if self._count > _MAX_FIELDS:
                raise ValueError("too many fields")
            tag, position = self._varint(position)
            wire = tag & 7
            if wire == 0:
                begin, (_, position) = position, self._varint(position)
            elif wire == 2:
                length, begin = self._varint(position)
                position = begin + length
            elif wire in (1, 5):
                begin, position = position, position + (8 if wire == 1 else 4)
            else:
                raise ValueError(f"wire type {wire}")
            if position > end:
                raise ValueError("a field leads out of its message")
            yield tag >> 3, wire, begin, position

    def _varint(self, position: int) -> tuple[int, int]:
        self._stream.seek(position)
        value = 0
        for index, byte in enumerate(self._stream.read(10)):
            value |= (byte & 0x7F) << (7 * index)
            if byte < 0x80:
                return value, position + index + 1
        raise ValueError("not a varint")

    def tensor(self, start: int, end: int) -> tuple[str, str, tuple[int, ...]]:
        name, dtype, dims = "", 0, []
        for field, wire, begin, stop in self.fields(start, end):
            if field == _TENSOR_DIMS and wire == 0:
                dims.append(self._varint(begin)[0])
            elif field == _TENSOR_DIMS and wire == 2:  # packed
                while begin < stop and len(dims) < 64:
                    size, begin = self._varint(begin)
                    dims.append(size)
            elif field == _TENSOR_TYPE and wire == 0:
                dtype = self._varint(begin)[0]
            elif field == _TENSOR_NAME and wire == 2:
                self._stream.seek(begin)
                name = self._stream.read(min(stop - begin, _MAX_NAME)).decode("utf-8", "replace")
        if len(dims) > 64 or any(size >= 1 << 63 for size in dims):
            raise ValueError("not a shape")
        return name, dtypes.ONNX.get(str(dtype), f"type {dtype}"), tuple(dims)
