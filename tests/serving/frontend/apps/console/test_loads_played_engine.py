"""Load tests as a browser without a script starts, sees and stops them, sent to a played engine at a real port."""

from __future__ import annotations

import asyncio
import html
import json
import re
import shlex
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import httpx
import psutil
import pytest

from serving.control.state import StateFolder
from serving.errors import NotRunningError
from serving.frontend.apps.console import loads
from serving.frontend.apps.console.shown import load_tests
from serving.frontend.apps.console.sources import About, EngineSource
from tests.serving.frontend.apps.conftest import played_engine, settings_of

from .conftest import Shown, mark_of, shown

AGAIN = '<meta http-equiv="refresh" content="2">'


@pytest.fixture(autouse=True)
def _warm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load_tests, "_WARM_UP_S", 0.0)


def senders() -> list[psutil.Process]:
    return [one for one in psutil.Process().children() if "serving.bench.generator" in one.cmdline()]


def start(client: httpx.Client, path: str = "/echo", **fields: str) -> httpx.Response:
    mark = mark_of(client.get(f"/console/load{path}"))
    given = {"mark": mark, "text": "hello", "loop": "connections", "connections": "2", "rate": "20", "seconds": "0.7"}
    return client.post(f"/console/load{path}", data=given | fields)


def result(client: httpx.Client) -> str:
    """Wait for the end of the test under way, as a browser does that loads the page again."""
    deadline = time.monotonic() + 60
    while AGAIN in (page := client.get("/console/load").text):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return page


def test_a_model_is_loaded_and_the_table_shown(tmp_path: Path) -> None:
    with shown(tmp_path, asked=True) as console, console.client() as client:
        assert 'href="/console/load/echo/2.0"' in client.get("/console/load").text
        assert 'href="/console/load/echo/1.0"' in client.get("/console/models/echo").text
        begun = start(client, "/echo/2.0", slo=" 1000 ", loop="rate", rate="30")
        assert (begun.status_code, begun.headers["location"]) == (303, "/console/load")
        page = result(client)
        with client.stream("GET", "/console/events/load") as stream:
            lines = list(stream.iter_lines())
    heads = re.findall(r'<th scope="col"[^>]*>([^<]*)</th>', page)
    assert heads[:7] == ["load", "requests/s", "p50 ms", "p90", "p99", "max", "within 1000 ms"]
    row = re.search(r'<th scope="row">30/s</th>(.*)', page)
    assert row
    cells = dict(zip(heads[1:], re.findall(r"<td[^>]*>([^<]*)</td>", row[1]), strict=True))
    assert float(cells["requests/s"]) > 0
    assert cells["errors"] == "0"
    command = re.search(r'<pre class="command" tabindex="0" aria-label="The same test">([^<]*)</pre>', page)
    assert command
    words = shlex.split(html.unescape(command[1]))
    assert words[:8] == ["printf", "%s", "hello", "|", "torchmar", "bench", "echo", "--input"]
    assert words[9:15] == ["--rate", "30", "--duration", "0.7", "--slo-ms", "1000"]
    assert words[-4:] == ["--version", "2.0", "--header", "content-type=text/plain"]
    assert {call.version for call in console.engine.calls} == {"2.0"}
    told = [json.loads(line[6:]) for line in lines if line.startswith('data: {"at')]
    assert [one["load"] for one in told] == ["30/s"] * len(told)
    assert "event: over" in lines
    assert not senders()


def test_one_at_a_time_with_the_servers_key_until_it_is_stopped(tmp_path: Path) -> None:
    with shown(tmp_path, keyed=True, asked=True) as console, console.client() as client:
        assert console.keys is not None
        key, secret = (console.keys._keys[kind] for kind in ("management", "inference"))
        client.post("/console/login", data={"mark": mark_of(client.get("/console/login")), "key": key})
        assert start(client, seconds="300").status_code == 303
        second = start(client)
        assert second.status_code == 409
        assert "a load test is under way" in second.text
        with client.stream("GET", "/console/events/load") as stream:
            told = next(json.loads(line[6:]) for line in stream.iter_lines() if line.startswith("data: "))
        assert told["requests"] > 0
        assert told["failed"] == 0
        (sender,) = senders()
        assert not [word for word in (*sender.cmdline(), *sender.environ().values()) if key in word or secret in word]
        stopped = client.post("/console/load", data={"mark": mark_of(client.get("/console/load"))})
        assert stopped.status_code == 303
        page = result(client)
        assert "The load test was stopped." in page
        assert re.search(r"over after [0-9.]+ s", page)
        assert '<th scope="row">2 connections</th>' in page
        assert secret not in page
        sender.wait(10)


