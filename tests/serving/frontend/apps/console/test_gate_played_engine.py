"""Who may use the console: other pages, other machines, forms of nobody, and the login."""

from __future__ import annotations

import asyncio
import contextlib
import re
from pathlib import Path
from typing import Any

import httpx
import pytest

from serving.frontend.apps.console.gate import MOST_SESSIONS, Gate
from serving.frontend.errors import ForbiddenError

from .conftest import Shown, mark_of, shown

_ACTIONS = (
    ("/console/models/echo/1.0/scale", {"least": "7"}),
    ("/console/models/echo/2.0/set-default", {}),
    ("/console/models/echo/2.0/unregister", {}),
    ("/console/models", {"archive": "echo1.0.mar", "workers": "1"}),
    ("/console/try/echo", {"text": "hello"}),
    ("/console/load/echo", {"text": "hello", "loop": "connections", "connections": "1", "seconds": "1"}),
    ("/console/load", {}),
)


def assert_nothing_has_happened(console: Shown) -> None:
    assert not console.engine.scaled
    assert not console.engine.registered
    assert not console.engine.calls
    assert console.engine.models["echo", "1.0"].default
    assert ("echo", "2.0") in console.engine.models


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},  # a name that leads here: DNS rebinding
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://localhost:1"},  # another page of this machine
        {"Sec-Fetch-Site": "cross-site"},
    ],
)
def test_other_pages_do_nothing(console: Shown, headers: dict[str, str]) -> None:
    with console.client() as client:
        mark = mark_of(client.get("/console/models/echo"))
        for path, fields in _ACTIONS:
            answer = client.post(path, data={"mark": mark, **fields}, headers=headers)
            assert answer.status_code == 403, (path, answer.text)
    assert_nothing_has_happened(console)


def test_forms_without_the_mark_or_the_cookie_do_nothing(console: Shown) -> None:
    with console.client() as client, console.client() as other:
        mark, foreign = mark_of(client.get("/console/models/echo")), mark_of(other.get("/console/models/echo"))
        for path, fields in _ACTIONS:
            for given in ({}, {"mark": ""}, {"mark": foreign}, {"mark": "ü"}):
                assert client.post(path, data={**fields, **given}).status_code == 403, path
            client.cookies.clear()
            assert client.post(path, data={"mark": mark, **fields}).status_code == 403
            client.get("/console")
    assert_nothing_has_happened(console)


def test_nobody_puts_the_pages_into_a_frame_or_lets_them_run_anything_else(console: Shown) -> None:
    with console.client() as client:
        for path in ("/console", "/console/models/echo", "/console/nothing", "/console/static/console.js", "/docs"):
            headers = client.get(path).headers
            policy = headers["content-security-policy"]
            assert "frame-ancestors 'none'" in policy
            assert "script-src 'self';" in policy
            assert "unsafe" not in policy
            assert headers["x-frame-options"] == "DENY"
            assert headers["x-content-type-options"] == "nosniff"
            assert "access-control-allow-origin" not in headers


def test_the_cookie_is_for_this_site_and_no_script(console: Shown) -> None:
    with console.client() as client:
        (cookie,) = client.get("/console").headers.get_list("set-cookie")
        assert re.fullmatch(
            rf"torchmar_console_{console.port}=[\w-]{{43}}; Path=/console; HttpOnly; SameSite=Strict", cookie
        )
        assert "set-cookie" not in client.get("/console").headers


@pytest.mark.parametrize("server", ["192.0.2.7", "2001:db8::7", "/run/torchmar.sock", ""])
def test_without_keys_it_is_for_this_machine_alone(server: str) -> None:
    scope = {"server": (server, 8081), "method": "GET"}
    with pytest.raises(ForbiddenError, match="let requests need a key"):
        Gate(None).refuse_others(scope, {b"host": b"localhost"})

    async def is_key(_: str) -> bool:
        return True

    Gate(is_key).refuse_others(scope, {b"host": b"models.example"})


