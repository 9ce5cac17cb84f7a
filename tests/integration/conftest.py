"""A real frontend and real workers, each test in a folder of its own and on free ports.

The frontend is Java's, or the one that TORCHMAR_TEST_FRONTEND names. A test that asks both has the mark
``parametrize("frontend", FRONTENDS)``; if it uses ``shared_sandbox``, with ``scope="module"``.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import psutil
import pytest

from serving.client import ManagementClient
from serving.control.configuration import settings

from .preloaded import CommandLine

# Models can be registered, and no key is needed: for servers that only tests reach.
OPEN = ("--enable-model-api", "--disable-token-auth")
FRONTENDS = ("java", "python")
# For what hardly depends on the frontend. The second is for what the worker, a handler or the command line does: Java's
# frontend takes three seconds of the processor more to start.
JAVA_FIRST = ("java", pytest.param("python", marks=pytest.mark.slow))
PYTHON_FIRST = (pytest.param("java", marks=pytest.mark.slow), "python")
ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = str(Path(__file__).parent)
    for item in items:
        if str(item.path).startswith(f"{here}/"):
            item.add_marker(pytest.mark.integration)


@dataclass
class Result:
    """The output of a finished command."""

    code: int
    out: str
    err: str

    def ok(self) -> Result:
        assert self.code == 0, f"exit code {self.code}\n{self.out}\n{self.err}"
        return self

    def json(self) -> Any:
        return json.loads(self.ok().out)


@cache
def command_line() -> CommandLine:
    """Return the command line of this process of the run."""
    return CommandLine()


@dataclass
class Sandbox:
    """A folder with a home, a temporary folder, a model store and state of its own."""

    root: Path
    env: dict[str, str] = field(default_factory=dict)

    @property
    def store(self) -> Path:
        return self.root / "model_store"

    @property
    def temp(self) -> Path:
        return self.root / "tmp"

    def run(self, *command: str | Path, env: Mapping[str, str] | None = None, timeout: float = 150.0) -> Result:
        """Run a command in the sandbox; names of the environment's programs are found in it."""
        if command[0] == "torchmar":
            given = [str(argument) for argument in command[1:]]
            return Result(*command_line().run(given, cwd=self.root, env=self.env | dict(env or {}), timeout=timeout))
        program = BIN / command[0]
        argv = [str(program if program.exists() else command[0]), *map(str, command[1:])]
        done = subprocess.run(
            argv,
            cwd=self.root,
            env=self.env | dict(env or {}),
            capture_output=True,
            text=True,
            timeout=timeout,
            stdin=subprocess.DEVNULL,
            check=False,
        )
        return Result(done.returncode, done.stdout, done.stderr)

    def torchmar(self, *arguments: str | Path, env: Mapping[str, str] | None = None) -> Result:
        return self.run("torchmar", *arguments, env=env)

    def popen(self, *command: str | Path) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [str(BIN / command[0]), *map(str, command[1:])],
            cwd=self.root,
            env=self.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def file(self, name: str, text: str | bytes) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return path

    def build(self, name: str, handler: str, *options: str | Path) -> None:
        """Build an archive of a handler given as source."""
        source = self.file(f"{name}_handler.py", handler)
        arguments = ("--model-name", name, "--handler", source, "--export-path", self.store, "-f", "-q")
        self.torchmar("build", *arguments, *options).ok()

    def start(self, *models: str, name: str = "default", options: tuple[str | Path, ...] = ()) -> Server:
        """Start a server on free ports."""
        self.torchmar(
            "start", *models, "--model-store", self.store, "--port", "auto", "--name", name, "-q", *options
        ).ok()
        return self.server(name)

    def server(self, name: str = "default") -> Server:
        return Server(self, name, self.torchmar("status", "--json", "--name", name).json())

    def processes(self) -> list[psutil.Process]:
        """Return the processes that work in this sandbox: by their working folder, arguments or temporary folder."""
        found = []
        for process in psutil.process_iter():
            try:
                if str(self.root) in " ".join(process.cmdline()) or str(self.root) in process.cwd():
                    found.append(process)
            except (psutil.Error, OSError):
                continue
        return [p for p in found if p.pid != os.getpid() and p.status() != psutil.STATUS_ZOMBIE]

    def leftovers(self) -> list[str]:
        """Return what a server must not leave behind."""
        deadline = time.monotonic() + 20.0
        while (running := self.processes()) and time.monotonic() < deadline:
            time.sleep(0.1)
        files = [str(path) for path in self.temp.rglob("*") if path.name.startswith(("torchmar-", ".ts.sock"))]
        return [str(process) for process in running] + files


