"""The command line as a user meets it: help, errors, exit codes, signals."""

import os
import signal
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path

import click
import pytest

from archive_tool.cli import entry as cli
from archive_tool.errors import BuildError, TorchmarError
from archive_tool.version import __version__

ROOT = Path(__file__).resolve().parents[3]
HEAVY = ("torch", "rich", "yaml", "httpx", "zipfile", "tarfile", "packaging", "archive_tool.cli.build", "serving")


@pytest.mark.parametrize("arguments", ["['--help']", "['--version']", "['-h']"])
def test_help_imports_nothing_heavy(arguments):
    code = (
        "import sys\nfrom archive_tool.cli.entry import main\n"
        f"assert main({arguments}) == 0\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_importing_the_package_is_cheap():
    code = f"import sys, archive_tool; print([name for name in {('click', *HEAVY)!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize(("typed", "meant"), [("strat", "start"), ("biuld", "build"), ("regsiter", "register")])
def test_a_mistyped_command_is_proposed(typed, meant, capsys):
    assert cli.main([typed]) == 2
    said = capsys.readouterr().err
    assert f"No such command '{typed}'. Did you mean {meant}" in said


def test_what_is_like_no_command_is_not_guessed_at(capsys):
    assert cli.main(["xyzzy"]) == 2
    assert "Did you mean" not in capsys.readouterr().err


def test_help_lists_every_command(torchmar):
    text = torchmar("--help").stdout
    for section, commands in cli.COMMANDS.items():
        assert f"{section}:" in text
        for name, entry in commands.items():
            assert f"  {name} " in text
            assert entry.help in text


def test_version(torchmar_process):
    assert torchmar_process("--version").stdout == f"torchmar, version {__version__}\n"


OWN = {
    name: entry
    for section in cli.COMMANDS.values()
    for name, entry in section.items()
    if entry.target.startswith("archive_tool.")
}


@pytest.mark.parametrize("name", OWN)
def test_each_command_has_help_with_an_example(torchmar, name):
    module, _, attribute = OWN[name].target.partition(":")
    command = getattr(import_module(module), attribute)
    assert isinstance(command, click.Command)
    assert command.help.splitlines()[0] == OWN[name].help
    for parameter in command.params:
        assert isinstance(parameter, click.Argument) or parameter.help, parameter.name
    text = torchmar(name, "--help").stdout
    assert "Examples:\n    torchmar " + name in text


def test_commands_of_the_server_are_named_and_not_loaded():
    names = [name for section in cli.COMMANDS.values() for name, entry in section.items() if "serving" in entry.target]
    expected = "batch bench check run optimize dev console start stop status keys logs env home image serve deploy "
    expected += "models register scale set-default traffic unregister predict"
    assert sorted(names) == sorted(expected.split())


def test_a_command_that_cannot_be_loaded(monkeypatch, capsys):
    section = {
        "gone": cli.Entry("no_such_module:gone", "Help."),
        "odd": cli.Entry("archive_tool.cli.entry:odd", "Help."),
    }
    monkeypatch.setitem(cli.COMMANDS, "More", section)
    assert cli.main(["gone"]) == 1
    assert "error: the command gone cannot be loaded" in capsys.readouterr().err
    assert cli.main(["odd"]) == 1


def test_hooks_can_be_loaded(monkeypatch):
    for name in cli.HOOKS:
        assert callable(cli.load_hook(name))
    monkeypatch.setitem(cli.HOOKS, "gone", "no_such_module:gone")
    with pytest.raises(TorchmarError, match="gone cannot be loaded"):
        cli.load_hook("gone")


def test_wrong_usage_is_2(torchmar):
    for arguments in (["nothing"], ["build"], ["build", "--model-name"], ["inspect"], ["--odd"]):
        done = torchmar(*arguments)
        assert done.returncode == 2
        assert "Traceback" not in done.stderr


def test_an_error_is_shown_and_has_its_exit_code(monkeypatch, capsys):
    error = BuildError("what\n- one\n- two", where="file:3", hint="do this")
    monkeypatch.setattr(cli.cli, "main", raising(error))
    assert cli.main([]) == 1
    assert capsys.readouterr().err == "error: what\n  - one\n  - two\n  at: file:3\n  hint: do this\n"


def raising(error):
    def main(*_, **__):
        raise error

    return main


@pytest.mark.parametrize(("no_color", "colored"), [(None, True), ("1", False)])
def test_color_only_on_a_terminal_and_not_against_ones_will(no_color, colored):
    pty = pytest.importorskip("pty")
    environment = {key: value for key, value in os.environ.items() if key != "NO_COLOR"}
    environment |= {"TERM": "xterm", **({"NO_COLOR": no_color} if no_color else {})}
    leader, follower = pty.openpty()
    command = [sys.executable, "-m", "archive_tool", "inspect", "nothing.mar"]
    done = subprocess.run(command, stderr=follower, stdout=subprocess.DEVNULL, cwd=ROOT, env=environment, check=False)
    os.close(follower)
    text = os.read(leader, 10_000)
    os.close(leader)
    assert done.returncode == 3
    assert (b"\x1b[" in text) is colored
    assert b"there is no archive nothing.mar" in text


def test_an_interrupt_is_130_without_a_traceback(monkeypatch, capsys):
    for error in (KeyboardInterrupt(), click.Abort()):
        monkeypatch.setattr(cli.cli, "main", raising(error))
        assert cli.main([]) == 130
    assert "Traceback" not in capsys.readouterr().err


def test_the_exit_code_of_a_command_counts(monkeypatch):
    monkeypatch.setattr(cli.cli, "main", lambda *_, **__: 7)
    assert cli.main([]) == 7
    monkeypatch.setattr(cli.cli, "main", lambda *_, **__: None)
    assert cli.main([]) == 0


def test_the_signal_handler_is_put_back():
    before = signal.getsignal(signal.SIGTERM)
    cli.main(["--version"])
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_closed_pipe_is_quiet(options, tmp_path):
    import archive_tool

    for number in range(300):
        Path("store", f"file{number}").touch()
    archive_tool.build(**options | {"export_path": "."}, extra_files="store")
    command = f"{sys.executable} -m archive_tool inspect m.mar --json | true"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, env=environment, check=False)
    assert done.stderr == ""


@pytest.mark.parametrize("archive_format", ["default", "tgz", "no-archive"])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_in_the_middle_leaves_nothing(work, archive_format, number, code):
    """Several gigabytes that take no disk: the build is surely not finished when the signal comes."""
    with Path("large.txt").open("wb") as stream:
        stream.truncate(40 << 30)
    command = [sys.executable, "-m", "archive_tool", "build", "--model-name", "m", "--handler", "h.py"]
    command += ["--extra-files", "large.txt", "--export-path", "store", "--archive-format", archive_format]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    running = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    while not list(Path("store").iterdir()):
        assert running.poll() is None
        time.sleep(0.01)
    running.send_signal(number)
    _, text = running.communicate(timeout=60)
    assert running.returncode == code
    assert "Traceback" not in text
    assert list(Path("store").iterdir()) == []


def test_an_error_of_the_system_is_a_message_not_a_traceback(monkeypatch, capsys):
    def full(*_, **__):
        raise OSError(28, "No space left on device", "/some/file")

    monkeypatch.setattr(cli.cli, "main", full)
    assert cli.main(["inspect", "x"]) == 1
    assert capsys.readouterr().err == "error: No space left on device\n  at: /some/file\n"
