"""Numbers that lead out of a file, which the system would refuse to go to."""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path

import pytest

import archive_tool
from archive_tool.pickles.blocks import Blocks, ShortError
from archive_tool.reading.streams import window
from archive_tool.weights import scan

# BINBYTES8 of so many bytes: no file system has such files, and the last one is no position at all.
LENGTHS = [1 << 20, 1 << 50, (1 << 63) - 1, (1 << 64) - 1]


@pytest.mark.parametrize("length", LENGTHS)
def test_a_skip_leads_to_the_end_at_most(tmp_path: Path, length: int) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 100)
    with path.open("rb") as stream:
        for found in (stream, window(stream, 10, 50, closes=False)):
            found.seek(0)
            blocks = Blocks(found)
            blocks.take(3)
            blocks.skip(length)
            with pytest.raises(ShortError):
                blocks.take(1)


@pytest.mark.parametrize("length", LENGTHS)
def test_numbers_that_look_like_a_long_pickle_are_numbers(tmp_path: Path, length: int) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"\x8e" + struct.pack("<Q", length) + b"x" * 100)
    with path.open("rb") as stream:
        assert list(scan.scan(stream, "data/0")) == []


@pytest.mark.parametrize("length", LENGTHS)
def test_an_archive_with_such_numbers_is_unpacked(work: Path, options: dict[str, str], length: int) -> None:
    numbers = b"\x8e" + struct.pack("<Q", length) + b"x" * 100
    (work / "numbers").write_bytes(numbers)
    result = archive_tool.build(**{**options, "extra_files": "numbers"})
    with archive_tool.open_archive(result.path) as opened:
        opened.extract("out")
    assert (work / "out" / "numbers").read_bytes() == numbers


@pytest.mark.parametrize("offset", [1 << 50, (1 << 63) - 1])
def test_a_zip_whose_member_is_nowhere_is_damaged(tmp_path: Path, offset: int) -> None:
    """Its directory says so in the extension for large files (zip64)."""
    path = tmp_path / "made.mar"
    extra = struct.pack("<HHQ", 1, 8, offset)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a", b"content")
        place = archive.fp.tell()
    data = bytearray(path.read_bytes())
    assert data[place : place + 4] == b"PK\x01\x02"
    data[place + 30 : place + 32] = struct.pack("<H", len(extra))
    data[place + 42 : place + 46] = b"\xff" * 4
    data[place + 47 : place + 47] = extra
    end = data.index(b"PK\x05\x06")
    data[end + 12 : end + 16] = struct.pack("<I", end - place)
    path.write_bytes(bytes(data))
    with (
        pytest.raises(archive_tool.UnreadableArchiveError, match="'a' begins behind the end of the file"),
        archive_tool.open_archive(path),
    ):
        pass
