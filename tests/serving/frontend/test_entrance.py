"""What requests pass first, with tiny applications behind it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from serving.frontend.entrance import Entrance, Message, Receive, Scope, Send, logged


async def _ok(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 201, "headers": []})
    await send({"type": "http.response.body", "body": scope["path"].encode()})


async def _broken(scope: Scope, receive: Receive, send: Send) -> None:
    raise RuntimeError("broken")


def ask(app: Any, path: str, method: str = "GET", **scope: object) -> tuple[int, bytes]:
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    given = {"type": "http", "path": path, "raw_path": path.encode(), "query_string": b"", "http_version": "1.1"}
    asyncio.run(app({**given, "method": method, **scope}, receive, send))
    return sent[0]["status"], b"".join(message["body"] for message in sent[1:])


def without_times(lines: list[str]) -> list[str]:
    """Lines of the access log, each without the milliseconds at its end."""
    assert all(line.rpartition(" ")[2].isdecimal() for line in lines)
    return [line.rpartition(" ")[0] for line in lines]


def test_a_server_that_drains_is_not_ready_and_answers_everything_else() -> None:
    entrance = Entrance(_ok)
    assert ask(entrance, "/readyz") == (201, b"/readyz")
    entrance.drain()
    assert ask(entrance, "/readyz") == (503, b'{\n  "status": "Draining"\n}\n')
    assert ask(entrance, "/ping") == (201, b"/ping")


def test_a_line_tells_who_asked_what_and_how_it_was_answered() -> None:
    lines: list[str] = []
    app = logged(_ok, lines.append)
    ask(app, "/ping", client=("127.0.0.1", 5), query_string=b"a=b")
    ask(app, "/x", "POST", client=None, raw_path=b'/x"%0A\xff')
    assert without_times(lines) == [
        '/127.0.0.1:5 "GET /ping?a=b HTTP/1.1" 201',
        '/unix "POST /x"%0A\\xff HTTP/1.1" 201',
    ]


def test_what_was_not_answered_is_told_too() -> None:
    lines: list[str] = []
    with pytest.raises(RuntimeError):
        ask(logged(_broken, lines.append), "/x", client=("::1", 5))
    assert without_times(lines) == ['/::1:5 "GET /x HTTP/1.1" 0']
