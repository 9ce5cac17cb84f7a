"""Copies, and their sums, whichever way the bytes go."""

import errno
import hashlib
import io
import os
import sys
import threading
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from archive_tool.errors import BuildError
from archive_tool.writing import copying
from archive_tool.writing.copying import BLOCK, Copier, Sums, open_source, write_all
from archive_tool.writing.deflate import Compressor

SIZES = [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, (12 << 20) + 5]  # the last one: more than all buffers, and two steps


def no_system_call(monkeypatch):
    monkeypatch.delattr(os, "copy_file_range", raising=False)


def another_file_system(monkeypatch):
    def refuse(*_):
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "copy_file_range", refuse, raising=False)


def a_file_system_that_gives_nothing(monkeypatch):
    monkeypatch.setattr(os, "copy_file_range", lambda *_: 0, raising=False)


def little_at_a_time(monkeypatch):
    """Make the kernel copy less than it is asked to, as it always may."""
    if not hasattr(os, "copy_file_range"):
        pytest.skip("Linux only")
    real = os.copy_file_range
    monkeypatch.setattr(
        os, "copy_file_range", lambda source, sink, count, *at: real(source, sink, min(count, BLOCK + 7), *at)
    )


def little_read_back(monkeypatch):
    if not hasattr(os, "copy_file_range"):
        pytest.skip("Linux only")
    real = os.preadv
    monkeypatch.setattr(os, "preadv", lambda fd, buffers, offset: real(fd, [buffers[0][: 300 << 10]], offset))


def some_and_then_no_more(monkeypatch):
    if not hasattr(os, "copy_file_range"):
        pytest.skip("Linux only")
    real, calls = os.copy_file_range, []

    def once(*arguments):
        calls.append(arguments)
        if len(calls) > 1:
            raise OSError(errno.EIO, "Input/output error")
        return real(*arguments)

    monkeypatch.setattr(os, "copy_file_range", once)


WAYS = [None, no_system_call, another_file_system, a_file_system_that_gives_nothing]


def check(size, offset=0):
    data = os.urandom(size)
    Path("source").write_bytes(data)
    told = []
    with Path("sink").open("w+b", buffering=0) as sink, Copier(told.append) as copier:
        with open_source(Path("source")) as source:
            assert source.size == size
            sums = copier.copy(source, sink, offset)
        copier.settle()
    assert Path("sink").read_bytes() == (bytes(offset) + data if size else b"")
    assert (sums.size, sums.crc, sums.sha256.digest()) == (size, zlib.crc32(data), hashlib.sha256(data).digest())
    assert sum(told) == size


def copy_one(before=lambda: None):
    with Path("sink").open("w+b", buffering=0) as sink, Copier() as copier, open_source(Path("source")) as source:
        before()
        copier.copy(source, sink)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("size", SIZES)
def test_every_size_by_every_way(work, monkeypatch, size, way):
    if way is not None:
        way(monkeypatch)
    check(size, offset=137)


@pytest.mark.parametrize("way", [little_at_a_time, little_read_back, some_and_then_no_more])
def test_a_kernel_that_does_not_do_it_all(work, monkeypatch, way):
    way(monkeypatch)
    check(SIZES[-1])


def test_the_sums_are_of_what_the_archive_holds(work, monkeypatch):
    """The source changes right after the copy: hashing it again would give other sums than the archive's."""
    if not hasattr(os, "copy_file_range"):
        pytest.skip("Linux only")
    real = os.copy_file_range
    data = os.urandom(3000)
    Path("source").write_bytes(data)

    def then_change(*arguments):
        count = real(*arguments)
        with Path("source").open("r+b") as stream:
            stream.write(b"changed")
        return count

    monkeypatch.setattr(os, "copy_file_range", then_change)
    with Path("sink").open("w+b", buffering=0) as sink, Copier() as copier:
        opened = open_source(Path("source"))
        sums = copier.copy(opened.__enter__(), sink)
        copier.settle()
    assert Path("sink").read_bytes() == data
    assert sums.sha256.hexdigest() == hashlib.sha256(data).hexdigest()
    assert sums.crc == zlib.crc32(data)


def test_an_archive_that_is_cut_short_meanwhile(work, monkeypatch):
    if not hasattr(os, "copy_file_range"):
        pytest.skip("Linux only")
    Path("source").write_bytes(b"x" * 100)
    monkeypatch.setattr(os, "copy_file_range", lambda *_: 100)
    with pytest.raises(OSError, match="cut short"):
        copy_one()


