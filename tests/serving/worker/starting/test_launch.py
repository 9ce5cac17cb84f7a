"""The process that the frontend executes, and the process that does its work."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import venv
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from serving.worker.process import rendezvous
from serving.worker.scripts import registry
from serving.worker.starting import launch
from tests.serving.worker.frontend import (
    HOLD,
    SCRIPT,
    TIMEOUT_S,
    WITHOUT_TORCH,
    Server,
    archive,
    ends,
    nobody,
    prefork_processes,
    wait_for,
)

PID = """
    import os

    def handle(data, context):
        return [os.getpid()] * len(data or [])
"""


def test_it_tells_its_number_and_that_it_has_started(server: Server, tmp_path: Path) -> None:
    """In lines of their own, with nothing else in them; the socket is there before."""
    worker = server.worker(archive(tmp_path / "model", PID))
    assert worker.out.text == f"[PID]{worker.pid}\nTorch worker started.\n"
    assert worker.load(worker.folder).code == 200
    assert not worker.err.ended


def test_the_work_is_done_by_a_forked_process(server: Server, tmp_path: Path) -> None:
    worker = server.worker(archive(tmp_path / "model", PID))
    assert worker.load(worker.folder).code == 200
    pid = int(worker.answer())
    assert psutil.Process(pid).ppid() == server.prefork()
    thin = psutil.Process(worker.pid)
    assert thin.memory_info().rss < psutil.Process(pid).memory_info().rss / 4
    assert thin.num_threads() == 1


def test_a_frontend_with_tcp(server: Server, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    worker = server.start(archive(tmp_path / "model", PID), tcp=port)
    worker.out.wait("Torch worker started.\n")
    worker.attach(socket.create_connection(("127.0.0.1", port)))
    assert worker.load(worker.folder).code == 200
    assert int(worker.answer()) != worker.pid


def test_ctrl_c_in_the_servers_terminal(server: Server, tmp_path: Path) -> None:
    """It reaches all processes of the terminal, and the frontend decides what it means."""
    worker = server.worker(archive(tmp_path / "model", PID))
    assert worker.load(worker.folder).code == 200
    for pid in (worker.pid, int(worker.answer()), server.prefork()):
        os.kill(pid, signal.SIGINT)
    assert worker.answer()
    assert registry.backends(server.pid)


# ---- the socket ------------------------------------------------------------------------------------------------------


class Alone:
    """A worker started by this process, at a socket of the test's choice; nothing is ever loaded."""

    def __init__(self, *line: str) -> None:
        command = [sys.executable, str(SCRIPT), *line]
        self.process = subprocess.Popen(command, stdin=-1, stdout=-1, stderr=-1)

    def started(self) -> Alone:
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == f"[PID]{self.process.pid}\n".encode()
        assert self.process.stdout.readline() == b"Torch worker started.\n"
        return self

    def end(self) -> tuple[int, str]:
        """Return exit code and standard error; until then its standard input is open, as the frontend's is."""
        assert self.process.stderr is not None
        err = self.process.stderr.read().decode()
        code = self.process.wait(TIMEOUT_S)
        self.process.communicate()
        return code, err


@pytest.fixture
def path() -> Iterator[str]:
    with tempfile.TemporaryDirectory() as folder:
        yield f"{folder}/.ts.sock.9000"


def connect(path: str) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(TIMEOUT_S)
    connection.connect(path)
    return connection


def line(path: str) -> list[str]:
    return ["--sock-type", "unix", "--sock-name", path, "--metrics-config", "x"]


def test_the_socket_of_a_worker_that_was_killed(path: str) -> None:
    first = Alone(*line(path)).started()
    first.process.kill()
    first.end()
    assert Path(path).exists()
    second = Alone(*line(path)).started()
    connect(path).close()
    assert second.end() == (0, "")
    assert not Path(path).exists()


