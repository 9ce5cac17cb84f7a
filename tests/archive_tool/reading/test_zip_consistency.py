"""A zip that says two things: by the headers, which Java reads, and by the directory, which Python reads."""

import io
import struct
import subprocess
import zipfile
import zlib

import pytest

from archive_tool.issues import Kind
from archive_tool.reading import zip_consistency
from tests.archive_tool.hostile import Member, zip_of

GOOD = Member(b"a.txt", b"a" * 100)
DEFLATED = Member(b"d.txt", b"d" * 1000, method=8)
LATER = Member(b"l.txt", b"l" * 1000, method=8, flags=8)


def found(data):
    stream = io.BytesIO(data)
    with zipfile.ZipFile(stream) as archive:
        return [(issue.kind, issue.message) for issue in zip_consistency.issues(io.BytesIO(data), archive)]


def unicode_path(name, other, crc=None):
    value = struct.pack("<BI", 1, zlib.crc32(name) if crc is None else crc) + other
    return struct.pack("<2H", 0x7075, len(value)) + value


def renamed(own=b"", listed=b"", name=b"notes.txt"):
    return zip_of(Member(name, b"x", extra=own, central={"extra": listed}))


@pytest.mark.parametrize(
    "data",
    [
        zip_of(GOOD, DEFLATED, LATER),
        zip_of(),
        renamed(unicode_path(b"notes.txt", b"notes.txt"), unicode_path(b"notes.txt", b"notes.txt")),
        zip_of(GOOD, comment=b"made by hand"),
        zip_of(Member(b"folder/", b""), Member(b"f/x", b"", extra=b"\x99\x99\2\0ab")),
        zip_of(Member("é".encode(), b"x", flags=0x800)),
        zip_of(Member(b"l", b"l" * 9, 8, 8, descriptor=struct.pack("<3I", zlib.crc32(b"l" * 9), 5, 9))),
    ],
)
def test_a_good_zip(data):
    assert found(data) == []


