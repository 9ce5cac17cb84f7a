"""The commands of docs/containers.md, in namespaces of Linux: no image is built, for that takes a daemon.

The server is the first process of its pid namespace, and sees a root that is read-only, but for /tmp in memory.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from archive_tool.cli.entry import cli
from serving.control.configuration.ports import choose_free

from .conftest import BIN, ROOT, Sandbox

PAGE = (ROOT / "docs" / "containers.md").read_text(encoding="utf-8")
ENTER = """
set -e
mount --make-rprivate /
mount --bind / {root}
mount -o remount,bind,ro {root}
mount --rbind /dev {root}/dev
mount -t proc proc {root}/proc
cp -r {srv} {kept}
mount -t tmpfs tmpfs {root}/tmp
mkdir {root}/tmp/srv
cp -r {kept}/. {root}/tmp/srv
exec chroot {root} /bin/sh -c {command}
"""


def words(instruction: str) -> list[str]:
    (found,) = re.findall(rf"^{instruction} \[(.*)\]$", PAGE, re.MULTILINE)
    return [word.strip(' "') for word in found.split(",")]


def test_the_commands_of_the_dockerfile_are_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(click.Path, "convert", lambda _, value, *__: Path(value))
    for _, name, *arguments in re.findall(r'CMD \["(torchmar)", "([a-z-]+)"(?:, (.*))?\]', PAGE):
        command = cli.get_command(click.Context(cli), name)
        assert command is not None
        command.make_context(name, [word.strip(' "') for word in arguments[0].split(",") if word])


class Container:
    """A server in namespaces of its own."""

    def __init__(self, process: subprocess.Popen[str], log: Path) -> None:
        self._process = process
        self._log = log

    def run(self, command: str) -> subprocess.CompletedProcess[str]:
        """Run a shell line beside the server, as `docker exec` does."""
        enter = ["nsenter", "-t", str(self.first), "-m", "-p", "-r"]
        return subprocess.run(
            [*enter, "sh", "-c", f"cd /tmp/srv; {ENVIRONMENT} {command}"],
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )

    @property
    def first(self) -> int:
        """Return the first process, by its number outside."""
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        return int(children[0])

    def wait_until_ready(self) -> None:
        deadline = time.monotonic() + 150
        while "try: " not in (said := self._log.read_text()):
            assert self._process.poll() is None, said
            assert time.monotonic() < deadline, said
            time.sleep(0.1)

    def end(self) -> int:
        """Send SIGTERM, as `docker stop` does; return the exit code."""
        os.kill(self.first, signal.SIGTERM)
        return self._process.wait(60)


ENVIRONMENT = f"PATH={BIN}:$PATH TORCHMAR_STATE_HOME=/tmp/torchmar TMPDIR=/tmp"


@pytest.fixture
def container(sandbox: Sandbox, echo: str) -> Iterator[tuple[Container, list[int]]]:
    if os.geteuid() != 0 or shutil.which("nsenter") is None:
        pytest.skip("namespaces and mounts need root")
    sandbox.build("echo", echo)
    ports = choose_free("127.0.0.1", 5)
    (listening,) = re.findall(r"^```properties\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    rest = (
        f"management_address=http://127.0.0.1:8081\ngrpc_inference_port={ports[3]}\ngrpc_management_port={ports[4]}\n"
    )
    for usual, free in zip(("8080", "8081", "8082"), ports, strict=False):
        listening, rest = listening.replace(usual, str(free)), rest.replace(usual, str(free))
    srv = sandbox.root / "srv"
    shutil.copytree(sandbox.store, srv / "model_store")
    (srv / "config.properties").write_text(listening + rest)
    (sandbox.root / "root").mkdir()
    command = f"cd /tmp/srv && {ENVIRONMENT} exec {shlex.join(words('CMD'))}"
    script = ENTER.format(root=sandbox.root / "root", srv=srv, kept=sandbox.root / "kept", command=shlex.quote(command))
    log = sandbox.root / "container.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            ["unshare", "-m", "-p", "-f", "--kill-child", "sh", "-c", script],
            env=sandbox.env,
            stdout=output,
            stderr=output,
            text=True,
        )
    yield Container(process, log), ports
    process.kill()
    process.wait()


@pytest.mark.slow  # a server more
@pytest.mark.hides("torch")
def test_a_container(container: tuple[Container, list[int]], sandbox: Sandbox) -> None:
    box, ports = container
    box.wait_until_ready()

    def status(port: int, path: str, *options: str) -> str:
        asked = ("curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", *options, f"http://127.0.0.1:{port}{path}")
        return sandbox.run(*asked).ok().out

    # Probes, with and without a key.
    probe = shlex.join([*words("CMD")[:1], "status"])
    assert box.run(probe).returncode == 0, box.run(probe).stderr
    assert status(ports[2], "/metrics") == "200"
    assert status(ports[0], "/ping") == "400"
    key = box.run("torchmar keys --inference").stdout.strip()
    header = ("-H", f"Authorization: Bearer {key}")
    assert status(ports[0], "/ping", *header) == "200"
    assert status(ports[0], "/predictions/echo", "-d", "hello") == "400"
    assert status(ports[0], "/predictions/echo", *header, "-d", "hello") == "200"
    # Only /tmp can be written to.
    assert "Read-only file system" in box.run("touch /var/x").stderr
    assert box.end() == 143
