"""torchmar run on the command line."""

from __future__ import annotations

import io
import json
import logging
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from archive_tool import build
from archive_tool.cli import entry
from serving.worker.answering import bodies

ROOT = Path(__file__).resolve().parents[3]
HANDLER = """
import logging

class Handler:
    def initialize(self, context):
        logging.getLogger("mine").info("loaded")

    def preprocess(self, data):
        return [row["body"] for row in data]

    def handle(self, data, context):
        answers = []
        for index, body in enumerate(self.preprocess(data)):
            if body == {"stop": True}:
                breakpoint()
            if body == "bad":
                context.set_response_status(400, "", index)
                body = {"code": 400, "message": "send numbers"}
            answers.append(bytes(body) if isinstance(body, bytearray) else body)
        context.metrics.add_counter("Answers", len(data), None)
        return answers
"""

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("handler.py").write_text(HANDLER)
    Path("torch.py").write_text("raise ImportError('not here')")
    Path("in.json").write_text('{"é": [1.10, 1e400, NaN], "b": [{}, [], null, true, "x\\n", [[-1]]], "c": {"d": 1}}')
    Path("bad.txt").write_text("bad")
    Path("picture.png").write_bytes(b"\xff\x00")
    Path("stop.json").write_text('{"stop": true}')
    return build(model_name="m", handler="handler.py", extra_files="torch.py").path


@pytest.fixture
def torchmar(capfdbinary: pytest.CaptureFixture[bytes]) -> Run:
    def run(*arguments: str) -> tuple[int, str, str]:
        code = entry.main(["run", *arguments])
        out, err = capfdbinary.readouterr()
        return code, out.decode("latin-1"), err.decode()

    return run


PRETTY = """\
{
  "é": [1.1, Infinity, NaN],
  "b": [
    {},
    [],
    null,
    true,
    "x\\n",
    [
      [-1]
    ]
  ],
  "c": {
    "d": 1
  }
}
"""


NAN = "NaN, which many readers of JSON refuse; it is sent as TorchServe sends it"


def test_an_answer_in_json(archive: Path, torchmar: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "_no_numbers", bodies._NoNumbers())  # which tells once a minute
    code, out, err = torchmar(str(archive), "in.json")
    assert (code, out.encode("latin-1").decode()) == (0, PRETTY)
    assert err.splitlines()[0] == "loaded"
    assert err.splitlines()[1] == f"An answer holds {NAN}"
    assert err.splitlines()[2].startswith("in.json  200  ")
    assert "[METRICS]" not in err
    assert len(err.splitlines()) == 3


def test_answers_for_programs(archive: Path, torchmar: Run) -> None:
    code, out, err = torchmar(str(archive), "in.json", "bad.txt", "picture.png", "--json", "-q")
    first, second, third = json.loads(out.encode("latin-1"))
    assert code == 10
    assert "1 of 3 requests failed" in err
    assert (first["file"], first["status"], first["answer"]["b"][2]) == ("in.json", 200, None)
    assert (second["file"], "answer" in second) == ("bad.txt", False)
    assert second["error"]
    assert third["answer_base64"] == "/wA="


@pytest.mark.parametrize("command", ["run", "check"])
def test_standard_input(
    archive: Path, command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"piped")))
    given = ["-"] if command == "run" else ["--input", "-"]
    assert entry.main([command, str(archive), *given, "--json"]) == 0
    assert "piped" in capsys.readouterr().out
    assert entry.main([command, str(archive), *given, *given]) in (1, 2)
    assert "- is named twice" in capsys.readouterr().err


def test_numbers_stay_as_the_handler_wrote_them(archive: Path, torchmar: Run) -> None:
    Path("text.txt").write_text("[1.10, 1e400, 12345678901234567890.5]\n")
    assert torchmar(str(archive), "text.txt", "-q") == (0, "[1.10, 1e400, 12345678901234567890.5]\n", "")


def test_texts_and_bytes(archive: Path, torchmar: Run) -> None:
    Path("a.txt").write_text("no newline")
    Path("b.txt").write_text("newline\n")
    Path("deep.txt").write_text("[" * 5000 + "]" * 5000)
    assert torchmar(str(archive), "picture.png", "-q") == (0, "\xff\x00", "")
    assert torchmar(str(archive), "a.txt", "b.txt", "-q") == (0, "no newline\nnewline\n", "")
    assert torchmar(str(archive), "deep.txt", "-q") == (0, "[" * 5000 + "]" * 5000 + "\n", "")


