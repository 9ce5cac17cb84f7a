from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from archive_tool.cli.entry import main
from serving.cli.bench.command import Numbers
from tests.serving.bench.answering import Server, answering

QUICK = ("--duration", "0.4", "--warm-up", "0", "--connections", "1,2")


@pytest.fixture
def server() -> Iterator[Server]:
    with answering() as running:
        yield running


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    file = tmp_path / "a.png"
    file.write_bytes(b"picture")
    return file


def bench(server: Server, model: str, *words: str | Path) -> int:
    return main(["bench", model, "--inference", server.address, *QUICK, *map(str, words)])


def test_a_table_of_all_loads(server: Server, picture: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = picture.with_name("b.txt")
    text.write_text("text")
    assert bench(server, "good", "--input", picture, text, "--header", "x-one=1") == 0
    title, head, one, two, *_ = capsys.readouterr().out.splitlines()
    assert title.startswith(f"good at {server.address}; 0.4 s each")
    assert head.split()[:4] == ["load", "requests/s", "p50", "ms"]
    assert (one.split()[:2], two.split()[:2]) == (["1", "connection"], ["2", "connections"])
    assert set(server.seen) == {b"picture", b"text"}
    assert server.heard["x-one"] == "1"
    assert server.heard["content-type"] in ("image/png", "text/plain")


def test_json_and_a_page(server: Server, picture: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = picture.with_name("report.html")
    assert bench(server, "good", "--input", picture, "--json", "--html", page, "--rate", "30", "--slo-ms", "9999") == 0
    found = json.loads(capsys.readouterr().out)
    assert [run["load"] for run in found["runs"]] == ["30/s"]
    assert found["runs"][0]["within_slo"] == 1
    assert found["runs"][0]["server_timing"]["queue"]["mean"] == 1.5
    assert page.read_text().startswith("<!DOCTYPE html>")


def test_the_highest_rate(server: Server, picture: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench(server, "slow", "--input", picture, "--slo-ms", "100") == 10
    told = capsys.readouterr()
    assert "no rate was found at which 99% of the requests are answered within 100 ms" in told.out
    assert "no rate was found" in told.err


def test_a_rate_that_is_not_kept(server: Server, picture: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench(server, "slow", "--input", picture, "--slo-ms", "100", "--rate", "8") == 10
    assert "8/s: 0 % of the requests were answered within the SLO" in capsys.readouterr().err


def test_what_is_wrong_with_a_request_is_said_before_the_load(
    server: Server,
    picture: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert bench(server, "bad", "--input", picture) == 9
    assert "no worker <b>here</b> (HTTP 503)" in capsys.readouterr().err
    assert server.seen.total() == 1


def test_where_nobody_listens(picture: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "m", "--input", str(picture), "--inference", "http://127.0.0.1:1"]) == 7
    assert "nobody answers at" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--connections", "0"], "not one or several numbers"),
        (["--rate", "a"], "not one or several numbers"),
        (["--scale", "1,,2"], "not one or several numbers"),
        (["--slo-ms", "0"], "0"),
        (["--html", "nowhere/report.html"], "of --html does not exist"),
    ],
)
def test_wrong_options(words: list[str], said: str, picture: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "m", "--input", str(picture), *words]) == 2
    assert said in capsys.readouterr().err


def test_numbers() -> None:
    assert Numbers(int, 10).convert("1,10", None, None) == (1, 10)
    assert Numbers(float, 10).convert("0.5", None, None) == (0.5,)
    assert Numbers(int, 10).convert((1,), None, None) == (1,)


def test_an_interrupt_shows_what_there_is(server: Server, picture: Path) -> None:
    command = [Path(sys.executable).parent / "torchmar", "bench", "good", "--inference", server.address]
    options = ["--warm-up", "0", "--duration", "600", "--connections", "2", "--json", "--input", str(picture)]
    with subprocess.Popen([*command, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        deadline = time.monotonic() + 120
        while server.seen.total() < 20 and time.monotonic() < deadline:
            time.sleep(0.05)
        os.kill(running.pid, signal.SIGINT)
        out, err = running.communicate(timeout=120)
    assert running.returncode == 130, err
    found = json.loads(out)
    assert found["interrupted"]
    assert found["runs"][0]["good"] > 10
