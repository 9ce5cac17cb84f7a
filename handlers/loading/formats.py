"""The format of a serialized file, told by its content: suffixes lie, and every tool has its own.

The one table of formats: the worker loads by it, and the tools that build and inspect archives use it, too. Reading
needs neither torch nor unpickling. A format is named only for what its loader would take.
"""

from __future__ import annotations

import enum
import json
import re
import struct
from typing import IO, TYPE_CHECKING, Final

from handlers.errors import LoadError, UnsupportedFormatError

if TYPE_CHECKING:
    import zipfile
    from collections.abc import Callable
    from pathlib import Path


class Format(enum.Enum):
    """The formats that files of weights and models may have; the value is the name shown to users."""

    TORCHSCRIPT = "TorchScript"
    STATE_DICT = "state dict (zip)"
    LEGACY_PICKLE = "legacy pickle"
    PICKLE = "pickle"
    SAFETENSORS = "safetensors"
    ONNX = "ONNX"
    EXPORTED_PROGRAM = "torch.export package (.pt2)"
    AOT_INDUCTOR = "AOTInductor"
    AOT_LIBRARY = "AOTInductor library (.so)"
    SHARED_LIBRARY = "shared library"
    EMPTY = "empty"
    LFS_POINTER = "Git LFS pointer"
    UNKNOWN = "unknown"

    @property
    def is_program(self) -> bool:
        """Whether the file holds the model itself, which is loaded without a model file."""
        return self in _PROGRAMS

    @property
    def described(self) -> str:
        """The format's name in the middle of a sentence; only formats that can be loaded have one."""
        return LOADED[self]


_PROGRAMS: Final = frozenset(
    {Format.TORCHSCRIPT, Format.EXPORTED_PROGRAM, Format.AOT_INDUCTOR, Format.AOT_LIBRARY, Format.ONNX}
)
#: The formats that can be loaded, as a sentence calls them.
LOADED: Final = {
    Format.STATE_DICT: "a torch.save checkpoint",
    Format.LEGACY_PICKLE: "a torch.save checkpoint in the format before torch 1.6",
    Format.TORCHSCRIPT: "a TorchScript module",
    Format.SAFETENSORS: "a safetensors file",
    Format.EXPORTED_PROGRAM: "a program of torch.export",
    Format.AOT_INDUCTOR: "an AOTInductor package",
    Format.AOT_LIBRARY: "an AOTInductor library (.so)",
    Format.ONNX: "an ONNX model",
}
# The other formats, and what to do about them.
_NOT_LOADED: Final = {
    Format.PICKLE: ("a pickle that torch.save did not write", ""),
    Format.SHARED_LIBRARY: ("a compiled library (.so)", ""),
    Format.LFS_POINTER: ("a Git LFS pointer, not the weights themselves", "fetch them with git lfs pull"),
}
# The first bytes of other files that are often taken for weights.
_STRANGERS: Final = (
    (b"version https://git-lfs", *_NOT_LOADED[Format.LFS_POINTER]),
    (b"<", "an HTML or XML page", "the download failed or needs a login: fetch the file again"),
    (b"GGUF", "a GGUF file", ""),
    (b"\x89HDF", "an HDF5 (Keras) file", ""),
    (b"\x93NUMPY", "a NumPy array", ""),
    (b"\x1f\x8b", "a gzip file", "unpack it before archiving"),
    (b"\x80", *_NOT_LOADED[Format.PICKLE]),
)
SUPPORTED: Final = (
    "read are state dicts written by torch.save, safetensors files (both with a model file), TorchScript, programs of "
    "torch.export, AOTInductor packages and libraries, and ONNX"
)

LFS_PREFIX: Final = b"version https://git-lfs"
#: A pointer file is never longer (https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md).
LFS_MAX_BYTES: Final = 1024

_LIBRARY_MAGIC: Final = (b"\x7fELF", b"\xcf\xfa\xed\xfe", b"\xca\xfe\xba\xbe")
# The entry point that every model compiled by AOTInductor exports; a .so has the symbol near its start or end.
_AOTI_SYMBOL: Final = b"AOTInductorModelContainerCreate"
_AOTI_WINDOW: Final = 16 << 20
# torch.save before 1.6 begins with this number, pickled by protocol 2 unless another one was asked for.
_LEGACY_MAGIC: Final = re.compile(rb"\x80([\x02\x03]|[\x04\x05]\x95.{8})\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19\.", re.DOTALL)
#: Bytes of a header: the format's own limit is 100 MB. The largest models have a few million, and three parts a tensor.
MAX_HEADER: Final = 32 << 20
_SAFETENSORS_MAX_PARTS: Final = 500_000
_ONNX_GRAPH: Final = 7
_ONNX_MAX_FIELD: Final = 100  # onnx.proto has 26, and room for more


def detect_format(path: Path) -> Format:
    """Return the format of a file that is to be loaded.

    Raises:
        LoadError: the file is missing, empty or damaged.
        UnsupportedFormatError: the file cannot be loaded; the message names its format if it is known.
    """
    if not path.is_file():
        raise LoadError(
            f"there are no weights at {path}",
            hint="the manifest names a serializedFile that the archive does not hold; build it again",
        )
    with path.open("rb") as file:
        form = sniff(file)
        file.seek(0)
        start = file.read(64)
    if form in LOADED:
        return form
    if form is Format.EMPTY:
        raise LoadError(f"{path} is empty", hint="write or download the weights again")
    if form in _NOT_LOADED:
        what, remedy = _NOT_LOADED[form]
        raise UnsupportedFormatError(f"{path} is {what}", hint=remedy or SUPPORTED)
    raise _unknown(path, start)


