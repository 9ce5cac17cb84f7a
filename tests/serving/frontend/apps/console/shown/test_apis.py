"""The document of all APIs, with samples as somebody's archive has them."""

from __future__ import annotations

import json

import pytest

from serving.frontend.apps.console.shown.apis import Asking, document_of


@pytest.mark.parametrize(
    "sample", [b"NaN", b"[1, -Infinity]", b"[" * 900 + b"]" * 900, b"9" * 4096, b'{"a": 1, "a": 2}']
)
def test_an_odd_sample_leaves_the_document_one_that_all_readers_take(sample: bytes) -> None:
    asked = Asking("odd", "1.0", True, None, (("application/json", sample),))
    document = document_of({"http://127.0.0.1:8080": {"paths": {}}}, [asked])
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    assert "/predictions/odd" in document["paths"]
