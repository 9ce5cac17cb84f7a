"""Requests, in themselves."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest

from serving.frontend.apps.exchange import App, ClientGoneError, Exchange, parts_of, whole_body
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


@pytest.mark.parametrize(("status", "sent"), [(507, 507), (413, 413), (100, 500), (204, 500), (999, 500), (-5, 500)])
def test_a_workers_own_status_of_an_error_is_sent_as_http_has_it(status: int, sent: int) -> None:
    """An 1xx or a 204 with a body would be one answer and the beginning of another."""

    class Failing(App):
        async def route(self, http: Exchange) -> None:
            raise InternalError("why", status=status)

    async def ask() -> None:
        async def nothing() -> Any:
            return {"type": "http.request"}

        await Failing((), PlayedMeters())(_scope(), nothing, take)

    messages: list[Any] = []

    async def take(message: Any) -> None:
        messages.append(message)

    asyncio.run(ask())
    assert messages[0]["status"] == sent
    assert b"why" in messages[1]["body"]


def test_only_http_is_served() -> None:
    async def nobody(*_: Any) -> Any:
        raise AssertionError

    with pytest.raises(ValueError, match="only HTTP is served here, not websocket"):
        asyncio.run(App((), PlayedMeters())({"type": "websocket"}, nobody, nobody))


def test_who_leaves_the_parts_of_an_answer_ends_the_rest() -> None:
    closed: list[str] = []

    async def rest(name: str) -> Any:
        try:
            for part in (b"second", b"third"):
                yield part
        finally:
            closed.append(name)

    async def taken(most: int, of: Any) -> list[bytes]:
        found: list[bytes] = []
        async with contextlib.aclosing(parts_of(b"first", of)) as parts:
            async for part in parts:
                found.append(bytes(part))
                if len(found) == most:
                    break
        return found

    assert asyncio.run(taken(9, None)) == [b"first"]
    assert asyncio.run(taken(9, rest("whole"))) == [b"first", b"second", b"third"]
    assert asyncio.run(taken(2, rest("left"))) == [b"first", b"second"]
    assert closed == ["whole", "left"]


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
