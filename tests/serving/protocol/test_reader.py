from __future__ import annotations

import tracemalloc
from itertools import pairwise
from struct import pack
from time import perf_counter

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from serving.protocol import Decoder, Inference, Parameter, ProtocolError, Request, encode_inference
from serving.protocol.reader import BUFFER_SIZE, DIRECT_MIN, DIRECT_STEP

from .helpers import END, lp, outcome, received

PROLOGUE = b"I" + lp("1") + END + lp("body") + lp("image/png")


def batch(*sizes: int) -> Inference:
    return Inference(
        tuple(
            Request(str(i), {"a": "b"}, (Parameter("body", bytearray([i % 256]) * size, "image/png"),))
            for i, size in enumerate(sizes)
        )
    )


# A large body is received into itself, whatever the network returns at a time, and what follows it is not lost.
@pytest.mark.parametrize("most", [1000, 65_536, 100_000, 10**9])
@pytest.mark.parametrize(
    "sizes",
    [
        (BUFFER_SIZE + DIRECT_MIN - 50,),
        (BUFFER_SIZE + DIRECT_MIN + 50, 3),
        pytest.param((3 * DIRECT_STEP + 7, 0, DIRECT_STEP), marks=pytest.mark.slow),  # in 17,000 pieces
        (2 * DIRECT_STEP + 7, 0, 100_000),
        (100_000,) * 5,
    ],
)
def test_large_bodies_arrive_in_their_own_memory(sizes: tuple[int, ...], most: int) -> None:
    message = batch(*sizes)
    frame = encode_inference(message)
    assert received(Decoder(), frame * 2, most) == ([message, message], None, False)
    assert outcome(Decoder(), [frame]) == ([message], None, False)


def test_a_body_that_comes_is_offered_its_own_memory_and_no_more_than_it_lacks() -> None:
    decoder = Decoder()
    decoder.feed(PROLOGUE + pack("!i", 200_000))
    assert decoder.next_message() is None
    assert len(decoder.get_buffer()) == 200_000
    decoder.advance(200_000 - DIRECT_MIN)
    assert len(decoder.get_buffer()) == DIRECT_MIN
    decoder.advance(1)
    assert decoder.next_message() is None
    assert len(decoder.get_buffer()) == BUFFER_SIZE


def test_feeding_and_receiving_may_be_mixed_within_a_body() -> None:
    message = batch(300_000)
    frame = encode_inference(message)
    decoder = Decoder()
    decoder.feed(frame[:100])
    assert decoder.next_message() is None
    decoder.get_buffer()[:50] = frame[100:150]
    decoder.advance(50)
    decoder.feed(frame[150:])
    assert decoder.next_message() == message


def test_feeding_copies_what_the_caller_may_change() -> None:
    frame = bytearray(encode_inference(batch(3)))
    decoder = Decoder()
    decoder.feed(frame)
    frame[:] = bytes(len(frame))
    assert decoder.next_message() == batch(3)


def test_received_bytes_survive_the_next_use_of_the_buffer() -> None:
    frame = encode_inference(batch(3))
    decoder = Decoder()
    for data in (frame + frame[:20], frame[20:]):
        decoder.get_buffer()[: len(data)] = data
        decoder.advance(len(data))
    assert [decoder.next_message() for _ in range(3)] == [batch(3), batch(3), None]


@pytest.mark.parametrize("count", [-1, BUFFER_SIZE + 1])
def test_no_more_can_be_received_than_was_offered(count: int) -> None:
    decoder = Decoder()
    decoder.get_buffer()
    with pytest.raises(ValueError, match="did not offer"):
        decoder.advance(count)
    with pytest.raises(ValueError, match="did not offer"):
        decoder.advance(1)


def test_what_comes_behind_a_message_begins_the_next() -> None:
    frame = encode_inference(batch(3))
    decoder = Decoder()
    decoder.feed(frame + frame[:1])
    assert decoder.next_message() == batch(3)
    assert decoder.next_message() is None
    decoder.feed(frame[1:])
    assert decoder.next_message() == batch(3)
    assert decoder.next_message() is None
    assert outcome(Decoder(), [frame + frame[:1]]) == ([batch(3)], None, True)


def test_an_error_is_raised_again_and_the_messages_before_it_are_not_lost() -> None:
    frame = encode_inference(batch(3))
    decoder = Decoder()
    decoder.feed(frame + b"X" + frame)
    assert decoder.next_message() == batch(3)
    for _ in range(3):
        with pytest.raises(ProtocolError, match=r"expected a command.*found b'X', at byte 0 of the message"):
            decoder.next_message()


# Memory follows what has arrived: lengths that claim 2 GiB reserve nothing, and each open body at most one step ahead.
@pytest.mark.parametrize(
    "frame",
    [
        b"I" + pack("!i", 2**31 - 100),
        b"I" + lp("1") + pack("!i", 2**31 - 100),
        b"I" + lp("1") + lp("name") + pack("!i", 2**31 - 100),
        b"I" + lp("1") + END + pack("!i", 2**31 - 100),
        b"I" + lp("1") + END + lp("body") + pack("!i", 2**31 - 100),
        PROLOGUE + pack("!i", 2**31 - 100),
    ],
)
@pytest.mark.parametrize("receive", [False, True])
def test_a_claim_of_two_gigabytes_reserves_next_to_nothing(frame: bytes, receive: bool) -> None:
    tracemalloc.start()
    try:
        decoder = Decoder()
        decoder.feed(frame + b"some")
        assert decoder.next_message() is None
        if receive:
            decoder.get_buffer()
            decoder.advance(1)
            assert decoder.next_message() is None
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 3 * DIRECT_STEP


# Nothing is parsed twice. Starting over at every piece would copy 80 GB here (a minute at best); this is milliseconds.
@pytest.mark.parametrize(
    "frame",
    [
        PROLOGUE + lp(bytes(4_000_000)) + END + END,
        b"I" + lp("1") + (lp("x" * 4) + lp("y" * 250)) * 16_000 + END + END + END,
        b"I" + lp("1") + lp("x") + lp("y" * 4_000_000) + END + END + END,
        b"I" + (lp("1") + END + END) * 60_000 + END,
    ],
    ids=["body", "headers", "header", "requests"],
)
def test_small_pieces_cost_no_more_than_their_bytes(frame: bytes) -> None:
    start = perf_counter()
    messages, error, cut = outcome(Decoder(), [frame[i : i + 100] for i in range(0, len(frame), 100)])
    assert (len(messages), error, cut) == (1, None, False)
    assert perf_counter() - start < 10


# However a stream is cut, it gives the same messages, or the same error at the same place.
@given(data=st.data(), junk=st.binary(max_size=30))
@example(data=None, junk=b"")
@settings(max_examples=200, deadline=None)
def test_cuts_make_no_difference(data: st.DataObject | None, junk: bytes) -> None:
    frame = encode_inference(batch(3, 0, 70_000)) + junk + encode_inference(batch(1))
    cuts = [] if data is None else data.draw(st.lists(st.integers(0, len(frame)), max_size=10).map(sorted))
    places = [0, *cuts, len(frame)]
    pieces = [frame[a:b] for a, b in pairwise(places)]
    whole = outcome(Decoder(), [frame])
    assert outcome(Decoder(), pieces) == whole
    assert received(Decoder(), frame, 50_000) == whole
