"""A replica with its real worker, asked as Ray Serve asks it; Ray itself is not there."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from serving.frontend.engine import Call, Registration
from serving.frontend.errors import ModelError
from serving.frontend.ray import nodes
from serving.frontend.ray.nodes import Archive
from serving.frontend.ray.registry import ServerInfo
from serving.frontend.ray.replica import AsgiApp, Replica
from serving.frontend.ray.surroundings import error_of
from serving.protocol import Parameter, Request
from tests.serving.worker.frontend import end_prefork

from .conftest import Store

ECHO = """
import os, time

def handle(data, context):
    answers = []
    for row in data or []:
        text = bytes(row["body"]).decode()
        if text.startswith("sleep "):
            time.sleep(float(text.split()[1]))
        print("[METRICS]Lines.Count:1|#Level:Model|#hostname:h,1,2,3")
        print("it says", text)
        answers.append(f"{text} of {os.getpid()}")
    return answers
"""
INFO = ServerInfo(properties={"disable_token_authorization": "true"})


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """Yield a store in a folder whose path is short enough for sockets; workers see no torch."""
    root = Path(tempfile.mkdtemp(prefix="tmtest-", dir="/tmp"))
    monkeypatch.setenv(nodes.VARIABLE, str(root / "cache"))
    monkeypatch.setenv("TORCHMAR_OWNER", "")
    (root / "hidden").mkdir()
    (root / "hidden" / "torch.py").write_text("raise ImportError('torch is hidden from this test')\n")
    monkeypatch.setenv("PYTHONPATH", str(root / "hidden"))
    yield Store(root)
    end_prefork(os.getpid())  # it would end with the replica's process
    shutil.rmtree(root, ignore_errors=True)


def nobody(sha256: str, place: int, most: int) -> bytes:
    raise AssertionError("the archive is here")


def run(archive: Archive, work: Callable[[Replica], Awaitable[None]], info: ServerInfo = INFO) -> None:
    async def main() -> None:
        replica = Replica(archive, Registration(archive.name, "echo"), info, nobody)
        await replica.start()
        try:
            await asyncio.wait_for(work(replica), 120)
        finally:
            await replica.end()

    asyncio.run(main())


async def ask(
    app: Any, path: str, body: bytes = b"hello", **headers: str
) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    sent: list[dict[str, Any]] = []
    requests = [{"type": "http.request", "body": body, "more_body": False}]
    never = asyncio.get_running_loop().create_future()

    async def receive() -> Any:
        return requests.pop() if requests else await never

    async def send(message: Any) -> None:
        sent.append(message)

    given = {"content-length": str(len(body)), "x-request-id": "rays", **headers}
    pairs = [(name.encode(), value.encode()) for name, value in given.items()]
    scope = {
        "type": "http",
        "method": "POST",
        "path": path,
        "query_string": b"",
        "headers": pairs,
        "http_version": "1.1",
    }
    await app(scope, receive, send)
    body = b"".join(message.get("body", b"") for message in sent[1:])
    return sent[0]["status"], sent[0]["headers"], body


def test_it_answers_as_our_own_frontend_does(short: Store, capfd: pytest.CaptureFixture[str]) -> None:
    async def work(replica: Replica) -> None:
        assert replica.healthy
        status, headers, body = await ask(replica.app, "/predictions/echo")
        assert (status, body[:9]) == (200, b"hello of ")
        assert b"x-request-id" not in dict(headers), "Ray writes it"
        assert b"server-timing" in dict(headers)
        assert (await ask(replica.app, "/predictions/echo/1.0/more"))[0] == 200
        for path in ("/predictions/other", "/predictions/echo2", "/predictions/ech", "/models/echo", "/"):
            status, headers, body = await ask(replica.app, path)  # of who had its port before
            assert (status, dict(headers)[b"retry-after"]) == (503, b"1"), path
            assert b"is asked of a replica of echo: the cluster is changing" in body
        status, _, body = await ask(replica.app, "/predictions/echo/2.0")
        assert (status, b"ModelVersionNotFoundException" in body) == (404, True)

    run(nodes.look(short.build(source=ECHO, model_config="minWorkers: 3\nmaxWorkers: 4\n")), work)
    printed = capfd.readouterr().out
    assert "it says hello" in printed
    assert "[METRICS]" not in printed
    assert list(nodes.root().glob("run-*")) == [], "its folder is gone"


def test_it_has_one_worker_whatever_the_archive_says(short: Store) -> None:
    async def work(replica: Replica) -> None:
        answers = await asyncio.gather(*(ask(replica.app, "/predictions/echo", b"sleep 0.2") for _ in range(3)))
        assert len({body.split()[-1] for _, _, body in answers}) == 1

    run(nodes.look(short.build(source=ECHO, model_config="minWorkers: 3\nmaxWorkers: 4\n")), work)


def test_a_key_is_asked_for_where_the_server_has_keys(short: Store) -> None:
    info = ServerInfo(keys={"inference": "k" * 20, "management": "m" * 20})

    async def work(replica: Replica) -> None:
        assert (await ask(replica.app, "/predictions/echo"))[0] == 400
        assert (await ask(replica.app, "/predictions/echo", authorization="Bearer " + "m" * 20))[0] == 400
        assert (await ask(replica.app, "/predictions/echo", authorization="Bearer " + "k" * 20))[0] == 200

    run(nodes.look(short.build(source=ECHO)), work, info)


def test_what_the_front_asks_comes_back_as_values(short: Store) -> None:
    async def work(replica: Replica) -> None:
        request = Request("a", {}, (Parameter("body", bytearray(b"hello")),))
        (item,) = [one async for one in replica.asked(Call("echo", "1.0", request), None)]
        assert item["answer"].body.startswith(b"hello of ")
        assert not item["streams"]
        slow = asyncio.create_task(ask(replica.app, "/predictions/echo", b"sleep 1"))
        await asyncio.sleep(0.3)
        (item,) = [one async for one in replica.asked(Call("echo", None, request), 0.2)]
        assert error_of(item).status == 504
        await slow

    run(nodes.look(short.build(source=ECHO)), work)


def test_what_cannot_be_loaded_says_why_and_leaves_nothing(short: Store) -> None:
    async def main() -> None:
        archive = nodes.look(
            short.build(source="import a_module_that_is_not_there\n\ndef handle(data, context):\n    return data\n")
        )
        replica = Replica(archive, Registration(archive.name, "echo"), INFO, nobody)
        with pytest.raises(ModelError, match="a_module_that_is_not_there"):
            await replica.start()
        assert not replica.healthy

    asyncio.run(main())
    assert list(nodes.root().glob("run-*")) == []


def test_a_worker_ends_when_its_replica_is_killed(short: Store) -> None:
    archive = nodes.look(short.build(source=ECHO))
    code = f"""
