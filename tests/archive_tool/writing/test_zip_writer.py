"""The bytes around the members of a zip, read from its end as unzip does, and from its front as Java does."""

import os
import stat
import struct
import zipfile
import zlib
from pathlib import Path

import pytest

from archive_tool.metadata.manifest import ZIP_EPOCH
from archive_tool.metadata.names import MAX_NAME_BYTES
from archive_tool.writing import zip_writer
from archive_tool.writing.copying import write_all
from archive_tool.writing.zip_writer import ALIGN_FROM, ALIGNMENT, DEFLATED, STORED, ZipWriter

LARGE = (5 << 30) + 3


def write(path, *members, seconds=ZIP_EPOCH):
    """Write members as (name, method, data); a number instead of data makes a hole of so many bytes."""
    with Path(path).open("x+b", buffering=0) as file:
        archive = ZipWriter(file, seconds)
        for name, method, data in members:
            size = data if isinstance(data, int) else len(data)
            member = archive.begin(name, method, size)
            if isinstance(data, int):
                archive.end(member, size=size, packed=size, crc=0)
                continue
            packed = data if method == STORED else deflate(data)
            write_all(file, packed, member.start)
            archive.end(member, size=size, packed=len(packed), crc=zlib.crc32(data))
        archive.close()


def deflate(data):
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


def from_the_front(path):
    """Read as Java's ZipInputStream: each local header must say where its member ends. Return the members' data.

    Holes of more than a gigabyte are skipped.
    """
    found = {}
    with Path(path).open("rb") as stream:
        while (signature := stream.read(4)) == b"PK\3\4":
            version, flags, method, _, _, crc, packed, size, *lengths = struct.unpack("<5H3L2H", stream.read(26))
            name, extra = (stream.read(length) for length in lengths)
            assert not flags & 8, "a data descriptor"
            assert bool(flags & 0x800) == (not name.isascii())
            fields = extra_fields(extra)
            if packed == size == 0xFFFFFFFF:
                assert version == 45
                size, packed = struct.unpack("<2Q", fields[1])
            else:
                assert version == 20
                assert 1 not in fields
            start = stream.tell()
            if packed > 1 << 30:
                stream.seek(packed, os.SEEK_CUR)
                found[name.decode()] = (start, size)
                continue
            data = stream.read(packed)
            data = data if method == STORED else zlib.decompress(data, wbits=-15)
            assert (len(data), zlib.crc32(data)) == (size, crc)
            found[name.decode()] = (start, data)
    assert signature in (b"PK\1\2", b"PK\5\6")
    return found


def extra_fields(extra):
    fields = {}
    while extra:
        number, length = struct.unpack_from("<2H", extra)
        fields[number], extra = extra[4 : 4 + length], extra[4 + length :]
    return fields


def test_both_ways_of_reading_agree(work):
    members = {"a.txt": b"text" * 100, "empty": b"", "sub/é.pt": os.urandom(1000)}
    write("m.mar", *((name, DEFLATED if name == "a.txt" else STORED, data) for name, data in members.items()))
    assert {name: data for name, (_, data) in from_the_front("m.mar").items()} == members
    with zipfile.ZipFile("m.mar") as archive:
        assert archive.testzip() is None
        assert {name: archive.read(name) for name in archive.namelist()} == members
        for info in archive.infolist():
            assert info.date_time == (1980, 1, 1, 0, 0, 0)
            assert info.external_attr >> 16 == stat.S_IFREG | 0o644
            assert (info.create_system, info.create_version, info.extract_version) == (3, 20, 20)
            assert (info.internal_attr, info.volume, info.comment, info.extra) == (0, 0, b"", b"")
            assert info.flag_bits == (0 if info.filename.isascii() else 0x800)


def test_every_byte_of_a_small_archive(work):
    write("m.mar", ("a", STORED, b"hello"), seconds=1700000000)
    head = bytes.fromhex("1400 0000 0000 aab1 6e57 86a61036 05000000 05000000 0100 0000")
    assert Path("m.mar").read_bytes() == (
        b"PK\3\4" + head + b"ahello"
        b"PK\1\2\x14\3" + head + bytes.fromhex("0000 0000 0000 0000a481 00000000") + b"a"
        b"PK\5\6" + bytes.fromhex("0000 0000 0100 0100 2f000000 24000000 0000")
    )


@pytest.mark.parametrize(
    ("seconds", "date"),
    [
        (0, (1980, 1, 1, 0, 0, 0)),
        (1700000001, (2023, 11, 14, 22, 13, 20)),
        (10**11, (2107, 12, 31, 23, 59, 58)),
    ],
)
def test_the_time_is_kept_within_what_a_zip_can_say(work, seconds, date):
    write("m.mar", ("a", STORED, b""), seconds=seconds)
    with zipfile.ZipFile("m.mar") as archive:
        assert archive.infolist()[0].date_time == date


