"""The server beside: real clients ask the real APIs, over a played engine."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from serving.control.state import ServerRecord, StateFolder
from serving.errors import ReplyError
from serving.frontend.apps.console import remote
from serving.frontend.apps.console.remote import ClientSource
from serving.frontend.apps.console.whole import console_of
from serving.frontend.entrance import Receive, Scope, Send
from tests.serving.frontend.apps.conftest import Served, listening, served

from .conftest import mark_of

Make = Callable[..., ClientSource]


@pytest.fixture
def source_of(tmp_path: Path) -> Iterator[Make]:
    """Return what makes the source of a server: as if torchmar had started it."""
    made: list[ClientSource] = []

    def make(server: Served, **properties: str) -> ClientSource:
        state = StateFolder("default", tmp_path / "state")
        state.create()
        state.config.write_text("".join(f"{key}={value}\n" for key, value in properties.items()))
        if server.keys is not None:
            state.keys.write_text((tmp_path / "key_file.json").read_text())
        places = [f"http://127.0.0.1:{port}" for port in (server.inference, server.management, 1)]
        texts = ("", "", str(tmp_path), str(tmp_path), str(tmp_path), "torchmar")
        made.append(ClientSource(ServerRecord("default", 1, 0.0, *places, *texts), state))
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_it_sees_and_does_what_the_apis_let_it(tmp_path: Path, source_of: Make) -> None:
    with served(tmp_path) as server:
        source = source_of(server, enable_model_api="true", max_request_size="1234")

        async def work() -> None:
            assert (source.about.changes, source.about.keyed, source.about.most) == (True, False, 1234)
            assert await source.inference_key() is None
            assert await source.names() == ["echo", "idle", "stream"]
            await source.set_default("echo", "2.0")
            assert [(one.of.version, one.of.default) for one in await source.versions("echo")] == [
                ("2.0", True),
                ("1.0", False),
            ]
            await source.scale("echo", "1.0", 2, 3)
            await source.unregister("echo", "1.0")
            await source.register("echo1.0.mar", 1)
            asked = await source.predict("echo", None, b"hello", "text/plain")
            assert (asked.status, json.loads(asked.body)["row"]) == (200, {"body": ["str", "hello"]})
            assert asked.timing.startswith("queue;dur=")
            assert (await source.predict("none", None, b"", "")).status == 404
            assert await source.metrics(()) == "", "nobody listens there"
            assert [(where, list(found["paths"])[:1]) for where, found in await source.apis()] == [
                (source.about.inference, ["/"]),
                (source.about.management, ["/"]),
            ]
            with pytest.raises(ReplyError, match="Model not found: none"):
                await source.versions("none")

        asyncio.run(work())
        assert server.engine.scaled == [("echo", "1.0", 2, 3, False)]
        assert [one.url for one in server.engine.registered] == ["echo1.0.mar"]


def test_an_odd_description_of_a_model_is_told_as_it_is(tmp_path: Path, source_of: Make) -> None:
    replies = {b"/models/none": b"[]", b"/models/none/all": b"[]", b"/models/odd": b"[1]"}

    async def odd(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": replies[scope["raw_path"]]})

    with served(tmp_path) as server, listening(odd) as port:
        source = source_of(replace(server, management=port))
        assert list(asyncio.run(source.versions("none"))) == []
        with pytest.raises(ReplyError, match="the description of models cannot be read"):
            asyncio.run(source.versions("odd"))


def test_a_description_that_is_too_long_is_not_read_to_its_end(
    tmp_path: Path, source_of: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "MOST_ANSWER", 1 << 20)

    async def long(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for left in reversed(range(64)):
            await send({"type": "http.response.body", "body": b" " * 65536, "more_body": left > 0})

    with served(tmp_path) as server, listening(long) as port:
        source = source_of(replace(server, management=port))
        with pytest.raises(ReplyError, match="more than 1048576 bytes"):
            asyncio.run(source.names())


def test_its_pages_are_those_of_a_server_that_has_them(tmp_path: Path, source_of: Make) -> None:
    with served(tmp_path) as server:
        app, _ = console_of(source_of(server))
        with listening(app) as port, httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
            assert client.get("/").headers["location"] == "/console"
            assert 'data-name="echo"' in client.get("/console").text
            mark = mark_of(client.get("/console/try/echo"))
            page = client.post("/console/try/echo", data={"mark": mark, "text": "hello"})
            assert "hello" in page.text
            missing = client.get("/console/models/none")
            assert missing.status_code == 404
            assert "Model not found: none" in missing.text
            paths = client.get("/console/openapi.json").json()["paths"]
            assert {"/predictions/echo/1.0", "/models", "/ping"} <= set(paths)


def test_it_asks_for_the_servers_key(tmp_path: Path, source_of: Make) -> None:
    with served(tmp_path, keyed=True) as server:
        assert server.keys is not None
        source = source_of(server)
        assert source.about.keyed
        assert asyncio.run(source.inference_key()) == server.keys._keys["inference"]
        app, _ = console_of(source)
        with listening(app) as port, httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
            assert client.get("/console").status_code == 303
            for key, status in (("wrong", 403), (server.keys._keys["management"], 303)):
                mark = mark_of(client.get("/console/login"))
                assert client.post("/console/login", data={"mark": mark, "key": key}).status_code == status
            assert 'data-name="echo"' in client.get("/console").text


def test_a_server_that_has_ended_is_told(tmp_path: Path, source_of: Make) -> None:
    with served(tmp_path) as server:
        source = source_of(server)
    app, _ = console_of(source)
    with listening(app) as port, closing(httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30)) as client:
        page = client.get("/console")
        assert page.status_code == 502
        assert "nobody answers at" in page.text


def test_one_load_test_at_a_time_of_two_consoles_of_a_server(tmp_path: Path, source_of: Make) -> None:
    with served(tmp_path) as server, ExitStack() as stack:

        def console() -> httpx.Client:
            port = stack.enter_context(listening(console_of(source_of(server))[0]))
            return stack.enter_context(httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30))

        def start(client: httpx.Client) -> httpx.Response:
            mark = mark_of(client.get("/console/load/echo"))
            wanted = {"text": "hello", "loop": "connections", "connections": "1", "seconds": "60"}
            return client.post("/console/load/echo", data={"mark": mark} | wanted)

        def stop(client: httpx.Client) -> None:
            client.post("/console/load", data={"mark": mark_of(client.get("/console/load/echo"))})
            while 'id="running"' in client.get("/console/load").text:
                time.sleep(0.05)

        one, other = console(), console()
        assert start(one).status_code == 303
        refused = start(other)
        stop(one)
        assert refused.status_code == 409
        assert "another console loads this server" in refused.text
        assert start(other).status_code == 303
        stop(other)
