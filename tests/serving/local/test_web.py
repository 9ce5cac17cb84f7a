"""HTTP in front of a model that is being written."""

from __future__ import annotations

import http.client
import json
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from serving.errors import PortInUseError, StartError
from serving.local.reloading import Reloading
from serving.local.sources import Sources
from serving.local.web import HOST, listening

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
    if body == b"odd":
        for name, value in {"X-Word": "zwölf €", "X-Lines": "a\\r\\nSet-Cookie: b", "bad name": "c"}.items():
            context.set_response_header(0, name, value)
        return [b""]
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


@pytest.fixture(scope="module")
def told() -> list[str]:
    return []


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory, told: list[str]) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("dev")
    (folder / "h.py").write_text(HANDLER)
    (folder / "torch.py").write_text("raise ImportError('not here')")
    (folder / "root").mkdir()
    sources = Sources(folder / "h.py", {"extra_files": (str(folder / "torch.py"),)})

    def tell(line: str, is_error: bool) -> None:
        told.append(line)

    with Reloading(sources, folder / "root", gpu=None, tell=tell) as model, listening(model, 0, tell) as found:
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


def test_ping_tells_whether_the_model_is_loaded(ask: Ask, tmp_path: Path) -> None:
    (tmp_path / "h.py").write_text(HANDLER)
    with listening(Reloading(Sources(tmp_path / "h.py"), tmp_path, gpu=None, tell=print), 0, print) as other:
        response = httpx.get(f"{other}/ping")
    assert (response.status_code, response.json()) == (500, {"status": "Unhealthy"})
    assert ask("/predictions/h", b"x")[0] == 200
    assert ask("/ping", method="GET")[:2] == (200, {"status": "Healthy"})


def test_predictions_and_explanations(ask: Ask, told: list[str]) -> None:
    plain = {"explain": "False", "url_path": "", "X-Key": None}
    assert ask("/predictions/h", b"x")[1] == {"row": {"body": "x"}, "headers": plain}
    _, answer, _ = ask("/predictions/h/1.0/a/b?q=1", b"x", headers={"X-Key": "y"})
    assert answer == {"row": {"body": "x"}, "headers": {"explain": "False", "url_path": "a/b", "X-Key": "y"}}
    assert ask("/explanations/h", b"x")[1]["headers"]["explain"] == "True"
    assert ask("/predictions/h", method="GET")[1]["row"] == {"body": ""}
    assert ask("/predictions/h", b"x", "PUT")[0] == 200
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    assert ask("/predictions/h", b"a=1", headers=form)[1]["row"] == {"a": "1"}
    assert any(line.startswith("POST /predictions/h/1.0/a/b?q=1 200 ") for line in told)


def test_status_headers_and_content_type_of_the_handler(ask: Ask) -> None:
    status, body, response = ask("/predictions/h", b"binary")
    assert (status, body) == (201, b"\xff")
    assert response.headers["Content-Type"] == "image/png"
    assert response.headers.get_all("X-Mine") == ["1"]
    assert response.headers["Content-Length"] == "1"


def test_a_failure_has_its_traceback(ask: Ask) -> None:
    status, answer, response = ask("/predictions/h", b"fail")
    assert (status, response.headers["Content-Type"]) == (500, "application/json")
    assert (answer["code"], answer["type"], answer["message"]) == (500, "ValueError", "ValueError: failed")
    assert answer["where"] == "h.py:10"
    assert answer["traceback"][0] == "Traceback (most recent call last):"
    assert '  File "h.py", line 10, in handle' in answer["traceback"]
    assert answer["hint"] is None


