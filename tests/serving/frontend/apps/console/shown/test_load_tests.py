"""Load tests of a small real server."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import psutil
import pytest

from serving.bench import report
from serving.bench.targets import Target
from serving.client import Address
from serving.frontend.apps.console.given import Given
from serving.frontend.apps.console.shown import load_tests
from serving.frontend.apps.console.shown.load_tests import MOST_S, SEARCHED, LoadTest, LoadTests, Wanted
from serving.frontend.errors import ConflictError, UnavailableError
from tests.serving.bench.answering import Server, answering

SENT = Given(b"x", "text/plain", "input.txt", "x")
LONG = Wanted(2, None, 300.0, None)


@pytest.fixture(autouse=True)
def _warm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load_tests, "_WARM_UP_S", 0.0)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with answering() as running:
        yield running


def load_test(server: Server, model: str = "good", wanted: Wanted = LONG) -> LoadTest:
    return LoadTest(Target(Address(server.address), model), SENT, wanted)


def senders() -> list[psutil.Process]:
    return [one for one in psutil.Process().children() if "serving.bench.generator" in one.cmdline()]


def test_who_watches_has_every_second_and_at_last_the_table(server: Server) -> None:
    test = load_test(server, wanted=Wanted(2, None, 1.3, None))

    async def main() -> list[int]:
        LoadTests().start(test)
        early = asyncio.ensure_future(numbers(0))
        found = await numbers(0)
        assert await early == found
        assert await numbers(len(found)) == []
        assert await numbers(99) == found, "of another test"
        return found

    async def numbers(after: int) -> list[int]:
        return [number async for number, _ in test.told(after)]

    found = asyncio.run(main())
    assert found == list(range(1, len(test.seconds) + 1))
    assert test.seconds[0]["load"] == "2 connections"
    assert test.seconds[0]["requests"] > 0
    assert test.over
    assert not test.stopped
    assert [row[0] for row in report.rows(test.session)] == ["2 connections"]


def test_the_warm_up_is_told_and_no_part_of_the_charts(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load_tests, "_WARM_UP_S", 0.6)
    test = load_test(server, wanted=Wanted(None, 20.0, 0.6, None))
    asyncio.run(test.run())
    warm = [one for one in test.seconds if "warm" in one]
    assert {one["load"] for one in warm} == {"warm-up"}
    assert not any("requests" in one for one in warm)
    assert {one["load"] for one in test.seconds[len(warm) :]} == {"20/s"}
    assert test.result is test.session.runs[0]
    assert test.took_s > 1.2


def test_one_at_a_time(server: Server) -> None:
    async def main() -> None:
        tests = LoadTests()
        await tests.stop()  # nothing
        tests.start(first := load_test(server))
        with pytest.raises(ConflictError):
            tests.start(load_test(server))
        assert tests.last is first
        await anext(first.told())
        await tests.stop()
        assert first.over
        assert first.stopped
        assert first.session.runs[0].figures.good > 0
        tests.start(second := load_test(server))
        tests.end()
        async for _ in second.told():
            pass
        assert not senders()
        with pytest.raises(UnavailableError):
            tests.start(load_test(server))

    asyncio.run(main())


def test_one_that_is_stopped_before_the_model_has_answered_is_over(server: Server) -> None:
    async def main() -> None:
        tests, test = LoadTests(), load_test(server, "silent")
        tests.start(test)
        await asyncio.wait_for(asked(), 60)
        await tests.stop()
        assert test.over
        assert test.stopped
        assert test.error == ("", "")
        assert not test.session.runs

    async def asked() -> None:
        while not server.seen[b"x"]:
            await asyncio.sleep(0.01)

    server.seen.clear()
    asyncio.run(main())


def test_one_that_drags_on_is_ended(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load_tests, "_REST_S", 0.5)
    test = load_test(server, "slow", Wanted(1, None, 0.1, None))
    test.session.base = load_test(server).session.base  # as if the load did not end
    asyncio.run(test.run())
    assert test.error[0] == "it was ended after 0.6 s: the server's answers took too long"
    assert not senders()


def test_what_keeps_it_from_beginning_is_said(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    refused = load_test(server, "bad")
    asyncio.run(refused.run())
    assert refused.error[0] == "no worker <b>here</b> (HTTP 503)"
    monkeypatch.setattr("sys.executable", "/none")
    alone = load_test(server)
    asyncio.run(alone.run())
    assert alone.error[0] == "the process that sends the load could not be started: No such file or directory"


def test_how_much_as_options_of_the_command(server: Server) -> None:
    assert Wanted(8, None, 10.0, None).options == ["--connections", "8", "--duration", "10"]
    assert Wanted(None, 0.5, 10.0, 50.0).options == ["--rate", "0.5", "--duration", "10", "--slo-ms", "50"]
    search = load_test(server, wanted=Wanted(8, None, MOST_S / SEARCHED, 50.0))
    assert search.session.search
    assert search.session.base.slo_s == 0.05
    assert search.command.endswith("content-type=text/plain")
