"""The answers to a request, and the reply to a message of several."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.protocol import DEADLINE, PredictionItem, Reply, Request
from serving.worker.answering.replies import Answer, Failure, failure_item
from tests.serving.worker.frontend import REST, grpc, rest
from tests.serving.worker.handled import (
    NEXT,
    ask,
    batch,
    giving,
    only,
    replied,
    service,
    with_context,
)


@pytest.mark.parametrize(
    ("status", "expected"),
    [(201, 201), ("404", 404), (None, 200), (404.0, 404), ("teapot", 500), ([], 500), (math.inf, 500), (-1, 500)],
)
def test_the_status(status: Any, expected: int) -> None:
    assert only(with_context(lambda context: context.set_response_status(code=status, idx=0))).status == expected


@pytest.mark.parametrize(
    ("phrase", "expected"), [("Größe", "Größe"), (None, ""), ("a\r\nb", "a  b"), (404, "404"), ("\ud800", "?")]
)
def test_the_phrase(phrase: Any, expected: str) -> None:
    assert only(with_context(lambda context: context.set_response_status(200, phrase, 0))).phrase == expected


def test_each_request_has_its_own() -> None:
    def change(context: Any) -> None:
        context.set_response_status(404, "No", idx=1)
        context.set_response_header(2, "x", "y")
        context.set_response_content_type(0, "text/plain; charset=ü")

    first, second, third = ask(with_context(change), *batch(3)).items
    assert (first.content_type, first.headers) == ("text/plain; charset=ü", {"content-type": "text/plain; charset=ü"})
    assert (second.status, second.phrase, second.headers) == (404, "No", {})
    assert (third.status, third.headers) == (200, {"x": "y"})


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("x-count", 3, {"x-count": "3"}),
        ("x-name", "Zoë", {"x-name": "Zoë"}),
        ("x-none", None, {"x-none": "None"}),
        ("x-line", "a\r\nset-cookie: b", {"x-line": "a  set-cookie: b"}),
        ("bad name", "x", {}),
        (7, "x", {"7": "x"}),
    ],
)
def test_headers_of_the_answer(name: Any, value: Any, expected: dict[str, str]) -> None:
    assert only(with_context(lambda context: context.set_response_header(0, name, value))).headers == expected


def test_a_content_type_that_is_no_text() -> None:
    item = only(with_context(lambda context: context.set_response_content_type(0, None)))
    assert item.content_type == ""


def test_arrays_in_json() -> None:
    item = only(giving({"scores": np.array([0.5, 0.25]), "best": np.int64(0)}))
    assert json.loads(bytes(item.body)) == {"scores": [0.5, 0.25], "best": 0}


def test_an_answer_larger_than_the_frontend_takes_is_an_error_of_its_own() -> None:
    small, large = ask(giving(b"x", b"x" * 7_000_000), *batch(2)).items
    assert (small.status, large.status) == (200, 507)


def test_an_error_status_reaches_grpc() -> None:
    """It has neither a status nor headers for items: only the code of the reply is an error there."""
    entry = with_context(lambda context: context.set_response_status(404, "No", 0), b'{"message": "not here"}')
    assert ask(entry, grpc("0")) == Reply(404, "not here")
    assert ask(entry, Request("0", {DEADLINE: "1e9"})) == Reply(404, "not here")
    assert ask(entry, rest("0")).items[0].status == 404
    other = with_context(lambda context: context.set_response_status(500, "No", 0), b"\xffnot JSON")
    assert ask(other, grpc("0")) == Reply(500, "�not JSON")
    (item,) = replied([grpc("0")], service(entry).answer([grpc("0")]), items_only=True).items
    assert (item.status, item.headers) == (404, {NEXT: "false"})


@settings(deadline=None)
@given(st.lists(st.integers(-10, 1100) | st.none(), max_size=4), st.booleans(), st.booleans())
def test_replies_of_answers_and_failures(codes: list[int | None], over_http: bool, items_only: bool) -> None:
    requests = [Request(str(number), REST if over_http else {}) for number in range(len(codes))]
    item = PredictionItem("", b"body")
    answers: list[Answer] = [
        replace(item, request_id=str(number)) if code is None else Failure(code, "failed")
        for number, code in enumerate(codes)
    ]
    reply = replied(requests, answers, items_only=items_only)
    if len(codes) == 1 and codes[0] not in (None, 200) and not items_only:
        assert reply.message == "failed"
        assert reply.code != 200 or codes == [200]
    else:
        assert [one.request_id for one in reply.items] == [request.request_id for request in requests]


def test_the_item_of_a_failure_is_what_the_frontend_writes() -> None:
    item = failure_item("1", Failure(507, 'a "reason"'))
    assert bytes(item.body) == (
        b'{\n  "code": 507,\n  "type": "InternalServerException",\n  "message": "a \\"reason\\""\n}\n'
    )
    assert (item.status, item.phrase, item.content_type) == (507, "Insufficient Storage", "application/json")
    assert failure_item("1", Failure(799, "")).phrase == ""
