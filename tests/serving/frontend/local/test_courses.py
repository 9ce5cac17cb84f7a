"""How requests go to real workers in each mode: streams, side by side, an iteration at a time."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from serving.frontend.errors import FrontendError

from .conftest import Bench

_RETRY = "backend:\n  retry: true\n"
_STREAM = """
import time
from ts.handler_utils.utils import send_intermediate_predict_response

def handle(data, context):
    if data is None:
        return None
    count = int(bytes(data[0]["body"]))
    for one in range(count):
        send_intermediate_predict_response([f"{one} "] * len(data), context.request_ids, "ok", 200, context)
    if count > 90:
        time.sleep(60)
    return ["end"] * len(data)
"""


@pytest.mark.slow  # imports torch
def test_a_streamed_answer_comes_in_parts(bench: Bench) -> None:
    bench.show_torch()  # which TorchServe's functions for streams import
    archive = bench.build("stream", _STREAM)

    async def work() -> None:
        await bench.register(archive)
        answer = await bench.ask("stream", "3")
        assert answer.rest is not None
        parts = [bytes(answer.body), *[bytes(part) async for part in answer.rest]]
        assert b"".join(parts) == b"0 1 2 end"
        assert bytes((await bench.ask("stream", "0")).body) == b"end"

    bench.run(work)


@pytest.mark.slow  # imports torch
def test_a_stream_whose_worker_dies_ends_in_an_error_and_is_not_begun_again(bench: Bench) -> None:
    bench.show_torch()
    archive = bench.build("stream", _STREAM, _RETRY)

    async def work() -> None:
        await bench.register(archive)
        answer = await bench.ask("stream", "99")
        assert answer.rest is not None
        os.kill(bench.pids("stream")[0], signal.SIGKILL)
        with pytest.raises(FrontendError, match="Worker died"):
            async for _ in answer.rest:
                pass
        assert bench.counts.resends == 0

    bench.run(work)


_ASYNC = """
import asyncio

class Handler:
    def initialize(self, context):
        pass

    async def handle(self, data, context):
        text = bytes(data[0]["body"]).decode()
        await asyncio.sleep(float(text))
        return [text]
"""


def test_an_asynchronous_worker_answers_in_any_order(bench: Bench) -> None:
    archive = bench.build("turns", _ASYNC, "asyncCommunication: true\n")

    async def work() -> None:
        await bench.register(archive)
        order: list[bytes] = []

        async def ask(text: str) -> None:
            order.append(bytes((await bench.ask("turns", text)).body))

        await asyncio.gather(ask("0.6"), ask("0.3"), ask("0.01"))
        assert order == [b"0.01", b"0.3", b"0.6"]

    bench.run(work)


_COUNTDOWN = """
class Handler:
    def initialize(self, context):
        self.left = {}
        self.sizes = []

    def handle(self, data, context):
        self.sizes.append(len(data))
        answers = []
        context.stopping_criteria = []
        for index, row in enumerate(data):
            name = context.get_request_id(index)
            if name not in self.left:
                self.left[name] = int(bytes(row["body"]))
            self.left[name] -= 1
            answers.append(f"{self.left[name]} ")
            context.stopping_criteria.append(lambda _, left=self.left[name]: left <= 0)
        return answers
"""


def test_requests_join_a_continuous_batch_and_leave_it(bench: Bench) -> None:
    archive = bench.build("countdown", _COUNTDOWN, "continuousBatching: true\nbatchSize: 4\n")

    async def read(count: int) -> bytes:
        answer = await bench.ask("countdown", str(count))
        rest = [bytes(part) async for part in answer.rest] if answer.rest is not None else []
        return b"".join([bytes(answer.body), *rest])

    async def work() -> None:
        await bench.register(archive)
        answers = await asyncio.gather(*(read(count) for count in (3, 1, 5, 2, 4, 2)))
        assert answers == [b"2 1 0 ", b"0 ", b"4 3 2 1 0 ", b"1 0 ", b"3 2 1 0 ", b"1 0 "]
        left = await bench.ask("countdown", "1000000")
        assert left.rest is not None
        await left.rest.aclose()  # type: ignore[attr-defined]
        assert await read(2) == b"1 0 "
        await asyncio.wait_for(bench.engine.unregister("countdown", None), 20)

    bench.run(work)