def _unknown(path: Path, start: bytes) -> LoadError:
    if start.startswith(b"PK\x03\x04"):
        return _unknown_zip(path)
    for what, begins in (("an ONNX model", _begins_as_onnx(start)), ("a safetensors file", start[6:9] == b"\0\0{")):
        if begins:
            hint = "write or download the model again"
            return LoadError(f"{path} begins as {what} and is damaged or cut short", hint=hint)
    for magic, what, remedy in _STRANGERS:
        if start.lstrip().startswith(magic):
            return UnsupportedFormatError(f"{path} is {what}", hint=remedy or SUPPORTED)
    return UnsupportedFormatError(f"{path} (which begins {start[:16]!r}) holds no known weights", hint=SUPPORTED)


def _unknown_zip(path: Path) -> LoadError:
    import zipfile

    try:
        with zipfile.ZipFile(path):
            return UnsupportedFormatError(f"{path} is a zip file without torch weights", hint=SUPPORTED)
    # A broken directory raises all of these.
    except (zipfile.BadZipFile, OSError, ValueError, struct.error, NotImplementedError, OverflowError) as error:
        return LoadError(f"{path} is damaged or cut short: {error}", hint="write or download the weights again")


def _open_zip(stream: IO[bytes]) -> zipfile.ZipFile:
    import zipfile  # slow, and not needed for every format

    return zipfile.ZipFile(stream)


def sniff(stream: IO[bytes], open_zip: Callable[[IO[bytes]], zipfile.ZipFile] = _open_zip) -> Format:
    """Return the format of a seekable stream. Reads its start, and its end if it is a zip.

    Only confident answers: whatever could be two formats is `Format.UNKNOWN`.

    Args:
        stream: at any position.
        open_zip: opens zips; another one may read less of their directory.

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
        return _sniff_zip(stream, open_zip)
    if head.startswith(_LIBRARY_MAGIC):
        return _sniff_library(stream, size)
    if _LEGACY_MAGIC.match(head):
        return Format.LEGACY_PICKLE
    if head[8:9] == b"{" and _is_safetensors(stream, size):
        return Format.SAFETENSORS
    if _is_plain_pickle(stream, head):
        return Format.PICKLE
    if _begins_as_onnx(head) and _is_onnx(stream, size):
        return Format.ONNX
    return Format.UNKNOWN


def _sniff_zip(stream: IO[bytes], open_zip: Callable[[IO[bytes]], zipfile.ZipFile]) -> Format:
    import zipfile

    stream.seek(0)
    try:
        with open_zip(stream) as archive:
            names = archive.namelist()
    # A broken directory raises all of these; the file has then no format with a name.
    except (zipfile.BadZipFile, ValueError, struct.error, NotImplementedError, OverflowError, EOFError):
        return Format.UNKNOWN
    if "serialized_exported_program.json" in names:  # written by torch before 2.7, whose packages have no folder
        return Format.EXPORTED_PROGRAM
    # torch looks into the folder of the first member only.
    root = names[0].split("/")[0] + "/" if names else ""
    inner = {name[len(root) :] for name in names if name.startswith(root)}
    if any(name.startswith("data/aotinductor/") for name in inner):
        return Format.AOT_INDUCTOR
    if inner.isdisjoint(("version", ".data/version")):  # torch's reader refuses a file that has neither
        return Format.UNKNOWN
    if "archive_format" in inner and any(name.startswith("models/") for name in inner):
        return Format.EXPORTED_PROGRAM
    if "data.pkl" not in inner:
        return Format.UNKNOWN
    # torch.load calls torch.jit.load where there are constants, and that needs code.
    if "constants.pkl" not in inner:
        return Format.STATE_DICT
    return Format.TORCHSCRIPT if any(name.startswith("code/") for name in inner) else Format.UNKNOWN


def _sniff_library(stream: IO[bytes], size: int) -> Format:
    for start in sorted({0, max(0, size - _AOTI_WINDOW)}):
        stream.seek(start)
        if _AOTI_SYMBOL in stream.read(_AOTI_WINDOW):
            return Format.AOT_LIBRARY
    return Format.SHARED_LIBRARY


def _is_safetensors(stream: IO[bytes], size: int) -> bool:
    stream.seek(0)
    (length,) = struct.unpack("<Q", stream.read(8))
    if not 2 <= length <= min(MAX_HEADER, size - 8):
        return False
    text = stream.read(length)
    # Counted before anything is parsed.
    if text.count(b"{") + text.count(b"[") > _SAFETENSORS_MAX_PARTS:
        return False
    try:
        header = json.loads(text)
    except (ValueError, RecursionError):
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


def _begins_as_onnx(head: bytes) -> bool:
    """Return whether field 1 of onnx.proto is there, the version of the format, and then a field that may follow it."""
    follows = (0x12, 0x1A, 0x22, 0x28, 0x32, 0x3A, 0x42, 0x72)  # fields 2 to 8, and 14
    return len(head) > 2 and head[0] == 0x08 and 1 <= head[1] <= 99 and head[2] in follows


def _is_onnx(stream: IO[bytes], size: int) -> bool:
    """Walk the fields of a protobuf ModelProto (onnx.proto): they must end with the file and include a graph."""
    position = 0
    graph = False
    for _ in range(10_000):
        if position == size:
            return graph
        stream.seek(position)
        window = stream.read(20)
        tag, used = _varint(window)
        field, wire_type = tag >> 3, tag & 7
        # All of them are integers or length-delimited.
        if used == 0 or not 1 <= field <= _ONNX_MAX_FIELD or wire_type not in (0, 2):
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
    """Read a protobuf varint: its value and its length; length 0 if there is none."""
    value = 0
    for index, byte in enumerate(data[:10]):
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return value, index + 1
    return 0, 0