def test_the_socket_of_a_successor_is_left_alone(path: str) -> None:
    """The frontend starts the next worker at the same place while this one is still ending."""
    first = Alone(*line(path)).started()
    connection = connect(path)
    second = Alone(*line(path)).started()
    connection.close()
    assert first.end() == (0, "")
    connect(path).close()
    assert second.end() == (0, "")
    assert not Path(path).exists()


def test_one_that_nobody_wants_any_more_leaves_the_socket_to_its_successor(path: str) -> None:
    """Such as a rank that torchrun has started anew, a moment before the frontend killed torchrun."""
    successor = Alone(*line(path)).started()
    read, write = os.pipe()
    os.close(write)
    done = subprocess.run([sys.executable, SCRIPT, *line(path)], stdin=read, capture_output=True, check=False)
    os.close(read)
    said = b"the worker ends: its standard input is closed, as it is once the frontend has gone\n"
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", said)
    connect(path).close()
    assert successor.end() == (0, "")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--sock-type", "carrier pigeon"], "unix or tcp is expected"),
        (["model.mar"], "people do not"),
        (["--sock-type", "unix", "--sock-name", "/no/such/folder/.ts.sock.1"], "No such file or directory"),
        (["--sock-type", "unix", "--sock-name", "/" + "x" * 300 + ".1"], "too long"),
    ],
)
def test_what_it_cannot_start_with(arguments: list[str], text: str) -> None:
    code, err = Alone(*arguments).end()
    assert code == 1
    assert err.startswith("the worker cannot start: ")
    assert text in err
    assert err.count("\n") == 1


def test_a_port_that_is_taken() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        code, err = Alone("--sock-type", "tcp", "--port", str(taken.getsockname()[1])).end()
    assert code == 1
    assert "Address already in use" in err


# ---- the process that does the work ----------------------------------------------------------------------------------


@pytest.mark.parametrize("environ", [{"TORCHMAR_PREFORK": "0"}, {"LOCAL_RANK": "0"}])
def test_the_worker_itself_where_that_is_asked_for(server: Server, tmp_path: Path, environ: dict[str, str]) -> None:
    worker = server.worker(archive(tmp_path / "model", PID, files=WITHOUT_TORCH), **environ)
    assert worker.load(worker.folder).code == 200
    assert int(worker.answer()) == worker.pid


def test_the_worker_itself_where_a_module_of_the_archive_must_come_first(server: Server, tmp_path: Path) -> None:
    """The prefork process has imported another one of that name."""
    source = """
        import os
        import PIL

        def handle(data, context):
            return [f"{PIL.mine} {os.getpid()}"] * len(data or [])
    """
    worker = server.worker(archive(tmp_path / "model", source, files={"PIL.py": "mine = 1", **WITHOUT_TORCH}))
    assert worker.load(worker.folder).code == 200, worker.out.text
    assert worker.answer() == f"1 {worker.pid}".encode()
    assert worker.out.text.startswith(f"[PID]{worker.pid}\nTorch worker started.\n")


def test_the_worker_itself_where_the_model_has_an_environment_of_its_own(server: Server, tmp_path: Path) -> None:
    """It also learns that TorchServe's package cannot be imported there."""
    folder = archive(tmp_path / "model", PID)
    venv.create(folder / "venv", symlinks=True)
    worker = server.start(folder, python=str(folder / "venv" / "bin" / "python")).connect()
    assert worker.refuses(folder)
    worker.out.wait(f"TorchServe's package ts cannot be imported by {folder}/venv/bin/python")
    worker.out.wait("  hint: pip install torchserve==0.12.0 pyyaml, for this interpreter\n")


def test_modules_named_like_ours_change_nothing(server: Server, tmp_path: Path) -> None:
    source = """
        import os
        import serving, archive_tool.mine, handlers

        def handle(data, context):
            return [[serving.mine, archive_tool.mine.x, handlers.mine, os.getpid()]] * len(data or [])
    """
    files = {"serving.py": "mine = 1", "archive_tool/mine.py": "x = 2", "handlers/__init__.py": "mine = 3"}
    worker = server.worker(archive(tmp_path / "model", source, files=files))
    assert worker.load(worker.folder).code == 200, worker.out.text
    one, two, three, pid = json.loads(worker.answer())
    assert (one, two, three) == (1, 2, 3)
    assert pid != worker.pid


