"""start, stop and everything between, against the real frontend."""

from __future__ import annotations

import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from serving.control.configuration.ports import choose_free

from .conftest import PYTHON_FIRST, Sandbox
from .support import is_alive, kill, wait_until

# Importing torch takes seconds, and no handler here needs it.
pytestmark = pytest.mark.hides("torch")

# A handler that is still being imported when every wait is over.
SLOW = "import time\nprint('sleeping')\ntime.sleep(600)\ndef handle(data, context):\n    return data\n"


# What the command line does, whatever it starts.
alone = pytest.mark.parametrize("frontend", PYTHON_FIRST)


@contextmanager
def waiting_start(sandbox: Sandbox) -> Iterator[subprocess.Popen[str]]:
    """Start a server that waits for a model which does not get ready."""
    sandbox.build("slow", SLOW)
    command = ("torchmar", "start", "slow.mar", "--model-store", sandbox.store, "--port", "auto")
    with sandbox.popen(*command) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "loading slow" in line:
                break
        yield process


def test_a_server_from_start_to_stop(sandbox: Sandbox, echo: str) -> None:
    del sandbox.env["JAVA_TOOL_OPTIONS"]  # once with only what the product itself sets for Java
    sandbox.build("echo", echo)
    started = sandbox.torchmar("start", "echo=echo.mar", "--model-store", sandbox.store, "--port", "auto").ok()
    assert "echo 1.0 is ready: 1 worker" in started.out
    server = sandbox.server()
    assert server.curl("/ping") == (200, '{\n  "status": "Healthy"\n}\n')
    assert server.record["healthy"] is True

    file = sandbox.file("hello.txt", "hello")
    status, body = server.curl("/predictions/echo", "-T", file)
    assert status == 200
    assert "hello" in body
    files = [sandbox.file(f"{i}.txt", f"text {i}") for i in range(5)]
    rows = sandbox.torchmar("predict", "echo", *files, "--json").json()
    assert [row["answer"]["body"] for row in rows] == [f"text {i}" for i in range(5)]
    table = sandbox.torchmar("predict", "echo", *files).ok().out
    assert all(str(file) in table for file in files)

    assert "2 of 2 workers ready" in sandbox.torchmar("scale", "echo", "--min-workers", "2").ok().out
    assert server.ready_workers("echo") == 2
    for change in (("register", "echo.mar"), ("unregister", "echo")):
        refused = sandbox.torchmar(*change)
        assert refused.code == 9
        assert "its model API is off" in refused.err
        assert "torchmar start --enable-model-api" in refused.err
    assert "echo" in sandbox.torchmar("models").ok().out

    second = sandbox.torchmar("start", "echo.mar", "--model-store", sandbox.store, "--port", "auto")
    assert second.code == 8
    assert "running already" in second.err
    assert "--name" in second.err

    assert sandbox.torchmar("stop").ok().out == "stopped default\n"
    assert sandbox.leftovers() == []
    again = sandbox.torchmar("stop")
    assert again.code == 7
    assert "no server 'default' is running" in again.err
    assert sandbox.torchmar("status").code == 7


def test_a_taken_port_is_named_and_nothing_starts(sandbox: Sandbox, echo: str) -> None:
    sandbox.build("echo", echo)
    port = choose_free("127.0.0.1", 1)[0]
    with socket.create_server(("127.0.0.1", port)):
        refused = sandbox.torchmar("start", "echo.mar", "--model-store", sandbox.store, "--port", str(port))
    assert refused.code == 8
    assert f"127.0.0.1:{port} (inference_address) by " in refused.err
    assert "--port auto" in refused.err
    assert sandbox.leftovers() == []


@alone
def test_foreground_shows_the_logs_and_ends_with_a_signal(sandbox: Sandbox, echo: str) -> None:
    sandbox.build(
        "echo", echo.replace("def initialize", "def __init__(self):\n        print('hello')\n\n    def initialize")
    )
    command = ("torchmar", "start", "echo.mar", "--model-store", sandbox.store, "--port", "auto", "--foreground")
    with sandbox.popen(*command) as process:
        assert process.stdout is not None
        seen = ""
        for line in process.stdout:
            seen += line
            if line.startswith("try: curl"):
                break
        assert "MODEL_LOG - hello" in seen
        process.send_signal(signal.SIGTERM)
        assert process.wait(40) == 143
    assert sandbox.leftovers() == []


@alone
def test_a_killed_foreground_start_takes_its_server_with_it_whoever_could_read_its_output(
    sandbox: Sandbox, echo: str
) -> None:
    sandbox.build("echo", echo)
    command = f"exec torchmar start echo.mar --model-store {sandbox.store} --port auto --foreground >/dev/full 2>&-"
    with sandbox.popen("/bin/sh", "-c", command) as process:
        wait_until(lambda: sandbox.torchmar("status").code == 0, "the server is healthy")
        server = sandbox.server()
        process.kill()
        process.wait()
        wait_until(lambda: not is_alive(server.pid), "the server has ended")
    ended = sandbox.torchmar("stop")
    assert ended.code == 7
    assert "had ended by itself" in ended.err
    assert sandbox.leftovers() == []


@alone
def test_an_interrupted_start_leaves_nothing(sandbox: Sandbox) -> None:
    with waiting_start(sandbox) as process:
        process.send_signal(signal.SIGINT)
        assert process.wait(40) == 130
    assert sandbox.leftovers() == []
    assert sandbox.torchmar("stop").code == 7


