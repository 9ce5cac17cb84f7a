from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from benchmarks import fuzz


def test_the_seed_decides_what_is_sent() -> None:
    def some(seed: str) -> list[bytes]:
        made = fuzz.Requests(seed)
        return [made.whole(fuzz.INFERENCE, last=True) for _ in range(20)] + [made.spoilt(fuzz.MANAGEMENT)]

    assert some("a") == some("a") != some("b")
    assert all(request.count(b"connection: close\r\n") == 1 for request in some("a")[:20])


def test_every_answer_of_a_connection_is_seen() -> None:
    chunked = b"HTTP/1.1 404 Not Found\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    sized = b"HTTP/1.1 500 x\r\nContent-Length: 12\r\n\r\nHTTP/1.1 999"
    assert fuzz.statuses_of(sized + chunked + sized) == [500, 404, 500]
    assert fuzz.statuses_of(b"") == fuzz.statuses_of(b"noise") == []


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_server_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "")
    found = fuzz.fuzz(argparse.Namespace(requests=2000, clients=4, seed=3), tmp_path)
    assert found.wrong == []
    assert found.sent >= 2000
    assert {200, 400, 404, 405} <= found.statuses.keys()
