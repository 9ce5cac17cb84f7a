"""torchmar check on the command line."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from archive_tool import build
from archive_tool.building.samples import GivenSample
from archive_tool.cli import entry
from archive_tool.errors import TorchmarError
from serving.cli.check import check_built

HANDLER = """
import sys

def handle(data, context):
    if data is None:
        print("printed \\x1b[2J")
        return
    print("asked", file=sys.stderr)
    if data[0]["body"] == {"a": 1}:
        return ["\\x1b[2J[red]"]
    return [data[0]["body"]]
"""

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("handler.py").write_text(HANDLER)
    Path("torch.py").write_text("raise ImportError('not here')")
    Path("in.json").write_text('{"a": 1}')
    Path("seven.json").write_text("7")
    sample = [GivenSample("in.json", b"[7.00001]", b"[7]")]
    return build(model_name="m", handler="handler.py", extra_files="torch.py", sample=sample).path


@pytest.fixture
def torchmar(capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*arguments: str) -> tuple[int, str, str]:
        code = entry.main(["check", *arguments])
        return code, *capsys.readouterr()

    return run


def test_the_samples(archive: Path, torchmar: Run) -> None:
    code, out, err = torchmar(str(archive))
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == "m.mar m 1.0 cpu"
    assert re.fullmatch(r"loaded in \d+\.\d\d s", lines[1])
    assert "[7.00001]  as expected" in lines[3]
    assert lines[4].startswith("memory ")
    assert lines[5:7] == ["stdout", "  printed \\x1b[2J"]
    assert lines[7] == "stderr"
    assert len(lines) == 8 + 6  # once, and five times for the latency
    assert "\x1b" not in out


def test_inputs_and_expectations(archive: Path, torchmar: Run) -> None:
    inputs = ("--input", "seven.json", "--input", "in.json=x", "--repeat", "0")
    code, out, err = torchmar(str(archive), *inputs, "--expect", "7")
    assert code == 10
    assert "as expected" in out
    assert "\\u001b[2J[red]" in out
    assert err.startswith('error: input in.json: another answer than expected: expected "x", got ')
    assert torchmar(str(archive), "--input", "seven.json=8", "--tolerance", "0.2")[0] == 0
    assert torchmar(str(archive), "--input", "seven.json", "--expect", "seven.json")[0] == 0


def test_as_json(archive: Path, torchmar: Run) -> None:
    code, out, err = torchmar(str(archive), "--json", "--input", "seven.json=8", "--device", "cpu", "--timeout", "60")
    document = json.loads(out)
    assert code == 10
    assert err.startswith("error: input seven.json: ")
    assert document["inputs"][0]["output"] == 7
    assert document["inputs"][0]["difference"] == "$ is 7, 8 was expected"
    assert document["error"]["exitCode"] == 10
    assert document["memory"] > 0


def test_wrong_usage(archive: Path, torchmar: Run) -> None:
    assert torchmar()[0] == 2
    code, _, err = torchmar(str(archive), "--expect", "7")
    assert code == 2
    assert "more --expect than --input" in err
    code, _, err = torchmar(str(archive), "--input", "gone.json")
    assert (code, err.splitlines()[0]) == (1, "error: the file gone.json does not exist")
    assert torchmar(str(archive), "--timeout", "0")[0] == 2
    assert torchmar("gone.mar")[0] == 3


def test_without_inputs(archive: Path, torchmar: Run) -> None:
    build(model_name="m", handler="handler.py", extra_files="torch.py", force=True)
    code, out, _ = torchmar(str(archive))
    assert code == 0
    assert "no inputs and no samples: only loading was tried (--input FILE)\n" in out


def test_long_outputs_are_cut_with_a_word_about_it(archive: Path, torchmar: Run) -> None:
    Path("handler.py").write_text("def handle(data, context):\n    print('line\\n' * 50)\n    return ['x' * 999]\n")
    build(model_name="m", handler="handler.py", extra_files="torch.py", force=True)
    _, out, _ = torchmar(str(archive), "--input", "in.json", "--repeat", "0")
    assert "stdout (the last 40 of 102 lines; --json has all)\n" in out
    assert out.count("  line\n") == 39
    assert "... (1001 characters; --json shows all)" in out


def test_a_word_about_an_archive_that_was_just_built(archive: Path) -> None:
    line = check_built(archive)
    assert re.match(r"checked: loads in \d+\.\d\d s, ", line)
    assert ", 1 sample answered, 1 of them as expected, " in line
    two = [GivenSample("in", b"1"), GivenSample("in", b"2")]
    path = build(model_name="m", handler="handler.py", extra_files="torch.py", sample=two, force=True).path
    assert ", 2 samples answered, " in check_built(path)
    bare = build(model_name="m", handler="handler.py", extra_files="torch.py", force=True)
    assert ", no samples to try it with, " in check_built(bare.path)
    Path("handler.py").write_text("1 / 0\ndef handle(data, context): pass\n")
    broken = build(model_name="m", handler="handler.py", extra_files="torch.py", force=True)
    with pytest.raises(TorchmarError, match="ZeroDivisionError"):
        check_built(broken.path)
