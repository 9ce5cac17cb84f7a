from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer, ThreadingHTTPServer
from pathlib import Path
from socketserver import UnixStreamServer

import pytest

from archive_tool.errors import InputError
from serving.client import ManagementClient
from serving.client.transport import Address, Reply, Transport, error_of, segment
from serving.errors import NotRunningError, ReplyError, ServingError
from tests.serving.bench.played import played


class Echo(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path == "/slow":
            threading.Event().wait(1.0)
        if self.path == "/cut":
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        status = 404 if self.path == "/missing" else 200
        answer = b'{"code": 404, "type": "ModelNotFoundException", "message": "no x"}' if status == 404 else body
        self.send_response(status)
        self.send_header("Content-Length", str(len(answer)))
        self.send_header("X-Key", self.headers.get("Authorization", ""))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the base class's name)
        return

    def address_string(self) -> str:
        return "peer"


@pytest.fixture
def address() -> Iterator[Address]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Echo) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield Address(f"http://127.0.0.1:{server.server_port}")
        server.shutdown()
        thread.join()


def test_a_request_goes_and_its_answer_comes_back(address: Address) -> None:
    with Transport(address, token="secret") as transport:
        reply = transport.request("POST", "/x", body=b"\x00hello")
    assert (reply.status, reply.body, reply.headers["x-key"]) == (200, b"\x00hello", "Bearer secret")
    assert reply.seconds > 0


def test_an_error_status_carries_the_servers_message(address: Address) -> None:
    with Transport(address) as transport, pytest.raises(ReplyError, match=r"no x \(HTTP 404\)") as caught:
        transport.checked("POST", "/missing", body=b"")
    assert (caught.value.status, caught.value.kind) == (404, "ModelNotFoundException")
    assert caught.value.where == f"POST {address.text}/missing"


def test_a_late_answer_is_named(address: Address) -> None:
    with Transport(address, timeout_s=0.1) as transport, pytest.raises(ReplyError, match=r"no answer within 0\.1 s"):
        transport.request("POST", "/slow", body=b"")


def test_a_broken_connection_is_named(address: Address) -> None:
    with Transport(address) as transport, pytest.raises(ReplyError, match="connection broke"):
        transport.request("POST", "/cut", body=b"")


def test_nobody_there_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    address = Address(f"http://127.0.0.1:{port}")
    with Transport(address) as transport, pytest.raises(NotRunningError, match="nobody answers"):
        transport.request("GET", "/ping")


def test_proxies_of_the_environment_are_not_used(address: Address, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    with Transport(address) as transport:
        assert transport.request("POST", "/x", body=b"").status == 200


class UnixHTTPServer(HTTPServer):
    address_family = socket.AF_UNIX

    def server_bind(self) -> None:
        UnixStreamServer.server_bind(self)  # type: ignore[arg-type]
        self.server_name, self.server_port = "localhost", 0


@pytest.mark.parametrize(
    ("manner", "said"),
    [
        ("a body without end", "more than 1048576 bytes"),
        ("a terabyte", "more than 1048576 bytes"),
        ("compressed", "more than 1048576 bytes"),
        ("a body byte by byte", "no answer within 1 s"),
        ("never answers", "no answer within 1 s"),
    ],
)
def test_of_a_played_server_that_does_not_end_no_more_is_taken_than_may_be(manner: str, said: str) -> None:
    timeout_s = 1.0 if "1 s" in said else 60.0
    with (
        played(manner) as server,
        Transport(Address(server.address), timeout_s, most=1 << 20) as transport,
        pytest.raises(ReplyError, match=said),
    ):
        transport.request("GET", "/models")


def test_a_unix_socket_is_an_address(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with UnixHTTPServer(path, Echo) as server:  # type: ignore[arg-type]
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        with Transport(Address(f"unix:{path}")) as transport:
            assert transport.request("POST", "/x", body=b"hi").body == b"hi"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("text", ["127.0.0.1:8080", "ftp://x", "", "unix:relative"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ServingError, match="not an address"):
        Address(text)


def test_parts_of_an_address() -> None:
    assert (Address("http://[::1]:80").host, Address("http://[::1]:80").port) == ("::1", 80)
    assert Address("https://h").port == 443
    assert Address("http://127.0.0.1:0").port == 0  # a free one
    assert Address("unix:/x").port is None


@pytest.mark.parametrize(
    ("body", "message"),
    [(b"plain words", "plain words"), (b"", "no message"), (b"\xff", "\ufffd"), (b"[1]", "[1]"), (b"{}", "{}")],
)
def test_an_error_without_the_usual_form_still_has_a_message(body: bytes, message: str) -> None:
    assert error_of(Reply(500, {}, body, 0.0), "GET /").message == f"{message} (HTTP 500)"


def test_json_that_is_none_is_named() -> None:
    with pytest.raises(ReplyError, match="not JSON: 'oops'"):
        Reply(200, {}, b"oops", 0.0).json()


@pytest.mark.parametrize("name", ["", ".", "..", "../../x", "a/b", "\ud800", "a" * 100_000 + "/"])
def test_names_that_no_address_can_hold(name: str) -> None:
    with pytest.raises(InputError, match="cannot stand in an address") as refused:
        segment(name, "model name")
    assert refused.value.hint
    assert len(refused.value.message) < 200


def test_names_are_written_so_that_they_are_one_part() -> None:
    assert segment("mnist-1.0_a", "version") == "mnist-1.0_a"
    assert segment("a b?c#d%ü", "version") == "a%20b%3Fc%23d%25%C3%BC"


def test_a_model_is_not_registered_under_a_name_that_it_cannot_have(address: Address) -> None:
    with ManagementClient.at(address.text) as client, pytest.raises(InputError, match="cannot be used"):
        client.register("m.mar", name="../../x")


def test_a_413_without_a_message_names_the_setting() -> None:
    """The frontend's has no body; a model's own says what was too large."""
    error = error_of(Reply(413, {}, b"", 0.0), "POST /predictions/x")
    assert error.message == "the request is larger than the server's max_request_size allows (HTTP 413)"
    assert error.hint == "raise max_request_size in config.properties, and restart"
    own = error_of(Reply(413, {}, b'{"code": 413, "message": "the sound is 700 s long"}', 0.0), "POST /predictions/x")
    assert (own.message, own.hint) == ("the sound is 700 s long (HTTP 413)", None)
