"""HTTP on the loopback interface for a model that is being written, at the paths of TorchServe's inference API."""

from __future__ import annotations

import functools
import json
import re
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

from archive_tool.building.samples import MAX_REQUEST
from archive_tool.errors import TorchmarError
from serving.check.answers import Answer
from serving.errors import CheckError, PortInUseError, StartError
from serving.local.reloading import Reloading, Tell, UnknownModelError
from serving.local.requests import FormError, request_of

HOST = "127.0.0.1"
_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
_LENGTH = re.compile(r"[0-9]+")
_CHUNK = re.compile(r"[0-9a-fA-F]+")
_DIGITS = 15
_LINE = 1024
_TRAILERS = 100
# A header's name, as RFC 9110 has it, and what cannot be in a value.
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]+")
# Headers that belong to the connection, not to the answer.
_OURS = frozenset({"content-length", "content-type", "transfer-encoding", "connection", "ts_stream_next"})


@contextmanager
def listening(model: Reloading, port: int, tell: Tell) -> Iterator[str]:
    """Answer requests in threads; yield the address.

    Args:
        port: 0 for a free one.

    Raises:
        PortInUseError: the port is taken.
        StartError: the port cannot be opened.
    """

    handler = type("Handler", (_Handler,), {"model": model, "tell": staticmethod(tell)})
    try:
        server = _Server((HOST, port), handler)
    except OSError as error:
        if isinstance(error, PermissionError):
            raise StartError(f"cannot listen on port {port}: {error.strerror}", hint="choose one above 1023") from error
        raise PortInUseError(f"port {port} is in use", hint="choose another one: --port N, or --port auto") from error
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)
    thread.start()
    try:
        yield f"http://{HOST}:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore a client that has gone; show anything else, which is a bug of ours."""
        if not isinstance(sys.exc_info()[1], ConnectionError | TimeoutError):
            super().handle_error(request, client_address)