def test_a_terminal_is_spared(archive: Path, torchmar: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("a.txt").write_text("x\x1b[2J\ny")
    monkeypatch.setattr("serving.cli.run.sys.stdout.isatty", lambda: True, raising=False)
    code, out, err = torchmar(str(archive), "picture.png", "a.txt", "-q")
    assert (code, out) == (0, "x\\x1b[2J\ny\n")
    assert err == "(2 bytes that are no text; send standard output to a file)\n"


def test_a_request_that_fails(archive: Path, torchmar: Run) -> None:
    code, out, err = torchmar(str(archive), "in.json", "bad.txt", "-q")
    assert code == 10
    assert json.loads(out[out.rindex('{\n  "code"') :]) == {"code": 400, "message": "send numbers"}
    assert err.splitlines() == [
        "error: 1 of 2 requests failed; the first: status 400: send numbers",
        "  at: bad.txt",
    ]


def test_times_and_profile(archive: Path, torchmar: Run) -> None:
    code, _, err = torchmar(str(archive), "in.json", "--batch", "2", "--repeat", "3", "--profile")
    assert code == 0
    lines = err.splitlines()
    assert lines[2].startswith("batch of 2: first ")
    assert ", then 3 times " in lines[2]
    assert lines[2].endswith(" requests/s")
    assert lines[3].split() == ["in.json", "first", "ms", "then", "ms", "share"]
    assert [line.split()[0] for line in lines[4:]] == ["preprocess", "rest", "frames", "total"]
    _, _, err = torchmar(str(archive), "in.json", "--profile", "-q")
    assert err.splitlines()[0].split() == ["in.json", "first", "ms", "share"]
    _, _, err = torchmar(str(archive), "in.json", "--repeat", "3", "-q")
    assert err == ""


def test_headers(archive: Path, torchmar: Run) -> None:
    assert torchmar(str(archive), "in.json", "--header", "content-type=text/plain", "-q")[1].startswith("{\n")
    assert torchmar(str(archive), "picture.png", "--header", "Content-Type = image/png", "-q")[:2] == (0, "\xff\x00")
    code, _, err = torchmar(str(archive), "in.json", "--header", "x")
    assert code == 2
    assert "'x' is not NAME=VALUE" in err


def test_wrong_usage(archive: Path, torchmar: Run) -> None:
    assert torchmar(str(archive))[0] == 2
    assert torchmar(str(archive), "gone.json")[0] == 2
    assert torchmar(str(archive), "in.json", "--batch", "0")[0] == 2
    assert torchmar("gone.mar", "in.json")[0] == 3
    assert torchmar(str(archive), "in.json", "--device", "gpu")[0] == 1


def test_a_model_that_cannot_be_loaded(archive: Path, torchmar: Run) -> None:
    Path("handler.py").write_text("1 / 0\ndef handle(data, context): pass\n")
    build(model_name="m", handler="handler.py", extra_files="torch.py", force=True)
    code, out, err = torchmar(str(archive), "in.json")
    assert (code, out) == (6, "")
    assert "ZeroDivisionError: division by zero\nerror: model m cannot be loaded: ZeroDivisionError" in err


def test_a_message_of_several_lines_is_shown_whole(archive: Path, torchmar: Run) -> None:
    """As torch's, of keys that are missing, which it indents with tabs."""
    Path("handler.py").write_text(
        "raise RuntimeError('Error(s) in loading:\\n\\tMissing key(s): \"a\".')\ndef handle(data, context): pass\n"
    )
    build(model_name="m", handler="handler.py", extra_files="torch.py", force=True)
    _, _, err = torchmar(str(archive), "in.json")
    assert 'error: model m cannot be loaded: RuntimeError: Error(s) in loading:\n      Missing key(s): "a".\n' in err
    assert "\\t" not in err.partition("error: ")[2]


@pytest.mark.parametrize("command", ["run", "check", "optimize"])
def test_a_member_that_runs_code_is_accepted_by_name(
    command: str, archive: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    Path("x.pkl").write_bytes(pickle.dumps(print))
    build(model_name="m", handler="handler.py", extra_files="torch.py,x.pkl", force=True)
    arguments = {"run": ["in.json"], "check": ["--input", "in.json"], "optimize": ["--input", "in.json", "--dry-run"]}
    assert entry.main([command, str(archive), *arguments[command]]) == 5
    assert b"verify and extract accept it with --allow-pickle x.pkl\n" in capfdbinary.readouterr().err
    code = entry.main([command, str(archive), *arguments[command], "--allow-pickle", "x.pkl"])
    err = capfdbinary.readouterr().err
    # It was unpacked and tried; what has no torch cannot be measured.
    assert code == (0 if command != "optimize" else 1), err
    assert b"x.pkl" not in err


@pytest.mark.parametrize(
    ("typed", "code", "answer"), [("p body\nc\n", 0, '{\n  "stop": true\n}\n'), ("q\n", 130, "")], ids=["go on", "quit"]
)
def test_the_debugger(archive: Path, typed: str, code: int, answer: str) -> None:
    command = [sys.executable, "-m", "archive_tool", "run", str(archive), "stop.json"]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONBREAKPOINT"}
    environment["PYTHONPATH"] = str(ROOT)
    done = subprocess.run(command, input=typed, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    assert "handler.py(" in done.stdout
    assert "(Pdb) " in done.stdout
    assert done.stdout.endswith(answer)
    assert ("{'stop': True}" in done.stdout) == (code == 0)
    assert "Traceback" not in done.stderr


def test_logging_is_as_it_was(archive: Path, torchmar: Run) -> None:
    root = logging.getLogger()
    before = root.level, list(root.handlers)
    assert torchmar(str(archive), "bad.txt")[0] == 10
    assert (root.level, list(root.handlers)) == before


def test_another_debugger(archive: Path, torchmar: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    met = []
    monkeypatch.setattr(sys, "breakpointhook", lambda: met.append(1))
    assert torchmar(str(archive), "stop.json", "-q")[0] == 0
    assert met == [1]
    monkeypatch.setattr(sys, "breakpointhook", sys.__breakpointhook__)
    monkeypatch.setenv("PYTHONBREAKPOINT", "0")
    assert torchmar(str(archive), "stop.json", "-q")[0] == 0
