"""What is wrong with a server is said before the load, in time, whatever it does."""

from __future__ import annotations

import json
import time
from pathlib import Path

import psutil
import pytest

from archive_tool.cli.entry import main
from tests.serving.bench.played import played

# With a rate requests are sent, however late their process begins.
LOAD = ("--duration", "0.3", "--warm-up", "0", "--rate", "30")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "a.txt"
    file.write_text("text")
    return file


@pytest.mark.parametrize(
    ("manner", "said"),
    [
        ("never answers", "no answer within 0.5 s"),
        ("a body byte by byte", "no answer within 0.5 s"),
        ("a body without end", "no answer within 0.5 s"),
        ("a terabyte", "no answer within 0.5 s"),
        ("hints without end", "no answer within 0.5 s"),
        ("headers without end", "the answer cannot be read: a head of more than 65536 bytes"),
        ("no HTTP", "the answer cannot be read: not an HTTP/1.1 answer: b'220 mail"),
        ("no length", "an answer without a length"),
        ("closes midway", "the connection broke"),
        ("another place", "there (HTTP 302)"),
        ("deep", "[[[["),
        ("half a character", "\\ud800 \\x1b[2J"),
        ("escapes", "\\x1b[2J"),
    ],
)
def test_a_played_server_ends_a_load_test_before_it_begins(
    manner: str, said: str, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    timeout = "0.5" if said.startswith("no answer") else "60"
    begun, before = time.monotonic(), psutil.Process().memory_info().rss
    with played(manner) as server:
        words = ["bench", "m", "--input", str(file), "--inference", server.address, "--timeout", timeout]
        assert main([*words, *LOAD]) == 9
        assert server.connections == 1
    told = capsys.readouterr()
    assert said in told.err
    assert ("allow more with --timeout" in told.err) == said.startswith("no answer")
    assert "\x1b[2J" not in told.err
    assert "Traceback" not in told.err
    assert time.monotonic() - begun < 30
    assert psutil.Process().memory_info().rss - before < 64 << 20


@pytest.mark.parametrize("manner", ["good", "compressed"])
def test_a_played_server_that_answers_is_loaded(manner: str, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with played(manner) as server:
        assert main(["bench", "m", "--input", str(file), "--inference", server.address, *LOAD, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["runs"][0]["good"] > 0


@pytest.mark.parametrize("manner", ["deep", "half a character"])
def test_a_played_server_that_becomes_strange_is_told_by_kind(
    manner: str, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with played(manner, before=1) as server:
        page = file.with_name("page.html")
        words = ["bench", "m", "--input", str(file), "--inference", server.address, "--html", str(page)]
        assert main([*words, *LOAD]) == 9
    told = capsys.readouterr()
    assert "x HTTP 503: " in told.out
    assert "\x1b" not in told.out + told.err
    assert "no request got a good answer: HTTP 503" in told.err
    assert "HTTP 503" in page.read_text(encoding="utf-8")
