"""Bodies that are packed, in themselves and over a played engine."""

from __future__ import annotations

import contextlib
import gzip
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.frontend.apps.bodies import unpack
from serving.frontend.errors import BadRequestError, TooLargeError

from .conftest import Served, served


def _raw_deflate(body: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(body) + packer.flush()


_PACKERS = {"gzip": gzip.compress, "x-gzip": gzip.compress, "deflate": zlib.compress}


@given(st.binary(max_size=1000))
def test_what_is_packed_comes_back(body: bytes) -> None:
    for encoding, pack in _PACKERS.items():
        assert unpack(pack(body), encoding, 1000) == body
    # A first byte that looks like zlib's frame is a block that is stored: no packer begins with it.
    assert unpack(_raw_deflate(body), "deflate", 1000) == body


@given(st.binary(), st.sampled_from(sorted(_PACKERS)))
def test_whatever_comes_is_unpacked_or_refused(body: bytes, encoding: str) -> None:
    with contextlib.suppress(BadRequestError, TooLargeError):
        assert len(unpack(body, encoding, 100)) <= 100


def test_a_bomb_is_no_larger_than_allowed() -> None:
    bomb = gzip.compress(b"x" * 50_000_000)
    assert len(bomb) < 60_000
    with pytest.raises(TooLargeError, match="max_request_size"):
        unpack(bomb, "gzip", 100_000)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"plain", "not in gzip"),
        (gzip.compress(b"x" * 100, mtime=0)[:-4], "ends early"),
        (b"", "ends early"),
        (gzip.compress(b"a", mtime=0) + b"more", "4 bytes behind the end"),
    ],
)
def test_a_body_that_is_not_what_it_says(body: bytes, words: str) -> None:
    with pytest.raises(BadRequestError, match=words):
        unpack(body, "gzip", 1000)


def test_played_engine_sees_the_body_unpacked(server: Served) -> None:
    with server.client() as client:
        for encoding, pack in _PACKERS.items():
            headers = {"content-encoding": encoding, "content-type": "text/plain"}
            seen = client.post("/predictions/echo", content=pack(b"some text"), headers=headers).json()
            assert seen["row"] == {"body": ["str", "some text"]}
            assert "content-encoding" not in {name.lower() for name in seen["headers"]}
            assert seen["headers"]["content-length"] == "9"


def test_played_engine_sees_other_encodings_as_they_come(server: Served) -> None:
    with server.client() as client:
        seen = client.post("/predictions/echo", content=b"??", headers={"Content-Encoding": "br"}).json()
    assert seen["row"] == {"body": ["bytearray", "??"]}
    assert seen["headers"]["Content-Encoding"] == "br"


def test_played_engine_is_not_asked_with_a_bomb(tmp_path: Path) -> None:
    with served(tmp_path, max_request_size="100000") as server, server.client() as client:
        answer = client.post(
            "/predictions/echo", content=gzip.compress(b"x" * 200_000), headers={"content-encoding": "gzip"}
        )
        assert answer.status_code == 413
        assert client.get("/ping").status_code == 200
        assert not server.engine.calls