@pytest.mark.slow  # waits
def test_a_model_that_is_not_ready_in_time_is_named(sandbox: Sandbox) -> None:
    sandbox.build(
        "slow", "import time\nprint('sleeping')\ntime.sleep(600)\ndef handle(data, context):\n    return data\n"
    )
    late = sandbox.torchmar("start", "slow.mar", "--model-store", sandbox.store, "--port", "auto", "--timeout", "8")
    assert late.code == 6
    assert "loading slow" in late.err
    assert "--timeout" in late.err
    assert sandbox.leftovers() == []


@pytest.mark.slow  # a server more
def test_every_version_must_be_ready(sandbox: Sandbox, echo: str) -> None:
    """Two archives under one name: the second cannot be loaded, so the start fails, default version or not."""
    sandbox.build("echo", echo)
    failing = echo.replace("self.version =", "raise RuntimeError('no licence')\n        self.version =")
    sandbox.build("bad", failing, "-v", "2.0")
    done = sandbox.torchmar(
        "start", "m=echo.mar", "m=bad.mar", "--model-store", sandbox.store, "--port", "auto", "--timeout", "60"
    )
    assert done.code == 6
    assert "RuntimeError: no licence" in done.err
    assert sandbox.leftovers() == []


@pytest.mark.slow  # waits
def test_stop_while_another_command_starts(sandbox: Sandbox, echo: str) -> None:
    sandbox.build("echo", echo)
    with waiting_start(sandbox) as process:
        process.send_signal(signal.SIGSTOP)
        sandbox.torchmar("stop").ok()
        server = sandbox.start("echo.mar")
        process.send_signal(signal.SIGCONT)
        assert process.stderr is not None
        assert "stopped while it started" in process.stderr.read()
        assert process.wait(40) == 6
    # The late one has not made the newer server forgotten.
    assert sandbox.server().pid == server.pid


@pytest.mark.slow
def test_a_closed_terminal_leaves_nothing(sandbox: Sandbox) -> None:
    with waiting_start(sandbox) as process:
        process.send_signal(signal.SIGHUP)
        assert process.wait(40) == 129
    assert sandbox.leftovers() == []


@pytest.mark.slow
def test_a_killed_server_is_cleaned_up_by_stop(sandbox: Sandbox, echo: str) -> None:
    sandbox.build("echo", echo)
    kill(sandbox.start("echo.mar").pid)
    stopped = sandbox.torchmar("stop")
    assert stopped.code == 7
    assert "ended by itself" in stopped.err
    assert sandbox.leftovers() == []


@pytest.mark.slow  # names and ports have tests of their own
def test_two_servers_side_by_side(sandbox: Sandbox, echo: str) -> None:
    """One serves all archives of the store, with the workers that the command line asks for.

    It is killed, cleaned up by the next start and killed again: the other answers as before, and stopping all of them
    tells the two cases apart.
    """
    config = sandbox.file("model-config.yaml", "minWorkers: 1\nmaxWorkers: 1\n")
    sandbox.build("echo", echo, "-c", config)
    sandbox.build("more", echo)
    first = sandbox.start("--models", "all", name="aaa", options=("--workers", "2"))
    assert (first.ready_workers("echo"), first.ready_workers("more")) == (2, 2)  # not the models' own number
    second = sandbox.start("echo.mar", name="bbb")
    assert first.curl("/predictions/echo")[0] == second.curl("/predictions/echo")[0] == 200
    kill(first.pid)
    assert second.curl("/ping")[0] == 200
    dead = sandbox.torchmar("status", "--name", "aaa")
    assert dead.code == 7
    assert "ended by itself" in dead.err
    again = sandbox.start("echo.mar", name="aaa")
    assert again.pid != first.pid
    assert len([path for path in sandbox.temp.iterdir() if path.name.startswith("torchmar-")]) == 2
    kill(again.pid)
    done = sandbox.torchmar("stop", "--all").ok()
    assert "'aaa' had ended by itself" in done.err
    assert done.out == "stopped bbb\n"
    assert sandbox.leftovers() == []


def test_keys_are_asked_for_and_given_when_authorization_is_on(sandbox: Sandbox, echo: str) -> None:
    """Here on a server without Java on the path, and with blanks in that of its archive."""
    sandbox.build("echo", echo)
    empty = sandbox.root / "nothing"
    empty.mkdir()
    folder = sandbox.root / "my models, ü"
    folder.mkdir()
    (sandbox.store / "echo.mar").rename(folder / "my echo.mar")
    config = sandbox.file("secure.properties", "disable_token_authorization=false\n")
    start = ("start", f"echo={folder}/my echo.mar", "--port", "auto", "-q", "--ts-config", config)
    sandbox.torchmar(*start, env={"PATH": str(empty), "JAVA_HOME": ""}).ok()
    assert sandbox.server().curl("/predictions/echo")[0] == 400
    file = sandbox.file("x.txt", "x")
    sandbox.torchmar("predict", "echo", file).ok()
    assert "echo" in sandbox.torchmar("models").ok().out
    # As an hour later: the keys in the file have expired, so the command asks for new ones.
    keys = next(sandbox.root.rglob("key_file.json"))
    text = keys.read_text()
    year = time.strftime("%Y")
    keys.write_text(text.replace(f'"{year}-', '"2000-'))
    sandbox.torchmar("predict", "echo", file).ok()
    assert keys.read_text() != text
    sandbox.torchmar("stop").ok()
    assert not keys.exists()