def test_members_one_after_the_other(work):
    """The buffers go round: none may be filled again before it is hashed."""
    pieces = [os.urandom(size) for size in (3, BLOCK, 0, 5 * BLOCK + 1, 17, 9 * BLOCK)]
    with Path("sink").open("w+b", buffering=0) as sink, Copier() as copier:
        found, offset = [], 0
        for index, piece in enumerate(pieces):
            with open_source(piece) as source:
                if index % 2:
                    found.append(copier.copy(source, sink, offset))
                    offset += len(piece)
                else:
                    sums = Sums(source.size)
                    assert b"".join(copier.blocks(source, sums)) == piece
                    found.append(sums)
        copier.settle()
    assert [sums.sha256.digest() for sums in found] == [hashlib.sha256(piece).digest() for piece in pieces]
    assert [sums.crc for sums in found] == [zlib.crc32(piece) for piece in pieces]
    assert Path("sink").read_bytes() == b"".join(pieces[1::2])


def test_a_failure_of_the_second_thread_is_told():
    class Broken:
        def update(self, data):
            raise MemoryError

    with Copier() as copier, open_source(b"x" * 100) as source:
        list(copier.blocks(source, Sums(100, sha256=Broken())))
        with pytest.raises(MemoryError):
            copier.settle()


@pytest.mark.parametrize("size", SIZES)
def test_blocks_are_full_but_the_last(work, size):
    Path("source").write_bytes(bytes(size))
    with Copier() as copier, open_source(Path("source")) as source:
        sizes = [len(block) for block in copier.blocks(source, Sums(size))]
    assert sum(sizes) == size
    assert set(sizes[:-1]) <= {BLOCK}
    assert sizes[-1] > 0 or sizes == [0]


def shrink(copier):
    with open_source(Path("source")) as source:
        os.truncate("source", 50)
        list(copier.blocks(source, Sums(100)))


def test_a_file_that_shrinks_is_told_at_once(work, monkeypatch):
    Path("source").write_bytes(b"x" * 100)
    with Copier() as copier, pytest.raises(BuildError, match="source changed while it was read"):
        shrink(copier)
    no_system_call(monkeypatch)
    Path("source").write_bytes(b"x" * 100)
    with pytest.raises(BuildError, match="source changed while it was read"):
        copy_one(lambda: os.truncate("source", 50))


def test_a_folder_cannot_be_read(work):
    with pytest.raises(BuildError, match="cannot read store: Is a directory"), open_source(Path("store")):
        pass


class Slow(io.RawIOBase):
    """A file that takes a few bytes at a time, as the system may."""

    def __init__(self):
        self.data = bytearray()
        self.position = 0

    def seek(self, offset, whence=0, /):
        self.position = offset
        return offset

    def write(self, data, /):
        piece = bytes(data[:3])
        self.data[self.position : self.position + len(piece)] = piece
        self.position += len(piece)
        return len(piece)


@settings(max_examples=20)
@given(st.binary(max_size=20))
def test_write_all_writes_all(data):
    sink = Slow()
    write_all(sink, data, 0)
    write_all(sink, b"tail")
    assert bytes(sink.data) == data + b"tail"


def test_isal_and_zlib_agree():
    """Whichever of them is there: the fallback gives the same sums."""
    data = os.urandom(1000)
    assert copying.crc32(data, 7) == zlib.crc32(data, 7)


class _Interrupt(BaseException):
    """What a handler of a signal raises."""


# How a thread is started is Python's own; it is asked to end once; and what a weak set's callback raises is ignored.
_NOT_IN = ("start", "__exit__", "_remove")


def _callers(frame: FrameType | None) -> Iterator[str]:
    while frame is not None:
        yield frame.f_code.co_name
        frame = frame.f_back


def _run_interrupted(work: Callable[[], None], after: int) -> bool:
    """Run something in a thread, and raise when its functions in C have returned so many times; say whether it was.

    A handler of a signal runs there, too: also between a lock that was taken and the statement that gives it back.
    """
    left = after
    raised = False

    def count(frame: FrameType, event: str, argument: object) -> None:
        nonlocal left, raised
        if event == "c_return" and not any(name in _NOT_IN for name in _callers(frame)):
            left -= 1
            if left == 0:
                raised = True
                sys.setprofile(None)
                raise _Interrupt

    def run() -> None:
        try:
            sys.setprofile(count)
            work()
        except _Interrupt:
            pass
        finally:
            sys.setprofile(None)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(20)
    assert not thread.is_alive(), f"it hangs when it is interrupted after {after} calls"
    return raised


def test_wherever_it_is_interrupted_it_ends(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copying, "BLOCK", 4096)
    source = work / "source"
    source.write_bytes(bytes(20 * 4096))

    def copy() -> None:
        with open_source(source) as opened, io.FileIO(work / "sink", "w+") as sink, Copier() as copier:
            copier.copy(opened, sink)
            copier.settle()

    after = 1
    while _run_interrupted(copy, after):
        after += 1
    assert after > 100


def test_wherever_deflating_is_interrupted_it_ends() -> None:
    block = bytes(1000)

    def deflate() -> None:
        with Compressor(2) as compressor:
            stream = compressor.stream(lambda _: None)
            for number in range(12):
                stream.add(block, last=number == 11)

    after = 1
    while _run_interrupted(deflate, after):
        after += 1
    assert after > 50
