"""Requests and time limits, in themselves."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest

from serving.frontend.apps.exchange import App, ClientGoneError, Exchange, Limited, new_id, whole_body
from serving.frontend.engine import Answer
from serving.frontend.errors import InternalError

from .conftest import PlayedMeters


def _scope(**more: Any) -> dict[str, Any]:
    return {
        "type": "http",
        "method": "POST",
        "path": "/a/b",
        "query_string": b"",
        "http_version": "1.1",
        "headers": [(b"content-length", b"3")],
    } | more


def test_an_id_has_the_form_of_torchserves() -> None:
    ids = {new_id() for _ in range(1000)}
    assert len(ids) == 1000
    assert all(re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", one) for one in ids)


async def _limit(seconds: float, work: float) -> str:
    loop = asyncio.get_running_loop()
    until = loop.time() + seconds
    try:
        with Limited(loop, lambda: until, LookupError):
            await asyncio.sleep(work)
    except LookupError:
        await asyncio.sleep(0)
        return "late"
    return "in time"


def test_what_takes_too_long_ends() -> None:
    assert asyncio.run(_limit(0.01, 5)) == "late"
    assert asyncio.run(_limit(5, 0.01)) == "in time"


def test_an_end_may_move() -> None:
    async def work() -> int:
        loop = asyncio.get_running_loop()
        until, steps = loop.time() + 0.05, 0
        with Limited(loop, lambda: until, LookupError):
            for _ in range(10):
                await asyncio.sleep(0.02)
                until, steps = until + 0.02, steps + 1
        return steps

    assert asyncio.run(work()) == 10


def test_a_limit_leaves_other_cancellations_alone() -> None:
    async def work() -> None:
        task = asyncio.create_task(_limit(5, 5))
        await asyncio.sleep(0)
        task.cancel()
        await task

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(work())


def test_a_body_that_ends_early_is_a_client_that_has_gone() -> None:
    async def work() -> None:
        messages = [{"type": "http.request", "body": b"a", "more_body": True}, {"type": "http.disconnect"}]

        async def receive() -> dict[str, Any]:
            return messages.pop(0)

        http = Exchange(_scope(), receive, receive, (), PlayedMeters())  # type: ignore[arg-type]
        assert await http.part() == b"a"
        assert not http.complete
        await http.part()

    with pytest.raises(ClientGoneError):
        asyncio.run(work())


def test_only_http_is_served() -> None:
    async def nobody(*_: Any) -> Any:
        raise AssertionError

    with pytest.raises(ValueError, match="only HTTP is served here, not websocket"):
        asyncio.run(App((), PlayedMeters())({"type": "websocket"}, nobody, nobody))


def test_a_streamed_answer_in_one_piece_has_a_bound() -> None:
    closed: list[bool] = []

    async def rest() -> Any:
        try:
            while True:
                yield b"x" * 100
        finally:
            closed.append(True)

    with pytest.raises(InternalError, match="more than 1000 bytes"):
        asyncio.run(whole_body(Answer(200, "", "", {}, b"first", rest()), 1000))
    assert closed == [True]
