"""Sessions over real loads; the management API is played by a double."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any, cast

import pytest

from serving.bench import session as sessions
from serving.bench.loads import Load
from serving.bench.running import Told, run
from serving.bench.session import WARM_UP, Scaling, Session
from serving.client import ManagementClient
from serving.errors import ReplyError

from .answering import Server


class PlayedManagement:
    """Notes what is asked; one number of workers is refused."""

    def __init__(self) -> None:
        self.scaled: list[tuple[int, int | None]] = []

    def default_version(self, name: str) -> Any:
        class Version:
            min_workers, max_workers = 3, 5

        return Version()

    def scale(self, name: str, *, min_workers: int, max_workers: int | None, version: str | None) -> None:
        if min_workers == 99:
            raise ReplyError("too many", status=400)
        self.scaled.append((min_workers, max_workers))


def session_of(server: Server, model: str = "good", **more: Any) -> Session:
    settings = {"connections": (1, 2), "warm_up_s": 0.0} | more
    base = Load(
        server.place, server.requests(model), 64, settings.pop("seconds", 0.3), slo_s=settings.pop("slo_s", None)
    )
    return Session(base, **settings)


def test_a_load_for_each_number_of_connections(server: Server) -> None:
    told: list[str] = []
    session = session_of(server, warm_up_s=0.2, tell=lambda name, _: told.append(name))
    asyncio.run(session.all())
    assert [(run.name, run.load.connections, run.load.rate) for run in session.runs] == [
        ("1 connection", 1, None),
        ("2 connections", 2, None),
    ]
    assert list(dict.fromkeys(told)) == [WARM_UP, "1 connection", "2 connections"]
    assert all(run.figures.good and 0 <= run.busy <= 1 for run in session.runs)
    assert sum(run.figures.good for run in session.runs) < server.seen.total()


@pytest.mark.parametrize(
    ("more", "connections", "rate"),
    [
        ({"rates": (40.0, 20.0)}, 64, 20.0),
        ({}, 2, None),
        ({"search": True, "slo_s": 0.001}, 1, None),
    ],
)
def test_a_warm_up_sends_no_more_than_the_test(
    server: Server, monkeypatch: pytest.MonkeyPatch, more: dict[str, Any], connections: int, rate: float | None
) -> None:
    sent: list[Load] = []

    def noted(load: Load, stop: asyncio.Event | None = None) -> AsyncGenerator[Told, None]:
        sent.append(load)
        return run(load, stop)

    monkeypatch.setattr(sessions, "run", noted)
    session = session_of(server, warm_up_s=0.5, **more)
    session.tell = lambda name, _: session.stop.set() if name != WARM_UP else None
    asyncio.run(session.all())
    assert (sent[0].connections, sent[0].rate, sent[0].seconds) == (connections, rate, 0.5)
    assert WARM_UP not in [one.name for one in session.runs]


@pytest.mark.parametrize("rates", [(), (20.0,)])
def test_where_the_warm_up_fails_as_a_whole_the_error_says_so(server: Server, rates: tuple[float, ...]) -> None:
    session = session_of(server, "bad", rates=rates, warm_up_s=0.3)
    with pytest.raises(
        ReplyError, match=r"of [\d,]+ requests of the warm-up none got a good answer: HTTP 503: .*no worker"
    ):
        asyncio.run(session.all())
    assert session.runs == []


def test_a_warm_up_in_which_nothing_is_due_has_not_failed(server: Server) -> None:
    session = session_of(server, rates=(0.5,), warm_up_s=0.1, seconds=0.1)
    asyncio.run(session.all())
    assert [(one.name, one.figures.requests) for one in session.runs] == [("0.5/s", 0)]


def test_rates_in_place_of_connections(server: Server) -> None:
    session = session_of(server, rates=(20.0, 40.0))
    asyncio.run(session.all())
    assert [(run.name, run.load.connections) for run in session.runs] == [("20/s", 64), ("40/s", 64)]


def test_a_search_begins_with_what_the_server_can_do(server: Server) -> None:
    """It answers after 250 ms, so no rate is kept."""
    session = session_of(server, "slow", search=True, slo_s=0.2, seconds=0.4)
    asyncio.run(session.all())
    assert session.highest == {None: 0}
    assert session.runs[0].name == "2 connections"
    assert len(session.runs) > 3
    assert session.runs[1].load.rate == pytest.approx(0.8 * session.runs[0].figures.rate, rel=0.01)


@pytest.mark.slow
def test_a_search_finds_a_rate(server: Server) -> None:
    session = session_of(server, "slow", search=True, slo_s=20.0, seconds=0.6)
    asyncio.run(session.all())
    assert session.highest[None] > 0


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Load a model that has been scaled for a moment more, and not for a second."""
    monkeypatch.setattr(sessions, "_AFTER_S", 0.1)


@pytest.mark.usefixtures("soon")
def test_workers_are_scaled_under_load_and_back(server: Server) -> None:
    client = PlayedManagement()
    scaling = Scaling(cast("ManagementClient", client), "good", None, (1, 2))
    session = session_of(server, connections=(2,), scaling=scaling)
    asyncio.run(session.all())
    assert client.scaled == [(1, None), (2, None), (3, 5)]
    assert [(run.name, run.workers) for run in session.runs] == [
        ("3 to 1 workers", 1),
        ("2 connections", 1),
        ("1 to 2 workers", 2),
        ("2 connections", 2),
    ]


@pytest.mark.usefixtures("soon")
def test_where_workers_cannot_be_scaled_what_there_is_stays(server: Server) -> None:
    client = PlayedManagement()
    scaling = Scaling(cast("ManagementClient", client), "good", None, (1, 99))
    session = session_of(server, connections=(2,), scaling=scaling)
    with pytest.raises(ReplyError, match="too many"):
        asyncio.run(session.all())
    assert client.scaled == [(1, None), (3, 5)]
    assert [run.name for run in session.runs][:2] == ["3 to 1 workers", "2 connections"]


def test_a_session_that_is_stopped_has_what_there_is(server: Server) -> None:
    session = session_of(server, connections=(1, 2, 3), seconds=600)

    async def main() -> None:
        session.tell = lambda *_: session.stop.set()
        await session.all()

    asyncio.run(main())
    assert [run.name for run in session.runs] == ["1 connection"]
    assert session.runs[0].figures.good > 0


@pytest.mark.parametrize("search", [False, True])
def test_a_session_that_is_stopped_while_it_warms_up_sends_no_load(server: Server, search: bool) -> None:
    session = session_of(server, connections=(1,), seconds=600, search=search, warm_up_s=600)

    async def main() -> None:
        session.tell = lambda *_: session.stop.set()
        await session.all()

    asyncio.run(main())
    assert not session.runs
    assert not session.highest


def test_a_key_that_is_not_taken_any_more_ends_it_with_what_there_is(server: Server) -> None:
    session = session_of(server, "key", seconds=600.0)
    with pytest.raises(ReplyError, match=r"^the key is not taken any more: it was renewed .*, or has expired"):
        asyncio.run(session.all())
    (run,) = session.runs
    assert run.figures.good == 10
