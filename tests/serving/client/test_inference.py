from __future__ import annotations

from pathlib import Path

import pytest

from serving.client.inference import content_type_of


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.png", "image/png"),
        ("a.json", "application/json"),
        ("a.txt", "text/plain"),
        ("a", "application/octet-stream"),
        ("a.npy", "application/x-npy"),
    ],
)
def test_the_content_type_comes_from_the_name(name: str, expected: str) -> None:
    assert content_type_of(Path(name)) == expected
