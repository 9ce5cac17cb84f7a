"""Tensors as bytes and back, and bytes that are not tensors."""

import contextlib
import io
import json
import struct
import zipfile

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from handlers import BadInputError, UnsupportedMediaError
from handlers.tensors import codecs
from handlers.tensors.codecs import (
    from_elements,
    read_npy,
    read_npz,
    read_safetensors,
    sniff,
    to_elements,
    write_npy,
    write_npz,
    write_safetensors,
)
from handlers.tensors.media_types import JSON, NPY, NPZ, SAFETENSORS

NUMPY_TYPES = [
    torch.bool, torch.uint8, torch.uint16, torch.uint32, torch.uint64, torch.int8, torch.int16, torch.int32,
    torch.int64, torch.float16, torch.float32, torch.float64,
]  # fmt: skip
READERS = [read_npy, read_npz, read_safetensors]


@st.composite
def tensors(draw, types=(*NUMPY_TYPES, torch.bfloat16)):
    """Draw any bits in any shape, so that NaNs and infinities are among them."""
    dtype = draw(st.sampled_from(types))
    shape = draw(st.lists(st.integers(0, 4), max_size=4))
    size = int(np.prod(shape)) * dtype.itemsize
    raw = draw(st.binary(min_size=size, max_size=size))
    if dtype is torch.bool:
        raw = bytes(byte & 1 for byte in raw)
    return from_elements(raw, dtype, shape, "x")


def same(one, other):
    """Return whether two are equal to the last bit."""
    return one.dtype == other.dtype and one.shape == other.shape and to_elements(one) == to_elements(other)


@settings(deadline=None, max_examples=60)
@given(tensors())
def test_elements_there_and_back(tensor):
    assert same(from_elements(to_elements(tensor), tensor.dtype, tensor.shape, "x"), tensor)


@settings(deadline=None, max_examples=60)
@given(tensors(NUMPY_TYPES))
def test_npy_there_and_back_here_and_with_numpy(tensor):
    body = write_npy(tensor)
    assert sniff(body) == NPY
    assert same(read_npy(body), tensor)
    array = np.load(io.BytesIO(body), allow_pickle=False)
    assert same(torch.from_numpy(array), tensor)
    for order in ("C", "F"):
        stream = io.BytesIO()
        np.save(stream, np.array(array, order=order), allow_pickle=False)
        found = read_npy(bytearray(stream.getvalue()))
        assert same(found, tensor)
        assert found.is_contiguous()


@settings(deadline=None, max_examples=60)
@given(st.dictionaries(st.text("abc.0_", min_size=1, max_size=6), tensors(NUMPY_TYPES), max_size=3))
def test_npz_there_and_back_here_and_with_numpy(given_tensors):
    body = write_npz(given_tensors)
    found = read_npz(body)
    assert list(found) == list(given_tensors)
    assert all(same(found[name], one) for name, one in given_tensors.items())
    stream = io.BytesIO()
    np.savez(stream, **{name: one.numpy() for name, one in given_tensors.items()})
    assert all(same(one, given_tensors[name]) for name, one in read_npz(stream.getvalue()).items())
    if given_tensors:
        assert sniff(body) == sniff(stream.getvalue()) == NPZ


@settings(deadline=None, max_examples=60)
@given(st.dictionaries(st.text(max_size=6).filter(lambda name: name != "__metadata__"), tensors(), max_size=3))
def test_safetensors_there_and_back_here_and_with_the_library(given_tensors):
    body = write_safetensors(given_tensors)
    assert sniff(body) == SAFETENSORS
    for content in (body, safetensors.torch.save(given_tensors)):
        found = read_safetensors(bytearray(content))
        assert found.keys() == given_tensors.keys()
        assert all(same(found[name], one) for name, one in given_tensors.items())


def test_parts_of_one_tensor_are_written_each_for_itself():
    whole = torch.arange(12.0).reshape(4, 3)
    one, other = whole.split(2)
    found = read_safetensors(write_safetensors({"one": one, "other": other, "columns": whole.t()}))
    assert torch.equal(found["one"], one)
    assert torch.equal(found["other"], other)
    assert torch.equal(found["columns"], whole.t())


def test_other_byte_orders_and_bfloat16():
    stream = io.BytesIO()
    np.save(stream, np.array([1.5, -2], dtype=">f8"))
    assert same(read_npy(stream.getvalue()), torch.tensor([1.5, -2], dtype=torch.float64))
    numbers = torch.tensor([1.0078125, float("inf")], dtype=torch.bfloat16)  # the first needs all of its bits
    assert same(read_npy(write_npy(numbers)), numbers.float())


