"""What is sent, in itself."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.frontend.apps.answers import answer_headers, constant_headers, json_body, new_id, sendable
from serving.frontend.engine import Answer, Timings

from .conftest import settings_of

_CONSTANT = ((b"access-control-allow-origin", b"https://site.example"), (b"pragma", b"no-cache"))


def _headers(answer: Answer) -> dict[bytes, bytes]:
    found = answer_headers(answer, "id", _CONSTANT)
    assert len(dict(found)) == len(found), "a name stands twice"
    return dict(found)


def test_an_id_has_the_form_of_torchserves() -> None:
    ids = {new_id() for _ in range(1000)}
    assert len(ids) == 1000
    assert all(re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", one) for one in ids)


def test_json_is_written_as_torchserve_writes_it() -> None:
    assert json_body({"status": "Healthy", "ä": [], "b": {}}) == (
        '{\n  "status": "Healthy",\n  "ä": [],\n  "b": {}\n}\n'.encode()
    )
    assert json_body("\ud800") == b'"\\ud800"\n'


def test_a_plain_answer() -> None:
    assert _headers(Answer(200, "", "", {}, b"")) == {b"x-request-id": b"id", **dict(_CONSTANT)}
    assert _headers(Answer(200, "", "image/png", {}, b""))[b"content-type"] == b"image/png"


def test_a_handlers_headers_win_but_for_what_is_not_theirs() -> None:
    own = {"Content-Type": "a/b", "Access-Control-Allow-Origin": "*", "X-Request-Id": "theirs", "Pragma": "cache"}
    own |= {"Content-Length": "9", "Transfer-Encoding": "chunked", "Connection": "close", "bad name": "1", "": "2"}
    own |= {"x-twice": "1", "X-Twice": "2", "server": "x", "X-(": "3", "ü": "4"}
    found = _headers(Answer(200, "", "text/plain", own, b""))
    assert found == {
        b"x-request-id": b"id",
        b"content-type": b"a/b",
        b"access-control-allow-origin": b"*",
        b"pragma": b"no-cache",
        b"x-twice": b"2",
    }


def test_times_are_said_unless_the_handler_does() -> None:
    timings = Timings(0.0015, 0.25, 4)
    found = _headers(Answer(200, "", "", {}, b"", timings=timings))
    assert found[b"server-timing"] == b"queue;dur=1.500, worker;dur=250.000, batch;desc=4"
    found = _headers(Answer(200, "", "", {"Server-Timing": "mine"}, b"", timings=timings))
    assert found[b"server-timing"] == b"mine"


@given(st.text())
def test_whatever_a_value_is_it_can_be_sent(value: str) -> None:
    sent = sendable(value)
    assert not any((byte < 32 and byte != 9) or byte == 127 for byte in sent)


@pytest.mark.parametrize(("value", "sent"), [("a", b"a"), ("ä", b"\xe4"), ("日", b"?"), ("a\r\nB: c", b"a  B: c")])
def test_a_value_is_latin_1_in_one_line(value: str, sent: bytes) -> None:
    assert sendable(value) == sent


def test_cors_stands_where_it_is_configured(tmp_path: Path) -> None:
    assert [name for name, _ in constant_headers(settings_of(tmp_path))] == [b"pragma", b"cache-control", b"expires"]
    found = dict(constant_headers(settings_of(tmp_path, cors_allowed_methods="GET, PUT")))
    assert found[b"access-control-allow-methods"] == b"GET, PUT"
    assert b"access-control-allow-origin" not in found