def test_streams(ask: Ask, address: str) -> None:
    _, body, response = ask("/predictions/h", b"stream")
    assert (body, response.headers["Transfer-Encoding"], response.headers["ts_stream_next"]) == (
        b"abc",
        "chunked",
        None,
    )
    with socket.create_connection(address.removeprefix("http://").split(":")) as sock:
        sock.sendall(b"POST /predictions/h HTTP/1.0\r\nContent-Length: 6\r\n\r\nstream")
        old = b"".join(iter(lambda: sock.recv(4096), b""))
    assert old.endswith(b"\r\n\r\nabc")
    assert b"chunked" not in old
    # A stream that cannot be ended well must not look as if it were.
    with pytest.raises(http.client.IncompleteRead):
        ask("/predictions/h", b"break")


def test_bodies_in_chunks(ask: Ask) -> None:
    assert ask("/predictions/h", iter([b"ab", b"c"]), encode_chunked=True)[1]["row"] == {"body": "abc"}


def test_wrong_requests(ask: Ask) -> None:
    status, answer, _ = ask("/predictions/other", b"x")
    assert (status, answer["type"]) == (404, "ModelNotFoundException")
    assert answer["message"] == "the model here is h: /predictions/h"
    for path in ("/", "/predictions", "/predictions/", "/models/h", "/pings"):
        assert ask(path, b"x")[0] == 404
    form = {"Content-Type": "multipart/form-data; boundary=B"}
    assert ask("/predictions/h", b"no form", headers=form)[0] == 400
    assert ask("/predictions/h", b"x")[0] == 200  # over the same connection


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"Content-Length: 99999999", b"413"),
        (b"Content-Length: x", b"400"),
        (b"Content-Length:", b"400"),
        (b"Content-Length: -1", b"400"),
        (b"Content-Length: +1", b"400"),
        (b"Content-Length: \xb2", b"400"),
        (b"Content-Length: \xd9\xa1", b"400"),
        (b"Content-Length: 1_0", b"400"),
        (b"Content-Length: " + b"9" * 5000, b"413"),
        (b"Content-Length: " + b"0" * 5000 + b"x", b"400"),
        (b"Content-Length: 1\r\nContent-Length: 2", b"400"),
        (b"Content-Length: 3\r\nTransfer-Encoding: chunked", b"400"),
        (b"Transfer-Encoding: gzip, chunked", b"400"),
        (b"Transfer-Encoding: identity", b"400"),
        (b"Transfer-Encoding: chunked\r\n\r\n-5", b"400"),
        (b"Transfer-Encoding: chunked\r\n\r\n0x5", b"400"),
        (b"Transfer-Encoding: chunked\r\n\r\n\r\n", b"400"),
        (b"Transfer-Encoding: chunked\r\n\r\n1\r\nab", b"400"),
        (b"Transfer-Encoding: chunked\r\n\r\n" + b"F" * 900, b"413"),
        (b"Transfer-Encoding: chunked\r\n\r\n0\r\n" + b"a: b\r\n" * 200, b"400"),
        (b"Transfer-Encoding: chunked\r\n\r\nzz", b"400"),
        (b"Transfer-Encoding: chunked\r\n\r\nFFFFFFFF\r\n", b"413"),
    ],
)
def test_bodies_that_are_not_read(address: str, head: bytes, status: bytes) -> None:
    with socket.create_connection(address.removeprefix("http://").split(":")) as sock:
        sock.sendall(b"POST /predictions/h HTTP/1.1\r\nHost: localhost\r\n" + head + b"\r\n\r\n")
        answer = b"".join(iter(lambda: sock.recv(4096), b""))  # and the connection ends
    assert answer.startswith(b"HTTP/1.1 " + status)


@pytest.mark.parametrize(
    ("request_line", "status"),
    [
        (b"", b""),
        (b"what", b"400"),
        (b"GET / HTTP/9.x", b"400"),
        (b"BREW / HTTP/1.1", b"501"),
        (b"GET http://[ HTTP/1.1", b"400"),
    ],
)
def test_requests_that_are_none(ask: Ask, address: str, told: list[str], request_line: bytes, status: bytes) -> None:
    with socket.create_connection(address.removeprefix("http://").split(":")) as sock:
        sock.sendall(request_line + b"\r\nConnection: close\r\n\r\n")
        sock.shutdown(socket.SHUT_WR)
        answer = b"".join(iter(lambda: sock.recv(4096), b""))
    assert status in answer.partition(b"\r\n")[0] or (b"Error code: " + status) in answer
    assert ask("/predictions/h", b"x")[0] == 200