@dataclass
class Server:
    """A server that runs in a sandbox."""

    sandbox: Sandbox
    name: str
    record: dict[str, Any]

    @property
    def inference(self) -> str:
        return str(self.record["inference"])

    @property
    def management(self) -> str:
        return str(self.record["management"])

    @property
    def pid(self) -> int:
        return int(self.record["pid"])

    def curl(self, path: str, *options: str | Path) -> tuple[int, str]:
        """Return status and body of a request to the inference API, sent by the real curl."""
        done = self.sandbox.run(
            "curl", "-sS", "-w", "\n%{http_code}", *options, f"{self.inference}{path}", timeout=60.0
        ).ok()
        body, _, status = done.out.rpartition("\n")
        return int(status), body

    def ready_workers(self, model: str) -> int:
        rows = self.sandbox.torchmar("models", model, "--json", "--name", self.name).json()
        return sum(worker["status"] == "READY" for row in rows for worker in row["workers"])


def usual_frontend() -> str:
    """Return the frontend of the tests that do not say which."""
    name = os.environ.get("TORCHMAR_TEST_FRONTEND", "java")
    assert name in settings.FRONTENDS, f"TORCHMAR_TEST_FRONTEND={name} is none of {', '.join(settings.FRONTENDS)}"
    return name


def not_on_ray(why: str) -> pytest.MarkDecorator:
    """Mark what Ray Serve cannot do; docs/compatibility.md tells of it."""
    return pytest.mark.skipif(usual_frontend() == "ray", reason=f"not on Ray Serve: {why}")


def make_sandbox(java_options: str, hidden: Iterable[str] = (), frontend: str | None = None) -> Sandbox:
    """Make a new sandbox.

    Args:
        java_options: of the fixture of this name.
        frontend: of the servers that are started in it, unless they say so; None for the usual one.
        hidden: modules that nothing in it can import. Each server imports torch, and torchvision when it has time,
            which takes seconds of the processor: too much where no handler needs it.
    """
    # Not pytest's tmp_path: the path of a socket below it would be too long.
    root = Path(tempfile.mkdtemp(prefix="tmtest-", dir="/tmp")).resolve()
    for name in ("model_store", "tmp", "home"):
        (root / name).mkdir()
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("TS_", "TORCHMAR_", "PYTEST"))}
    env = kept | {
        "HOME": str(root / "home"),
        "TMPDIR": str(root / "tmp"),
        "TORCHMAR_STATE_HOME": str(root / "state"),
        "TORCHMAR_RAY_CACHE": str(root / "ray"),  # not what a test has left: Ray's nodes keep their archives
        "PATH": f"{BIN}:{os.environ['PATH']}",
        # A worker a core: two tests side by side on two cores.
        "OMP_NUM_THREADS": "1",
        "JAVA_TOOL_OPTIONS": java_options,
        "TORCHMAR_FRONTEND": frontend or usual_frontend(),
    }
    box = Sandbox(root, env)
    for name in hidden:
        box.file(f"hidden/{name}.py", f"raise ImportError('{name} is hidden from this test')\n")
        env["PYTHONPATH"] = str(root / "hidden")
    return box


def hidden_from(node: pytest.Item | pytest.Collector) -> set[str]:
    """Return the modules that the marks of a test or of a module hide."""
    return {name for mark in node.iter_markers("hides") for name in mark.args}


