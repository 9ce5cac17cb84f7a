from __future__ import annotations

import os
import pty
import sys
import tty
from pathlib import Path

import pytest

from archive_tool.cli.entry import main
from serving.control import StateFolder
from tests.serving.control.following.test_logs import printed
from tests.serving.control.test_state import record


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StateFolder:
    monkeypatch.setenv("TORCHMAR_STATE_HOME", str(tmp_path))
    state = StateFolder("default")
    state.create()
    state.logs.mkdir()
    (state.logs / "model_log.log").write_text("".join(printed(second, f"line {second}") for second in range(9)))
    return state


def test_the_last_lines(state: StateFolder, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["logs", "net", "-n", "2"]) == 0
    assert [line.rpartition(" - ")[2] for line in capsys.readouterr().out.splitlines()] == ["line 7", "line 8"]
    assert main(["logs", "--lines", "0"]) == 0
    assert capsys.readouterr().out == ""


def test_the_server_need_not_run_and_following_ends_with_it(
    state: StateFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["logs", "--follow"]) == 0
    assert "line 8" in capsys.readouterr().out
    state.write(record(pid=2**22 - 3, started=1.0))
    assert main(["logs", "-f", "-n", "1"]) == 0


def test_a_terminal_gets_no_commands_and_a_pipe_what_is_in_the_log(
    state: StateFolder, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (state.logs / "model_log.log").write_text(printed(1, "\x1b[2J\x1b]0;mine\x07\x9b2J\r\u202e\tone 你好\u3000"))
    assert main(["logs"]) == 0
    assert capsys.readouterr().out.endswith(" - \x1b[2J\x1b]0;mine\x07\x9b2J\r\u202e\tone 你好\u3000\n")
    ours, theirs = pty.openpty()
    tty.setraw(theirs)
    with open(theirs, "w", encoding="utf-8") as terminal:
        monkeypatch.setattr(sys, "stdout", terminal)
        assert main(["logs"]) == 0
        shown = os.read(ours, 10_000).decode()
        os.close(ours)
        monkeypatch.undo()
    assert shown.endswith(" - \\x1b[2J\\x1b]0;mine\\x07\\x9b2J\\r\\u202e\tone 你好\u3000\n")


@pytest.mark.usefixtures("state")
@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["other"], 1, "no worker of a model 'other' has printed anything"),
        (["--id", "5f0c2e1d"], 1, "has '5f0c2e1d' in it"),
        (["--name", "second"], 7, "server 'second' was never started"),
    ],
)
def test_what_is_not_there_is_said(
    arguments: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["logs", *arguments]) == code
    said = capsys.readouterr().err
    assert message in said
    if arguments == ["other"]:
        assert "net_1.0" in said


def test_who_finds_no_id_on_ray_hears_of_other_nodes(state: StateFolder, capsys: pytest.CaptureFixture[str]) -> None:
    for frontend, told in (("python", False), ("ray", True)):
        state.write(record(frontend=frontend))
        assert main(["logs", "--id", "0badcafe"]) != 0
        assert ("ray logs cluster 'serve/replica_*' --node-ip IP" in capsys.readouterr().err) is told
