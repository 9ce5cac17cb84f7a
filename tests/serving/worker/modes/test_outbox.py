"""Frames stay in order, and no thread waits for a frontend that does not take them."""

from __future__ import annotations

import socket
import threading
import time

from serving.protocol import PredictionItem, Reply, ReplyDecoder, encode_reply
from serving.worker.modes.outbox import Outbox


def test_nobody_waits_for_a_frontend_that_does_not_read() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        outbox = Outbox(ours)
        frames = [encode_reply(Reply(200, str(number), (PredictionItem("1", b"x" * 300_000),))) for number in range(9)]
        for frame in frames:
            outbox.put(frame)
        outbox.wait(sum(map(len, frames)))  # less is unsent
        begin = time.monotonic()
        outbox.wait(0, 0.05)
        assert time.monotonic() - begin >= 0.04
        waits = threading.Thread(target=outbox.wait, args=(0,))
        waits.start()
        decoder = ReplyDecoder()
        for number in range(9):
            while (reply := decoder.next_message()) is None:
                decoder.feed(theirs.recv(1 << 20))
            assert reply.message == str(number)
        waits.join(10)
        assert not waits.is_alive()


def test_what_nobody_reads_any_more_is_dropped() -> None:
    ours, theirs = socket.socketpair()
    outbox = Outbox(ours)
    outbox.put(b"x" * 3_000_000)
    theirs.close()
    outbox.wait(0)
    outbox.put(b"x")
    outbox.wait(0)
    ours.close()
