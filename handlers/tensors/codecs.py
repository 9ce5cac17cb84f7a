"""Tensors as bytes and back: npy, npz and safetensors, and the bare elements that all of them hold.

Whatever the bytes are, a reader returns what they say or raises `BadInputError`. Nothing is unpickled, and nothing is
allocated for a size that a header claims and the body does not have.
"""

from __future__ import annotations

import io
import math
import zipfile
from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import torch

from handlers.errors import BadInputError, UnsupportedMediaError
from handlers.loading.signature import DTYPES
from handlers.tensors.media_types import JSON, NPY, NPZ, SAFETENSORS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Body = bytes | bytearray | memoryview

#: The element types that every form except npy holds, which has no bfloat16. By numpy's names.
_NUMPY = {name: dtype for name, dtype in DTYPES.items() if dtype is not torch.bfloat16}
_MOST = 2**63
_DIMENSIONS = 64
_NPY_MAGIC = b"\x93NUMPY"
_ZIP_MAGIC = b"PK\x03\x04"


def sniff(body: Body) -> str:
    """Return the form of a body by its first bytes; JSON if it is none of the others."""
    head = bytes(body[:9])
    if head.startswith(_NPY_MAGIC):
        return NPY
    if head.startswith(_ZIP_MAGIC):
        return NPZ
    # A safetensors file begins with the size of its header, little-endian, and the header with a brace. The first eight
    # letters of a text would be a size that no body has.
    if head[8:] == b"{" and int.from_bytes(head[:8], "little") <= len(body) - 8:
        return SAFETENSORS
    return JSON


# ---- elements ----------------------------------------------------------------------------------------------------


def from_elements(raw: Body, dtype: torch.dtype, shape: Sequence[int], name: str) -> torch.Tensor:
    """Make a tensor of its elements, little-endian and row by row; `name` is its name in errors.

    Raises:
        BadInputError: there are too few or too many bytes, or one is not a value of the dtype.
    """
    count = math.prod(shape)
    if len(raw) != count * dtype.itemsize:
        raise BadInputError(
            f"{name} has {len(raw)} bytes of elements; {_name(dtype)} of the shape {_shown(shape)} takes "
            f"{_number(count * dtype.itemsize)}"
        )
    tensor = torch.frombuffer(bytearray(raw), dtype=torch.uint8) if raw else torch.empty(0, dtype=torch.uint8)
    if dtype is torch.bool:
        _check_booleans(tensor, name)
    return shaped(tensor.view(dtype), shape, name)


def shaped(tensor: torch.Tensor, shape: Sequence[int], name: str) -> torch.Tensor:
    """Return a tensor in another shape of as many elements; `name` is its name in errors.

    Raises:
        BadInputError: the shape has another number of elements.
    """
    if math.prod(max(size, 1) for size in shape) >= _MOST or len(shape) > _DIMENSIONS:
        raise BadInputError(f"{name} cannot have the shape {_shown(shape)}")  # torch's own sizes would overflow
    return tensor.reshape(tuple(shape))


def to_elements(tensor: torch.Tensor) -> bytes:
    """Return a tensor's elements, little-endian and row by row."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""


def _check_booleans(raw: torch.Tensor, name: str) -> None:
    """Refuse bytes that are neither 0 nor 1: torch would take them for a number of its own."""
    if raw.numel() and int(raw.max()) > 1:
        raise BadInputError(f"{name} has the byte {int(raw.max())} for a bool, which is 0 or 1")


# ---- npy ---------------------------------------------------------------------------------------------------------


def read_npy(body: Body, name: str = "the array") -> torch.Tensor:
    """Read what `numpy.save` wrote; arrays of objects or records are refused.

    Raises:
        BadInputError: it is not such an array.
    """
    shape, fortran, dtype, begin = _npy_header(body, name)
    raw = memoryview(body)[begin:]
    element = _NUMPY.get(dtype.name)
    if element is None or dtype.names is not None:
        raise BadInputError(f"{name} is of numpy's type {dtype!s:.40}: send numbers, {', '.join(_NUMPY)}")
    if dtype.byteorder == ">" and len(raw) and len(raw) % element.itemsize == 0:
        import numpy as np

        raw = memoryview(np.frombuffer(raw, dtype).astype(dtype.newbyteorder("<")).tobytes())
    if not fortran or len(shape) < 2:
        return from_elements(raw, element, shape, name)
    turned = from_elements(raw, element, shape[::-1], name)
    return turned.permute(*reversed(range(len(shape)))).contiguous()


def _npy_header(body: Body, name: str) -> tuple[tuple[int, ...], bool, Any, int]:
    """Return the shape, whether columns come first, numpy's dtype, and where the elements begin."""
    from numpy.lib import format as npy

    # Version 3 is for records whose fields have names beyond Latin-1.
    readers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
    # numpy takes no header above 10,000 bytes; this is more than that and its length.
    stream = io.BytesIO(bytes(body[:16_384]))
    try:
        version = npy.read_magic(stream)
        if version not in readers:
            raise ValueError(f"its format has the version {version[0]}.{version[1]}")
        shape, fortran, dtype = readers[version](stream)
        if any(type(size) is not int or size < 0 for size in shape):
            raise ValueError(f"its shape is {_shown(shape)}")
    except Exception as error:  # numpy evaluates the header as Python, which can fail in many ways
        raise BadInputError(f"{name} is no npy file: {error!s:.200}") from error
    return shape, bool(fortran), dtype, stream.tell()


