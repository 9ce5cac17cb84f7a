"""The applications of HTTP in front of a model that is being written: a real worker, and real clients."""

from __future__ import annotations

import asyncio
import errno
import gzip
import http.client
import json
import signal
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from serving.errors import PortInUseError, StartError
from serving.frontend import listening
from serving.frontend.settings import MAX_SIZE
from serving.local.dev import HOST, DevOptions, answering, serve, taken
from serving.local.reloading import Reloading
from serving.local.sources import Sources
from tests.serving.frontend.listening_app import everything, wait_for

HANDLER = """
from serving.protocol import PredictionItem, Reply, encode_reply

def handle(data, context):
    if data is None:
        return
    row = data[0]
    body = row.get("body")
    if body == b"fail":
        raise ValueError("failed")
    if body == b"binary":
        context.set_response_content_type(0, "image/png")
        context.set_response_header(0, "X-Mine", "1")
        context.set_response_status(201, "Made", 0)
        return [bytes([255])]
    if body == b"slowly":
        import time
        print("slowly")
        time.sleep(0.3)
    if body == b"no":
        context.set_response_status(503, "", 0)
        return [{"message": "no"}]
    if body in (b"stream", b"break"):
        for part in ("a", "b"):
            item = PredictionItem(context.request_ids[0], part.encode(), headers={"ts_stream_next": "true"})
            context.cl_socket.sendall(encode_reply(Reply(200, "", (item,))))
        if body == b"break":
            import os
            os._exit(3)
        context.set_response_header(0, "ts_stream_next", "true")
        return ["c"]
    names = ("explain", "url_path", "X-Key")
    shown = {name: bytes(value).decode() if isinstance(value, bytearray) else value for name, value in row.items()}
    return [{"row": shown, "headers": {name: context.get_request_header(0, name) for name in names}}]
"""

Ask = Any


@contextmanager
def answered(sources: Sources, root: Path, tell: Callable[[str, bool], None]) -> Iterator[str]:
    """Serve in a thread; gives the address."""
    begun: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = Future()

    async def run(place: listening.Place) -> None:
        ended = asyncio.Event()
        async with answering(Reloading(sources, root, gpu=None, tell=tell), place, tell):
            begun.set_result((asyncio.get_running_loop(), ended))
            await ended.wait()

    with closing(taken(0)) as place:
        thread = threading.Thread(target=lambda: asyncio.run(run(place)))
        thread.start()
        loop, ended = begun.result(60)
        try:
            yield f"http://{HOST}:{place.sock.getsockname()[1]}"
        finally:
            loop.call_soon_threadsafe(ended.set)
            thread.join()


@pytest.fixture(scope="module")
def told() -> list[tuple[str, bool]]:
    return []


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory, told: list[tuple[str, bool]]) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("dev")
    (folder / "h.py").write_text(HANDLER)
    (folder / "torch.py").write_text("raise ImportError('not here')")
    (folder / "root").mkdir()
    sources = Sources(folder / "h.py", {"extra_files": (str(folder / "torch.py"),)})
    with answered(sources, folder / "root", lambda *line: told.append(line)) as found:
        yield found


@pytest.fixture
def ask(address: str) -> Iterator[Ask]:
    connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=120)

    def sent(
        path: str, body: Any = None, method: str = "POST", headers: dict[str, str] | None = None, **options: Any
    ) -> tuple[int, Any, http.client.HTTPResponse]:
        connection.request(method, path, body, headers or {}, **options)
        response = connection.getresponse()
        data = response.read()
        try:
            return response.status, json.loads(data), response
        except ValueError:
            return response.status, data, response

    yield sent
    connection.close()


def test_a_model_that_is_not_loaded_yet(tmp_path: Path) -> None:
    (tmp_path / "h.py").write_text(HANDLER)
    with answered(Sources(tmp_path / "h.py"), tmp_path, lambda *_: None) as other, httpx.Client(base_url=other) as ask:
        assert (ask.get("/ping").status_code, ask.get("/ping").json()) == (500, {"status": "Unhealthy"})
        assert ask.get("/readyz").status_code == 503
        assert ask.get("/v2/models/h/ready").json() == {"name": "h", "ready": False}


