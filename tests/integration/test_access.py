"""What others on the machine, and web pages, can make a server do: nothing that runs code, adds a model or removes one.

The requests are sent as the user nobody where the tests may do so (as root), each as a page in a browser can send it,
too: as a simple request of another origin, and under another name of the host (DNS rebinding).
"""

from __future__ import annotations

import json
import os
import re
import shutil
import struct
import subprocess
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

import archive_tool

from .conftest import ECHO, JAVA_FIRST, Sandbox, Server, close, hidden_from, make_sandbox
from .support import ask, grpc_field, wait_until

# Importing torch takes seconds, and no handler here needs it.
pytestmark = [pytest.mark.hides("torch"), pytest.mark.parametrize("frontend", JAVA_FIRST, scope="module")]

NOBODY = 65534
AS_ROOT = os.geteuid() == 0
PAGE = {"Origin": "http://evil.example", "Host": "evil.example:8081", "Content-Type": "text/plain"}
REGISTERED = (200, 202)
# What the model API is that is off, and workflows; the Python frontend turns foreign pages away before.
OFF = {"java": {405}, "python": {403, 405}}
NO_WORKFLOWS = {"java": {400, 404}, "python": {403, 501}}


def stranger(*command: str, data: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """Run a command as the user nobody."""
    rights = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if AS_ROOT else {}
    env = {"PATH": os.environ["PATH"]}
    return subprocess.run(command, input=data, capture_output=True, cwd="/", env=env, check=False, **rights)


def send(address: str, method: str, path: str, headers: dict[str, str] | None = None, body: bytes = b"") -> int:
    """Return the status of a stranger's request."""
    given = [part for name, value in (headers or {}).items() for part in ("-H", f"{name}: {value}")]
    command = ["curl", "-sS", "-m", "60", "-X", method, "-o", "/dev/null", "-w", "%{http_code}", *given]
    done = stranger(*command, "--data-binary", "@-", f"{address}{path}", data=body)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def call(server: Server, method: str, request: bytes) -> set[int]:
    """Return the status of a stranger's call to the management API over gRPC; none where a server has no gRPC."""
    if not server.record["grpc_management"]:
        return set()
    url = f"http://{server.record['grpc_management']}/org.pytorch.serve.grpc.management.ManagementAPIsService/{method}"
    command = ["curl", "-sS", "-m", "60", "--http2-prior-knowledge", "-D", "-", "-o", "/dev/null"]
    command += ["-H", "te: trailers", "-H", "content-type: application/grpc", "--data-binary", "@-", url]
    done = stranger(*command, data=b"\0" + struct.pack("!I", len(request)) + request)
    status = re.search(rb"^grpc-status: *(\d+)", done.stdout, re.MULTILINE)
    assert status, (done.stdout, done.stderr)
    return {int(status[1])}


class Attacker:
    """An attacker with code on the machine who wants a server to run it.

    Attributes:
        folder: of a model whose handler leaves a file when it is imported.
        ran: that file.
        war: a workflow whose function does the same.
    """

    def __init__(self, root: Path) -> None:
        self.ran = root / "ran"
        self.folder = root / "evil"
        source = (
            f"open({str(self.ran)!r}, 'w').close()\ndef handle(data, context):\n    return ['x'] * len(data or [])\n"
        )
        (root / "handler.py").write_text(source)
        built = archive_tool.build(model_name="evil", handler=root / "handler.py", export_path=root)
        with archive_tool.open_archive(built.path) as opened:
            opened.extract(self.folder)
        self.archive = built.path
        self.war = root / "evil.war"
        workflow = {"workflowName": "evil", "specFile": "flow.json", "handler": "handler.py"}
        files = {
            "flow.json": json.dumps({"models": {"min-workers": 1}, "dag": {"handle": []}}),
            "handler.py": source,
            "WAR-INF/MANIFEST.json": json.dumps({"createdOn": "x", "workflow": workflow, "archiverVersion": "0.2.15"}),
        }
        with zipfile.ZipFile(self.war, "w") as war:
            for name, text in files.items():
                war.writestr(name, text)
        for path in (root, *root.rglob("*")):
            path.chmod(0o777 if path.is_dir() else 0o666)

    def places(self, path: Path) -> list[str]:
        """Return the ways to name a file or folder to the frontend."""
        return [str(path), path.name, f"file://{path}", f"http://127.0.0.1:9/{path.name}"]

    def register(self, server: Server, path: Path) -> set[int]:
        """Return the statuses of all ways to register a model over REST."""
        found = set()
        for url in self.places(path):
            target = f"/models?url={quote(url)}&initial_workers=1&synchronous=true&model_name=evil"
            found |= {send(server.management, "POST", target, headers) for headers in ({}, PAGE)}
        body = json.dumps({"url": str(path), "model_name": "evil", "initial_workers": 1, "synchronous": True}).encode()
        for headers in (PAGE, {"Content-Type": "application/json"}):
            found.add(send(server.management, "POST", "/models", headers, body))
        return found

    def register_workflow(self, server: Server) -> set[int]:
        """Return the statuses of all ways to register a workflow."""
        targets = [f"/workflows?url={quote(url)}&workflow_name=evil" for url in self.places(self.war)]
        found = {send(server.management, "POST", target, headers) for target in targets for headers in ({}, PAGE)}
        body = json.dumps({"url": str(self.war)}).encode()
        return found | {send(server.management, "POST", "/workflows", {"Content-Type": "application/json"}, body)}

    def call_register(self, server: Server) -> set[int]:
        """Return the status of a registration over gRPC: initial_workers, model_name, synchronous, url."""
        return call(
            server,
            "RegisterModel",
            b"\x18\x01" + grpc_field(5, b"evil") + b"\x40\x01" + grpc_field(9, str(self.folder).encode()),
        )


@pytest.fixture(scope="module")
def attacker() -> Iterator[Attacker]:
    # Not pytest's folder, into which no other user can look.
    root = Path(tempfile.mkdtemp(prefix="tmevil-", dir="/tmp"))
    yield Attacker(root)
    shutil.rmtree(root)


@pytest.fixture(autouse=True)
def nothing_ran(attacker: Attacker) -> None:
    attacker.ran.unlink(missing_ok=True)


@pytest.fixture(scope="module")
def usual(request: pytest.FixtureRequest, java_options: str, frontend: str, attacker: Attacker) -> Iterator[Server]:
    """Yield a server as `torchmar start` starts it; its store also has the attacker's workflow and archive."""
    box = make_sandbox(java_options, hidden_from(request.node), frontend)
    before = request.session.testsfailed
    box.build("echo", ECHO)
    shutil.copy(attacker.war, box.store)
    shutil.copy(attacker.archive, box.store)
    # Even where the owner lets the server fetch files.
    config = box.file("mine.properties", f"allowed_urls=file://{attacker.war.parent}/.*\n")
    try:
        yield box.start("echo.mar", options=("--ts-config", config))
    finally:
        close(box, failed=request.session.testsfailed > before)


def assert_unchanged(server: Server, attacker: Attacker) -> None:
    assert not attacker.ran.exists()
    assert [row["modelName"] for row in ask(server.management, "/models").json()["models"]] == ["echo"]
    assert ask(server.management, "/workflows").json().get("workflows", []) == []
    assert server.curl("/predictions/echo", "-d", "hello")[0] == 200


def test_nobody_can_register_a_model(usual: Server, frontend: str, attacker: Attacker) -> None:
    for path in (attacker.folder, attacker.archive):
        assert attacker.register(usual, path) == OFF[frontend]
    assert attacker.call_register(usual) <= {7}  # PERMISSION_DENIED
    # Nor through the other port, or under another name of a path.
    assert send(usual.inference, "POST", f"/models?url={attacker.folder}&initial_workers=1", PAGE) >= 400
    assert send(usual.management, "POST", f"//models/?url={attacker.folder}&initial_workers=1", PAGE) >= 400
    assert_unchanged(usual, attacker)


def test_nobody_can_remove_a_model(usual: Server, frontend: str, attacker: Attacker) -> None:
    for path in ("/models/echo", "/models/echo/1.0"):
        assert {send(usual.management, "DELETE", path, headers) for headers in ({}, PAGE)} == OFF[frontend]
    assert call(usual, "UnregisterModel", grpc_field(1, b"echo")) <= {7}
    assert_unchanged(usual, attacker)


def test_nobody_can_register_a_workflow(usual: Server, frontend: str, attacker: Attacker) -> None:
    """TorchServe takes them with the model API off: their store holds nothing, and nothing can be written to it."""
    assert attacker.register_workflow(usual) <= NO_WORKFLOWS[frontend]
    assert send(usual.management, "DELETE", "/workflows/evil", PAGE) in NO_WORKFLOWS[frontend]
    assert_unchanged(usual, attacker)
    assert (usual.sandbox.store / attacker.war.name).exists()


def test_anybody_can_scale_and_choose_the_default_version(usual: Server, attacker: Attacker) -> None:
    """As with TorchServe, on loopback; docs/security.md says so."""
    assert send(usual.management, "PUT", "/models/echo?min_worker=1&max_worker=1&synchronous=true") == 200
    assert send(usual.management, "PUT", "/models/echo/1.0/set-default") == 200
    assert_unchanged(usual, attacker)


def test_with_the_model_api_open_all_of_this_works(light_server: Server, frontend: str, attacker: Attacker) -> None:
    """So these are attacks: a server that was made open runs the attacker's code; for pages only Java's does."""
    box = light_server.sandbox
    shutil.copy(attacker.war, box.store)
    try:
        assert attacker.register(light_server, attacker.folder) & set(REGISTERED)
        wait_until(attacker.ran.exists, "the attacker's code")
        if frontend == "python":
            assert send(light_server.management, "DELETE", "/models/evil", PAGE) == 403
            assert send(light_server.management, "DELETE", "/models/evil") == 200
            return
        assert send(light_server.management, "DELETE", "/models/evil", PAGE) == 200
        attacker.ran.unlink()
        assert attacker.call_register(light_server) == {0}
        wait_until(attacker.ran.exists, "the attacker's code")
        assert call(light_server, "UnregisterModel", grpc_field(1, b"evil")) == {0}
        attacker.ran.unlink()
        assert 200 in attacker.register_workflow(light_server)
        wait_until(attacker.ran.exists, "the attacker's code")
        assert send(light_server.management, "DELETE", "/workflows/evil") == 200
    finally:
        (box.store / attacker.war.name).unlink()


@pytest.fixture(scope="module")
def keyed(request: pytest.FixtureRequest, java_options: str, frontend: str) -> Iterator[tuple[Server, str]]:
    """Yield a server with the model API, and so with keys, started with a lax umask; and the output of start."""
    box = make_sandbox(java_options, hidden_from(request.node), frontend)
    before = request.session.testsfailed
    box.root.chmod(0o755)
    box.build("echo", ECHO)
    box.build("more", ECHO)
    # The repository's configuration has no keys; the flag turns them on.
    config = box.file("mine.properties", "disable_token_authorization=true\n")
    start = ["torchmar", "start", "echo.mar", "--model-store", box.store, "--port", "auto", "--ts-config", config]
    command = " ".join(map(str, [*start, "--enable-model-api"]))
    try:
        said = box.run("bash", "-c", f"umask 0; exec {command}").ok()
        yield box.server(), said.out
    finally:
        close(box, failed=request.session.testsfailed > before)


def keys_of(box: Sandbox) -> dict[str, str]:
    found = box.torchmar("keys", "--json").json()
    return {kind: found[kind]["key"] for kind in ("inference", "management", "API")}


def test_without_a_key_nothing_is_answered(keyed: tuple[Server, str], frontend: str, attacker: Attacker) -> None:
    server, _ = keyed
    refused = {400} if frontend == "java" else {400, 403}  # as a page, whatever its key
    for headers in ({}, PAGE, {"Authorization": "Bearer x"}, PAGE | {"Authorization": "Bearer "}):
        assert send(server.management, "POST", f"/models?url={attacker.folder}&initial_workers=1", headers) in refused
        assert send(server.management, "DELETE", "/models/echo", headers) in refused
        assert send(server.management, "POST", "/workflows?url=evil.war", headers) in refused
        assert send(server.inference, "POST", "/predictions/echo", headers) == 400
    assert attacker.call_register(server) <= {7}
    assert call(server, "UnregisterModel", grpc_field(1, b"echo")) <= {7}
    # The inference key is not a key of the management API.
    key = {"Authorization": f"Bearer {keys_of(server.sandbox)['inference']}"}
    assert send(server.management, "DELETE", "/models/echo", key) == 400
    assert send(server.inference, "POST", "/predictions/echo", key) == 200
    assert not attacker.ran.exists()


def test_the_keys_are_the_owners_alone(keyed: tuple[Server, str]) -> None:
    server, said = keyed
    box = server.sandbox
    keys = next((box.root / "state").rglob("key_file.json"))
    assert keys.stat().st_mode & 0o777 == 0o600
    folders = [folder for folder in keys.parents if box.root in folder.parents]
    assert {folder.stat().st_mode & 0o777 for folder in folders} == {0o700}
    if AS_ROOT:
        assert (
            stranger("cat", str(box.root / "mine.properties")).returncode == 0
        )  # it is no other folder that hides them
        for command in (("cat", str(keys)), ("ls", str(keys.parent)), ("touch", str(keys.parent / "x"))):
            assert b"Permission denied" in stranger(*command).stderr
    told = said + "".join(log.read_text(errors="replace") for log in (box.root / "state").rglob("*.log"))
    assert not [kind for kind, key in keys_of(box).items() if key in told]


def test_the_owner_finds_the_keys(keyed: tuple[Server, str]) -> None:
    server, said = keyed
    box = server.sandbox
    box.torchmar("register", "more.mar").ok()
    box.torchmar("unregister", "more").ok()
    file = box.file("hello.txt", "hello")
    box.torchmar("predict", "echo", file).ok()
    # The line that start shows, as it is.
    (line,) = re.findall(r"^try: (curl .*)$", said, re.MULTILINE)
    assert "Authorization: Bearer $(torchmar keys --inference)" in line
    assert "hello" in box.run("bash", "-c", line.replace("-T FILE", f"-sS --fail -T {file}")).ok().out


def test_a_key_can_be_named(keyed: tuple[Server, str]) -> None:
    """For a server that another user, or another program, has started."""
    server, _ = keyed
    box = server.sandbox
    ask_it = ("models", "--management", server.management)
    stranger_here = {"TORCHMAR_STATE_HOME": str(box.root / "another")}
    refused = box.torchmar(*ask_it, env=stranger_here)
    assert refused.code == 9
    assert "Token Authorization failed" in refused.err
    assert "TORCHMAR_TOKEN" in refused.err
    key = keys_of(box)["management"]
    assert "echo" in box.torchmar(*ask_it, env=stranger_here | {"TORCHMAR_TOKEN": key}).ok().out
    for content in (key, next((box.root / "state").rglob("key_file.json")).read_text()):
        file = box.file("key", content)
        assert "echo" in box.torchmar(*ask_it, "--token-file", file, env=stranger_here).ok().out
    # Here it is known, by its address.
    assert "echo" in box.torchmar(*ask_it).ok().out
