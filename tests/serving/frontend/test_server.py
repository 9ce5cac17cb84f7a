"""A server from its start to its end: a real process with real sockets, a played engine and tiny applications in it."""

from __future__ import annotations

import contextlib
import http.client
import json
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from serving.frontend.server import GRACE_S, NOTICE_S, addresses, on_single_port

from .listening_app import TIMEOUT_S, everything, free_port, settings, until, wait_for

ROOT = Path(__file__).resolve().parents[3]
REQUEST = b"GET /x%s HTTP/1.1\r\nhost: x\r\n\r\n"
END = b"0\r\n\r\n"


@dataclass
class Got:
    """An answer."""

    status: int
    connection: str | None
    body: str


@dataclass
class Run:
    """A server's process."""

    folder: Path
    process: subprocess.Popen[str]
    ports: dict[str, int] = field(default_factory=dict)

    def connect(self, api: str = "inference") -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.ports[api]), TIMEOUT_S)

    def get(self, path: str, api: str = "inference") -> Got:
        connection = http.client.HTTPConnection("127.0.0.1", self.ports[api], timeout=TIMEOUT_S)
        with contextlib.closing(connection):
            connection.request("GET", path)
            answer = connection.getresponse()
            return Got(answer.status, answer.getheader("connection"), answer.read().decode())

    def is_open(self, api: str = "inference") -> bool:
        try:
            self.connect(api).close()
        except OSError:
            return False
        return True

    def told(self) -> list[str]:
        file = self.folder / "told.log"
        return file.read_text().splitlines() if file.exists() else []

    def logged(self) -> str:
        file = self.folder / "ts_log.log"
        return file.read_text() if file.exists() else ""

    def go_on(self, what: str) -> None:
        """Let go on what the played engine or an application waits with."""
        (self.folder / what).unlink()

    def signal(self, number: signal.Signals = signal.SIGTERM) -> None:
        self.process.send_signal(number)
        assert wait_for(lambda: f"{number.name}" in self.logged())

    def end(self) -> int:
        return self.process.wait(TIMEOUT_S)


Start = Callable[..., Run]


@pytest.fixture
def start() -> Iterator[Start]:
    with starter() as begin:
        yield begin


@pytest.fixture(scope="module")
def running() -> Iterator[Run]:
    """One server for the tests that only ask."""
    with starter() as begin:
        yield begin()


@contextlib.contextmanager
def starter() -> Iterator[Start]:
    with tempfile.TemporaryDirectory(prefix="tmedge-", dir="/tmp") as root, contextlib.ExitStack() as stack:

        def begin(*options: str, awaited: bool = True, held: Sequence[str] = (), **keys: object) -> Run:
            folder = Path(tempfile.mkdtemp(dir=root))
            for name in held:
                (folder / name).touch()
            ports = {api: free_port() for api in ("inference", "management", "metrics")}
            lines = {f"{api}_address": f"http://127.0.0.1:{port}" for api, port in ports.items()}
            text = "\n".join(f"{key}={value}" for key, value in {**lines, **keys}.items())
            (folder / "config.properties").write_text(text)
            paths = {"--model-store": folder, "--runtime": folder, "--logs": folder}
            command = [sys.executable, "-m", "tests.serving.frontend.played", "--config", folder / "config.properties"]
            command += [str(part) for pair in paths.items() for part in pair]
            process = subprocess.Popen([*map(str, command), *options], cwd=ROOT, text=True, stderr=subprocess.PIPE)
            stack.callback(_end, process)
            run = Run(folder, process, ports)
            if awaited:
                assert wait_for(lambda: "Model server started." in run.logged()), process.poll()
            return run

        yield begin


def _end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_it_ends_with_javas_exit_codes(start: Start, number: signal.Signals, code: int) -> None:
    run = start("--models", "a=b.mar", "c.mar", "--no-snapshots")
    assert run.get("/x").status == 200
    run.signal(number)
    assert run.end() == code
    assert run.told()[0] == "begins with ['a=b.mar', 'c.mar'] False False"
    assert run.told()[-1] == "drained"


def test_it_listens_when_its_models_are_registered_and_not_before(start: Start) -> None:
    run = start(held=["begin"], awaited=False)
    assert wait_for(run.told)
    assert not run.is_open()
    run.go_on("begin")
    assert wait_for(run.is_open)
    assert wait_for(lambda: "Model server started." in run.logged())  # after the last API, and by the log's own thread


