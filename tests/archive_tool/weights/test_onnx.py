"""Initializers in the bytes of ONNX models."""

import contextlib
import io
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archive_tool.weights import onnx, tensors
from archive_tool.weights.formats import Format, sniff


def varint(value):
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def number(field, value):
    return varint(field << 3) + varint(value)


def data(field, content):
    return varint(field << 3 | 2) + varint(len(content)) + content


def tensor(name, dims, kind=1, *, packed=False):
    sizes = data(1, b"".join(map(varint, dims))) if packed else b"".join(number(1, size) for size in dims)
    return data(5, sizes + number(2, kind) + data(8, name.encode()) + data(9, bytes(16)))


def model(*initializers):
    node = data(1, data(4, b"MatMul"))
    return (
        number(1, 8)
        + data(2, b"pytorch")
        + data(7, node + data(2, b"main") + b"".join(initializers))
        + data(8, b"\x10\x12")
    )


GOOD = model(tensor("w", (3, 200)), tensor("b", (200,), 16, packed=True), tensor("n", (), 7))


def read(content):
    return list(onnx.read(io.BytesIO(content)))


def test_initializers():
    assert read(GOOD) == [("w", "float32", (3, 200)), ("b", "bfloat16", (200,)), ("n", "int64", ())]
    stream = io.BytesIO(GOOD)
    assert sniff(stream) is Format.ONNX
    weights = tensors.read(stream, Format.ONNX)
    assert (weights.parameters, weights.size) == (801, 2400 + 400 + 8)


def test_unknown_types_and_fixed_width_fields():
    odd = data(5, number(1, 2) + number(2, 99) + b"\x1d" + struct.pack("<f", 1.0) + b"\x19" + struct.pack("<d", 1.0))
    assert read(number(1, 8) + data(7, odd)) == [("", "type 99", (2,))]


@pytest.mark.parametrize(
    "content",
    [
        model(data(5, number(1, 1) * 65)),  # too many dimensions
        model(data(5, number(1, (1 << 64) - 1))),  # a negative size
        GOOD[:-1],
        GOOD + b"\xff" * 11,
        data(7, b"\x0b"),  # a group, which is long gone
        data(7, data(5, b"\x42\x7f")),  # a field leads out of its message
    ],
)
def test_damage(content):
    with pytest.raises(ValueError, match=r".+"):
        read(content)
    assert tensors.read(io.BytesIO(content), Format.ONNX) is None


def test_more_numbers_than_there_is_memory():
    content = model(tensor("w", (2**40, 2**40)))
    assert len(read(content)) == 1
    assert tensors.read(io.BytesIO(content), Format.ONNX) is None


def test_fields_are_bounded(monkeypatch):
    monkeypatch.setattr(onnx, "MAX_FIELDS", 10)
    assert len(read(data(7, b"".join(tensor(str(index), ()) for index in range(2))))) == 2
    with pytest.raises(ValueError, match="too many fields"):
        read(GOOD * 2)


@given(st.binary(max_size=100))
def test_any_bytes(content):
    """Tensors, or a ValueError."""
    with contextlib.suppress(ValueError):
        read(data(7, content))