def test_it_ends_with_the_server(tmp_path: Path) -> None:
    with shown(tmp_path, asked=True) as console, console.client() as client:
        start(client, seconds="300")
        with client.stream("GET", "/console/events/load") as stream:
            lines = stream.iter_lines()
            next(line for line in lines if line.startswith("data: "))
            (sender,) = senders()
            console.end()
            assert "event: over" in list(lines)
        sender.wait(10)
        assert start(client).status_code == 503
        page = result(client)
        chinese = client.get("/console/load", headers={"accept-language": "zh"}).text
        assert "负载测试失败：服务器或控制台在测试结束之前已停止。没有结果。" in chinese
        assert "The load test has failed: the server, or its console, has ended before it. There is no result." in page
        assert "The load test is over." not in page


def test_a_promise_that_is_missed_is_told(tmp_path: Path) -> None:
    with shown(tmp_path, asked=True) as console, console.client() as client:
        start(client, loop="rate", slo="0.001")
        page = result(client)
        assert re.search(
            r'<p class="bad">20/s: [0-9.]+ % of the requests were answered within the SLO, not 99 %</p>', page
        )
        assert "The load test is over." not in page
        start(client, loop="rate", slo="30000")
        page = result(client)
        assert "The load test is over." in page
        # The numbers over the charts are those of the table.
        (rate,) = re.findall(r"<output>([0-9.]+)</output></figcaption>", page)[:1]
        assert f'<td class="n">{rate}</td>' in page


def test_it_is_run_again_as_it_was(tmp_path: Path) -> None:
    with shown(tmp_path, asked=True) as console, console.client() as client:
        mark = mark_of(client.get("/console/load/echo"))
        assert client.post("/console/load", data={"mark": mark, "again": "1"}).status_code == 409
        start(client, "/echo/2.0", text="<b>", kind="text/x-own", loop="rate", rate="33", slo="30000")
        page = result(client)
        assert "<code>&lt;b&gt;</code> · 3 B · <code>text/x-own</code>" in page
        assert "33/s · 0.7 s · ≤ 30,000 ms" in page
        assert re.search(r'<time datetime="[0-9T:+-]+">[^<]+</time> · over after [0-9.]+ s', page)
        calls = len(console.engine.calls)
        assert client.post("/console/load", data={"mark": mark, "again": "1"}).status_code == 303
        assert re.search(r'<th scope="row">33/s</th>', result(client))
        again = console.engine.calls[calls:]
        assert {(call.version, call.request.headers["content-type"]) for call in again} == {("2.0", "text/x-own")}
        # And a form has it all, to be changed.
        form = client.get("/console/load/echo/2.0").text
        assert '<textarea id="text" name="text" rows="4">&lt;b&gt;</textarea>' in form
        assert 'name="kind" value="text/x-own"' in form
        assert re.search(r'value="rate" checked>.* value="33">', form)
        assert 'value="30000"' in form


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"connections": "257"}, "connections: a number is wanted, 1 to 256"),
        ({"connections": "1.5"}, "connections: a whole number is wanted"),
        ({"connections": ""}, "connections: a number is wanted"),
        ({"seconds": "301"}, "seconds: a number is wanted, 0.1 to 300"),
        ({"seconds": "nan"}, "seconds: a number is wanted"),
        ({"seconds": "\u0663"}, "seconds: a number is wanted"),
        ({"seconds": "21", "slo": "50"}, "seconds: a number is wanted, 0.1 to 20"),
        ({"loop": "rate", "rate": "1e6"}, "rate: a number is wanted, 0.1 to 10000"),
        ({"slo": "0"}, "slo: a number is wanted"),
        ({"loop": "zzz"}, "loop: connections or rate is wanted"),
        ({"kind": "text/\u00e9"}, "content type: write printable ASCII"),
        ({"text": ""}, "choose a file or a sample, or write something"),
    ],
)
def test_what_cannot_be_sent_says_why(console: Shown, fields: dict[str, str], told: str) -> None:
    with console.client() as client:
        page = start(client, **fields)
        assert page.status_code == 400
        assert told in page.text
        assert AGAIN not in client.get("/console/load").text
    assert not console.engine.calls


def test_an_input_that_is_refused_is_no_load(tmp_path: Path) -> None:
    with shown(tmp_path, asked=True) as console, console.client() as client:
        assert client.get("/console/load/none").status_code == 404
        start(client, "/idle")
        page = result(client)
        assert re.search(r'<p class="bad">The load test did not begin: [^<]*has no worker to serve', page)
        assert "There is no result." in page
        assert "The load test is over." not in page
        assert "Result</h2>" not in page