def test_a_signal_while_it_begins_ends_it(start: Start) -> None:
    run = start(held=["begin"], awaited=False)
    assert wait_for(run.told)
    run.signal()
    assert run.end() == 143
    assert not run.is_open()
    assert run.told()[-1] == "drained"


def test_each_api_is_at_its_address_and_on_a_single_port_all_are(start: Start, running: Run) -> None:
    assert all(f'"app": "{api}"' in running.get("/x", api).body for api in running.ports)
    single = start("--single-port")
    paths = {"/models": "management", "/metrics": "metrics", "/predictions/x": "inference"}
    assert all(f'"app": "{api}"' in single.get(path).body for path, api in paths.items())
    assert not single.is_open("management")


def test_a_metrics_api_that_is_off_is_nowhere(start: Start) -> None:
    assert not start(enable_metrics_api="false").is_open("metrics")


def test_what_was_asked_is_answered_and_nobody_is_accepted_any_more(start: Start) -> None:
    run = start(held=["answer"], torchmar_drain_notice=0)
    with run.connect() as slow:
        slow.sendall(REQUEST % b"?while=answer")
        time.sleep(0.3)
        run.signal()
        assert wait_for(lambda: not run.is_open())
        assert run.told()[1:] == []  # the engine goes on
        run.go_on("answer")
        answer = everything(slow)
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b"connection: close" in answer
    assert run.end() == 143
    assert run.told()[-1] == "drained"


def test_load_balancers_are_told_first(start: Start) -> None:
    run = start(torchmar_drain_notice=2)
    run.signal()
    answer = run.get("/readyz")
    assert (answer.status, answer.connection) == (503, "close")
    answer = run.get("/x")
    assert (answer.status, answer.connection) == (200, "close")
    assert run.told()[1:] == []
    assert run.end() == 143


def test_the_management_api_goes_last(start: Start) -> None:
    run = start(held=["drain"])
    run.signal()
    assert wait_for(lambda: not run.is_open())
    assert wait_for(lambda: "drains" in run.told()[-1])
    assert run.get("/models", "management").status == 503  # as the played application has it while it drains
    run.go_on("drain")
    assert run.end() == 143


def test_an_idle_connection_is_closed_when_all_is_answered(start: Start) -> None:
    run = start(held=["answer", "drain"], torchmar_drain_notice=0)
    with run.connect() as idle, run.connect() as slow:
        idle.sendall(REQUEST % b"")
        until(idle, END)
        slow.sendall(REQUEST % b"?while=answer")
        time.sleep(0.3)
        run.signal()
        assert wait_for(lambda: not run.is_open())
        idle.sendall(REQUEST % b"?late")  # it is still there, and is answered
        late = everything(idle)
        assert late.startswith(b"HTTP/1.1 200 ")
        assert b"connection: close" in late
        run.go_on("answer")
        assert everything(slow).startswith(b"HTTP/1.1 200 ")
    run.go_on("drain")
    assert run.end() == 143


@pytest.mark.parametrize("begun", [b"GET /x HT", b"POST /x HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\nh"])
def test_a_request_that_has_begun_to_come_is_answered(start: Start, begun: bytes) -> None:
    whole = b"POST /x HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\nhi" if b"POST" in begun else REQUEST % b""
    run = start(torchmar_drain_notice=0)
    with run.connect() as sock:
        sock.sendall(begun)
        time.sleep(0.3)
        run.signal()
        assert wait_for(lambda: not run.is_open())
        sock.sendall(whole[len(begun) :])
        assert everything(sock).startswith(b"HTTP/1.1 200 ")
    assert run.end() == 143


def test_an_answer_that_takes_too_long_does_not_hold_it_up(start: Start) -> None:
    run = start(torchmar_drain_grace=1, torchmar_drain_notice=0)
    with run.connect() as slow:
        slow.sendall(REQUEST % b"?s=600")
        time.sleep(0.3)
        begun = time.monotonic()
        run.signal()
        assert run.end() == 143
        assert time.monotonic() - begun < 30
        everything(slow)
    assert "drains, 0 s" in run.told()


@pytest.mark.slow  # waits
def test_a_second_signal_ends_it_at_once(start: Start) -> None:
    run = start(held=["drain"])
    with run.connect() as slow:
        slow.sendall(REQUEST % b"?s=600")
        time.sleep(0.3)
        run.signal()
        begun = time.monotonic()
        run.process.send_signal(signal.SIGINT)
        assert run.end() == 143
        assert time.monotonic() - begun < GRACE_S - NOTICE_S


