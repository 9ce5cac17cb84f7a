"""Archives on Ray Serve: real replicas on two nodes of one machine, a real HAProxy, real clients.

`make test-ray` runs it, in an environment with Ray. The models need no torch; `make demo-ray` is the same with models
that do.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

import archive_tool
from examples.ray_serve import proof
from examples.ray_serve.load import Question
from serving.control.configuration.ports import choose_free
from serving.frontend.ray import nodes as cache

pytest.importorskip("ray")

# Ray warns of itself where it is imported.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(3000), pytest.mark.filterwarnings("ignore")]

BIN = Path(sys.executable).parent
HANDLER = """
import os, time

def handle(data, context):
    answers = []
    for row in data or []:
        text = bytes(row.get("body") or row.get("data") or b"").decode()
        if text == "die" and context.attempt == 1:
            os.kill(os.getpid(), 9)
        if text.startswith("sleep "):
            time.sleep(float(text.split()[1]))
        answers.append(f"{context.manifest['model']['modelVersion']} {text} {os.getpid()}")
    return answers
"""
STREAM = """
import sys
sys.path = [folder for folder in sys.path if not folder.endswith("hidden")]  # TorchServe's functions import torch
from ts.handler_utils.utils import send_intermediate_predict_response

def handle(data, context):
    if data:
        for number in range(3):
            send_intermediate_predict_response([f"{number} "] * len(data), context.request_ids, "ok", 200, context)
        return ["end"] * len(data)
"""
PLAIN = """
def handle(data, context):
    answers = []
    for index, row in enumerate(data or []):
        if row.get("body") == b"bad":
            raise ValueError("bad")
        if row.get("body") == b"teapot":
            context.set_response_status(418, "a teapot", idx=index)
        context.set_response_header(index, "x-mine", "yes")
        answers.append({name: repr(value) for name, value in sorted(row.items())})
    return answers