def test_a_key_that_is_renewed_ends_the_test_and_is_named(tmp_path: Path) -> None:
    with shown(tmp_path, keyed=True, asked=True) as console, console.client() as client:
        assert console.keys is not None
        key = console.keys._keys["management"]
        client.post("/console/login", data={"mark": mark_of(client.get("/console/login")), "key": key})
        assert start(client, seconds="300", slo=" ").status_code == 303
        with client.stream("GET", "/console/events/load") as stream:
            next(line for line in stream.iter_lines() if line.startswith("data: "))
        console.keys.renew(f"Bearer {console.keys._keys['API']}", "inference")
        page = result(client)
        chinese = client.get("/console/load", headers={"accept-language": "zh"}).text
    assert "the key is not taken any more: it was renewed during the test, or has expired" in page
    assert "密钥不再被接受：它在测试期间被更换，或已过期" in chinese
    assert "请重新开始测试" in chinese
    assert '<th scope="row">2 connections</th>' in page, "what came until then is kept"
    assert re.search(r"2 connections: \d x the key is not taken any more: Token Authorization failed", page)
    assert not senders()


def test_the_test_is_seen_and_stopped_while_the_models_cannot_be_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def silent(self: EngineSource) -> Sequence[str]:
        raise NotRunningError("nobody answers")

    async def late(self: EngineSource) -> Sequence[str]:
        looks.append(1)
        while not over.is_set():
            await asyncio.sleep(0.02)
        return ()

    over = threading.Event()
    looks: list[int] = []
    monkeypatch.setattr(loads, "_LISTING_S", 0.1)
    with shown(tmp_path, asked=True) as console, console.client() as client:
        start(client, seconds="300")
        for names in (silent, late):
            monkeypatch.setattr(EngineSource, "names", names)
            for _ in range(2):
                page = client.get("/console/load")
                assert page.status_code == 200
                assert 'id="running"' in page.text
                assert "The server does not answer." in page.text
                assert "No model is served." not in page.text
        assert len(looks) == 1, "who waits, waits for the same"
        over.set()
        client.post("/console/load", data={"mark": mark_of(page)})
        assert "The load test was stopped." in result(client)


def test_the_events_of_a_test_are_none_of_the_one_before(tmp_path: Path) -> None:
    def numbers(after: str) -> list[int]:
        with client.stream("GET", "/console/events/load", headers={"last-event-id": after}) as stream:
            return [int(line[4:]) for line in stream.iter_lines() if line.startswith("id: ")]

    with shown(tmp_path, asked=True) as console, console.client() as client:
        start(client, seconds="1.3")
        result(client)
        first = numbers("0")
        assert numbers(str(first[-1])) == []
        start(client, seconds="1.3")
        result(client)
        second = numbers("0")
        assert second[0] == first[-1] + 1
        assert numbers(str(first[0])) == numbers(str(first[-1])) == second
        assert numbers(str(second[0])) == second[1:]


def test_a_server_that_torchmar_has_started_has_the_lock_of_a_console_beside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def about(folder: Path) -> About:
        return EngineSource(played_engine(), settings_of(folder), None, lambda _: b"").about

    monkeypatch.setenv("TORCHMAR_STATE_HOME", str(tmp_path))
    state = StateFolder("one")
    state.create()
    assert about(state.path).lock == state.load_test
    assert about(tmp_path).lock is None


def test_a_file_that_cannot_be_kept_says_where_and_why(console: Shown, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(**_: object) -> BinaryIO:
        return open("/dev/full", "r+b", buffering=0)

    monkeypatch.setattr("starlette.formparsers.SpooledTemporaryFile", full)
    monkeypatch.setattr("tempfile.tempdir", str(console.folder))
    with console.client() as client:
        for path in ("/console/load/echo", "/console/try/echo"):
            sent = {"mark": (None, mark_of(client.get(path))), "file": ("a.bin", bytes(50_000))}
            page = client.post(path, files=sent)
            assert page.status_code == 507
            assert re.search(
                r"a form of 5\d\.\d kB cannot be kept in the folder \S+, which has [\d.]+ .?B left", page.text
            )
            assert "No space left on device; make room there" in page.text
            assert "无法存放在目录" in client.post(path, files=sent, headers={"accept-language": "zh"}).text
            assert client.get(path).status_code == 200


def test_a_session_that_cannot_be_looked_up_is_an_error_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    silent = threading.Event()
    is_key = EngineSource.is_key

    async def asked(self: EngineSource, text: str) -> bool:
        if silent.is_set():
            raise NotRunningError("nobody answers at http://127.0.0.1:1")
        return await is_key(self, text)

    monkeypatch.setattr(EngineSource, "is_key", asked)
    with shown(tmp_path, keyed=True) as console, console.client() as client:
        assert console.keys is not None
        key = console.keys._keys["management"]
        client.post("/console/login", data={"mark": mark_of(client.get("/console/login")), "key": key})
        silent.set()
        page = client.get("/console/load")
        assert page.status_code == 502
        assert "nobody answers at http://127.0.0.1:1" in page.text
