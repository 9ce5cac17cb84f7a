"""Our codec of the frontend's socket protocol beside TorchServe's own, in one run: `python benchmarks/protocol.py`.

Each contender answers the same request frames with the same reply frames over a socket pair, as a worker does; another
process plays the frontend. The contenders take turns, and the medians of all rounds are compared. Prints a Markdown
table; the ratio says how many times faster ours is.
"""

from __future__ import annotations

import argparse
import logging
import os
import socket
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parents[1])]  # run as a script, only this file's own folder is searched

from ts.context import Context, RequestProcessor  # noqa: E402
from ts.protocol import otf_message_handler as stock  # noqa: E402

from serving.protocol import (  # noqa: E402
    Decoder,
    Inference,
    Parameter,
    PredictionItem,
    Reply,
    Request,
    encode_inference,
    encode_reply,
)

HEADERS = {
    "Host": "127.0.0.1:8080",
    "User-Agent": "curl/7.88.1",
    "Accept": "*/*",
    "Content-Type": "application/octet-stream",
    "Content-Length": "300",
    "Accept-Encoding": "gzip, deflate",
    "url_path": "",
    "explain": "False",
}
JSON = "application/json"


@dataclass(frozen=True)
class Case:
    """A batch: so many requests with bodies of so many bytes, answered with bodies of so many bytes."""

    name: str
    requests: int
    request_bytes: int
    reply_bytes: int
    messages: int


CASES = (
    Case("1 request of 300 bytes", 1, 300, 20, 5000),
    Case("32 requests of 300 bytes", 32, 300, 20, 500),
    Case("32 requests of 100 kB", 32, 100_000, 100_000, 60),
)


def frames(case: Case) -> tuple[bytes, bytes, list[str]]:
    """Return the request frame, the reply frame and the request ids of a case."""
    ids = [f"0a1b2c3d-0000-0000-0000-{number:012d}" for number in range(case.requests)]
    body = Parameter("body", bytearray(case.request_bytes), "application/octet-stream")
    items = tuple(
        PredictionItem(name, b"y" * case.reply_bytes, content_type=JSON, headers={"content-type": JSON}) for name in ids
    )
    request = encode_inference(Inference(tuple(Request(name, HEADERS, (body,)) for name in ids)))
    return bytes(request), bytes(encode_reply(Reply(200, "Prediction success", items))), ids


def ours(case: Case) -> Callable[[socket.socket], None]:
    """Read a request and answer it with our codec."""
    decoder = Decoder()
    body = b"y" * case.reply_bytes

    def answer(connection: socket.socket) -> None:
        while (message := decoder.next_message()) is None:
            decoder.advance(connection.recv_into(decoder.get_buffer()))
        assert isinstance(message, Inference)
        items = tuple(
            PredictionItem(request.request_id, body, content_type=JSON, headers={"content-type": JSON})
            for request in message.requests
        )
        connection.sendall(encode_reply(Reply(200, "Prediction success", items)))

    return answer


def theirs(case: Case, ids: list[str]) -> Callable[[socket.socket], None]:
    """Read a request and answer it with TorchServe's codec."""
    context = Context("m", "/d", None, case.requests, None, "0", True)
    context.request_processor = [RequestProcessor({}) for _ in ids]
    for index in range(case.requests):
        context.set_response_content_type(index, JSON)
    answers: list[Any] = [b"y" * case.reply_bytes] * case.requests
    names = dict(enumerate(ids))

    def answer(connection: socket.socket) -> None:
        stock.retrieve_msg(connection)
        connection.sendall(stock.create_predict_response(answers, names, "Prediction success", 200, context))

    return answer


def measure(
    answer: Callable[[socket.socket], None], request: bytes, reply: bytes, messages: int
) -> tuple[float, float]:
    """Return the microseconds of wall clock and of our processor time for each message."""
    here, there = socket.socketpair()
    child = os.fork()
    if child == 0:  # the frontend: it sends a batch and waits for its answer
        here.close()
        buffer = bytearray(1 << 20)
        for _ in range(messages):
            there.sendall(request)
            left = len(reply)
            while left > 0 and (count := there.recv_into(buffer)):
                left -= count
        os._exit(0)
    there.close()
    begin, busy = time.perf_counter(), time.process_time()
    for _ in range(messages):
        answer(here)
    figures = (time.perf_counter() - begin) / messages * 1e6, (time.process_time() - busy) / messages * 1e6
    os.waitpid(child, 0)
    here.close()
    return figures


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description="Our codec of the socket protocol beside TorchServe's own.")
    parser.add_argument("--rounds", type=int, default=9, help="of each contender and case (%(default)s)")
    parser.add_argument("--share", type=float, default=1.0, help="part of the messages to send (%(default)s)")
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    print("| batch | TorchServe, µs | ours, µs | ratio | TorchServe, CPU µs | ours, CPU µs | ratio |")
    print("|---|---|---|---|---|---|---|")
    for case in CASES:
        request, reply, ids = frames(case)
        contenders = {"ours": ours(case), "stock": theirs(case, ids)}
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in contenders}
        for _ in range(options.rounds):
            for name, answer in contenders.items():
                found[name].append(measure(answer, request, reply, max(1, int(case.messages * options.share))))
        wall = {name: statistics.median(row[0] for row in rows) for name, rows in found.items()}
        busy = {name: statistics.median(row[1] for row in rows) for name, rows in found.items()}
        print(
            f"| {case.name} | {wall['stock']:.0f} | {wall['ours']:.0f} | {wall['stock'] / wall['ours']:.1f} "
            f"| {busy['stock']:.0f} | {busy['ours']:.0f} | {busy['stock'] / busy['ours']:.1f} |"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