def test_models_stay_where_the_model_api_is_off(tmp_path: Path) -> None:
    with shown(tmp_path) as console, console.client() as client:
        for path in ("/console", "/console/models/echo"):
            page = client.get(path)
            assert "unregister" not in page.text
            assert 'action="/console/models"' not in page.text
        mark = mark_of(client.get("/console/models/echo"))
        assert client.get("/console/models/echo/2.0/unregister").status_code == 404
        assert client.post("/console/models/echo/2.0/unregister", data={"mark": mark}).status_code == 404
        assert client.post("/console/models", data={"mark": mark, "archive": "echo1.0.mar"}).status_code == 404
        assert_nothing_has_happened(console)
        # What the management API lets everybody do who reaches it.
        assert client.post("/console/models/echo/2.0/set-default", data={"mark": mark}).status_code == 303
        assert console.engine.models["echo", "2.0"].default


def log_in(client: httpx.Client, key: str, where: str = "/console") -> httpx.Response:
    mark = mark_of(client.get("/console/login", params={"next": where}))
    return client.post("/console/login", data={"mark": mark, "key": key, "next": where})


def test_with_keys_one_logs_in(tmp_path: Path) -> None:
    with shown(tmp_path, keyed=True) as console, console.client() as client:
        assert console.keys is not None
        pages = ("/console", "/console/models/echo", "/console/try/echo", "/console/logs", "/console/events", "/docs")
        for path in pages:
            answer = client.get(path)
            assert (answer.status_code, answer.headers["location"].partition("?")[0]) == (303, "/console/login")
        for path, fields in _ACTIONS:
            assert client.post(path, data=fields).status_code == 303
        assert client.get("/console/static/console.css").status_code == 200
        for wrong in ("", "wrong", console.keys._keys["inference"], "ü"):
            assert log_in(client, wrong).status_code == 403
        assert_nothing_has_happened(console)

        before = dict(client.cookies)
        come = log_in(client, console.keys._keys["management"], "/console/models/echo")
        assert (come.status_code, come.headers["location"]) == (303, "/console/models/echo")
        assert dict(client.cookies) != before, "the session must not be one that somebody may know from before"
        page = client.get("/console/models/echo")
        assert page.status_code == 200
        assert client.post("/console/models/echo/1.0/scale", data={"mark": mark_of(page), "least": "2"}).is_redirect
        assert console.engine.scaled == [("echo", "1.0", 2, 2, False)]
        assert client.get("/models").status_code == 400, "a cookie is no key of the API"

        assert client.post("/console/logout", data={"mark": mark_of(page)}).is_redirect
        assert client.get("/console").status_code == 303


def test_a_session_ends_with_its_key(tmp_path: Path) -> None:
    with shown(tmp_path, keyed=True) as console, console.client() as client:
        assert console.keys is not None
        log_in(client, console.keys._keys["management"])
        assert client.get("/console").status_code == 200
        mark = mark_of(client.get("/console/models/echo"))
        assert not ended(client.get("/console/login"))
        streams = ("/console/events", "/console/logs/events")
        with contextlib.ExitStack() as stack:
            opened = [stack.enter_context(client.stream("GET", path)).iter_lines() for path in streams]
            console.keys.renew(f"Bearer {console.keys._keys['API']}", "management")
            for lines in opened:
                assert "event: out" in list(lines), "who watches is told"
        assert client.get("/console").status_code == 303
        # A script is told, too, whatever it asks for.
        for path in (*streams, "/console/events/load"):
            answer = client.get(path, headers={"accept": "text/event-stream"})
            assert (answer.status_code, answer.text) == (200, "event: out\ndata: {}\n\n")
        assert client.post("/console/try/echo", headers={"x-torchmar-alone": "1"}).status_code == 401
        # The login says why one is there again; and leads back to the page with the form.
        where = "/console/models/echo/1.0"
        sent = client.post(f"{where}/scale", data={"mark": mark}, headers={"referer": str(client.base_url) + where})
        assert sent.headers["location"] == f"/console/login?next={where}"
        assert ended(client.get(sent.headers["location"]))
        log_in(client, console.keys._keys["management"])
        client.post("/console/logout", data={"mark": mark_of(client.get("/console"))})
        assert not ended(client.get("/console/login")), "who has left knows it"


