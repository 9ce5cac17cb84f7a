"""Common parts of the worker's tests: archives by hand, whole answers, gRPC by hand, a server's logs and processes."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import struct
import subprocess
import tempfile
import time
import zipfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import psutil

from .conftest import Sandbox, Server

T = TypeVar("T")
PATIENCE_S = 60.0
# What a server that is just starting or ending makes of a question.
_NOT_YET = (OSError, http.client.HTTPException, LookupError, TypeError, ValueError)

# ---- archives ----------------------------------------------------------------------------------------------------


def pack(
    box: Sandbox, name: str, handler: str, files: Mapping[str, str | bytes], config: str = "", **model: str
) -> str:
    """Make an archive without any archiver, so that its manifest may name the handler in every form.

    Args:
        handler: as the manifest is to have it.
        files: content by name; the handler's own among them.
        config: content of model-config.yaml.
        model: further entries of the manifest's model.
    """
    entry = {"modelName": name, "modelVersion": "1.0", "handler": handler, **model}
    members = dict(files)
    if config:
        entry["configFile"] = "model-config.yaml"
        members["model-config.yaml"] = config
    manifest = {"createdOn": "01/01/2024 00:00:00", "runtime": "python", "model": entry, "archiverVersion": "0.12.0"}
    with zipfile.ZipFile(box.store / f"{name}.mar", "w", zipfile.ZIP_DEFLATED) as archive:
        for path, content in members.items():
            archive.writestr(path, content)
        archive.writestr("MAR-INF/MANIFEST.json", json.dumps(manifest, indent=2))
    return f"{name}.mar"


# ---- HTTP --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Answer:
    """The parts of an answer that a client sees, but its id and its times."""

    status: int
    phrase: str
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)

    def json(self) -> Any:
        return json.loads(self.body)

    def text(self) -> str:
        return self.body.decode()


def ask(
    address: str,
    path: str,
    body: bytes | str | None = None,
    headers: Mapping[str, str] | None = None,
    *,
    method: str | None = None,
    timeout: float = PATIENCE_S,
) -> Answer:
    """Send one request on a connection of its own; TimeoutError if there is no answer."""
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=timeout)
    data = body.encode() if isinstance(body, str) else body
    try:
        connection.request(method or ("GET" if data is None else "POST"), path, data, dict(headers or {}))
        reply = connection.getresponse()
        content = reply.read()
    finally:
        connection.close()
    kept = [(key, value) for key, value in reply.getheaders() if key.lower() not in ("x-request-id", "server-timing")]
    return Answer(reply.status, reply.reason, tuple(sorted(kept)), content)


def predict(server: Server, model: str, body: bytes | str | None = "", **headers: str) -> Answer:
    """Ask for a prediction; ``X_Do="x"`` is sent as the header X-Do."""
    named = {key.replace("_", "-"): value for key, value in headers.items()}
    return ask(server.inference, f"/predictions/{model}", body, named)


def at_once(calls: Sequence[Callable[[], T]]) -> list[T]:
    """Return the results of calls that are made at the same time."""
    with ThreadPoolExecutor(max(1, len(calls))) as pool:
        return [future.result() for future in [pool.submit(call) for call in calls]]


def register(server: Server, archive: str, name: str, *, workers: int = 1, **options: str) -> Answer:
    """Register an archive and wait until its workers are ready, or one has failed."""
    query = {"url": archive, "model_name": name, "initial_workers": str(workers), "synchronous": "true", **options}
    text = "&".join(f"{key}={value}" for key, value in query.items())
    return ask(server.management, f"/models?{text}", "", timeout=150.0)


def scale(server: Server, name: str, workers: int) -> Answer:
    path = f"/models/{name}?min_worker={workers}&max_worker={workers}&synchronous=true"
    return ask(server.management, path, method="PUT", timeout=150.0)


def describe(server: Server, name: str, query: str = "") -> dict[str, Any]:
    found: dict[str, Any] = ask(server.management, f"/models/{name}{query}").json()[0]
    return found


def ready(server: Server, name: str) -> list[int]:
    """Return the process ids of the workers that are ready, as the frontend knows them."""
    return [worker["pid"] for worker in describe(server, name)["workers"] if worker["status"] == "READY"]


# ---- gRPC --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class GrpcAnswer:
    """Status, its text, and the prediction of each message."""

    status: int
    message: str
    predictions: tuple[bytes, ...]
    messages: tuple[dict[int, list[Any]], ...] = field(default=(), compare=False)


def grpc_address(server: Server, api: str = "inference") -> str:
    """Return where a server has an API over gRPC."""
    found = str(server.record[f"grpc_{api}"])
    assert found, "the extra grpc is not installed"
    return found


def grpc(server: Server, method: str, request: bytes, *, open_inference: bool = False) -> GrpcAnswer:
    """Call a method of the inference API, or of the protocol's, with curl: gRPC is HTTP/2, its messages few bytes."""
    url = f"http://{grpc_address(server)}{_OPEN_INFERENCE if open_inference else _INFERENCE}{method}"
    command = ["curl", "-sS", "--http2-prior-knowledge", "-m", "60", "-X", "POST", "-H", "te: trailers"]
    command += ["-H", "content-type: application/grpc", "--data-binary", "@-"]
    with tempfile.TemporaryDirectory(dir=server.sandbox.root) as folder:
        out, head = Path(folder, "out"), Path(folder, "head")
        out.touch()
        frame = b"\0" + struct.pack("!I", len(request)) + request
        done = subprocess.run([*command, "-D", head, "-o", out, url], input=frame, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr
        trailers = dict(re.findall(r"^(grpc-[a-z]+): *(.*?)\r?$", head.read_text(), re.MULTILINE))
        messages = _messages(out.read_bytes())
    return GrpcAnswer(
        int(trailers["grpc-status"]),
        trailers.get("grpc-message", ""),
        tuple(message.get(1, [b""])[0] for message in messages),
        tuple(messages),
    )


def converse(server: Server, *requests: bytes) -> list[bytes]:
    """Return the predictions of a StreamPredictions2, each request sent when the one before has been answered.

    curl does not send what it has before there is more, so this is HTTP/2 by hand, without a look at its headers.
    """
    host, _, port = grpc_address(server).rpartition(":")
    names = {":method": "POST", ":scheme": "http", ":path": f"{_INFERENCE}StreamPredictions2", ":authority": host}
    names |= {"content-type": "application/grpc", "te": "trailers"}
    head = b"".join(b"\0" + _text(name) + _text(value) for name, value in names.items())
    received = b""
    with socket.create_connection((host, int(port)), PATIENCE_S) as sock, sock.makefile("rb") as replies:
        sock.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _frame(_SETTINGS, 0, 0) + _frame(_HEADERS, 4, 1, head))
        for number, request in enumerate(requests, 1):
            sock.sendall(_frame(_DATA, 0, 1, b"\0" + struct.pack("!I", len(request)) + request))
            while len(_messages(received)) < number:
                size, kind, flags = struct.unpack("!I", b"\0" + replies.read(3))[0], *replies.read(2)
                stream, content = replies.read(4), replies.read(size)
                if kind == _DATA:
                    received += content
                elif kind in (_SETTINGS, _PING) and not flags & 1:
                    sock.sendall(_frame(kind, 1, 0, content if kind == _PING else b""))
                else:
                    ended = kind in (_RESET, _AWAY) or (stream[3] and flags & 1)
                    assert not ended, f"the stream ended: {content!r}"
        sock.sendall(_frame(_DATA, 1, 1))
    return [message.get(1, [b""])[0] for message in _messages(received)]


