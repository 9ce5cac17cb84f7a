"""Whatever a server does, a load ends at its time, tells what came by kind, and grows no larger."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any

import psutil
import pytest

from serving.bench.loads import Load
from serving.bench.tally import Figures
from serving.bench.wire.sending import CLOSED, TIMEOUT, UNREADABLE, Sending
from tests.serving.bench.played import MANNERS, Played, played

from .test_sending import _uvloop

SECONDS, TIMEOUT_S = 0.2, 0.3
# Of what is no matter of time; the processors are shared.
LONG_S = 30.0
PATIENCE_S = 60.0
MOST_GROWN = 64 << 20
GOOD = "good"

KINDS = {
    "good": GOOD,
    "never answers": TIMEOUT,
    "byte by byte": TIMEOUT,
    "a body byte by byte": TIMEOUT,
    "headers without end": UNREADABLE,
    "a header without end": UNREADABLE,
    "a body without end": TIMEOUT,
    "chunks of a byte without end": TIMEOUT,
    "trailers without end": TIMEOUT,
    "a size without end": UNREADABLE,
    "a terabyte": TIMEOUT,
    "no length": UNREADABLE,
    "more than it says": UNREADABLE,
    "less than it says": TIMEOUT,
    "closes midway": CLOSED,
    "closes in a head": CLOSED,
    "closes at once": CLOSED,
    "a chunk of no size": UNREADABLE,
    "a chunk of less than nothing": UNREADABLE,
    "a chunk that is longer than it says": UNREADABLE,
    "a chunk that is longer, in two": UNREADABLE,
    "trailers": GOOD,
    "no HTTP": UNREADABLE,
    "HTTP/1.0": UNREADABLE,
    "another place": "HTTP 302",
    "hints before": GOOD,
    "hints without end": TIMEOUT,
    "another protocol": UNREADABLE,
    "compressed": GOOD,
    "nothing, of a length": GOOD,
    "deep": "HTTP 503",
    "half a character": "HTTP 503",
    "escapes": "HTTP 503",
}


def test_every_manner_but_one_of_two_kinds_is_here() -> None:
    assert set(MANNERS) - set(KINDS) == {"more than it says, later"}


@pytest.fixture(params=[_uvloop, pytest.param(asyncio.run, marks=pytest.mark.slow)], ids=["uvloop", "asyncio"])
def send(request: pytest.FixtureRequest) -> Callable[..., Figures]:
    """Return what sends a load to a played server; nothing may be left to the loop's handler of exceptions."""

    def sent(server: Played, timeout_s: float, *bodies: bytes, **more: Any) -> Figures:
        async def main() -> tuple[Figures, list[Any]]:
            wrong: list[Any] = []
            asyncio.get_running_loop().set_exception_handler(lambda _, context: wrong.append(context))
            load = Load(server.place, server.requests(*bodies), 2, SECONDS, timeout_s=timeout_s, **more)
            return await asyncio.wait_for(Sending(load).run(), PATIENCE_S), wrong

        found, wrong = request.param(main())
        assert not wrong
        assert isinstance(found, Figures)
        json.dumps(found.document())
        return found

    return sent


@pytest.mark.parametrize("manner", KINDS)
def test_what_comes_of_a_played_server(manner: str, send: Callable[..., Figures]) -> None:
    with played(manner) as server:
        before = psutil.Process().memory_info().rss
        found = send(server, TIMEOUT_S if KINDS[manner] == TIMEOUT else LONG_S)
        grown = psutil.Process().memory_info().rss - before
    assert found.requests > 0
    if KINDS[manner] == GOOD:
        assert (found.errors, found.good) == ({}, found.requests)
    else:
        assert found.errors == {KINDS[manner]: found.requests}
    assert grown < MOST_GROWN


def test_what_comes_after_a_played_answer_spoils_the_connection_alone(send: Callable[..., Figures]) -> None:
    with played("more than it says, later") as server:
        found = send(server, LONG_S)
    assert set(found.errors) <= {UNREADABLE, CLOSED}
    assert found.good > 0


@pytest.mark.parametrize("rate", [None, 20.0])
def test_a_played_server_that_reads_nothing_ends_the_load_in_time(
    rate: float | None, send: Callable[..., Figures], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.serving.bench.played._read_request", lambda _: time.sleep(5))
    with played("good") as server:
        found = send(server, TIMEOUT_S, bytes(8 << 20), rate=rate)
    assert found.good == 0
    assert found.errors[TIMEOUT] >= 2