class _BadRequestError(Exception):
    def __init__(self, status: int, kind: str, message: str) -> None:
        super().__init__(message)
        self.status, self.kind, self.message = status, kind, message


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "torchmar-dev"
    sys_version = ""
    timeout = 60
    model: Reloading
    tell: Tell

    def _answer(self) -> None:
        self._begin = time.monotonic()
        self._started = self._chunked = False
        try:
            self._route()
        except _BadRequestError as error:
            self._send_json(error.status, {"code": error.status, "type": error.kind, "message": error.message})
        except TorchmarError as error:
            if self._started:
                self.close_connection = True  # the client has the status already: an end without an end mark
            else:
                self._send_json(500, _shown(error))

    do_GET = do_POST = do_PUT = _answer  # noqa: N815 (the names that the base class calls)

    def _route(self) -> None:
        body = self._body()
        # A page that a browser shows may send requests here: one of another site, or one whose own name leads here.
        for found in (f"//{self.headers.get('Host', HOST)}", self.headers.get("Origin", f"//{HOST}")):
            if _host(found) not in _LOOPBACK:
                raise _BadRequestError(403, "ForbiddenException", f"{found} is not this machine; ask {HOST} yourself")
        try:
            parts = [unquote(part) for part in urlsplit(self.path).path.split("/")[1:]] or [""]
        except ValueError:
            raise self._unreadable("the address cannot be read") from None
        if parts == ["ping"]:
            healthy = self.model.healthy
            self._send_json(200 if healthy else 500, {"status": "Healthy" if healthy else "Unhealthy"})
            return
        if parts[0] not in ("predictions", "explanations") or len(parts) < 2 or not parts[1]:
            raise _BadRequestError(
                404, "ResourceNotFoundException", "ask /predictions/NAME, /explanations/NAME or /ping"
            )
        try:
            make = functools.partial(
                request_of,
                dict(self.headers.items()),
                body,
                explain=parts[0] == "explanations",
                path="/".join(parts[3:]),
            )
            self.model.ask(parts[1], make, self._send_part)
        except FormError as error:
            raise _BadRequestError(400, "BadRequestException", str(error)) from error
        except UnknownModelError as error:
            message = f"the model here is {error}: /{parts[0]}/{error}"
            raise _BadRequestError(404, "ModelNotFoundException", message) from error

    def _body(self) -> bytes:
        codings = self.headers.get_all("Transfer-Encoding", [])
        lengths = {one.strip() for one in self.headers.get_all("Content-Length", ["0"])}
        if codings:
            if [one.strip().lower() for one in codings] != ["chunked"]:
                raise self._unreadable(f"the transfer encoding {', '.join(codings)} is not known; chunked is")
            if "Content-Length" in self.headers:
                raise self._unreadable("the body has a content length and chunks, and can have one of them")
            return self._chunks()
        if len(lengths) > 1 or not _LENGTH.fullmatch(length := lengths.pop()):
            raise self._unreadable("the content length is no number of bytes")
        return self._read(length, 10, 0)

    def _chunks(self) -> bytes:
        body = bytearray()
        while True:
            size = self.rfile.readline(_LINE).partition(b";")[0].strip().decode("latin-1")
            if not _CHUNK.fullmatch(size):
                raise self._unreadable("a chunk of the body has no length")
            part = self._read(size, 16, len(body))
            if not part:
                break
            body += part
            if self.rfile.readline(_LINE).strip():
                raise self._unreadable("a chunk of the body is longer than it says")
        for _ in range(_TRAILERS):
            if self.rfile.readline(_LINE) in (b"\r\n", b"\n", b""):
                return bytes(body)
        raise self._unreadable("the body ends in too many headers")

    def _read(self, size: str, base: int, before: int) -> bytes:
        """Read as many bytes as a number of digits says, behind others."""
        digits = size.lstrip("0") or "0"
        # A longer one is larger than any bound, and Python does not read numbers of any length.
        count = int(digits, base) if len(digits) <= _DIGITS else MAX_REQUEST + 1
        if before + count > MAX_REQUEST:
            self.close_connection = True
            message = f"the request has more than {MAX_REQUEST} bytes, which a server would refuse, too"
            raise _BadRequestError(413, "RequestEntityTooLargeException", message)
        content = self.rfile.read(count)
        if len(content) < count:
            raise self._unreadable("the body is shorter than it says")
        return content

    def _unreadable(self, message: str) -> _BadRequestError:
        self.close_connection = True
        return _BadRequestError(400, "BadRequestException", message)

    # ---- answers ---------------------------------------------------------------------------------------------------

    def _send_part(self, answer: Answer, part: bytes, more: bool) -> None:
        try:
            if not self._started:
                body, kind = answer.as_sent()
                part = part if more else body
                self._head(answer.status, answer.headers, kind, None if more else len(part))
            if self._chunked and part:
                self.wfile.write(b"%x\r\n%b\r\n" % (len(part), part))
            else:
                self.wfile.write(part)
            if self._chunked and not more:
                self.wfile.write(b"0\r\n\r\n")
        except OSError:
            self.close_connection = True  # the client has gone; the handler's answer is still read to its end

    def _send_json(self, status: int, content: dict[str, Any]) -> None:
        body = (json.dumps(content, indent=2) + "\n").encode()
        self._head(status, {}, "application/json", len(body))
        self.wfile.write(body)

    def _head(self, status: int, headers: dict[str, str], kind: str, length: int | None) -> None:
        self._started = True
        try:
            phrase = HTTPStatus(status).phrase
        except ValueError:
            phrase = ""
        self.send_response(status, phrase)
        if kind:
            self.send_header("Content-Type", _sendable(kind))
        for name, value in headers.items():
            if name.lower() not in _OURS and _NAME.fullmatch(name):
                self.send_header(name, _sendable(value))
        if length is not None:
            self.send_header("Content-Length", str(length))
        elif self.request_version == "HTTP/1.1":
            self._chunked = True
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.close_connection = True
        self.end_headers()

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:  # noqa: ARG002
        """Print one line for each request."""
        seconds = time.monotonic() - getattr(self, "_begin", time.monotonic())
        # A request that cannot be read has neither a command nor a path.
        asked = f"{self.command} {self.path}" if self.command and hasattr(self, "path") else repr(self.requestline)
        self.tell(f"{asked} {int(code)} {seconds * 1000:.1f} ms", False)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (the name in the base class)
        """Print what the server says of a request that it cannot read."""
        self.tell(format % args, True)


def _sendable(value: str) -> str:
    """Return a header's value as it can be sent: in UTF-8, and in one line."""
    return _CONTROL.sub(" ", value).encode("utf-8", "replace").decode("latin-1")


def _host(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def _shown(error: TorchmarError) -> dict[str, Any]:
    """Show a failure as its author wants to see it."""
    traceback = getattr(error, "traceback", "")
    kind = error.message.partition(":")[0] if traceback and isinstance(error, CheckError) else type(error).__name__
    return {
        "code": 500,
        "type": kind,
        "message": error.message,
        "where": error.where,
        "hint": error.hint,
        "traceback": traceback.splitlines() if traceback else None,
    }
