"""What requests pass first, with tiny applications behind it."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest

from serving.control.following.forms import TEXT, Access
from serving.frontend.engine import Timings
from serving.frontend.entrance import (
    ANSWERED,
    Entrance,
    Message,
    Receive,
    Sampled,
    Scope,
    Send,
    details_of,
    logged,
)


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


def told(found: list[Access]) -> list[str]:
    """Lines of the access log, each without its time and the milliseconds."""
    pattern = re.compile(r"\S+ - (.*) \d+( \S+)?")
    return ["".join(filter(None, pattern.fullmatch(TEXT.access(one)).groups())) for one in found]  # type: ignore[union-attr]


def test_a_server_that_drains_is_not_ready_and_answers_everything_else() -> None:
    entrance = Entrance(_ok)
    assert ask(entrance, "/readyz") == (201, b"/readyz")
    entrance.drain()
    assert ask(entrance, "/readyz") == (503, b'{\n  "status": "Draining"\n}\n')
    assert ask(entrance, "/ping") == (201, b"/ping")


def test_a_line_tells_who_asked_what_and_how_it_was_answered() -> None:
    found: list[Access] = []
    app = logged(_ok, Sampled(found.append))
    ask(app, "/ping", client=("127.0.0.1", 5), query_string=b"a=b")
    ask(app, "/x", "POST", client=None, raw_path=b'/x"%0A\xff')
    assert told(found) == [
        '/127.0.0.1:5 "GET /ping?a=b HTTP/1.1" 201',
        '/unix "POST /x"%0A\\xff HTTP/1.1" 201',
    ]


def test_what_was_not_answered_is_told_too() -> None:
    found: list[Access] = []
    with pytest.raises(RuntimeError):
        ask(logged(_broken, Sampled(found.append)), "/x", client=("::1", 5))
    assert told(found) == ['/::1:5 "GET /x HTTP/1.1" 0']


def test_the_id_and_the_details_are_those_of_the_answer() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scope[ANSWERED].append(("mnist", "1.0", {}, Timings(0.001, 0.0025, 3)))
        headers = [(b"content-type", b"text/plain"), (b"x-request-id", b"mine")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b""})

    found: list[Access] = []
    ask(logged(app, Sampled(found.append)), "/predictions/mnist", "POST")
    assert told(found) == ['/unix "POST /predictions/mnist HTTP/1.1" 200 mine']
    assert found[0].details == {"model": "mnist", "version": "1.0", "queue_ms": 1.0, "worker_ms": 2.5, "batch": 3}


def test_an_error_in_a_models_place_has_its_name_and_its_trace() -> None:
    headers = {"traceparent": f"00-{'a' * 32}-{'b' * 16}-01"}
    assert details_of("mnist", None, headers, None) == {"model": "mnist", "trace_id": "a" * 32}
    assert details_of("mnist", "2.0", {}, None) == {"model": "mnist", "version": "2.0"}


def answered(status: int) -> Any:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    return app


def test_of_a_sample_no_error_is_left_out() -> None:
    found: list[Access] = []

    def passed(share: float, status: int) -> int:
        found.clear()
        app = logged(answered(status), Sampled(found.append, share))
        for _ in range(200):
            ask(app, "/x")
        assert {one.status for one in found} <= {status}
        return len(found)

    assert passed(1.0, 200) == 200
    assert passed(0.0, 200) == passed(0.0, 404) == 0
    assert passed(0.0, 500) == 200
    assert 20 < passed(0.25, 200) < 90


def test_a_client_that_has_left_is_no_error() -> None:
    found: list[Access] = []
    with pytest.raises(RuntimeError):
        ask(logged(_broken, Sampled(found.append, 0.0)), "/x")
    assert found == []


def test_of_what_is_left_out_no_record_is_made() -> None:
    """It costs as much as all else that the access log costs."""

    def make() -> Access:
        raise AssertionError("nobody wants it")

    found: list[Access] = []
    sampled = Sampled(found.append, 0.0)
    sampled(make, failed=False)
    sampled(lambda: Access("a", "GET", "/x", "HTTP/1.1", 503, 0.1), failed=True)
    assert [one.status for one in found] == [503]
