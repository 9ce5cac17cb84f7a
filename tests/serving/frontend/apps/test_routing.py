"""Pages in a browser, over a played engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from serving.frontend.apps.inference import inference_app
from serving.frontend.apps.routing import RESERVED, refuse_pages, segments_of
from serving.frontend.errors import ForbiddenError

from .conftest import PlayedMeters, Served, played_engine, served, settings_of

_REGISTER = "/models?url=stream.mar&model_name=evil"


@pytest.mark.parametrize(
    ("path", "segments"),
    [
        ("/", []),
        ("//", []),
        ("", []),
        ("/a", ["a"]),
        ("/a/b//", ["a", "b"]),
        ("//a", ["", "a"]),
        ("/a//b", ["a", "", "b"]),
    ],
)
def test_paths_are_split_as_torchserve_does(path: str, segments: list[str]) -> None:
    assert segments_of(path) == segments


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://localhost.evil.example"},
        {"Origin": "http://["},
        {"Origin": ""},
        {"Host": "evil.example"},
        {"Host": "evil.example:8081", "Origin": "http://evil.example:8081"},
        {"Host": "127.0.0.1.evil.example"},
        {"Host": "["},
    ],
)
def test_played_engine_a_page_registers_scales_and_removes_nothing(server: Served, headers: dict[str, str]) -> None:
    with server.client("management") as client:
        for method, target in (
            ("POST", _REGISTER),
            ("PUT", "/models/echo?min_worker=9"),
            ("DELETE", "/models/stream"),
            ("PUT", "/models/echo/2.0/set-default"),
            ("GET", "/models"),
        ):
            answer = client.request(method, target, headers=headers)
            assert answer.status_code == 403, answer.text
            assert answer.json()["type"] == "ForbiddenException"
    assert not server.engine.registered
    assert not server.engine.scaled
    assert ("stream", "1.0") in server.engine.models


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:8081", "[::1]:8081", "127.8.8.8"])
def test_played_engine_this_machine_may(server: Served, host: str) -> None:
    with server.client("management") as client:
        assert client.get("/models", headers={"Host": host}).status_code == 200
        assert client.get("/models", headers={"Origin": f"http://{host}"}).status_code == 200


def test_played_engine_an_origin_that_is_allowed_may(tmp_path: Path) -> None:
    with (
        served(tmp_path, cors_allowed_origin="https://console.example") as server,
        server.client("management") as client,
    ):
        answer = client.post(_REGISTER, headers={"Origin": "https://console.example"})
        assert answer.status_code == 200
        assert answer.headers["access-control-allow-origin"] == "https://console.example"
        assert client.post(_REGISTER, headers={"Origin": "https://evil.example"}).status_code == 403


def test_a_server_of_a_network_takes_its_own_pages_and_any_name() -> None:
    scope: dict[str, Any] = {"server": ("10.0.0.5", 8081)}
    refuse_pages(scope, {b"host": b"models.example:8081", b"origin": b"http://models.example:8081"}, None, keyed=False)
    refuse_pages(scope, {b"host": b"models.example:8081"}, None, keyed=False)
    refuse_pages(scope, {b"origin": b"https://a.example"}, "*", keyed=False)
    refuse_pages(scope, {b"origin": b"https://b.example"}, "https://a.example, https://b.example", keyed=False)
    with pytest.raises(ForbiddenError, match="cors_allowed_origin"):
        refuse_pages(scope, {b"host": b"models.example:8081", b"origin": b"http://other.example"}, None, keyed=False)


def test_behind_a_key_a_proxy_may_give_its_own_name() -> None:
    scope: dict[str, Any] = {"server": ("127.0.0.1", 8081)}
    refuse_pages(scope, {b"host": b"models.example"}, None, keyed=True)
    scope = {"server": ("::ffff:127.0.0.1", 8081)}
    with pytest.raises(ForbiddenError, match="disable_token_authorization=false"):
        refuse_pages(scope, {b"host": b"models.example"}, None, keyed=False)


def test_at_a_unix_socket_there_is_no_page() -> None:
    refuse_pages({"server": ("/run/s", None)}, {b"host": b"models.example"}, None, keyed=False)
    refuse_pages({"server": None}, {}, None, keyed=False)


def test_names_of_routes_are_reserved() -> None:
    engine = played_engine()
    app = inference_app(engine, settings_of(Path("/tmp")), None, PlayedMeters())
    others = {"console", "metrics", "token", "workflows"}
    assert {*app._routes, *(key[0] for key in app._open if key)} | others == RESERVED
