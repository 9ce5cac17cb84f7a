"""What a file of weights is, told by its content: suffixes lie, and every tool has its own."""

from __future__ import annotations

import enum
import struct
import zipfile
from pathlib import Path

from handlers.errors import LoadError, UnsupportedFormatError

# How files begin that are taken for weights and are none, and what to do about it.
_STRANGERS = (
    (b"version https://git-lfs", "a Git LFS pointer, not the weights themselves", "fetch them with git lfs pull"),
    (b"<", "an HTML or XML page", "the download failed or needs a login: fetch the file again"),
    (b"\x7fELF", "a compiled library (.so)", ""),
    (b"GGUF", "a GGUF file", ""),
    (b"\x89HDF", "an HDF5 (Keras) file", ""),
    (b"\x93NUMPY", "a NumPy array", ""),
    (b"\x1f\x8b", "a gzip file", "unpack it before archiving"),
)
_SUPPORTED = (
    "read are state dicts written by torch.save, safetensors files (both with a model file), TorchScript, programs of "
    "torch.export, AOTInductor packages and ONNX"
)
_LARGEST_SAFETENSORS_HEADER = 100_000_000  # the format's own limit
_LEGACY_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # the pickled number that torch.save began with before 1.6


class WeightsFormat(enum.Enum):
    """The formats that are read."""

    TORCH = "a torch.save checkpoint"
    TORCH_LEGACY = "a torch.save checkpoint in the format before torch 1.6"
    TORCHSCRIPT = "a TorchScript module"
    SAFETENSORS = "a safetensors file"
    EXPORTED = "a program of torch.export"
    AOT_INDUCTOR = "an AOTInductor package"
    ONNX = "an ONNX model"

    @property
    def is_program(self) -> bool:
        """Whether the file holds the model itself, and no model file belongs to it."""
        return self in _PROGRAMS


_PROGRAMS = frozenset(
    {WeightsFormat.TORCHSCRIPT, WeightsFormat.EXPORTED, WeightsFormat.AOT_INDUCTOR, WeightsFormat.ONNX}
)


def detect_format(path: Path) -> WeightsFormat:
    """Tell the format of a file of weights; an error names what it is instead, if that can be told."""
    if not path.is_file():
        raise LoadError(
            f"there are no weights at {path}",
            hint="the manifest names a serializedFile that the archive does not hold; build it again",
        )
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(64)
    if not start:
        raise LoadError(f"{path} is empty", hint="write or download the weights again")
    if start.startswith(b"PK\x03\x04"):
        return _detect_zip(path)
    if start.startswith(_LEGACY_MAGIC):
        return WeightsFormat.TORCH_LEGACY
    if _is_safetensors(start, size):
        return WeightsFormat.SAFETENSORS
    if _is_onnx(start):
        return WeightsFormat.ONNX
    raise _unsupported(path, start)


def _detect_zip(path: Path) -> WeightsFormat:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError) as error:
        raise LoadError(
            f"{path} is damaged or cut short: {error}", hint="write or download the weights again"
        ) from error
    # Every member lies in one folder, named after the file that was once saved.
    members = {name.partition("/")[2] for name in names}
    if "constants.pkl" in members and any(member.startswith("code/") for member in members):
        return WeightsFormat.TORCHSCRIPT
    if "data.pkl" in members and ".data/version" not in members:
        return WeightsFormat.TORCH
    if any(member.startswith("data/aotinductor/") for member in members):
        return WeightsFormat.AOT_INDUCTOR
    # The second name is that of torch before 2.7, whose files have no folder.
    if any(member.startswith("models/") for member in members) or "serialized_exported_program.json" in names:
        return WeightsFormat.EXPORTED
    raise UnsupportedFormatError(f"{path} is a zip file without torch weights", hint=_SUPPORTED)


def _is_safetensors(start: bytes, size: int) -> bool:
    if len(start) < 10:
        return False
    (header,) = struct.unpack("<Q", start[:8])
    return 2 <= header <= min(_LARGEST_SAFETENSORS_HEADER, size - 8) and start[8:9] == b"{"


def _is_onnx(start: bytes) -> bool:
    if len(start) < 3:
        return False
    # onnx.proto: field 1 is the version of the format, a small number; one of the fields 2 to 8, or 14, follows it.
    # ONNX Runtime reads the rest and judges it.
    return start[0] == 0x08 and 1 <= start[1] <= 99 and start[2] in (0x12, 0x1A, 0x22, 0x28, 0x32, 0x3A, 0x42, 0x72)


def _unsupported(path: Path, start: bytes) -> UnsupportedFormatError:
    for magic, kind, remedy in _STRANGERS:
        if start.lstrip().startswith(magic):
            return UnsupportedFormatError(f"{path} is {kind}", hint=remedy or _SUPPORTED)
    if start.startswith(b"\x80"):
        return UnsupportedFormatError(f"{path} is a pickle that torch.save did not write", hint=_SUPPORTED)
    return UnsupportedFormatError(f"{path} (which begins {start[:16]!r}) holds no known weights", hint=_SUPPORTED)