def ended(page: httpx.Response) -> bool:
    return '<p class="bad" role="alert">Your session has ended.</p>' in page.text


@pytest.mark.parametrize(
    ("name", "command"), [("default", "torchmar keys --management"), ("two", "torchmar keys --management --name two")]
)
def test_the_login_names_the_servers_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, command: str
) -> None:
    monkeypatch.setenv("TORCHMAR_STATE_HOME", str(tmp_path))
    folder = tmp_path / "servers" / name
    folder.mkdir(parents=True)
    with shown(folder, keyed=True) as console, console.client() as client:
        assert f"<code>{command}</code>" in client.get("/console/login").text
        assert console.keys is not None
        log_in(client, console.keys._keys["management"])
        answer = client.post("/console/try/echo", data={"mark": mark_of(client.get("/console/try/echo")), "text": "x"})
        assert f"export TORCHMAR_TOKEN=$({command.replace('management', 'inference')})" in answer.text


def test_a_server_that_torchmar_has_not_started_has_no_command(tmp_path: Path) -> None:
    with shown(tmp_path, keyed=True) as console, console.client() as client:
        assert "torchmar keys" not in client.get("/console/login").text


@pytest.mark.parametrize(
    "where", ["https://evil.example", "//evil.example", "/consoles", "/console/\\evil", "/models", "/console\n"]
)
def test_a_login_leads_to_the_console_alone(tmp_path: Path, where: str) -> None:
    with shown(tmp_path, keyed=True) as console, console.client() as client:
        assert console.keys is not None
        assert log_in(client, console.keys._keys["management"], where).headers["location"] == "/console"


def test_sessions_are_bounded() -> None:
    async def is_key(_: str) -> bool:
        return True

    async def many() -> None:
        gate = Gate(is_key)
        scope: dict[str, Any] = {"server": ("127.0.0.1", 8081)}
        first = await gate.come_in(gate.session(scope, {}), "key")
        assert first is not None
        assert await gate.is_in(first)
        for _ in range(MOST_SESSIONS):
            await gate.come_in(gate.session(scope, {}), "key")
        assert not await gate.is_in(first)

    asyncio.run(many())


@pytest.mark.parametrize(
    "cookie", [b"", b"torchmar_console_8081=short", b"=;=", b'torchmar_console_8081="\x00', b"\xff" * 99]
)
def test_a_cookie_that_is_none_begins_a_new_session(cookie: bytes) -> None:
    scope = {"server": ("127.0.0.1", 8081)}
    session = Gate(None).session(scope, {b"cookie": cookie})
    assert session.new


@pytest.mark.parametrize("charset", ["undefined", "utf-7"])
def test_a_form_in_a_charset_of_its_own_is_refused(tmp_path: Path, charset: str) -> None:
    """Python's `undefined` fails in its own way, and its `utf-7` makes texts that cannot be encoded again."""
    parts = b"".join(
        b'--b\r\ncontent-disposition: form-data; name="%s"\r\n\r\n+2AA-\r\n' % name for name in (b"mark", b"key")
    )
    with shown(tmp_path, keyed=True) as console, console.client() as client:
        client.get("/console/login")
        kind = f"multipart/form-data; boundary=b; charset={charset}"
        answer = client.post("/console/login", content=parts + b"--b--\r\n", headers={"content-type": kind})
        assert answer.status_code == 400
        assert "charset" in answer.text


@pytest.mark.parametrize("path", ["/console/login", "/console/models/echo/1.0/scale"])
def test_a_form_without_a_file_is_small(tmp_path: Path, path: str) -> None:
    """Whoever reaches the login would keep the event loop busy with megabytes."""
    with shown(tmp_path, keyed="login" in path) as console, console.client() as client:
        client.get("/console/login")
        assert client.post(path, data={"key": "x" * 100_000}).status_code == 413
