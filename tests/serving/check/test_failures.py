"""File, line, cause and hint of what failed; test_run has them from real workers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from serving.check import InputResult, failures

DUMP = """Fatal Python error: Aborted

Thread 0x0000 (most recent call first):
  File "/lib/threading.py", line 1 in run

Current thread 0x0001 (most recent call first):
  File "/lib/socket.py", line 2 in recv
  File "/m/handlers/base.py", line 3 in handle
  File "/m/pkg/net.py", line 4 in forward
  File "/m/handler.py", line 5 in handle
  File "/lib/service.py", line 6
"""


def test_the_innermost_frame_of_the_archive() -> None:
    assert failures.place_of(DUMP, Path("/m")) == "pkg/net.py:4 (forward)"
    assert failures.place_of(DUMP, Path("/other")) is None
    assert failures.place_of('  File "/m/a.py", line 7\n', Path("/m")) == "a.py:7"
    assert failures.place_of("", Path("/m")) is None


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (None, "it closed the connection"),
        (0, "it ended with the exit code 0"),
        (-9, "it was killed (by the system, for lack of memory?)"),
        (-11, "it crashed: SIGSEGV"),
        (-99, "it crashed: signal 99"),
    ],
)
def test_how_a_process_ends(code: int | None, words: str) -> None:
    assert failures.how_it_ended(code) == words


def test_a_hang() -> None:
    error = failures.hang("no answer", DUMP, Path("/m"))
    assert error.where == "pkg/net.py:4 (forward)"
    assert 'File "pkg/net.py", line 4 in forward' in error.traceback
    assert "responseTimeout" in (error.hint or "")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"code": 400, "message": "too small"}', "too small"),
        (b'{"error": 1}', '{"error": 1}'),
        (b"plain text", "plain text"),
        (b"\xff", "b'\\xff'"),
        (b"x" * 600, "x" * 500 + "..."),
    ],
)
def test_the_words_of_the_handler(body: bytes, words: str) -> None:
    error = failures.request_failure("m", "in", InputResult("in", 400, body), ["a line of the log"])
    assert error.message.startswith("input in: status 400: ")
    shown = error.message.removeprefix("input in: status 400: ")
    assert shown == words or json.loads(shown) == words


def test_a_traceback_in_the_log() -> None:
    folder = "/tmp/models/" + "0" * 32
    lines = [
        "Traceback (most recent call last):",
        f'  File "{folder}/h.py", line 3, in handle',
        "ModuleNotFoundError: No module named 'gone'",
    ]
    error = failures.request_failure("m", "in", InputResult("in", 503, b"{}"), ["before", *lines])
    assert error.message == "input in: status 503: ModuleNotFoundError: No module named 'gone'"
    assert error.where == "h.py:3"
    assert "pip install" in (error.hint or "")
    assert folder not in error.traceback
