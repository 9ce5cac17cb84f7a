"""What a Chinese reader sees: nothing of it is English but names, and what is marked as English."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import httpx
import pytest

from serving.frontend.apps.console.shown import load_tests, said
from serving.frontend.apps.openapi import inference_document, management_document, metrics_document

from .conftest import Shown, mark_of, shown
from .test_loads_played_engine import result, start

_WORD = re.compile(r"[A-Za-z]{2,}")
_PATH = re.compile(r"(?<!\S)/\S*")
# Names: of the project, of models and files here, of formats, and of what has no other name.
_NAMES = {
    "torchmar",
    "English",
    "OpenAPI",
    "OpenAI",
    "KServe",
    "Prometheus",
    "JSON",
    "API",
    "URL",
    "HTTP",
    "GPU",
    "SDK",
}
_NAMES |= {"JavaScript", "Cookie", "KMS", "SHA", "curl", "Python", "pid", "ms", "kB", "OK", "base", "http", "UTC"}
_NAMES |= {
    "nextPageToken",
    "allowed",
    "urls",
    "all",
    "echo",
    "idle",
    "stream",
    "mar",
    "text",
    "plain",
    "application",
    "json",
}
_NAMES |= {
    "MAR",
    "INF",
    "MANIFEST",
    "handler",
    "handlers",
    "py",
    "model",
    "id",
    "txt",
    "dev",
    "MB",
    "samples",
    "input",
    "maxSequenceJobQueueSize",
}


class Read(HTMLParser):
    """Reads what a reader sees, or hears, and what is not marked as another language's, or as code."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self._open: list[tuple[str, bool]] = []
        self.found: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        silent = tag in ("code", "pre", "script", "style", "option", "textarea") or given.get("lang") == "en"
        silent = silent or "method" in (given.get("class") or "") or any(one for _, one in self._open)
        if not silent:
            self.found += [given.get(name) or "" for name in ("aria-label", "alt")]
        if tag not in ("meta", "link", "input", "img", "br", "image", "rect"):
            self._open.append((tag, silent))

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop()[0] != tag:
            pass

    def handle_data(self, data: str) -> None:
        if not any(silent for _, silent in self._open):
            self.found.append(data)


def english(page: httpx.Response | str) -> list[str]:
    """Return the texts of a page with English words in them."""
    texts = Read(page if isinstance(page, str) else page.text).found
    return [text.strip() for text in texts if set(_WORD.findall(_PATH.sub("", text))) - _NAMES]


@pytest.fixture(autouse=True)
def _warm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load_tests, "_WARM_UP_S", 0.0)


def chinese(console: Shown) -> httpx.Client:
    client = console.client()
    client.headers["accept-language"] = "zh-CN"
    return client


def test_the_pages_have_no_english(console: Shown) -> None:
    with chinese(console) as client:
        paths = (
            "",
            "/models/echo",
            "/models/echo/1.0/unregister",
            "/try/echo",
            "/load",
            "/load/echo",
            "/logs",
            "/docs",
        )
        for path in paths:
            page = client.get(f"/console{path}")
            assert page.status_code == 200
            assert not english(page), path
        assert not english(client.get("/console/nothing"))
        referer = {"referer": f"{client.base_url}/console/models/echo"}
        for path, fields in (
            ("/echo/1.0/scale", {"least": "3", "most": "2"}),
            ("/echo/1.0/unregister", {}),
            ("/echo/2.0/set-default", {}),
            ("/echo/1.0/unregister", {}),
            ("", {"archive": "echo1.0.mar", "workers": "0"}),
            ("", {"archive": "echo1.0.mar", "workers": "0"}),
        ):
            data = {"mark": mark_of(client.get("/console/models/echo")), **fields}
            done = client.post(f"/console/models{path}", data=data, headers=referer)
            assert not english(client.get(done.headers["location"])), (path, fields)
        mark = mark_of(client.get("/console/try/echo"))
        assert not english(client.post("/console/try/echo", data={"mark": mark, "text": "x"}))
        for fields in ({}, {"text": "x", "connections": "0"}, {"text": "x", "loop": "rate", "rate": "x"}):
            refused = client.post("/console/load/echo", data={"mark": mark, **fields})
            assert refused.status_code == 400
            assert not english(refused), fields
    assert english("<p>英文 text of a page</p>"), "the test finds some"


def test_the_login_has_no_english(tmp_path: Path) -> None:
    with shown(tmp_path, keyed=True) as console, chinese(console) as client:
        page = client.get("/console/login")
        assert not english(page)
        wrong = client.post("/console/login", data={"mark": mark_of(page), "key": "wrong"})
        assert not english(wrong)


@pytest.mark.parametrize(("loop", "path"), [("rate", "/echo"), ("connections", "/echo"), ("connections", "/idle")])
def test_a_load_test_has_no_english(tmp_path: Path, loop: str, path: str) -> None:
    with shown(tmp_path, asked=True) as console, chinese(console) as client:
        # What no answer keeps, so that there is more to say.
        start(client, path, loop=loop, slo="0.001", seconds="0.2")
        page = result(client)
        assert not english(page)
        with client.stream("GET", "/console/events/load") as stream:
            told = "\n".join(stream.iter_lines())
        assert "connections" not in told
        assert '"load": "' not in told or '/s"' not in told


@pytest.mark.parametrize(
    ("text", "chinese_text"),
    [
        ("8 connections", "8 个连接"),
        ("warning, 1 connection, 20/s: the server ends", "警告，1 个连接、每秒 20 个：服务器正在停止"),
        (
            "Token Authorization failed. Token either incorrect, expired, or not provided correctly (HTTP 400)",
            "密钥验证失败：密钥不正确、已过期，或未正确提供 (HTTP 400)",
        ),
        ("20/s: 25 x HTTP 503: oh, no", "每秒 20 个：25 次 HTTP 503：oh, no"),
        (
            "20/s: 64.63 % of the requests were answered within the SLO, not 99 %",
            "每秒 20 个：64.63 % 的请求在时限内得到回答，未达到 99 %",
        ),
        ("a model's own words", None),
    ],
)
def test_texts_with_numbers_in_them(text: str, chinese_text: str | None) -> None:
    assert said.said("zh", text) == chinese_text
    assert said.said("en", text) == text


def test_every_description_of_the_apis_is_known() -> None:
    documents = [make("1.0") for make in (inference_document, management_document, metrics_document)]
    found: set[str] = set()

    def look(part: object) -> None:
        if isinstance(part, dict):
            found.update(value for key, value in part.items() if key == "description" and isinstance(value, str))
            for value in part.values():
                look(value)
        elif isinstance(part, list):
            for value in part:
                look(value)

    look([document["paths"] for document in documents])
    assert {text for text in found if said.said("zh", text) is None} <= {"OK"}