def write_npy(tensor: torch.Tensor) -> bytes:
    """Write a tensor as `numpy.save` does; bfloat16, which numpy lacks, as float32, which holds each of its values."""
    from numpy.lib import format as npy

    stream = io.BytesIO()
    tensor = tensor.detach().cpu()
    npy.write_array(stream, (tensor.float() if tensor.dtype is torch.bfloat16 else tensor).numpy(), allow_pickle=False)
    return stream.getvalue()


# ---- npz ---------------------------------------------------------------------------------------------------------


def read_npz(body: Body) -> dict[str, torch.Tensor]:
    """Read what `numpy.savez` wrote. Compressed arrays are refused: they could fill the memory.

    Raises:
        BadInputError: it is not such a file.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(bytes(body))) as archive:
            members = archive.infolist()
            if any(one.compress_type != zipfile.ZIP_STORED for one in members):
                raise BadInputError("the arrays of the npz file are compressed: write it with numpy.savez")
            if sum(one.file_size for one in members) > len(body):  # members that share their bytes
                raise BadInputError("the npz file claims more bytes than it has")
            if len({one.filename for one in members}) < len(members):
                raise BadInputError("the npz file has two arrays of one name")
            content = {one.filename.removesuffix(".npy"): archive.read(one) for one in members}
    except BadInputError:
        raise
    except Exception as error:  # a zip's directory, its headers and its checksums fail in many ways
        raise BadInputError(f"the body is no npz file: {error!s:.200}") from error
    return {name: read_npy(raw, f"the array {name[:40]!r}") for name, raw in content.items()}


def write_npz(tensors: Mapping[str, torch.Tensor]) -> bytes:
    """Write tensors as `numpy.savez` does, under their names."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
        for name, tensor in tensors.items():
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), write_npy(tensor))
    return stream.getvalue()


# ---- safetensors -------------------------------------------------------------------------------------------------


@cache
def has_safetensors() -> bool:
    """Return whether the package safetensors is there. An archive may run where torchmar is not installed."""
    return find_spec("safetensors") is not None


def read_safetensors(body: Body) -> dict[str, torch.Tensor]:
    """Read a safetensors file. Its library checks the sizes before it allocates.

    Raises:
        BadInputError: it is not such a file.
    """
    if not has_safetensors():
        raise UnsupportedMediaError("the server lacks the package safetensors: send JSON, npy or npz")
    from safetensors.torch import load

    try:
        found: dict[str, torch.Tensor] = load(bytes(body))
    except Exception as error:  # SafetensorError, and KeyError for an element type that torch lacks
        raise BadInputError(f"the body is no safetensors file that torch can hold: {error!s:.200}") from error
    for name, tensor in found.items():
        if tensor.dtype is torch.bool:
            _check_booleans(tensor.reshape(-1).view(torch.uint8), repr(name[:40]))
    return found


def write_safetensors(tensors: Mapping[str, torch.Tensor]) -> bytes:
    """Write tensors as a safetensors file."""
    from safetensors.torch import save

    # Copies, because the tensors of a batch are views of one, which the library takes for a mistake.
    found: bytes = save({name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()})
    return found


# ---- texts -------------------------------------------------------------------------------------------------------


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _shown(shape: Sequence[int]) -> str:
    sizes = [_number(size) for size in shape[:8]]
    return f"[{', '.join(sizes)}{', ...' if len(shape) > 8 else ''}]"


def _number(value: int) -> str:
    """Return a number as text; one of thousands of digits, which Python refuses to write, only by its size."""
    return str(value) if abs(value) < 10**18 else "more than 10^18"
