"""What is looked into, from its first bytes: whatever some loader would not take for harmless."""

import bz2
import gzip
import io
import pickle
import tarfile
import zipfile
import zlib

import pytest

from archive_tool.pickles.budget import Budget
from archive_tool.weights.first_look import File, may_be_one, read

PICKLE_0 = pickle.dumps({"a": 1}, 0)


def file(data, name="data.xyz", **how):
    return File(io.BytesIO(data), name, len(data), **how)


def tar():
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("a"))
    return stream.getvalue()


@pytest.mark.parametrize(
    ("name", "head", "expected"),
    [
        ("w.pt", b"", True),
        ("w.safetensors", b"no matter", True),
        ("labels.txt", pickle.dumps(1), True),  # nobody writes text so
        ("labels.txt", PICKLE_0, False),
        ("labels.xyz", PICKLE_0, True),
        ("labels.xyz", b"# cat, dog\n", False),
        ("labels.txt", b"PK\x03\x04", True),
        ("labels.txt", gzip.compress(b"", mtime=0), True),
        ("labels.txt", tar()[:512], True),
        ("labels.txt", b"\x93NUMPY", True),
    ],
)
def test_what_is_looked_into(name, head, expected):
    assert may_be_one(name, head, Budget()) is expected
    assert may_be_one(name, head, Budget(), weights=True)


@pytest.mark.parametrize(
    ("data", "packing"),
    [
        (bz2.compress(b"x"), "bzip2"),
        (zlib.compress(b"x"), "zlib"),
        (b"x\x9c\xff\xff", None),
        (gzip.compress(b"x", mtime=0), None),  # which is unpacked
        (b"", None),
    ],
)
def test_packings_that_are_not_unpacked(data, packing):
    assert file(data).packing() == packing


def test_a_zip_is_found_from_its_end():
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("a", "x")
    behind = file(b"#!" + bytes(100_000) + stream.getvalue())
    assert behind.ends_as_zip()
    assert not behind.begins_as_zip
    assert file(stream.getvalue()).begins_as_zip
    assert not file(stream.getvalue() + bytes(100_000)).ends_as_zip()


def test_a_stream_that_gives_little_at_once():
    class Slow(io.BytesIO):
        def read(self, size=-1, /):
            return super().read(min(size, 7))

    assert len(File(Slow(bytes(2000)), "a", 2000).head) == 512
    assert read(Slow(bytes(100)), 50) == bytes(50)
    assert read(Slow(bytes(20)), 50) == bytes(20)