# ---- the prefork process ---------------------------------------------------------------------------------------------


def test_it_has_nothing_of_the_worker_that_started_it(server: Server) -> None:
    prefork = psutil.Process(server.prefork())
    assert wait_for(lambda: prefork.cwd() == "/")  # it goes there once it has begun
    assert {str(Path(f"/proc/{prefork.pid}/fd/{number}").readlink()) for number in range(3)} == {os.devnull}
    assert prefork.environ()["PYTHONPATH"] == str(SCRIPT.parents[1])


def test_a_server_from_its_first_workers_to_its_sudden_end(
    server_of_its_own: Callable[[], Server], tmp_path: Path
) -> None:
    server = server_of_its_own()
    shared = archive(tmp_path / "shared", PID, config={"backend": {"mode": "shared"}})
    dedicated = archive(tmp_path / "dedicated", PID)
    workers = [server.start(folder) for folder in (shared, dedicated, shared, dedicated)]
    # All of them at once, and only one starts the prefork process.
    for worker in workers:
        worker.connect()
        worker.send_load(worker.folder)
    assert [worker.reply().code for worker in workers] == [200] * 4
    prefork = server.prefork()
    pids = {int(worker.answer()) for worker in workers}
    assert len(pids) == 3
    assert prefork_processes(server.pid) == {prefork, *pids}
    # Java is killed: nothing of it may stay, nor what another server would trip over.
    server.kill()
    for worker in workers:
        os.close(worker.stdin)
        worker.stdin = -1
    assert ends(prefork, *pids, *(worker.pid for worker in workers))
    assert wait_for(lambda: not any(worker.path.exists() for worker in workers))


def test_another_one_is_started_when_it_is_killed_too_early(
    server_of_its_own: Callable[[], Server], without_torch: Path, tmp_path: Path
) -> None:
    # What takes long for the first one is over for the second.
    (without_torch / "torch.py").write_text(f"""
import os, time
if not os.path.exists({str(tmp_path / "over")!r}):
    time.sleep(1000)
raise ImportError
""")
    server = server_of_its_own()
    worker = server.worker(archive(tmp_path / "model", PID))
    first = server.prefork()
    (tmp_path / "over").touch()
    os.kill(first, signal.SIGKILL)
    assert worker.load(worker.folder).code == 200
    pid = int(worker.answer())
    assert psutil.Process(pid).ppid() == server.prefork() != first
    assert worker.out.text.count("Torch worker started.") == 1


def test_another_user_has_its_place(server_of_its_own: Callable[[], Server], tmp_path: Path) -> None:
    """The worker says so, once, and serves."""
    server = server_of_its_own()
    server.do("pass")  # it has begun
    name = rendezvous.address(server.pid)
    with nobody(HOLD, name[1:]) as held:
        assert held == "True"
        worker = server.worker(archive(tmp_path / "model", PID))
        assert worker.load(worker.folder).code == 200
        assert int(worker.answer()) == worker.pid
        assert worker.err.text.count(f"the user 65534 holds the socket @{name[1:]}") == 1
    assert worker.out.text.count("Torch worker started.") == 1


