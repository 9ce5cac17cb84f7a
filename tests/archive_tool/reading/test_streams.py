"""Streams from an archive."""

import gzip
import io
import tarfile
import zlib
from pathlib import Path

import pytest

from archive_tool.errors import UnreadableArchiveError
from archive_tool.reading import containers
from archive_tool.reading.streams import MAX_READ, Gzip, damage_named, guarded, window


@pytest.mark.parametrize("error", [zlib.error("x"), EOFError("x"), KeyError("x"), OSError(5, "x"), RecursionError("x")])
def test_damage_is_told_as_our_error(error):
    with pytest.raises(UnreadableArchiveError, match=r"a\.mar.*: x"), damage_named(Path("a.mar")):
        raise error


def test_a_guarded_stream_tells_damage_and_gives_all_that_is_asked_for():
    class Damaged(io.BytesIO):
        def read(self, size=-1):
            if self.tell() >= 3 << 20:
                raise zlib.error("broken here")
            return super().read(size)

    stream = guarded(Damaged(bytes(4 << 20)), Path("a.mar"))
    assert len(stream.read(3 << 20)) == 3 << 20
    with pytest.raises(UnreadableArchiveError, match="broken here"):
        stream.read(1)


def test_errors_of_who_reads_are_not_taken_for_damage(make_zip, make_tar):
    def use(container):
        with container.open(container.entries[0]) as stream:
            stream.read()
            raise ValueError("mine")

    for path in (make_zip([("a", b"1")]), make_tar([("a", b"1")])):
        container = containers.open_container(path)
        with pytest.raises(ValueError, match="mine"):
            use(container)
        container.close()


def test_a_window_shows_its_part_only():
    whole = io.BytesIO(b"0123456789")
    part = window(whole, 3, 4)
    assert part.read() == b"3456"
    assert part.seek(-1, 2) == 3
    assert part.read(9) == b"6"
    part.close()
    assert whole.closed


def test_a_gzip_stream_gives_no_absurd_amount_at_once(tmp_path):
    path = tmp_path / "x.gz"
    path.write_bytes(gzip.compress(b"abc"))
    with Gzip(path) as stream:
        assert stream.read(MAX_READ) == b"abc"
        for size in (MAX_READ + 1, -1, None):
            with pytest.raises(tarfile.ReadError):
                stream.read(size)


def test_a_gzip_stream_can_be_jumped_about_in(tmp_path):
    data = bytes(range(256)) * 4000
    path = tmp_path / "x.gz"
    path.write_bytes(gzip.compress(data))
    with Gzip(path) as stream:
        for position in (0, 500_000, 499_000, 10, 1_000_000, 3):
            assert stream.seek(position) == position
            assert stream.read(100) == data[position : position + 100]
            assert stream.tell() == position + 100
        assert stream.seek(10**9) == len(data)
        assert stream.read(1) == b""
        with pytest.raises(io.UnsupportedOperation):
            stream.seek(0, 2)


@pytest.mark.parametrize(("more", "followed"), [(b"", False), (bytes(5000), False), (b"\0" * 300_000 + b"x", True)])
def test_what_follows_a_gzip_stream(tmp_path, more, followed):
    path = tmp_path / "x.gz"
    path.write_bytes(gzip.compress(b"abc") + more)
    with Gzip(path) as stream:
        assert stream.read(10) == b"abc"
        assert stream.followed() is followed


def test_a_second_gzip_stream_is_not_read(tmp_path):
    path = tmp_path / "x.gz"
    path.write_bytes(gzip.compress(b"abc") + gzip.compress(b"def"))
    with Gzip(path) as stream:
        assert stream.read(10) == b"abc"
        assert stream.followed()


def test_damage_in_a_gzip_stream(tmp_path):
    path = tmp_path / "x.gz"
    good = gzip.compress(bytes(range(256)))
    path.write_bytes(good[:-9])
    with Gzip(path) as stream, pytest.raises(EOFError):
        stream.read(1000)
    path.write_bytes(good[:-5] + b"\xff" * 5)
    with Gzip(path) as stream, pytest.raises(gzip.BadGzipFile, match="CRC"):
        stream.read(1000)
