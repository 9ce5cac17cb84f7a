"""Tells what a serialized file is from its own bytes, without torch and without unpickling anything.

Only confident answers: whatever could be two things is `Format.UNKNOWN`.
"""

from __future__ import annotations

import struct
from enum import Enum
from typing import IO, TYPE_CHECKING, Final

from archive_tool import files, json_text

if TYPE_CHECKING:
    from pathlib import Path


class Format(Enum):
    """Formats in which models are saved; the value is how a person is told."""

    TORCHSCRIPT = "TorchScript"
    STATE_DICT = "state dict (zip)"
    LEGACY_PICKLE = "legacy pickle"
    SAFETENSORS = "safetensors"
    ONNX = "ONNX"
    EXPORTED_PROGRAM = "torch.export package (.pt2)"
    AOT_INDUCTOR = "AOTInductor"
    SHARED_LIBRARY = "shared library"
    EMPTY = "empty"
    LFS_POINTER = "Git LFS pointer"
    UNKNOWN = "unknown"


LFS_PREFIX: Final = b"version https://git-lfs"
#: A pointer file is never longer (https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md).
LFS_MAX_BYTES: Final = 1024

_LIBRARY_MAGIC: Final = (b"\x7fELF", b"\xcf\xfa\xed\xfe", b"\xca\xfe\xba\xbe")
# The entry point that every model compiled by AOTInductor exports; a .so names its symbols near its start or end.
_AOTI_SYMBOL: Final = b"AOTInductorModelContainerCreate"
_AOTI_WINDOW: Final = 16 << 20
# torch.save before 1.6 begins with this number, pickled by protocol 2.
_LEGACY_MAGIC: Final = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
#: The format's own limit is 100 MB; those of the largest models have a few million bytes.
_SAFETENSORS_MAX_HEADER: Final = 32 << 20
_ONNX_GRAPH: Final = 7


def sniff_file(path: Path) -> Format:
    """Tell what a file is.

    Raises:
        OSError: it cannot be read.
    """
    with files.open_regular(path) as stream:
        return sniff(stream)


def sniff(stream: IO[bytes]) -> Format:
    """Tell what a seekable stream holds. Reads its start, and its end if it is a zip.

    Raises:
        OSError: it cannot be read.
    """
    size = stream.seek(0, 2)
    stream.seek(0)
    head = stream.read(64)
    if not size:
        return Format.EMPTY
    if head.startswith(LFS_PREFIX) and size <= LFS_MAX_BYTES:
        return Format.LFS_POINTER
    if head.startswith(b"PK\x03\x04"):
        return _sniff_zip(stream)
    if head.startswith(_LIBRARY_MAGIC):
        return _sniff_library(stream, size)
    if head.startswith(_LEGACY_MAGIC):
        return Format.LEGACY_PICKLE
    if head[8:9] == b"{" and _is_safetensors(stream, size):
        return Format.SAFETENSORS
    if _is_plain_pickle(stream, head):
        return Format.LEGACY_PICKLE
    if head[:1] == b"\x08" and _is_onnx(stream, size):
        return Format.ONNX
    return Format.UNKNOWN


def _sniff_zip(stream: IO[bytes]) -> Format:
    import zipfile  # takes a while, and not every format needs it

    from archive_tool import zip_layout

    stream.seek(0)
    try:
        with zip_layout.open_zip(stream) as archive:
            names = archive.namelist()
    # A broken directory raises all of these; it is then not a format that we can name.
    except (zipfile.BadZipFile, ValueError, struct.error, NotImplementedError, OverflowError, EOFError):
        return Format.UNKNOWN
    root = names[0].split("/")[0] + "/" if names else ""
    inner = {name[len(root) :] for name in names if name.startswith(root)}
    if any(name.startswith("data/aotinductor/") for name in inner):
        return Format.AOT_INDUCTOR
    if "archive_format" in inner or "serialized_exported_program.json" in (*names, *inner):
        return Format.EXPORTED_PROGRAM
    if "data.pkl" not in inner:
        return Format.UNKNOWN
    # torch.jit.save writes its constants and, for every module with methods, code; torch.save writes neither.
    if "constants.pkl" in inner or any(name.startswith("code/") for name in inner):
        return Format.TORCHSCRIPT
    return Format.STATE_DICT if "version" in inner else Format.UNKNOWN


def _sniff_library(stream: IO[bytes], size: int) -> Format:
    for start in sorted({0, max(0, size - _AOTI_WINDOW)}):
        stream.seek(start)
        if _AOTI_SYMBOL in stream.read(_AOTI_WINDOW):
            return Format.AOT_INDUCTOR
    return Format.SHARED_LIBRARY


def _is_safetensors(stream: IO[bytes], size: int) -> bool:
    stream.seek(0)
    (length,) = struct.unpack("<Q", stream.read(8))
    if not 2 <= length <= min(_SAFETENSORS_MAX_HEADER, size - 8):
        return False
    try:
        header = json_text.loads(stream.read(length), max_bytes=_SAFETENSORS_MAX_HEADER)
    except ValueError:
        return False
    return isinstance(header, dict) and all(
        name == "__metadata__" or (isinstance(entry, dict) and "data_offsets" in entry)
        for name, entry in header.items()
    )


def _is_plain_pickle(stream: IO[bytes], head: bytes) -> bool:
    if head[:1] != b"\x80" or head[1:2] not in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return False
    stream.seek(-1, 2)
    return stream.read(1) == b"."  # the opcode STOP


def _is_onnx(stream: IO[bytes], size: int) -> bool:
    """Walk the fields of a protobuf ModelProto (onnx.proto): they must end with the file, with a graph among them."""
    position = 0
    graph = False
    for _ in range(10_000):
        if position == size:
            return graph
        stream.seek(position)
        window = stream.read(20)
        tag, used = _varint(window)
        field, wire_type = tag >> 3, tag & 7
        # onnx.proto numbers its fields from 1 to 26, all of them integers or length-delimited.
        if used == 0 or not 1 <= field <= 26 or wire_type not in (0, 2):
            return False
        value, more = _varint(window[used:])
        if more == 0:
            return False
        position += used + more + (value if wire_type == 2 else 0)
        graph = graph or (field == _ONNX_GRAPH and wire_type == 2)
        if position > size:
            return False
    return False


def _varint(data: bytes) -> tuple[int, int]:
    """Read a protobuf varint: its value and its length; length 0 if it is none."""
    value = 0
    for index, byte in enumerate(data[:10]):
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return value, index + 1
    return 0, 0
