"""The worker's view of an HTTP request; the rules are the frontend's."""

from __future__ import annotations

import os

import pytest

from serving.local.requests import FormError, request_of


def parameters(kind: str, body: bytes) -> list[tuple[str, bytes, str]]:
    found = request_of({"Content-Type": kind} if kind else {}, body).parameters
    assert all(isinstance(one.value, bytearray) for one in found)
    return [(one.name, bytes(one.value), one.content_type) for one in found]


def test_a_body_is_one_parameter() -> None:
    assert parameters("text/plain; charset=utf-8", b"x") == [("body", b"x", "text/plain")]
    assert parameters("", b"") == [("body", b"", "")]


def test_headers_keep_their_casing_and_the_frontend_adds_its_own() -> None:
    request = request_of({"X-Key": "a", "explain": "yes"}, b"")
    assert request.headers == {"X-Key": "a", "explain": "False", "url_path": ""}
    request = request_of({}, b"", explain=True, path="a/b")
    assert request.headers == {"explain": "True", "url_path": "a/b"}
    assert request.request_id != request_of({}, b"").request_id


def test_sequences() -> None:
    headers = request_of({}, b"", sequences=True).headers
    assert headers["ts_request_sequence_id"].startswith("ts-seq-")
    assert headers["ts_request_sequence_start"] == "true"
    own = request_of({"TS_request_sequence_id": "mine"}, b"", sequences=True).headers
    assert "ts_request_sequence_start" not in own
    assert own["TS_request_sequence_id"] == "mine"


def test_a_form_of_text() -> None:
    body = b"a=1&b=%C3%A9+x&a=2&c="
    expected = [("a", b"1", ""), ("b", "é x".encode(), ""), ("a", b"2", ""), ("c", b"", "")]
    assert parameters("application/x-www-form-urlencoded", body) == expected
    with pytest.raises(FormError):
        parameters("application/x-www-form-urlencoded", b"\xff=1")


def test_a_form_of_files() -> None:
    data = bytes(range(256)) + b"\r\n--\r\n" + os.urandom(5000)
    body = (
        b'--B\r\nContent-Disposition: form-data; name="text"\r\n\r\none\r\n'
        b'--B\r\nContent-Disposition: form-data; name="f\xc3\xa9"; filename="x.png"\r\n'
        b"Content-Type: image/png; q=1\r\n\r\n"
        + data
        + b"\r\n--B\r\nContent-Disposition: form-data\r\n\r\nnameless\r\n--B--\r\n"
    )
    kind = 'multipart/form-data; boundary="B"'
    assert parameters(kind, body) == [("text", b"one", ""), ("fé", data, "image/png")]
    for wrong in (b"", b"no form"):
        with pytest.raises(FormError):
            parameters(kind, wrong)
    with pytest.raises(FormError):
        parameters("multipart/form-data", body)