import asyncio
from serving.frontend.engine import Registration
from tests.serving.frontend.ray.test_replica import INFO, nobody
from serving.frontend.ray.replica import Replica
from serving.frontend.ray.nodes import Archive
async def main():
    await (replica := Replica({archive!r}, Registration({archive.name!r}, 'echo'), INFO, nobody)).start()
    print("ready", flush=True)
    await asyncio.sleep(600)
asyncio.run(main())
"""
    root = Path(__file__).resolve().parents[4]
    process = subprocess.Popen([sys.executable, "-c", code], cwd=root, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    while "ready" not in (line := process.stdout.readline()):
        assert line, "it ended"
    workers = psutil.Process(process.pid).children(recursive=True)
    assert workers
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    deadline = time.monotonic() + 60
    assert list(nodes.root().glob("run-*"))
    nodes.sweep(time.time() + 1e6)
    assert list(nodes.root().glob("run-*")) == []
    while any(one.is_running() and one.status() != psutil.STATUS_ZOMBIE for one in workers):
        assert time.monotonic() < deadline, workers
        time.sleep(0.05)


def test_the_lifespan_is_answered_and_deadlines_come_a_little_earlier() -> None:
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(dict(scope["headers"])[b"x-request-timeout-seconds"])
        await send({"type": "http.response.start", "status": 200, "headers": [(b"x-request-id", b"1"), (b"a", b"b")]})
        await send({"type": "http.response.body", "body": b""})

    async def main() -> None:
        ours = AsgiApp(app)
        for given in ("2.5", "0.001", "soon"):
            _, headers, _ = await ask(ours, "/x", **{"x-request-timeout-seconds": given})
            assert headers == [(b"a", b"b")]
        assert seen == [b"2.495000", b"0.001", b"soon"]
        told: list[Any] = []
        messages = [{"type": "lifespan.shutdown"}, {"type": "lifespan.startup"}]

        async def receive() -> Any:
            return messages.pop()

        async def send(message: Any) -> None:
            told.append(message["type"])

        await ours({"type": "lifespan"}, receive, send)
        assert told == ["lifespan.startup.complete", "lifespan.shutdown.complete"]

    asyncio.run(main())
