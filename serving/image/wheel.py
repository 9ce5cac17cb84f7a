"""A wheel of the torchmar that runs, installed or a checkout: an image gets the very code that made it.

Not one of an index: whoever owns a name there would own the image.
"""

from __future__ import annotations

import base64
import hashlib
import zipfile
from collections.abc import Iterator
from importlib.metadata import Distribution, distribution
from pathlib import Path
from typing import Final

import archive_tool

#: The folders beside each other that torchmar consists of.
PACKAGES: Final = ("archive_tool", "handlers", "model_defs", "serving")
_NAME: Final = "torchmar"
_WHEEL: Final = "Wheel-Version: 1.0\nGenerator: torchmar\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
# The earliest time in a zip archive: the same code gives the same bytes, which builders of images keep.
_TIME: Final = (1980, 1, 1, 0, 0, 0)


def write_wheel(folder: Path) -> Path:
    """Write the wheel into a folder; return its path."""
    found = distribution(_NAME)
    name = f"{_NAME}-{found.version}"
    path = folder / f"{name}-py3-none-any.whl"
    records = []
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as wheel:
        for member, data in _members(found, f"{name}.dist-info"):
            digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
            records.append(f"{member},sha256={digest},{len(data)}")
            wheel.writestr(_entry(member), data)
        record = f"{name}.dist-info/RECORD"
        wheel.writestr(_entry(record), "\n".join([*records, f"{record},,", ""]))
    return path


def _members(found: Distribution, info: str) -> Iterator[tuple[str, bytes]]:
    root = Path(archive_tool.__file__).parent.parent
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                yield path.relative_to(root).as_posix(), path.read_bytes()
    # The second name is that of a folder beside a checkout, which is found first where that is the working folder.
    yield f"{info}/METADATA", (found.read_text("METADATA") or found.read_text("PKG-INFO") or "").encode()
    yield f"{info}/entry_points.txt", (found.read_text("entry_points.txt") or "").encode()
    yield f"{info}/WHEEL", _WHEEL.encode()


def _entry(member: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(member, _TIME)
    entry.compress_type = zipfile.ZIP_DEFLATED
    entry.external_attr = 0o644 << 16
    return entry