def npy(descr="<f4", shape="(2,)", order="False", data=b"\0" * 8, version=(1, 0)):
    header = f"{{'descr': {descr!r}, 'fortran_order': {order}, 'shape': {shape}, }}".encode("latin-1")
    length = struct.pack("<H" if version[0] == 1 else "<I", len(header))
    return b"\x93NUMPY" + bytes(version) + length + header + data


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (npy(shape="(3,)"), r"the array has 8 bytes of elements; float32 of the shape \[3\] takes 12"),
        (npy(shape="(1,)"), "takes 4"),
        (npy(shape="(1000000000000, 1000000000000)"), r"shape \[1000000000000, 1000000000000\] takes more than"),
        (npy(shape="(0, 1" + "0" * 30 + ")", data=b""), "cannot have the shape"),
        (npy(shape="(-1, -2)"), r"its shape is \[-1, -2\]"),
        (npy(shape="(True, 2)"), "its shape"),
        (npy(shape="2"), "no npy file"),
        (npy(descr="|O"), "of numpy's type object: send numbers, bool, uint8"),
        (npy(descr="<U2"), "of numpy's type <U2"),
        (npy(descr="<M8[s]"), "datetime64"),
        (npy(descr="<V2", shape="(4,)"), "send numbers"),
        (npy(descr=[("a", "<f4")]), "send numbers"),
        (npy(descr="<q9"), "no npy file"),
        (npy(descr="|b1", data=b"\1\2"), "has the byte 2 for a bool"),
        (npy(version=(3, 0)), r"version 3\.0"),
        (npy()[:9], "no npy file"),
        (npy()[:40], "no npy file"),
        (b"\x93NUMPY\1\0\xff\xff" + b"(" * 65535, "no npy file"),
        (b"", "no npy file"),
        (b"[[1, 2]]", "no npy file"),
    ],
)
def test_what_is_no_npy_file(body, reason):
    with pytest.raises(BadInputError, match=reason):
        read_npy(body)


def test_the_second_version_of_npy():
    assert read_npy(npy(version=(2, 0))).tolist() == [0, 0]


def zipped(*members, method=zipfile.ZIP_STORED):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return stream.getvalue()


def test_what_is_no_npz_file():
    with pytest.raises(BadInputError, match=r"compressed: write it with numpy\.savez"):
        read_npz(zipped(("a.npy", npy()), method=zipfile.ZIP_DEFLATED))
    with pytest.raises(BadInputError, match="the array 'a' is no npy file"):
        read_npz(zipped(("a.npy", b"no")))
    with pytest.raises(BadInputError, match="the body is no npz file"):
        read_npz(zipped(("a.npy", npy()))[:-5])
    with pytest.raises(BadInputError, match="the body is no npz file: Bad CRC"):
        read_npz(zipped(("a.npy", npy(data=b"12345678"))).replace(b"12345678", b"12345679"))
    with pytest.raises(BadInputError, match="two arrays of one name"), pytest.warns(UserWarning, match="Duplicate"):
        read_npz(zipped(("a.npy", npy()), ("a.npy", npy())))


def test_an_npz_file_whose_members_share_their_bytes_fills_no_memory():
    body = bytearray(zipped(("a.npy", b"x" * 10_000)))
    entry = bytes(body[body.index(b"PK\x01\x02") : body.index(b"PK\x05\x06")])
    end = bytearray(body[body.index(b"PK\x05\x06") :])
    end[8:12] = struct.pack("<HH", 3, 3)
    end[12:16] = struct.pack("<I", 3 * len(entry))
    with pytest.raises(BadInputError, match="claims more bytes than it has"):
        read_npz(bytes(body[: body.index(b"PK\x01\x02")]) + entry * 3 + bytes(end))


def safe(header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


@pytest.mark.parametrize(
    "body",
    [
        safe({"x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}, b"\0" * 4),
        safe({"x": {"dtype": "F32", "shape": [10**9], "data_offsets": [0, 4 * 10**9]}}),
        safe({"x": {"dtype": "F4", "shape": [2], "data_offsets": [0, 1]}}, b"\0"),
        safe({"x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, b"\0" * 5),
        safe(b"{"),
        b"",
        b"\xff" * 9,
    ],
)
def test_what_is_no_safetensors_file(body):
    with pytest.raises(BadInputError, match="the body is no safetensors file that torch can hold"):
        read_safetensors(body)


def test_a_bool_that_is_none():
    body = safe({"x": {"dtype": "BOOL", "shape": [2], "data_offsets": [0, 2]}}, b"\1\7")
    with pytest.raises(BadInputError, match="'x' has the byte 7 for a bool"):
        read_safetensors(body)


def test_without_the_package(monkeypatch):
    monkeypatch.setattr(codecs, "has_safetensors", lambda: False)
    with pytest.raises(UnsupportedMediaError, match="lacks the package safetensors: send JSON"):
        read_safetensors(safe({}))


@pytest.mark.parametrize(
    "text", [b"[[1, 2, {}]]", b"{", b'{"a": 1}', b"", b"   \n    {", b"\0" * 7, b"PK", b"\x93NUMP"]
)
def test_texts_are_taken_for_nothing_else(text):
    assert sniff(text) == JSON


# Whatever comes is read or is BadInputError; nothing else is raised. Valid files with a few bytes changed come far.
@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from(READERS),
    st.sampled_from(
        [
            npy(),
            npy(order="True", shape="(2, 1)"),
            zipped(("a.npy", npy()), ("b.npy", npy("|b1", "(2, 2)", data=b"\0\1\1\0"))),
            write_safetensors({"a": torch.arange(3), "b": torch.ones(2, 2, dtype=torch.bool)}),
            b"",
        ]
    ),
    st.lists(st.tuples(st.integers(0, 400), st.binary(max_size=4)), max_size=4),
)
def test_any_bytes(read, body, changes):
    content = bytearray(body)
    for place, piece in changes:
        content[place : place + len(piece)] = piece
    with contextlib.suppress(BadInputError):
        read(bytes(content))