_OPEN_INFERENCE = "/org.pytorch.serve.grpc.openinference.GRPCInferenceService/"
_INFERENCE = "/org.pytorch.serve.grpc.inference.InferenceAPIsService/"
_DATA, _HEADERS, _RESET, _SETTINGS, _PING, _AWAY = 0, 1, 3, 4, 6, 7


def _frame(kind: int, flags: int, stream: int, content: bytes = b"") -> bytes:
    """Encode a frame of HTTP/2."""
    return struct.pack("!I", len(content))[1:] + bytes([kind, flags]) + struct.pack("!I", stream) + content


def _text(value: str) -> bytes:
    """Encode a text of HPACK, shorter than 127 bytes."""
    return bytes([len(value)]) + value.encode()


def _messages(data: bytes) -> list[dict[int, list[Any]]]:
    """Return the messages that are there completely."""
    found = []
    while len(data) >= 5 and len(data) >= (end := 5 + int(struct.unpack_from("!I", data, 1)[0])):
        found.append(_fields(data[5:end]))
        data = data[end:]
    return found


def prediction_request(model: str, inputs: Mapping[str, bytes], sequence: str | None = None) -> bytes:
    """Encode ``PredictionsRequest`` of TorchServe's inference.proto."""
    parts = [grpc_field(1, model.encode())]
    parts += [grpc_field(3, grpc_field(1, key.encode()) + grpc_field(2, value)) for key, value in inputs.items()]
    if sequence is not None:
        parts.append(grpc_field(4, sequence.encode()))
    return b"".join(parts)


