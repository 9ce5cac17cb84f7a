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
    document = document_of([("http://127.0.0.1:8080", {"paths": {}})], [asked])
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    assert "/predictions/odd" in document["paths"]


@pytest.mark.parametrize("addresses", [("http://127.0.0.1:8080",) * 2, ("http://127.0.0.1:8080", "unix:/tmp/m.sock")])
def test_documents_are_joined_and_a_path_of_several_is_the_first_ones(addresses: tuple[str, str]) -> None:
    """At one address, too, nothing of a document is lost."""
    documents = (
        {"paths": {"/both": {"get": "first"}, "/one": {"post": "one"}}, "components": {"schemas": {"A": 1}}},
        {"paths": {"/both": {"get": "second"}, "/two": {"put": "two"}}, "components": {"schemas": {"A": 2, "B": 3}}},
    )
    found = document_of(list(zip(addresses, documents, strict=True)), [])
    first, second = ([{"url": one}] for one in addresses)
    assert found["paths"] == {
        "/both": {"get": "first", "servers": first},
        "/one": {"post": "one", "servers": first},
        "/two": {"put": "two", "servers": second},
    }
    assert found["components"] == {"schemas": {"A": 1, "B": 3}}
