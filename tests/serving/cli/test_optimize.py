"""The output of `optimize`; what it does is tested in tests/serving/local."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest
from rich.console import Console

from serving.local.contest import Candidate, Row
from serving.local.optimize import Found

command = importlib.import_module("serving.cli.optimize")
LONG = Candidate("float32, channels last, compile, freezing, 1 thread", {"compile": True}, 1)
LAST = "16-bit types were not tried"


@pytest.fixture
def found() -> Found:
    rows = [
        Row(Candidate("plain float32"), latency=0.0312, rate=41.2, memory=851_000_000, difference=0.0),
        Row(LONG, None, 0.01, 1660.14, 944_000_000, 1.24e-6, 1.0, [(2.0, 1.5)] * 3),
        Row(Candidate("[red]float16", {"dtype": "float16"}), "it\x1b[2J fails"),
    ]
    return Found(rows, 8, best=rows[1], written=Path("fast.mar"), notes=[LAST])


def shown(found: Found, width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> list[str]:
    monkeypatch.setattr(command, "console", lambda: Console(width=width))
    command._show(found)
    return [line.rstrip() for line in capsys.readouterr().out.splitlines()]


def test_the_table_fits_into_eighty_columns(
    found: Found, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = shown(found, 80, monkeypatch, capsys)
    assert max(map(len, lines)) <= 80
    assert [line.split() for line in lines[:2]] == [
        ["ms", "requests/s", "differs", "same"],
        ["alone", "by", "8", "memory", "by", "class"],
    ]
    assert lines[2].split() == ["plain", "float32", "31.20", "41.2", "851", "MB", "0"]
    numbers = ["10.00", "2.00x", "1,660.1", "1.50x", "944", "MB", "1.2e-06", "100.0%"]
    assert lines[3].split() == ["float32,", "channels", "last,", *numbers]
    assert lines[4] == "compile, freezing, 1 thread"
    assert lines[5].split() == ["[red]float16", "failed"]
    assert lines[6:] == [
        "[red]float16: it\\x1b[2J fails",
        LAST,
        "recommended: float32, channels last, compile, freezing, 1 thread",
        "2.00 times as fast alone, 1.50 times in batches of 8, faster in each of 3 rounds",
        "fast.mar",
    ]


def test_where_there_is_room_a_name_is_one_line(
    found: Found, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = shown(found, 200, monkeypatch, capsys)
    assert lines[3].startswith(f"{LONG.name} ")


def test_where_nothing_is_faster(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    lines = shown(Found([Row(Candidate("plain float32"), None, 1.0, 1.0)], 8), 80, monkeypatch, capsys)
    assert lines[-1] == (
        "nothing is faster than the plain model by 5% and in every round, so there is nothing to write"
    )


def test_an_interrupt_concludes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    command._show(Found([Row(Candidate("plain float32"))], 8), interrupted=True)
    out = capsys.readouterr().out
    assert out.splitlines()[-1] == "interrupted: nothing is written"
    assert "not measured" in out
    assert "failed" not in out


def test_the_same_as_json(found: Found) -> None:
    document = command._document(found)
    assert (document["recommended"], document["written"], document["notes"]) == (LONG.name, "fast.mar", [LAST])
    assert [row["name"] for row in json.loads(json.dumps(document))["rows"]] == [
        row.candidate.name for row in found.rows
    ]
    assert command._document(Found([], 8))["recommended"] is None
