"""The result of a check, as values and as JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from serving.check import InputResult, Result
from serving.errors import CheckError, ModelLoadError


def test_an_input() -> None:
    found = InputResult("a.png", 200, b'{"x": [1, NaN]}', "application/json", [0.5, 0.003, 0.001, 0.002], expected=True)
    assert found.to_dict() == {
        "input": "a.png",
        "ok": True,
        "status": 200,
        "firstMs": 500.0,
        "medianMs": 2.0,
        "contentType": "application/json",
        "output": {"x": [1, None]},
        "expected": True,
        "difference": None,
    }


@pytest.mark.parametrize(
    ("seconds", "first", "median"),
    [([], None, None), ([0.1], 100.0, None), ([0.1, 0.2], 100.0, 200.0), ([9, 0.1, 0.4, 0.2, 0.3], 9000.0, 250.0)],
)
def test_times(seconds: list[float], first: float | None, median: float | None) -> None:
    row = InputResult("a", seconds=seconds).to_dict()
    assert (row["firstMs"], row["medianMs"]) == (first, median)


@pytest.mark.parametrize(
    ("body", "output"),
    [(b"7", 7), (b"cat", "cat"), (b"\xff", b"\xff"), (b"", ""), (b"[" * 10_000, "[" * 10_000)],
)
def test_outputs(body: bytes, output: Any) -> None:
    assert InputResult("a", 200, body).output == output


def test_a_binary_output() -> None:
    row = InputResult("a", 200, b"\xff\x00").to_dict()
    assert row["outputBase64"] == "/wA="
    assert "output" not in row


@pytest.mark.parametrize(
    ("status", "difference", "expected"),
    [(200, None, True), (302, None, True), (400, None, False), (0, None, False), (200, "$ is 1", False)],
)
def test_what_is_well(status: int, difference: str | None, expected: bool) -> None:
    assert InputResult("a", status, difference=difference).ok is expected


def test_a_result() -> None:
    result = Result(Path("m.mar"), "m", "1.0", load_seconds=1.5, memory=5, peak=6, stdout="out", stderr="err")
    assert result.ok
    assert result.to_dict() == {
        "archive": "m.mar",
        "model": "m",
        "version": "1.0",
        "device": "cpu",
        "ok": True,
        "loadMs": 1500.0,
        "inputs": [],
        "memory": 5,
        "peakMemory": 6,
        "stdout": "out",
        "stderr": "err",
        "error": None,
    }


def test_a_result_with_an_error() -> None:
    result = Result(Path("m.mar"), error=ModelLoadError("no", model="m", where="h.py:1", hint="do", traceback="trace"))
    document = json.loads(json.dumps(result.to_dict()))
    assert not document["ok"]
    assert (document["loadMs"], document["memory"], document["peakMemory"]) == (None, None, None)
    expected = {"message": "no", "where": "h.py:1", "hint": "do", "traceback": "trace", "exitCode": 6}
    assert document["error"] == expected
    bare = Result(Path("m.mar"), error=CheckError("no")).to_dict()["error"]
    assert (bare["traceback"], bare["exitCode"]) == (None, 10)
