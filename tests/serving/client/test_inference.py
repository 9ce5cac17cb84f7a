from __future__ import annotations

from pathlib import Path

import pytest

from serving.client.inference import content_type_of, decode
from serving.client.transport import Reply

OCTETS = "application/octet-stream"


@pytest.mark.parametrize(
    ("body", "expected"),
    [(b"7", 7), (b'{"a": 1}', {"a": 1}), (b"plain", "plain"), (b"\xff\xfe", b"\xff\xfe"), (b"", "")],
)
def test_an_answer_is_what_it_looks_like(body: bytes, expected: object) -> None:
    assert decode(Reply(200, {}, body, 0.0)) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.png", "image/png"),
        ("a.json", "application/json"),
        ("a.txt", "text/plain"),
        ("a", "application/octet-stream"),
    ],
)
def test_the_content_type_comes_from_the_name(name: str, expected: str) -> None:
    assert content_type_of(Path(name)) == expected
