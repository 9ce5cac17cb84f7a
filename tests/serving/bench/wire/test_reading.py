from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.bench.wire.reading import MOST_HEAD, AnswerReader, BadAnswerError

PLAIN = b"HTTP/1.1 200 OK\r\nx-request-id: 1\r\nContent-Length: 5\r\nconnection: keep-alive\r\n\r\nhello"
EMPTY = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nConnection: close\r\n\r\n"
NO_BODY = b"HTTP/1.1 204 No Content\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n10;x=y\r\n0123456789abcdef\r\n0\r\n\r\n"
HINTS = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: a\r\n\r\n"
TRAILERS = CHUNKED[:-2] + b"x-sum: 1\r\nx: y\r\n\r\n"
NO_BODY_BUT_A_LENGTH = b"HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\n\r\n"
ANSWERS = [
    (PLAIN, 200, 0),
    (EMPTY, 503, 0),
    (NO_BODY, 204, 0),
    (NO_BODY_BUT_A_LENGTH, 304, 0),
    (CHUNKED, 200, 2),
    (TRAILERS, 200, 2),
    (HINTS + PLAIN, 200, 0),
    (HINTS + CHUNKED, 200, 2),
]


@pytest.mark.parametrize(("answer", "status", "parts"), ANSWERS)
def test_an_answer_is_complete_at_its_last_byte_in_whatever_portions_it_comes(
    answer: bytes, status: int, parts: int
) -> None:
    reader = AnswerReader()
    for size in (len(answer), 1, 2, 3, 7):
        reader.clear()
        portions = [reader.feed(answer[index : index + size]) for index in range(0, len(answer), size)]
        assert portions == [False] * (len(portions) - 1) + [True]
        assert (reader.status, reader.parts) == (status, parts)


@given(st.lists(st.binary(min_size=1, max_size=60), max_size=5), st.data())
def test_chunks_are_counted_in_whatever_portions_they_come(chunks: list[bytes], data: st.DataObject) -> None:
    body = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in [*chunks, b""])
    answer = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + body
    reader = AnswerReader()
    left = answer
    while left:
        cut = data.draw(st.integers(1, len(left)))
        complete = reader.feed(left[:cut])
        left = left[cut:]
        assert complete == (not left)
    assert reader.parts == len(chunks)


@given(st.binary(max_size=200))
def test_whatever_comes_is_read_or_refused(data: bytes) -> None:
    for head in (b"", b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", b"HTTP/1.1 200 OK\r\n"):
        try:
            AnswerReader().feed(head + data)
        except BadAnswerError:
            continue


@pytest.mark.parametrize("answer", [PLAIN, EMPTY, NO_BODY, CHUNKED])
def test_nothing_may_follow_an_answer(answer: bytes) -> None:
    with pytest.raises(BadAnswerError, match="1 bytes after"):
        AnswerReader().feed(answer + b"H")


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.0 200 OK\r\n\r\n",
        b"HTTP/1.1 2x0 OK\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nother: 1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"x" * MOST_HEAD,
        *(
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + size
            for size in (b"zz\r\n", b"-1\r\n", b"0x1\r\n", b"\r\n", b"1" * 5000, b"1\r\n77", b"0\r\nx: " + b"y" * 5000)
        ),
    ],
)
def test_what_is_no_answer_is_refused(head: bytes) -> None:
    with pytest.raises(BadAnswerError):
        AnswerReader().feed(head)


def test_what_a_head_tells() -> None:
    reader = AnswerReader()
    assert reader.feed(b"HTTP/1.1 200 OK\r\nServer-Timing: queue;dur=1.5\r\ncontent-length: 0\r\n\r\n")
    assert (reader.timing, reader.closes) == (b" queue;dur=1.5", False)
    reader.clear()
    assert reader.feed(EMPTY)
    assert (reader.timing, reader.closes) == (b"", True)


def test_of_an_error_the_beginning_is_kept() -> None:
    reader = AnswerReader()
    head = b"HTTP/1.1 500 Oh\r\ncontent-length: 9000\r\n\r\n"
    assert not reader.feed(head + b"a" * 1500)
    assert reader.feed(b"b" * 7500)
    assert reader.kept == b"a" * 1500 + b"b" * 500


def test_many_informational_answers_are_read_in_time_of_their_length() -> None:
    def seconds(number: int) -> float:
        flood, begun = b"HTTP/1.1 100 C\r\n\r\n" * number, time.process_time()
        reader = AnswerReader()
        assert not reader.feed(flood + b"HTTP/1.1 2")
        assert reader.feed(PLAIN[10:])
        return time.process_time() - begun

    # Ten times as many took a hundred times as long.
    assert seconds(100_000) < 40 * max(1e-3, min(seconds(10_000) for _ in range(3)))