"""
RETRY = "backend:\n  retry: true\n"


def build(folder: Path, name: str, source: str = HANDLER, version: str = "1.0", config: str = RETRY) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "h.py").write_text(source)
    (folder / "c.yaml").write_text(config)
    archive_tool.build(
        model_name=name,
        version=version,
        handler=str(folder / "h.py"),
        config_file=str(folder / "c.yaml"),
        export_path=folder,
        force=True,
    )
    return folder / f"{name}.mar"


@dataclass
class Place:
    """A folder of its own, and commands that work in it."""

    root: Path

    def torchmar(self, *arguments: str) -> str:
        done = subprocess.run(
            [BIN / "torchmar", *arguments], capture_output=True, text=True, cwd=self.root, check=False
        )
        assert done.returncode == 0, f"torchmar {arguments}: {done.stdout}{done.stderr}{self.logs()}"
        return done.stdout

    def fails(self, *arguments: str) -> str:
        """Run a command that fails; return what it says."""
        done = subprocess.run(
            [BIN / "torchmar", *arguments], capture_output=True, text=True, cwd=self.root, check=False
        )
        assert done.returncode, f"torchmar {arguments}: {done.stdout}"
        return done.stderr

    def logs(self) -> str:
        found = [*self.root.glob("state/servers/*/logs/*.log")]
        return "".join(f"\n== {path}\n{path.read_text(errors='replace')[-3000:]}" for path in found)


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    import shutil
    import tempfile

    root = Path(tempfile.mkdtemp(prefix="tmr-", dir="/tmp"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCHMAR_STATE_HOME", str(root / "state"))
        patch.setenv(cache.VARIABLE, str(root / "cache"))
        patch.setenv("TMPDIR", str(root))
        (root / "hidden").mkdir()
        (root / "hidden" / "torch.py").write_text("raise ImportError('torch is hidden from this test')\n")
        patch.setenv("PYTHONPATH", str(root / "hidden"))
        yield Place(root)
    left = [one for one in psutil.process_iter(["cmdline"]) if str(root) in " ".join(one.info["cmdline"] or ())]
    shutil.rmtree(root, ignore_errors=True)
    assert not left, f"{left} are left running"


# ---- one machine, no cluster of its own -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def alone(place: Place) -> Iterator[httpx.Client]:
    """Yield a client of what was deployed without a cluster: a model of two versions and one that streams."""
    first, second = build(place.root / "a", "echo"), build(place.root / "b", "echo", version="2.0")
    second.rename(first.with_name("echo_v2.mar"))
    build(place.root / "a", "stream", STREAM)
    build(place.root / "a", "plain", PLAIN)
    (port,) = choose_free("127.0.0.1", 1)
    archives = [str(first), str(first.with_name("stream.mar")), str(first.with_name("plain.mar"))]
    try:
        place.torchmar(
            *("deploy", "ray", *archives, "--port", str(port), "--cpus", "0.1", "--enable-model-api"),
            *("--name", "alone", "--timeout", "1200"),
        )
        key = place.torchmar("keys", "--inference", "--name", "alone").strip()
        headers = {"Authorization": f"Bearer {key}"}
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=120) as client:
            yield client
    finally:
        subprocess.run([BIN / "torchmar", "stop", "-q", "--name", "alone", "--timeout", "120"], check=False)


def ask(client: httpx.Client, path: str, body: str = "x", **headers: str) -> httpx.Response:
    return client.post(path, content=body.encode(), headers=headers)


def test_a_prediction_is_answered_as_by_any_server(alone: httpx.Client) -> None:
    answer = ask(alone, "/predictions/echo", "hello", **{"x-request-id": "mine"})
    assert answer.status_code == 200
    assert answer.text.startswith("1.0 hello ")
    assert answer.headers.get_list("x-request-id") == ["mine"]
    assert answer.headers["cache-control"] == "no-cache; no-store, must-revalidate, private"
    for path in ("/predictions/echo/1.0", "/predictions/echo/1.0/some/path", "/v1/models/echo:predict"):
        assert ask(alone, path).status_code == 200, path
    missing = ask(alone, "/predictions/echo/9.9")
    assert (missing.status_code, missing.json()["type"]) == (404, "ModelVersionNotFoundException")
    assert ask(alone, "/predictions/none").json()["type"] == "ModelNotFoundException"
    assert alone.get("/ping").json() == {"status": "Healthy"}
    assert alone.get("/readyz").status_code == 200


#: Method, path, headers, body: what both are asked.
ASKED: list[tuple[str, str, dict[str, str], bytes]] = [
    ("POST", "/predictions/plain", {}, b"hello"),
    ("PUT", "/predictions/plain/1.0", {"content-type": "text/plain"}, b"hello"),
    ("GET", "/predictions/plain?a=1&b=2", {}, b""),
    ("POST", "/predictions/plain", {"content-type": "application/json"}, b'{"a": [1, 2]}'),
    ("POST", "/predictions/plain", {"content-type": "application/x-www-form-urlencoded"}, b"a=1&b=2"),
    ("POST", "/predictions/plain", {"content-type": "multipart/form-data; boundary=x"}, b"--x\r\nno form"),
    ("POST", "/predictions/plain", {"x-request-timeout-seconds": "soon"}, b"hello"),
    ("POST", "/predictions/plain", {"x-request-priority": "first"}, b"hello"),
    ("POST", "/predictions/plain", {}, b"bad"),
    ("POST", "/predictions/plain", {}, b"teapot"),
    ("POST", "/predictions/plain", {}, b"x" * 7_000_000),
    ("POST", "/predictions/plain/2.0", {}, b"hello"),
    ("POST", "/predictions/nothing", {}, b"hello"),
    ("POST", "/predictions", {}, b"hello"),
    ("OPTIONS", "/predictions/plain", {}, b""),
    ("POST", "/explanations/plain", {}, b"hello"),
    ("POST", "/v1/models/plain:predict", {}, b"hello"),
    ("POST", "/v2/models/plain/infer", {}, b"hello"),
    ("POST", "/models/plain/invoke", {}, b"hello"),
    ("POST", "/invocations?model_name=plain", {}, b"hello"),
    ("POST", "/plain/predict?c=3", {}, b"hello"),
    ("POST", "/plain/1.0/predict", {}, b"teapot"),
    ("GET", "/nothing", {}, b""),
    ("GET", "/ping", {}, b""),
    ("GET", "/livez", {}, b""),
    ("GET", "/api-description", {}, b""),
    ("GET", "/models", {}, b""),
]


def test_the_same_archives_answer_the_same_as_on_our_own_frontend(alone: httpx.Client, place: Place) -> None:
    (port,) = choose_free("127.0.0.1", 1)
    key = alone.headers["authorization"].split()[1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCHMAR_INFERENCE_KEY", key)
        place.torchmar(
            *(
                "start",
                "plain.mar",
                "--model-store",
                str(place.root / "a"),
                "--port",
                str(port),
                "--frontend",
                "python",
            ),
            *("--single-port", "--enable-model-api", "--name", "own"),
        )
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=alone.headers, timeout=120) as own:
            for method, path, headers, body in ASKED:
                named = {**headers, "x-request-id": "the same"}
                ours, rays = (
                    as_compared(one.request(method, path, content=body, headers=named)) for one in (own, alone)
                )
                assert rays == ours, (method, path)
    finally:
        place.torchmar("stop", "--name", "own")


def as_compared(answer: httpx.Response) -> tuple[int, dict[str, str], str]:
    """Return status, headers and body of an answer, without what is another at each request."""
    own = {"date", "server", "server-timing", "connection", "content-length"}
    headers = {name: value for name, value in answer.headers.items() if name not in own}
    return answer.status_code, headers, re.sub(r"under the id [0-9a-f]{8}", "", answer.text)


def test_a_stream_arrives_in_parts_by_one_hop_and_by_two(alone: httpx.Client) -> None:
    assert ask(alone, "/predictions/stream").text == "0 1 2 end"
    with alone.stream("POST", "/models/stream/invoke", content=b"x") as answer:
        assert "".join(answer.iter_text()) == "0 1 2 end"


def test_requests_need_the_key_everywhere(alone: httpx.Client) -> None:
    for path in ("/predictions/echo", "/v1/models/echo:predict"):
        answer = alone.post(path, content=b"x", headers={"Authorization": "Bearer no"})
        assert (answer.status_code, answer.json()["type"]) == (400, "InvalidKeyException"), path
    assert alone.get("/models").status_code == 400, "the inference key is not the management key"


def test_a_worker_that_dies_costs_no_request(alone: httpx.Client) -> None:
    before = ask(alone, "/predictions/echo").text.split()[-1]
    answer = ask(alone, "/predictions/echo", "die")
    assert answer.status_code == 200, answer.text
    assert answer.text.split()[-1] != before


def test_deadlines(alone: httpx.Client) -> None:
    slow = threading.Thread(target=ask, args=(alone, "/predictions/echo", "sleep 3"))
    slow.start()
    time.sleep(1)
    answer = ask(alone, "/predictions/echo", **{"x-request-timeout-seconds": "0.5"})
    slow.join()
    assert (answer.status_code, answer.json()["type"]) == (504, "DeadlineExceededException")
    for body, seconds in (("sleep 1", "0.3"), ("x", "0.001")):  # the second one may have begun in time, or not
        answer = ask(alone, "/predictions/echo", body, **{"x-request-timeout-seconds": seconds})
        assert answer.status_code in (200, 504), answer.text
        assert answer.status_code == 504 or body in answer.text


@pytest.mark.parametrize("key", ["right", "wrong"])
def test_clients_whose_bodies_do_not_come_hold_up_nobody(alone: httpx.Client, key: str) -> None:
    authorization = alone.headers["authorization"] if key == "right" else "Bearer no"
    lines = (
        "POST /predictions/plain HTTP/1.1",
        "Host: x",
        f"Authorization: {authorization}",
        "Content-Length: 99",
        "",
        "x",
    )
    with contextlib.ExitStack() as stack:
        for _ in range(150):  # more than may wait for a model
            slow = stack.enter_context(socket.create_connection((alone.base_url.host, alone.base_url.port)))
            slow.sendall("\r\n".join(lines).encode())
        # HAProxy ends them after 75 s.
        assert alone.post("/predictions/plain", content=b"x", timeout=30).status_code == 200


def test_the_log_has_the_reason_of_a_failure(alone: httpx.Client, place: Place) -> None:
    answer = ask(alone, "/predictions/plain", "bad")
    found = re.search(r"under the id (\w+)", answer.text)
    assert found is not None, answer.text
    told = place.torchmar("logs", "--id", found[1], "--name", "alone")
    assert "-plain_1.0-stdout MODEL_LOG - Traceback" in told
    assert told.endswith("ValueError: bad\n")


def test_commands_and_versions(alone: httpx.Client, place: Place) -> None:
    named = ("--name", "alone")
    assert "healthy" in place.torchmar("status", *named)
    place.torchmar("register", "echo_v2.mar", *named)
    versions = json.loads(place.torchmar("models", "echo", "--json", *named))
    assert {one["version"] for one in versions} == {"1.0", "2.0"}
    # A connection that is kept has the routes of before for one request more.
    first, second = (ask(alone, "/predictions/echo/2.0") for _ in range(2))
    assert first.status_code in (200, 404)
    assert second.text.startswith("2.0 ")
    assert ask(alone, "/predictions/echo").text.startswith("1.0 ")
    place.torchmar("traffic", "echo", "2.0", "--percent", "50", *named)
    assert {ask(alone, "/predictions/echo").text[:3] for _ in range(40)} == {"1.0", "2.0"}
    place.torchmar("traffic", "echo", "2.0", "--percent", "0", *named)
    place.torchmar("set-default", "echo", "2.0", *named)
    assert ask(alone, "/predictions/echo").text.startswith("2.0 ")
    assert ask(alone, "/predictions/echo/1.0").text.startswith("1.0 ")
    place.torchmar("unregister", "echo", "--version", "1.0", *named)
    assert ask(alone, "/predictions/echo/1.0").status_code == 404


# ---- two nodes ------------------------------------------------------------------------------------------------------


@pytest.mark.timeout(3600)
def test_only_what_runs_where_something_dies_is_lost(place: Place) -> None:
    first = build(place.root / "n1", "mnist")
    build(place.root / "n2", "mnist", version="2.0").rename(first.with_name("mnist_v2.mar"))
    other = build(place.root / "n1", "embedder")
    bad = str(build(place.root / "n1", "bad", "raise RuntimeError('no weights')\n" + HANDLER))

    def questions(key: str) -> Sequence[Question]:
        headers = {"Authorization": f"Bearer {key}"}
        return [
            Question(f"/predictions/{name}", b"x", headers, lambda body: b" x " in body)
            for name in ("mnist", "mnist", "embedder")
        ]

    shown: list[str] = []
    with proof.two_nodes(place.torchmar, "nodes", place.root / "h") as nodes:
        try:
            proof.prove(nodes, [str(first), str(other)], "mnist_v2.mar", questions, shown.append)
            assert_a_deployment_that_fails_changes_nothing(nodes, place, bad)
            assert_one_hop(nodes, place, questions)
        finally:
            place.torchmar("stop", "--name", "nodes", "--timeout", "120")
        assert_a_first_deployment_that_fails_leaves_nothing(nodes, place, bad)
    assert len(shown) == 7, shown


def assert_a_first_deployment_that_fails_leaves_nothing(nodes: proof.Nodes, place: Place, bad: str) -> None:
    (port,) = choose_free("127.0.0.1", 1)
    before = set(place.root.glob("torchmar-*"))  # of the server of the other tests
    at = ("--address", nodes.cluster.address, "--host", "127.0.0.1", "--port", str(port), "--cpus", "0.1")
    assert "no weights" in place.fails("deploy", "ray", bad, *at, "--name", "nodes")
    assert "no server 'nodes' is running" in place.fails("status", "--name", "nodes")
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://127.0.0.1:{port}/ping")
    assert set(place.root.glob("torchmar-*")) == before


def assert_a_deployment_that_fails_changes_nothing(nodes: proof.Nodes, place: Place, bad: str) -> None:
    def shown() -> tuple[str, dict[str, Any]]:
        named = ("--name", "nodes")
        return place.torchmar("keys", "--inference", *named), json.loads(place.torchmar("status", "--json", *named))

    before = shown()
    port = before[1]["inference"].rpartition(":")[2]
    at = ("--address", nodes.cluster.address, "--host", "127.0.0.1", "--port", port, "--proxies", "head")
    assert "no weights" in place.fails("deploy", "ray", bad, *at, "--cpus", proof.CPUS, "--name", "nodes")
    assert shown() == before
    assert "has the server 'nodes', and a cluster has one" in place.fails("deploy", "ray", bad, *at, "--name", "two")


def assert_one_hop(nodes: proof.Nodes, place: Place, questions: Callable[[str], Sequence[Question]]) -> None:
    """Without the front, and without every node's Ray proxy, predictions go on: HAProxy asks the replica itself."""
    import ray
    from ray import serve

    sockets = Path(os.environ["RAY_SERVE_HAPROXY_SOCKET_PATH"]).parent
    folders = [sockets / node["NodeID"] for node in ray.nodes()]
    assert {folder.stat().st_mode & 0o777 for folder in folders if folder.exists()} == {0o700}, "others would have keys"
    status: dict[str, Any] = json.loads(place.torchmar("status", "--json", "--name", "nodes"))
    key = place.torchmar("keys", "--inference", "--name", "nodes").strip()
    serve.delete("front")
    (question, *_) = questions(key)
    answer = httpx.post(f"{status['inference']}{question.path}", content=question.body, headers=dict(question.headers))
    assert (answer.status_code, question.right(answer.content)) == (200, True)
    assert httpx.get(f"{status['inference']}/ping").status_code == 404