def test_a_model_that_is(ask: Ask) -> None:
    assert ask("/predictions/h", b"x")[0] == 200
    assert ask("/ping", method="GET")[:2] == (200, {"status": "Healthy"})
    assert ask("/readyz", method="GET")[0] == 200


def test_predictions_and_explanations(ask: Ask, told: list[tuple[str, bool]]) -> None:
    plain = {"explain": "False", "url_path": "", "X-Key": None}
    assert ask("/predictions/h", b"x")[1] == {"row": {"body": "x"}, "headers": plain}
    _, answer, _ = ask("/predictions/h/1.0/a/b?q=1", b"x", headers={"X-Key": "y"})
    assert answer == {"row": {"body": "x"}, "headers": {"explain": "False", "url_path": "a/b", "X-Key": "y"}}
    assert ask("/explanations/h", b"x")[1]["headers"]["explain"] == "True"
    assert ask("/predictions/h", method="GET")[1]["row"] == {"body": ""}
    assert ask("/predictions/h", b"x", "PUT")[0] == 200
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    assert ask("/predictions/h", b"a=1", headers=form)[1]["row"] == {"a": "1"}
    assert any(line.startswith("POST /predictions/h/1.0/a/b?q=1 200 ") and line.endswith(" ms") for line, _ in told)


def test_the_other_ways_to_ask(ask: Ask) -> None:
    for path in ("/v1/models/h:predict", "/v2/models/h/infer", "/v2/models/h/versions/1.0/infer", "/invocations"):
        assert ask(path, b"x")[1]["row"] == {"body": "x"}
    assert ask("/h/predict?a=1", b"x")[1]["row"] == {"a": "1", "body": "x"}
    assert ask("/v2/models/h", method="GET")[1]["versions"] == ["1.0"]
    assert ask("/predictions/h", method="OPTIONS")[1]["info"]["title"] == "RESTful API for: h"


def test_status_headers_and_content_type_of_the_handler(ask: Ask) -> None:
    status, body, response = ask("/predictions/h", b"binary")
    assert (status, body) == (201, b"\xff")
    assert response.headers["Content-Type"] == "image/png"
    assert response.headers.get_all("X-Mine") == ["1"]
    assert response.headers["Content-Length"] == "1"
    assert "worker;dur=" in response.headers["Server-Timing"]
    assert ask("/predictions/h", b"no")[:2] == (503, {"message": "no"})


def test_a_failure_has_its_traceback(ask: Ask) -> None:
    status, answer, response = ask("/predictions/h", b"fail")
    assert (status, response.headers["Content-Type"]) == (500, "application/json")
    assert (answer["code"], answer["type"], answer["message"]) == (500, "ValueError", "ValueError: failed")
    assert answer["where"] == "h.py:10"
    assert answer["traceback"][0] == "Traceback (most recent call last):"
    assert '  File "h.py", line 10, in handle' in answer["traceback"]
    assert answer["hint"] is None


def test_streams(ask: Ask, address: str, told: list[tuple[str, bool]], caplog: pytest.LogCaptureFixture) -> None:
    _, body, response = ask("/predictions/h", b"stream")
    assert (body, response.headers["Transfer-Encoding"], response.headers["ts_stream_next"]) == (
        b"abc",
        "chunked",
        None,
    )
    with socket.create_connection(address.removeprefix("http://").split(":")) as sock:
        sock.sendall(b"POST /predictions/h HTTP/1.0\r\nContent-Length: 6\r\n\r\nstream")
        old = everything(sock)
    assert old.endswith(b"\r\n\r\nabc")
    assert b"chunked" not in old
    # A stream that cannot be ended well must not look as if it were.
    with pytest.raises(http.client.IncompleteRead):
        ask("/predictions/h", b"break")
    assert ("error: the worker failed: it ended with the exit code 3", True) in [
        (line.partition(";")[0], is_error) for line, is_error in told
    ]
    assert caplog.records == []