def test_bodies_that_end_early(address: str) -> None:
    for body in (b"Content-Length: 5\r\n\r\nab", b"Transfer-Encoding: chunked\r\n\r\n5\r\nab"):
        with socket.create_connection(address.removeprefix("http://").split(":")) as sock:
            sock.sendall(b"POST /predictions/h HTTP/1.1\r\nHost: localhost\r\n" + body)
            sock.shutdown(socket.SHUT_WR)
            answer = b"".join(iter(lambda: sock.recv(4096), b""))
        assert answer.startswith(b"HTTP/1.1 400")
        assert b"the body is shorter than it says" in answer


def test_headers_of_any_bytes(ask: Ask, address: str) -> None:
    request = (
        b"POST /predictions/h HTTP/1.1\r\nHost: localhost\r\nX-Key: \xe2\x82\xac\xff\r\n\xff: y\r\nContent-Type: \xff"
    )
    with socket.create_connection(address.removeprefix("http://").split(":")) as sock:
        sock.sendall(request + b"\r\nContent-Length: 0001\r\nConnection: close\r\n\r\nx")
        sock.shutdown(socket.SHUT_WR)  # else the connection is kept for a minute: what follows an odd name is not read
        answer = b"".join(iter(lambda: sock.recv(4096), b""))
    assert answer.startswith(b"HTTP/1.1 200")
    _, _, response = ask("/predictions/h", b"odd")
    assert response.headers["X-Word"].encode("latin-1").decode() == "zwölf €"
    assert response.headers["X-Lines"] == "a  Set-Cookie: b"
    assert "Set-Cookie" not in response.headers
    assert "bad name" not in response.headers


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
    assert ask("/predictions/h", b"x", headers=headers)[0] == status


def test_a_client_that_leaves(ask: Ask, address: str) -> None:
    with socket.create_connection(address.removeprefix("http://").split(":")) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset in the place of an end
        sock.sendall(b"POST /predictions/h HTTP/1.1\r\nContent-Length: 6\r\n\r\nstream")
    assert ask("/predictions/h", b"x")[0] == 200


def test_errors_of_connections_are_not_shown(capsys: pytest.CaptureFixture[str]) -> None:
    from serving.local.web import _Server

    for error, shown in ((ConnectionResetError(), False), (TimeoutError(), False), (KeyError("ours"), True)):
        try:
            raise error
        except Exception:
            _Server.handle_error(_Server.__new__(_Server), None, None)
        assert ("KeyError: 'ours'" in capsys.readouterr().err) is shown


def test_a_port_that_is_not_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    (tmp_path / "h.py").write_text(HANDLER)
    monkeypatch.setattr("serving.local.web._Server", refused)
    model = Reloading(Sources(tmp_path / "h.py"), tmp_path, gpu=None, tell=print)
    with pytest.raises(StartError, match="port 80: Permission denied"), listening(model, 80, print):
        pass


def test_only_this_machine_can_ask(address: str) -> None:
    assert address.startswith(f"http://{HOST}:")
    assert HOST == "127.0.0.1"


def test_a_port_that_is_taken(address: str, tmp_path: Path) -> None:
    (tmp_path / "h.py").write_text(HANDLER)
    model = Reloading(Sources(tmp_path / "h.py"), tmp_path, gpu=None, tell=lambda *_: None)
    with pytest.raises(PortInUseError, match="is in use"), listening(model, int(address.rpartition(":")[2]), print):
        pass
    with listening(model, 0, lambda *_: None) as other:
        assert httpx.get(f"{other}/ping").status_code == 500
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{other}/ping")