@pytest.mark.slow  # test_frontend.py of the integration tests does it with workers
def test_no_request_is_cut_under_load(start: Start) -> None:
    """Clients that keep their connection, that pipeline, and that connect each time; refused may they be, not cut."""
    run = start()
    faults: list[str] = []
    answered = [0]
    gone = threading.Event()

    def keep(count: int) -> None:
        """Ask with one connection, for several answers at once, until the server says that it closes it."""
        while not gone.is_set():
            try:
                sock = run.connect()
            except ConnectionRefusedError:
                gone.set()
                return
            with sock:
                for _ in range(50):
                    try:
                        sock.sendall(REQUEST % b"?s=0.005" * count)
                        received = b""
                        while received.count(END) < count and not (
                            b"connection: close" in received and END in received
                        ):
                            data = sock.recv(65536)
                            if not data:
                                raise ConnectionResetError("no answer")
                            received += data
                        answered[0] += received.count(b"HTTP/1.1 200 ")
                    except OSError as error:
                        faults.append(f"{error!r} after {answered[0]}: {received!r}")
                        return
                    if b"connection: close" in received:
                        break

    threads = [threading.Thread(target=keep, args=(count,)) for count in (1, 1, 3, 3)]
    for thread in threads:
        thread.start()
    time.sleep(1.0)
    run.signal()
    for thread in threads:
        thread.join()
    assert run.end() == 143
    assert faults == []
    assert answered[0] > 50


def test_a_port_that_is_taken_is_told_and_nothing_begins(start: Start) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"http://127.0.0.1:{taken.getsockname()[1]}"
        run = start(management_address=address, awaited=False)
        _, err = run.process.communicate(timeout=TIMEOUT_S)
    assert run.process.returncode == 8
    assert f"The frontend cannot start: somebody listens there already: management_address={address}" in err
    assert run.told() == []


def test_unix_sockets_are_the_owners_alone_and_go_with_the_server(start: Start) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        path = Path(folder, "new", "api.sock")
        run = start(inference_address=f"unix:{path}")
        assert path.stat().st_mode & 0o777 == 0o600
        assert path.parent.stat().st_mode & 0o777 == 0o700
        done = subprocess.run(
            ["curl", "-sS", "--unix-socket", path, "http://localhost/x"], capture_output=True, check=True
        )
        assert b'"app": "inference"' in done.stdout
        run.signal()
        assert run.end() == 143
        assert not path.exists()


def test_an_application_that_fails_is_logged_and_fails_alone(running: Run) -> None:
    assert running.get("/crash").status == 500
    assert running.get("/x").status == 200
    assert wait_for(lambda: "this application has crashed" in running.logged())


def test_the_access_log_is_written_when_asked_for(start: Start, running: Run) -> None:
    run = start(torchmar_access_log="true")
    run.get("/a%20b?c=%0Ad")
    file = run.folder / "access_log.log"
    assert wait_for(lambda: file.exists() and file.read_text().endswith("\n"))
    assert ' "GET /a%20b?c=%0Ad HTTP/1.1" 200 ' in file.read_text()
    running.get("/x")
    assert not (running.folder / "access_log.log").exists()


def test_logs_are_json_lines_when_asked_for(start: Start) -> None:
    run = start(torchmar_access_log="true", torchmar_log_format="json")
    run.get("/a")
    file = run.folder / "access_log.log"
    assert wait_for(lambda: file.exists() and file.read_text().endswith("\n"))
    asked = json.loads(file.read_text())
    assert (asked["method"], asked["target"], asked["status"]) == ("GET", "/a", 200)
    started = [json.loads(line)["message"] for line in (run.folder / "ts_log.log").read_text().splitlines()]
    assert "Model server started." in started


def test_what_has_no_meaning_here_is_said_once(start: Start) -> None:
    run = start(netty_client_threads=3, job_queue_sizes=5)
    assert run.logged().count("netty_client_threads has no meaning for the Python frontend") == 1
    assert "did you mean job_queue_size?" in run.logged()


def test_where_the_apis_are(tmp_path: Path) -> None:
    found = addresses(settings(tmp_path))
    assert list(found) == ["inference", "management", "metrics"]
    assert len({address.text for address in addresses(on_single_port(settings(tmp_path))).values()}) == 1