def test_large_stored_members_begin_at_a_multiple(work):
    names = ["w.pt", "b" * 100, "é"]
    write("m.mar", *((name, STORED, os.urandom(ALIGN_FROM)) for name in names))
    found = from_the_front("m.mar")
    assert list(found) == names
    assert {start % ALIGNMENT for start, _ in found.values()} == {0}
    with zipfile.ZipFile("m.mar") as archive:
        assert archive.testzip() is None
    data = Path("m.mar").read_bytes()
    (extra_length,) = struct.unpack_from("<H", data, 28)
    extra = data[30 + len(names[0]) :][:extra_length]
    assert extra_fields(extra) == {0xD935: struct.pack("<H", 0x8000) + bytes(extra_length - 6)}


@pytest.mark.parametrize("size", [ALIGN_FROM, LARGE])
def test_no_header_is_longer_than_java_takes(work, size):
    """Java 25 adds the name, the extra fields and the 46 bytes of a central header: 65,535 at the most."""
    name = "n" * MAX_NAME_BYTES
    wanted = set()
    for offset in range(ALIGNMENT - 120 - len(name), ALIGNMENT - len(name)):
        path = Path(f"{offset}.mar")
        first = offset - 31  # a header without extra fields, a name of one letter, and this content end at the offset
        write(path, ("a", STORED, first), (name, STORED, size))
        with path.open("rb") as stream:
            stream.seek(offset)
            name_length, extra_length = struct.unpack("<26x2H", stream.read(30))
        assert (offset + 30 + name_length + extra_length) % ALIGNMENT == 0
        assert 46 + name_length + extra_length <= 0xFFFF
        wanted.add(extra_length)
    assert max(wanted) - min(wanted) == ALIGNMENT - 1  # from no padding at all to the longest


def test_others_are_not_padded(work):
    write("m.mar", ("a", STORED, bytes(ALIGN_FROM - 1)), ("b", DEFLATED, bytes(ALIGN_FROM)))
    assert from_the_front("m.mar")["a"][0] == 31
    assert from_the_front("m.mar")["b"][0] == 31 + ALIGN_FROM - 1 + 31


def test_members_beyond_four_gigabytes(work):
    """Holes, so that they take no room on most file systems."""
    write("m.mar", ("large", STORED, LARGE), ("text", DEFLATED, b"x" * 99), ("after", STORED, b"tail"))
    found = from_the_front("m.mar")
    assert found["large"] == (ALIGNMENT, LARGE)
    assert (found["text"][1], found["after"][1]) == (b"x" * 99, b"tail")
    with zipfile.ZipFile("m.mar") as archive:
        large, text, after = archive.infolist()
        assert (large.file_size, large.compress_size, large.header_offset) == (LARGE, LARGE, 0)
        assert extra_fields(large.extra) == {1: struct.pack("<2Q", LARGE, LARGE)}
        assert extra_fields(after.extra) == {1: struct.pack("<Q", after.header_offset)}
        assert {info.extract_version for info in (large, text, after)} == {45}
        assert archive.read("text") == b"x" * 99
        assert archive.read("after") == b"tail"


def test_a_member_that_only_just_needs_the_large_fields(work):
    for size, large in ((0xFFFFFFFE, False), (0xFFFFFFFF, True)):
        write(f"{size}.mar", ("a", STORED, size))
        with Path(f"{size}.mar").open("rb") as stream:
            head = stream.read(50)
        assert (struct.unpack_from("<2L", head, 18) == (0xFFFFFFFF, 0xFFFFFFFF)) == large
        with zipfile.ZipFile(f"{size}.mar") as archive:
            assert archive.infolist()[0].file_size == size


def test_what_deflate_may_make_larger_gets_the_large_fields(work):
    with Path("m.mar").open("x+b", buffering=0) as file:
        archive = ZipWriter(file, 0)
        assert archive.begin("a", DEFLATED, 0xFFFFFFFE).large
        assert not archive.begin("a", STORED, 0xFFFFFFFE).large


@pytest.mark.parametrize("count", [65534, 65535])
def test_more_members_than_plain_zip_can_count(work, count):
    write("m.mar", *((str(number), STORED, b"") for number in range(count)))
    with zipfile.ZipFile("m.mar") as archive:
        assert len(archive.infolist()) == count
    tail = Path("m.mar").read_bytes()[-22 - 20 - 56 :]
    assert (tail[:4] == b"PK\6\6") == (count >= 65535)


def test_limits_of_the_format():
    assert zip_writer.LIMIT == 0xFFFFFFFF
    assert zip_writer._MANY == 0xFFFF
