"""The process of a worker, and the frontend's end of the connection; test_run has the rest of it."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from serving.check.process import EndedError, NoAnswerError, Worker, interpreter
from serving.protocol import Load
from serving.worker.answering.warm_up import request_of


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    model, scratch = tmp_path / "m", tmp_path / "s"
    for made in (model, scratch):
        made.mkdir()
    (model / "torch.py").write_text("raise ImportError('not here')")
    source = "import time\ndef handle(data, context):\n    if data: time.sleep(float(data[0]['body']))\n"
    (model / "handler.py").write_text(source + "    return ['x' * 300_000] * len(data or [])\n")
    return model, scratch


@pytest.fixture
def worker(folders: tuple[Path, Path]) -> Iterator[Worker]:
    model, scratch = folders
    with Worker(model, scratch, python=sys.executable) as made:
        made.connect()
        made.load(Load("m", str(model), handler="handler.py"), 60)
        yield made


def test_an_answer(worker: Worker) -> None:
    reply = worker.ask(request_of("1", b"0", ""), 60)
    assert [(item.request_id, len(item.body)) for item in reply.items] == [("1", 300_000)]
    memory, peak = worker.memory()
    assert 1_000_000 < memory <= peak


def test_no_answer_in_time_and_where_it_hangs(worker: Worker) -> None:
    with pytest.raises(NoAnswerError):
        worker.ask(request_of("1", b"3600", ""), 0.2)
    dump = worker.dump()
    assert 'handler.py", line 3 in handle' in dump
    assert worker.wait(60) == -6
    with pytest.raises(EndedError):
        worker.ask(request_of("2", b"0", ""), 60)
    assert list(Path.cwd().glob("core*")) == []


def test_no_time_at_all(worker: Worker) -> None:
    with pytest.raises(NoAnswerError):
        worker.receive(0)


def test_the_lines_for_the_frontend_are_left_out(folders: tuple[Path, Path]) -> None:
    model, scratch = folders
    lines = ["[PID]7", "[METRICS]a.b:1|#c", "mine", "[PID] is mine", "Torch worker started. Or not?"]
    (model / "handler.py").write_text(f"print({os.linesep.join(lines)!r})\ndef handle(data, context): pass\n")
    with Worker(model, scratch, python=sys.executable) as made:
        made.connect()
        made.load(Load("m", str(model), handler="handler.py"), 60)
        assert made.lines() == lines[2:]


def test_a_worker_that_never_starts(folders: tuple[Path, Path], tmp_path: Path) -> None:
    model, scratch = folders
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho broken >&2\nexit 3\n")
    broken.chmod(0o755)
    with Worker(model, scratch, python=str(broken)) as made:
        with pytest.raises(EndedError):
            made.connect()
        assert made.wait(60) == 3
        assert made.stderr == "broken\n"
        assert made.memory() == (0, 0)


def test_before_it_is_connected(folders: tuple[Path, Path]) -> None:
    model, scratch = folders
    with Worker(model, scratch, python=sys.executable) as made, pytest.raises(EndedError):
        made.ask(request_of("1", b"", ""), 1)


def test_the_end_closes_and_kills(folders: tuple[Path, Path]) -> None:
    model, scratch = folders
    (model / "handler.py").write_text(
        "import atexit\natexit.register(open, 'left', 'w')\ndef handle(data, context): pass\n"
    )
    with Worker(model, scratch, python=sys.executable) as made:
        made.connect()
        made.load(Load("m", str(model), handler="handler.py"), 60)
    assert not psutil.pid_exists(made.pid)
    assert (model / "left").exists()  # it had the time to end by itself, as at the end of a server


def test_output_is_bounded(folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    from serving.check import process

    monkeypatch.setattr(process, "_KEPT", 1000)
    model, scratch = folders
    (model / "handler.py").write_text("print('x' * 99_999)\nprint('end')\ndef handle(data, context): pass\n")
    with Worker(model, scratch, python=sys.executable) as made:
        made.connect()
        made.load(Load("m", str(model), handler="handler.py"), 60)
        made.settle()
        assert made.stdout.endswith("x\nend\n")
        assert len(made.stdout) <= 70_000


def test_the_environment(folders: tuple[Path, Path], tmp_path: Path) -> None:
    model, scratch = folders
    told = tmp_path / "python"
    told.write_text("#!/bin/sh\nenv\n")
    told.chmod(0o755)
    with Worker(model, scratch, python=str(told), handler="folder/h.py:f") as made:
        made.wait(60)
        found = dict(line.partition("=")[::2] for line in made.lines())
    path = found["PYTHONPATH"].split(os.pathsep)
    assert (path[0], path[-2]) == ("folder", str(model))
    expected = {"TS_DECODE_INPUT_REQUEST": "true", "TORCHMAR_WARM_UP": "0", "PYTHONFAULTHANDLER": "1"}
    expected |= {"TMPDIR": str(scratch)}
    assert {key: found[key] for key in expected} == expected


def test_interpreters() -> None:
    assert interpreter("python") == sys.executable
    assert interpreter("python3") == "python3"


def test_an_interpreter_that_is_not_there(folders: tuple[Path, Path]) -> None:
    from archive_tool.errors import InputError

    model, scratch = folders
    with pytest.raises(InputError, match="no-such-python cannot be started"):
        Worker(model, scratch, python="no-such-python")
    assert time.monotonic()


def test_what_it_prints_is_told_at_once(folders: tuple[Path, Path]) -> None:
    model, scratch = folders
    source = (
        "import os, sys\nprint('one\\r\\ntwo', flush=True)\nprint('three', file=sys.stderr)\n"
        "def handle(data, context):\n    if data: os.write(1, b'cut'); os._exit(0)\n"
    )
    (model / "handler.py").write_text(source)
    told: list[tuple[str, bool]] = []
    with Worker(model, scratch, python=sys.executable, tell=lambda *line: told.append(line)) as worker:
        worker.connect()
        worker.load(Load("m", str(model), handler="handler.py"), 60)
        worker.settle()
        assert sorted(told) == [("one", False), ("three", True), ("two", False)]
        with pytest.raises(EndedError):
            worker.ask(request_of("1", b"", ""), 60)
        worker.wait(60)
        assert told[-1] == ("cut", False)