def test_what_other_tools_write(tmp_path):
    plain = io.BytesIO()
    with zipfile.ZipFile(plain, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a", b"a" * 500)
        with archive.open("big", "w", force_zip64=True) as member:
            member.write(b"b" * 500)
    assert found(plain.getvalue()) == []

    class Pipe(io.RawIOBase):
        def __init__(self):
            self.data = bytearray()

        def writable(self):
            return True

        def write(self, data):
            self.data += bytes(data)
            return len(data)

    pipe = Pipe()
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a", b"a" * 500)
        with archive.open("z", "w", force_zip64=True) as member:
            member.write(b"b" * 500)
    assert found(bytes(pipe.data)) == []
    (tmp_path / "x.txt").write_text("x" * 1000)
    if subprocess.run("command -v zip", shell=True, capture_output=True, check=False).returncode == 0:
        subprocess.run(["zip", "-q", "x.zip", "x.txt"], cwd=tmp_path, check=True)
        assert found((tmp_path / "x.zip").read_bytes()) == []


def stored_in_more():
    """Return a member that takes more bytes than it has; Java reads on within it."""
    return Member(b"s", b"1234", tail=b"56789", header={"packed": 9})


OTHER = unicode_path(b"notes.txt", b"evil.py")
UNSAFE = [
    ("other name, listed", renamed(listed=OTHER), "'notes.txt' is called 'evil.py' by an extra field"),
    ("other name, in the header", renamed(OTHER), "'notes.txt' is called 'evil.py' by an extra field"),
    ("other name, in both", renamed(OTHER, b"\1\0\0\0" + OTHER), "'notes.txt' is called 'evil.py' by an extra field"),
    ("other name, of a name before", renamed(unicode_path(b"n", b"evil.py", 7)), "is called 'evil.py'"),
    ("prefix", zip_of(GOOD, before=b"#!/bin/sh\n", between=b""), "TorchServe finds no member"),
    ("gap", zip_of(GOOD, Member(b"b", b"b", before=b"12345")), "5 bytes belong to no member: TorchServe stops"),
    ("one byte", zip_of(GOOD, Member(b"b", b"b", before=b"1")), "1 byte belongs to no member"),
    ("hidden", zip_of(GOOD, Member(b"hidden", b"x", listed=False), Member(b"b", b"")), "belong to no member"),
    ("hidden last", zip_of(GOOD, Member(b"hidden", b"x", listed=False)), "before the directory belong to no member"),
    ("before end", zip_of(GOOD, between=b"12345"), "5 bytes before the directory belong"),
    ("after end", zip_of(GOOD, after=b"123"), "does not end where the directory does"),
    ("comment", zip_of(GOOD, comment=b"PK\5\6" + bytes(20)), "before the directory belong to no member"),
    ("size", zip_of(Member(b"s", b"12345", central={"size": 4, "packed": 4}), GOOD), "other sizes in its own header"),
    ("stored", zip_of(stored_in_more()), "is stored in 9 bytes and has 4"),
    ("crc", zip_of(Member(b"s", b"12345", central={"crc": 1})), "other sizes in its own header"),
    ("method", zip_of(Member(b"s", b"12345", central={"method": 8})), "packed in another way"),
    ("encrypted", zip_of(Member(b"s", b"12345", central={"flags": 1})), "packed in another way"),
    ("later", zip_of(Member(b"s", b"12345", central={"flags": 8})), "packed in another way"),
    ("encoding", zip_of(Member("é".encode(), b"x")), "does not say how its name is encoded"),
    ("descriptor", zip_of(Member(b"l", b"l" * 9, 8, 8, descriptor=bytes(16))), "followed by sizes"),
    ("no descriptor", zip_of(Member(b"l", b"l" * 9, 8, 8, descriptor=b"")), "followed by sizes"),
    ("twice", zip_of(GOOD, Member(b"b", b"b", central={"offset": 0})), "lies over the bytes"),
]


@pytest.mark.parametrize(("data", "message"), [case[1:] for case in UNSAFE], ids=[case[0] for case in UNSAFE])
def test_what_readers_disagree_on(data, message):
    try:
        issues = found(data)
    except zipfile.BadZipFile:
        pytest.skip("this Python's own zipfile refuses it")
    assert any(message in told for _, told in issues), issues
    assert {kind for kind, _ in issues} == {Kind.UNSAFE}


def test_another_name_in_the_header():
    issues = found(zip_of(Member(b"evil", b"x", central={"name": b"good"})))
    assert issues == [(Kind.UNSAFE, "'good' is called 'evil' by its own header, which TorchServe reads")]


def test_a_header_that_is_none():
    issues = found(zip_of(GOOD, Member(b"b", b"b", central={"offset": 3})))
    assert any("no header of its own" in told for _, told in issues)


def test_sizes_in_the_header_though_they_follow():
    data = bytearray(zip_of(LATER))
    assert found(bytes(data)) == []
    data[18] = 7  # the packed size in the header
    assert any("other sizes" in told for _, told in found(bytes(data)))
    data[18] = 0
    data[22] = 7
    assert any("other sizes" in told for _, told in found(bytes(data)))


def test_a_stored_member_whose_size_follows():
    issues = found(zip_of(Member(b"s", b"12345", flags=8)))
    assert [kind for kind, _ in issues] == [Kind.UNREADABLE]
    assert "TorchServe reads a zip as a stream" in issues[0][1]


def test_zip64_sizes_in_the_header():
    extra = struct.pack("<2H2Q", 1, 16, 5, 5)
    data = bytearray(zip_of(Member(b"s", b"12345", extra=extra)))
    data[18:26] = b"\xff" * 8
    assert found(bytes(data)) == []
    wrong = struct.pack("<2H2Q", 1, 16, 6, 5)
    data = bytearray(zip_of(Member(b"s", b"12345", extra=b"\7\7\1\0x" + wrong)))
    data[18:26] = b"\xff" * 8
    assert any("other sizes" in told for _, told in found(bytes(data)))


def exact(data, index=0):
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return zip_consistency.inflates_exactly(io.BytesIO(data), archive.infolist()[index])


def test_a_member_hidden_behind_the_end_of_another():
    """To the directory it is part of the first; a reader that gets sizes later goes on where the bytes end."""
    hidden = zip_of(Member(b"hidden", b"x"))[:40]
    evil = Member(b"l", b"l" * 1000, 8, 8, tail=hidden)
    assert found(zip_of(evil)) == []  # no header mentions it
    assert not exact(zip_of(evil))
    assert exact(zip_of(LATER))


def test_a_member_whose_bytes_break_off():
    data = zip_of(Member(b"l", b"l" * 1000, 8, 8, central={"packed": 5}, descriptor=b""))
    assert not exact(data)
    with pytest.raises(zlib.error):
        exact(zip_of(Member(b"l", b"\xff" * 50, 0, 8, central={"method": 8})))