def test_a_server_that_is_started_with_it(tmp_path: Path) -> None:
    """The server has the number that this process had, no child, and the prefork process knows it."""
    code = "import os, sys; e = os.environ; print(os.getpid(), e['A'], e['TORCHMAR_OWNER'], *sys.argv[1:], flush=True)"
    code += "; input()"
    command = [sys.executable, str(SCRIPT), "--server", sys.executable, "-c", code, "--server", "x"]
    environ = {**os.environ, "A": "b"}
    with subprocess.Popen(command, stdin=-1, stdout=-1, env=environ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == f"{process.pid} b {process.pid} --server x\n".encode()
        (prefork,) = prefork_processes(process.pid)
        assert psutil.Process(process.pid).children() == []
        connection = rendezvous.connect(rendezvous.address(process.pid))
        assert connection is not None
        connection.close()
        os.kill(prefork, signal.SIGKILL)
        process.kill()
    assert ends(prefork)


@pytest.fixture
def unnamed(without_torch: Path) -> Iterator[Server]:
    """Start a frontend that is not called java."""
    server = Server(b"python", path=(without_torch,))
    yield server
    server.end()


def test_a_frontend_that_says_who_it_is(unnamed: Server, tmp_path: Path) -> None:
    worker = unnamed.worker(archive(tmp_path / "model", PID), **{rendezvous.OWNER: str(unnamed.pid)})
    assert worker.load(worker.folder).code == 200
    served_by = int(worker.answer())
    assert psutil.Process(served_by).ppid() == unnamed.prefork()
    # The collector of metrics, a child of the frontend as well, finds who does the work.
    assert registry.backends(unnamed.pid) == {worker.pid: (served_by, 1)}


@pytest.mark.parametrize("said", ["", "1", "not a number"])
def test_what_somebody_else_has_said_is_not_of_this_frontend(unnamed: Server, tmp_path: Path, said: str) -> None:
    """An outer server's environment comes down to all that is started in it."""
    worker = unnamed.worker(archive(tmp_path / "model", PID), **{rendezvous.OWNER: said})
    assert worker.load(worker.folder).code == 200
    assert int(worker.answer()) == worker.pid


def test_a_server_without_it() -> None:
    command = [sys.executable, str(SCRIPT), "--server", sys.executable, "-c", "import os; print(os.getpid()); input()"]
    environ = {**os.environ, "TORCHMAR_PREFORK": "0"}
    with subprocess.Popen(command, stdin=-1, stdout=-1, env=environ) as process:
        assert process.stdout is not None
        assert int(process.stdout.readline()) == process.pid
        assert prefork_processes(process.pid) == set()
        process.kill()


def test_a_server_that_cannot_be_started() -> None:
    command = [sys.executable, str(SCRIPT), "--server", "/no/such/java", "-version"]
    environ = {**os.environ, "TORCHMAR_PREFORK": "0"}
    done = subprocess.run(command, capture_output=True, text=True, env=environ, check=False)
    assert done.returncode == 126
    assert done.stderr.startswith("/no/such/java cannot be started: ")


MODELS = "/tmp/models"
HASH = "0123456789abcdef0123456789abcdef"


@pytest.mark.parametrize(
    ("path", "kept"),
    [
        (["{model}"], None),
        (["{server}", "{model}", "{home}"], ["{server}", "{home}"]),
        (["service", "{server}", "{model}"], ["{server}"]),
        (["{model}", f"{MODELS}/{HASH}", "{home}"], ["{home}"]),  # a model that is a folder: a link, and where it lies
        (["{server}", f"{MODELS}/{HASH}"], ["{server}", f"{MODELS}/{HASH}"]),  # the server's own may look like that
        (["{model}", "/elsewhere/models", "{home}"], ["/elsewhere/models", "{home}"]),
        (["{link}"], None),
        ([""], None),
    ],
)
def test_the_path_of_the_prefork_process_is_the_servers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: list[str], kept: list[str] | None
) -> None:
    """What the frontend adds for the model of the worker that happens to be the first one is not."""
    names = {name: str(tmp_path / name) for name in ("model", "server", "home", "link")}
    (tmp_path / "model").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "model")
    monkeypatch.chdir(tmp_path / "model")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(entry.format(**names) for entry in path))
    monkeypatch.setenv("OTHER", "stays")
    environ = launch._prefork_environment()
    assert environ["OTHER"] == "stays"
    assert environ.get("PYTHONPATH") == (os.pathsep.join(entry.format(**names) for entry in kept) if kept else None)


def test_no_path_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTHONPATH", raising=False)
    assert "PYTHONPATH" not in launch._prefork_environment()
