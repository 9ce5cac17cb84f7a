"""Deflate by several threads: one stream, the same on any number of them."""

import gzip
import io
import os
import random
import threading
import zlib

import pytest

from archive_tool.writing import deflate as deflate_module
from archive_tool.writing.copying import BLOCK
from archive_tool.writing.deflate import Compressor, GzipWriter, max_deflated

# Before any test puts another one in its place.
REAL_THREAD = threading.Thread
WORDS = [f"word{number} " for number in range(500)]


def text(size):
    chosen = random.Random(size)
    return "".join(chosen.choices(WORDS, k=size // 5 + 1)).encode()[:size]


def deflate(data, threads=2):
    pieces = []
    with Compressor(threads) as compressor:
        stream = compressor.stream(pieces.append)
        for start in range(0, max(1, len(data)), BLOCK):
            stream.add(data[start : start + BLOCK], last=start + BLOCK >= len(data))
    return b"".join(pieces)


@pytest.mark.parametrize("size", [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 5 * BLOCK])
def test_any_inflater_reads_it(size):
    data = text(size)
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    assert inflater.decompress(deflate(data)) == data
    assert inflater.eof
    assert inflater.unused_data == b""


def test_the_same_bytes_on_one_core_and_on_many():
    data = text(4 * BLOCK + 99)
    assert len({deflate(data, threads) for threads in (1, 2, 7)}) == 1


def test_one_block_is_what_zlib_makes_of_it():
    data = text(100_000)
    packer = zlib.compressobj(6, zlib.DEFLATED, -zlib.MAX_WBITS)
    assert deflate(data) == packer.compress(data) + packer.flush()


def test_blocks_refer_to_those_before_them():
    """Random bytes that come again at once: only a dictionary can find that across the border of two blocks."""
    piece = os.urandom(20_000)
    data = os.urandom(BLOCK - len(piece)) + piece + piece
    assert len(deflate(data)) < BLOCK + 2_000


def test_what_cannot_shrink_stays_within_the_bound():
    for size in (0, 1, 100, BLOCK, 2 * BLOCK + 1):
        assert len(deflate(os.urandom(size))) <= max_deflated(size)


def test_several_threads_do_the_work(monkeypatch):
    """Three blocks are each waited for by the other two, twice: that ends only with three threads at once."""
    meeting = threading.Barrier(3, timeout=60)
    real = deflate_module._deflate

    def meet(*arguments):
        meeting.wait()
        return real(*arguments)

    monkeypatch.setattr(deflate_module, "_deflate", meet)
    assert zlib.decompress(deflate(text(5 * BLOCK + 1), threads=3), wbits=-zlib.MAX_WBITS) == text(5 * BLOCK + 1)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("deflate")]


def test_the_cores_that_there_are():
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    with Compressor() as compressor:
        assert compressor.threads == min(16, cores)
    with Compressor(1000) as compressor:
        assert compressor.threads == 16


def test_blocks_do_not_pile_up():
    """A slow sink holds the reader back: no more than two blocks a thread are in memory."""
    written = []
    with Compressor(1) as compressor:
        stream = compressor.stream(written.append)
        for count in range(1, 8):
            stream.add(text(BLOCK), last=False)
            assert len(written) >= count - 2
        stream.add(b"", last=True)
    assert len(written) == 8


@pytest.mark.parametrize("size", [0, 10, BLOCK, 2 * BLOCK + 1])
def test_gzip(size):
    data = text(size)
    pieces = []
    with Compressor(2) as compressor:
        writer = GzipWriter(compressor, pieces.append)
        for start in range(0, size, 300_000):
            writer.write(data[start : start + 300_000])
        assert writer.size == size
        writer.close()
    packed = b"".join(pieces)
    assert packed[:10] == b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"
    with gzip.open(io.BytesIO(packed)) as stream:  # checks both sums at the end
        assert stream.read() == data


def test_an_interrupt_between_the_start_of_a_thread_and_its_note_does_not_hang(monkeypatch):
    """One thread more runs than is known: it must not take the end that another one waits for."""
    started = []

    class Interrupted(threading.Thread):
        def start(self):
            super().start()
            started.append(self)
            if len(started) == 2:
                raise KeyboardInterrupt

    def build():
        with pytest.raises(KeyboardInterrupt), Compressor(2) as compressor:
            compressor.submit(b"x", b"", last=False)

    monkeypatch.setattr(deflate_module.threading, "Thread", Interrupted)
    building = REAL_THREAD(target=build, daemon=True)
    building.start()
    building.join(30)
    assert not building.is_alive()
    for thread in started:
        thread.join(30)
        assert not thread.is_alive()