# Two seconds of each end of Java's frontend are idle: meanwhile the next test begins.
_closer = ThreadPoolExecutor(2)
_closing: list[Future[None]] = []
_wrong: list[BaseException] = []


def close(sandbox: Sandbox, *, failed: bool) -> None:
    """Stop what runs in a sandbox, look for what it has left, and remove it: beside the next test, if none has failed.

    What is wrong then is an error of a later test's end, which names the sandbox's folder; of its second try, too, for
    that one would show nothing.
    """
    if failed:
        _close(sandbox, failed=True)
    else:
        _closing.append(_closer.submit(_close, sandbox, failed=False))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> Iterator[None]:
    """Tell of sandboxes that were closed; before a test of another folder, which may look at all processes, of all."""
    yield
    last = nextitem is None or Path(__file__).parent not in nextitem.path.parents
    if _wrong:
        raise _wrong.pop()
    for done in [one for one in _closing if last or one.done()]:
        _closing.remove(done)
        if error := done.exception():
            _wrong.append(error)
    if _wrong:
        raise _wrong[-1]


def _close(sandbox: Sandbox, *, failed: bool) -> None:
    if any((sandbox.root / "state").glob("servers/*/server.json")):
        sandbox.torchmar("stop", "--all", "-q")
    left = sandbox.leftovers()
    for process in sandbox.processes():
        process.kill()
    if failed:
        for log in (sandbox.root / "state").rglob("*.log"):
            sys.stderr.write(f"--- {log}\n{log.read_text(errors='replace')[-4000:]}\n")
    shutil.rmtree(sandbox.root, ignore_errors=True)
    assert not left, f"left behind in {sandbox.root}: {left}"


@pytest.fixture(scope="session")
def frontend() -> str:
    """Which frontend the servers of a sandbox have; tests are parametrised with it."""
    return usual_frontend()


@pytest.fixture
def sandbox(request: pytest.FixtureRequest, java_options: str, frontend: str) -> Iterator[Sandbox]:
    box = make_sandbox(java_options, hidden_from(request.node), frontend)
    before = request.session.testsfailed
    yield box
    close(box, failed=request.session.testsfailed > before)


@pytest.fixture(scope="module")
def shared_sandbox(request: pytest.FixtureRequest, java_options: str, frontend: str) -> Iterator[Sandbox]:
    """One sandbox for all tests of a module: for servers that several tests only ask."""
    box = make_sandbox(java_options, hidden_from(request.node), frontend)
    before = request.session.testsfailed
    yield box
    close(box, failed=request.session.testsfailed > before)


@pytest.fixture(scope="session")
def _lights(java_options: str) -> Iterator[Callable[[str], Server]]:
    """Yield what gives the server with a frontend; it is started when it is first wanted."""
    with ExitStack() as boxes:

        @cache
        def light(frontend: str) -> Server:
            box = make_sandbox(java_options, ["torch"], frontend)
            boxes.callback(_close, box, failed=False)  # the end of the run waits for it
            config = box.file("light.properties", "default_response_timeout=77\n")
            return box.start(options=("--ts-config", config, *OPEN))

        yield light


@pytest.fixture
def light_server(_lights: Callable[[str], Server], frontend: str) -> Iterator[Server]:
    """Yield a server for all modules that only register models, which need no torch; after a test it has none."""
    server = _lights(frontend)
    yield server
    with ManagementClient.at(server.management) as client:
        for name in {row.name for row in client.models()}:
            for one in sorted(client.describe(name), key=lambda one: one.default):  # the default version at last
                client.unregister(name, one.version)


ECHO = """
class Echo:
    def initialize(self, context):
        self.version = context.manifest["model"]["modelVersion"]

    def handle(self, data, context):
        return [{"version": self.version, "body": str(row.get("body"))} for row in data]
"""


@pytest.fixture
def echo() -> str:
    """Return the source of a handler that answers with its version and the request's body."""
    return ECHO