def test_bodies_in_chunks_and_packed(ask: Ask) -> None:
    assert ask("/predictions/h", iter([b"ab", b"c"]), encode_chunked=True)[1]["row"] == {"body": "abc"}
    packed = {"Content-Encoding": "gzip"}
    assert ask("/predictions/h", gzip.compress(b"abc"), headers=packed)[1]["row"] == {"body": "abc"}


def test_wrong_requests(ask: Ask) -> None:
    status, answer, _ = ask("/predictions/other", b"x")
    assert (status, answer["type"]) == (404, "ModelNotFoundException")
    assert answer["message"] == "Model not found: other; the model here is h: /predictions/h"
    status, answer, _ = ask("/predictions/h/2.0", b"x")
    assert (status, answer["type"]) == (404, "ModelVersionNotFoundException")
    for path in ("/predictions", "/predictions/", "/models/h", "/pings"):
        assert ask(path, b"x")[0] == 404
    assert ask("/", b"x")[0] == 405
    form = {"Content-Type": "multipart/form-data; boundary=B"}
    assert ask("/predictions/h", b"no form", headers=form)[0] == 400
    assert ask("/predictions/h", bytes(MAX_SIZE + 1))[0] == 413
    assert ask("/predictions/h", b"x")[0] == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "localhost:1"}, 200),
        ({"Host": "[::1]"}, 200),
        ({"Host": "evil.example"}, 403),
        ({"Host": "["}, 403),
        ({"Origin": "http://localhost:3000"}, 200),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
    ],
)
def test_a_page_elsewhere_has_no_business_here(ask: Ask, headers: dict[str, str], status: int) -> None:
    found, answer, _ = ask("/predictions/h", b"x", headers=headers)
    assert found == status
    if status == 403:
        (value,) = headers.values()
        assert answer["message"] == f"{value} is not this machine; ask 127.0.0.1 yourself"


def test_a_client_that_leaves(ask: Ask, address: str, told: list[tuple[str, bool]]) -> None:
    told.clear()
    with socket.create_connection(address.removeprefix("http://").split(":")) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset in the place of an end
        sock.sendall(b"POST /predictions/h HTTP/1.1\r\nContent-Length: 6\r\n\r\nslowly")
        assert wait_for(lambda: ("slowly", False) in told)
    assert ask("/predictions/h", b"x")[0] == 200
    assert any(line.startswith("POST /predictions/h left ") for line, _ in told)


def test_a_port_that_is_not_ours_played_system(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("serving.frontend.listening._bind_port", refused)
    with pytest.raises(StartError, match="port 80: Permission denied") as caught:
        taken(80)
    assert caught.value.hint == "choose one above 1023"


def test_only_this_machine_can_ask() -> None:
    with closing(taken(0)) as place:
        assert place.sock.getsockname()[0] == "127.0.0.1"


def test_a_port_that_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(taken(0)) as place:
        port = place.sock.getsockname()[1]
        with pytest.raises(PortInUseError, match=f"^port {port} is in use") as caught:
            taken(port)
        assert "--port auto" in str(caught.value.hint)
        with monkeypatch.context() as played:  # somebody who bound it when we did, and listened first
            played.setattr(listening, "bind", lambda *_: place.sock.dup())
            played.setattr(socket.socket, "listen", lambda *_: (_ for _ in ()).throw(OSError(errno.EADDRINUSE, "")))
            with pytest.raises(PortInUseError, match="is in use"):
                taken(port)
    with closing(taken(port)):
        pass  # it is free again at once


def test_a_signal_ends_it_and_is_raised_anew(tmp_path: Path) -> None:
    (tmp_path / "h.py").write_text("def handle(:\n")
    reached: list[str] = []

    def ready(address: str, name: str) -> None:
        reached.extend((address, name))
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        serve(DevOptions(tmp_path / "h.py", 0), lambda *_: None, ready)
    assert reached[1] == "h"
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{reached[0]}/ping")


def test_it_ends_with_what_it_cannot_tell(tmp_path: Path) -> None:
    (tmp_path / "h.py").write_text("def handle(:\n")

    def tell(*_: object) -> None:
        raise BrokenPipeError(errno.EPIPE, "nobody reads")

    with pytest.raises(BrokenPipeError):
        serve(DevOptions(tmp_path / "h.py", 0), tell)