def infer_request(model: str, identifier: str, name: str, shape: Sequence[int], values: Sequence[float]) -> bytes:
    """Encode ``ModelInferRequest`` of the Open Inference Protocol, with one tensor of FP32."""
    contents = grpc_field(6, struct.pack(f"<{len(values)}f", *values))
    tensor = grpc_field(1, name.encode()) + grpc_field(2, b"FP32") + grpc_field(3, b"".join(map(_varint, shape)))
    return (
        grpc_field(1, model.encode())
        + grpc_field(3, identifier.encode())
        + grpc_field(5, tensor + grpc_field(5, contents))
    )


def infer_output(message: Mapping[int, list[Any]]) -> tuple[str, str, tuple[float, ...]]:
    """Return the identifier of a ``ModelInferResponse``, and name and numbers of its first tensor, of FP32."""
    tensor = _fields(message[5][0])
    raw = _fields(tensor[5][0])[6][0]
    return message[3][0].decode(), tensor[1][0].decode(), struct.unpack(f"<{len(raw) // 4}f", raw)


def grpc_field(number: int, data: bytes) -> bytes:
    """Encode a field of a protobuf message, of bytes."""
    return bytes([number << 3 | 2]) + _varint(len(data)) + data


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def _fields(data: bytes) -> dict[int, list[Any]]:
    """Decode a protobuf message: values by the number of their field, integers or bytes."""
    found: dict[int, list[Any]] = {}
    at = 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while at < len(data):
        key = varint()
        value: int | bytes
        if key & 7 == 0:
            value = varint()
        else:
            length = varint()
            value = data[at : at + length]
            at += length
        found.setdefault(key >> 3, []).append(value)
    return found


# ---- logs and processes --------------------------------------------------------------------------------------------


def model_log(server: Server) -> str:
    path = Path(server.record["log_folder"], "model_log.log")
    return path.read_text(errors="replace") if path.exists() else ""


def wait_until(condition: Callable[[], T], what: str, seconds: float = PATIENCE_S) -> T:
    """Return the first true value of a condition, which may fail meanwhile."""
    deadline = time.monotonic() + seconds
    while True:
        last: object = None
        try:
            last = value = condition()
            if value:
                return value
        except (
            OSError,
            http.client.HTTPException,
            KeyError,
            IndexError,
            TypeError,
            ValueError,
            AssertionError,
        ) as error:
            last = error
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {seconds:.0f} s in vain for: {what}; last: {last!r}")
        time.sleep(0.1)


def session(server: Server) -> list[psutil.Process]:
    """Return all live processes of a server: the frontend leads a session, which none of them leaves."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if os.getsid(process.pid) == server.pid and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def is_alive(pid: int) -> bool:
    with suppress(psutil.Error):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


def kill(pid: int) -> None:
    """Kill a process, and wait until the kernel has ended it: until then its server is running."""
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not is_alive(pid), "its end")
