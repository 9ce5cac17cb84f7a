"""Ask the real frontend of TorchServe every question, and write down what it answers.

::

    python -m tests.serving.frontend.apps.record open.json closed.json keys.json

Each file is what `torchmar status --json` says of a server, as `questions.Question.api` wants it; the last one's key
file is found beside its log folder.
"""

from __future__ import annotations

import json
import re
import socket
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from .questions import QUESTIONS, Question

RECORDED = Path(__file__).with_name("recorded.json")
#: Headers that every answer has, but for those that Netty itself gives.
USUAL = {
    "x-request-id": "<id>",
    "access-control-allow-origin": "https://site.example",
    "access-control-allow-methods": "GET, POST, PUT, OPTIONS",
    "access-control-allow-headers": "X-Custom-Header",
    "pragma": "no-cache",
    "cache-control": "no-cache; no-store, must-revalidate, private",
    "expires": "Thu, 01 Jan 1970 00:00:00 UTC",
}
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_DATE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z")
_VARIES = re.compile(r'"(pid|memoryUsage|id)": "?\d+"?')


def ask(address: str, question: Question, keys: dict[str, str] | None = None) -> bytes:
    """Send a question, read until the server closes or says no more."""
    request = question.as_bytes()
    for kind, key in (keys or {}).items():
        request = request.replace(f"<{kind}>".encode(), key.encode())
    parts = urlsplit(address)
    with socket.create_connection((parts.hostname, parts.port), timeout=10) as peer:
        peer.settimeout(1.5)
        answer = b""
        try:
            peer.sendall(request)
            while not _whole(answer, question.method) and (part := peer.recv(65536)):
                answer += part
        except (TimeoutError, ConnectionError):
            pass
    return answer


def _whole(answer: bytes, method: str) -> bool:
    """Whether an answer has ended; TorchServe keeps the connection even if the client asked it not to."""
    answer = answer.removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n")
    head, end, body = answer.partition(b"\r\n\r\n")
    length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
    if b"chunked" in head:
        return body.endswith(b"0\r\n\r\n")
    return bool(end and length) and (method == "HEAD" or len(body) >= int(length[1]))


def parsed(answer: bytes) -> dict[str, Any]:
    """Parse an answer as it is written down: ids, dates and numbers that differ each time are masked."""
    if answer.startswith(b"HTTP/1.1 100"):
        answer = answer.partition(b"\r\n\r\n")[2]
    head, _, body = answer.partition(b"\r\n\r\n")
    status, *lines = head.decode("latin-1").split("\r\n")
    if not status:
        return {"status": 0, "headers": {}, "body": ""}
    headers = dict(line.lower().split(": ", 1) if ": " in line else (line, "") for line in lines)
    if headers.get("transfer-encoding") == "chunked":
        body, rest = b"", body
        while rest:
            size, _, rest = rest.partition(b"\r\n")
            body, rest = body + rest[: int(size, 16)], rest[int(size, 16) + 2 :]
    text = masked(body.decode("utf-8", "backslashreplace"))
    return {
        "status": int(status.split(" ")[1]),
        "headers": {name: masked(value) for name, value in sorted(headers.items()) if name != "content-length"},
        # A description of the API is not compared by its letters.
        "body": "<openapi>" if text.startswith('{\n  "openapi"') else text,
    }


def masked(text: str) -> str:
    """Mask what differs each time in a text."""
    text = _DATE.sub("<date>", _UUID.sub("<id>", text))
    return _VARIES.sub(r'"\1": 0', text)


def _main(files: list[str]) -> None:
    servers = [json.loads(Path(file).read_text()) for file in files]
    addresses = {
        f"{prefix}{api}": server[api]
        for prefix, server in zip(("", "closed-", "keys-"), servers, strict=True)
        for api in ("inference", "management")
    }
    key_file = Path(servers[2]["log_folder"]).parent / "key_file.json"
    found = {}
    for question in QUESTIONS:
        entries = json.loads(key_file.read_text())
        keys = {kind: entry["key"] for kind, entry in entries.items()}
        found[f"{question.api}: {question.name}"] = parsed(ask(addresses[question.api], question, keys))
    write(found)


def write(found: dict[str, Any]) -> None:
    """Write the answers, a line each; of the headers that (almost) all have the absence alone."""
    lines = []
    for name, answer in found.items():
        usual = {key: value for key, value in answer["headers"].items() if key in USUAL}
        answer["headers"] = {key: value for key, value in answer["headers"].items() if key not in usual}
        answer["usual"] = len(usual) == len(USUAL)
        lines.append(f"{json.dumps(name)}: {json.dumps(answer)}")
    RECORDED.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    _main(sys.argv[1:])
