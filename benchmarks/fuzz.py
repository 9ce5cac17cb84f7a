"""Requests that nobody should send, to a real Python frontend with real workers: ``python benchmarks/fuzz.py``.

What is complete must be answered: by what the contract says or a 4xx, never by a 500 and never after more than half a
minute. What is cut, mixed up or never ends may cost its own connection alone. The seed gives the same requests, not
the same order between clients.

::

    python benchmarks/fuzz.py --requests 100000 --seed 1
"""

from __future__ import annotations

import argparse
import gzip
import itertools
import json
import os
import random
import shutil
import socket
import string
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote, urlsplit

sys.path[:0] = [str(Path(__file__).resolve().parents[1])]  # run as a script, only this file's own folder is searched

import psutil  # noqa: E402

import archive_tool  # noqa: E402
from serving.control import StartOptions, StateFolder, start, stop  # noqa: E402
from serving.control.server import Started  # noqa: E402

ANSWER_S = 30.0
#: Seconds that a client waits that has sent what need not be answered.
CUT_S = 0.3
#: Beside these only 4xx: full queues, deadlines of the request's own, what is not there.
GOOD = frozenset({100, 200, 202, 206, 501, 503, 504})
HANDLER = "def handle(data, context):\n    return [str(len(row)) for row in data or []]\n"
METHODS = ("GET", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "HEAD", "TRACE", "get", "FOO")
NAMES = ("echo", "echo/1.0", "echo/2.0", "other", "", "..", "%2e%2e", "a%00b", "%zz", "ü", "all", "echo/")
INFERENCE = ("/predictions/{}", "/explanations/{}", "/models/{}/invoke", "/invocations", "/ping", "/", "/{}/predict")
INFERENCE += (
    "/v1/models/{}:predict",
    "/v1/models/{}",
    "/v2/models/{}/infer",
    "/v2/models/{}",
    "/v2",
)
INFERENCE += ("/v2/health/ready", "/api-description", "/readyz", "/livez", "/{}", "/predictions", "/v2/models/{}/ready")
MANAGEMENT = ("/models/{}", "/models", "/models/{}/set-default", "/models/{}/1.0/set-default", "/models/{}/all", "/")
MANAGEMENT += ("/token", "/workflows", "/workflows/{}", "/v1/models/{}", "/metrics", "/{}")
KEYS = ("min_worker", "max_worker", "synchronous", "timeout", "url", "model_name", "handler", "runtime", "batch_size")
KEYS += ("max_batch_delay", "response_timeout", "initial_workers", "limit", "next_page_token", "customized", "x")
# Nothing that would start hundreds of workers, which is what such a number asks for.
VALUES = (
    "-1",
    "0",
    "1",
    "2",
    "abc",
    "",
    "1.5",
    "99999999999999999999",
    "1e3",
    "true",
    "FALSE",
    "%zz",
    "%00",
    "echo.mar",
)
VALUES += (
    "no.mar",
    "../x.mar",
    "/etc",
    "http://127.0.0.1:9/x.mar",
    "file:///etc/passwd",
    "python",
    "java",
    "☃",
    "a" * 2000,
)
TYPES = ("application/json", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=b", "")
TYPES += (
    "multipart/form-data",
    "application/octet-stream",
    "APPLICATION/JSON; charset=x",
    "text/plain; charset=utf-16",
    "/",
)
HEADERS = (
    "Accept",
    "X-Request-Id",
    "x-request-timeout-seconds",
    "x-request-priority",
    "Authorization",
    "Origin",
    "Cookie",
)
HEADERS += (
    "Referer",
    "traceparent",
    "Host",
    "If-Match",
    "Range",
    "Upgrade",
    "X-" + "y" * 500,
    "ts_request_sequence_id",
)


class Requests:
    """Makes requests, by a seed."""

    def __init__(self, seed: str) -> None:
        self.random = random.Random(seed)  # noqa: S311 (what is wanted is a run that can be repeated)

    def text(self, most: int = 40) -> str:
        """Return anything that a header may hold."""
        return "".join(self.random.choices(string.printable[:95] + "\x80\xff\t", k=self.random.randint(0, most)))

    def json(self, depth: int = 3) -> object:
        """Return any document."""
        kind = self.random.randint(0, 7 if depth else 5)
        if kind == 6:
            return [self.json(depth - 1) for _ in range(self.random.randint(0, 4))]
        if kind == 7:
            keys = (
                self.random.choice(("inputs", "instances", "data", "name", "shape", "datatype", "id", self.text(5)))
                for _ in range(4)
            )
            return {key: self.json(depth - 1) for key in keys}
        return (None, True, self.random.randint(-(10**20), 10**20), self.random.random(), self.text(), "ü\ud800")[kind]

    def body(self) -> tuple[str, bytes]:
        """Return a type and a body that may fit it."""
        kind = self.random.choice(TYPES)
        data = self.random.choice((self._json_text, self._form, self._multipart, self._noise))()
        if self.random.random() < 0.1 and data:
            data = data[: self.random.randrange(len(data))]
        return kind, data

    def _json_text(self) -> bytes:
        return json.dumps(self.json()).encode()

    def _form(self) -> bytes:
        fields = [f"{quote(self.text(6))}={self.random.choice(VALUES)}" for _ in range(self.random.randint(0, 6))]
        return "&".join(fields).encode("utf-8")

    def _multipart(self) -> bytes:
        parts = []
        for _ in range(self.random.randint(0, 4)):
            named = f'Content-Disposition: form-data; name="{self.text(5)}"; filename="{self.text(5)}"'
            head = self.random.choice((named, named + "\r\nContent-Transfer-Encoding: base64", self.text(), ""))
            parts.append(f"--b\r\n{head}\r\n\r\n".encode("latin-1") + self._noise() + b"\r\n")
        return b"".join(parts) + self.random.choice((b"--b--\r\n", b"--b--", b"--b", b""))

    def _noise(self) -> bytes:
        return self.random.randbytes(self.random.choice((0, 1, 10, 1000, 20000)))

    def target(self, routes: tuple[str, ...]) -> str:
        """Return a path with a query."""
        path = self.random.choice(routes).format(quote(self.random.choice(NAMES), safe="%/."))
        pairs = [
            f"{self.random.choice(KEYS)}={quote(self.random.choice(VALUES), safe='%/:')}"
            for _ in range(self.random.randint(0, 3))
        ]
        if self.random.random() < 0.05:
            path += quote(self.text(20), safe="/%;:@&=+$,?#".replace("#", ""))
        return path + ("?" + "&".join(pairs) if pairs else "")

    def whole(self, routes: tuple[str, ...], *, last: bool) -> bytes:
        """Return a request that is complete, whatever it says."""
        method = self.random.choice(METHODS if last else METHODS[:6])
        kind, body = self.body() if self.random.random() < 0.7 else ("", b"")
        lines = [f"{method} {self.target(routes)} HTTP/1.1", "host: localhost"]
        lines += [f"{self.random.choice(HEADERS)}: {self.text().strip()}" for _ in range(self.random.randint(0, 3))]
        lines += [f"content-type: {kind}"] if kind else []
        if body and self.random.random() < 0.2:
            body = self.random.choice((gzip.compress, lambda data: b"\x1f\x8b" + data, bytes))(body)
            lines.append(f"content-encoding: {self.random.choice(('gzip', 'deflate', 'br', 'identity'))}")
        if body and self.random.random() < 0.2:
            lines.append("transfer-encoding: chunked")
            cuts = sorted({0, len(body), *(self.random.randrange(len(body)) for _ in range(3))})
            pieces = [body[start:end] for start, end in itertools.pairwise(cuts)]
            body = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
        elif body or method in ("POST", "PUT", "PATCH"):
            lines.append(f"content-length: {len(body)}")
        lines += ["connection: close"] if last else []
        return "\r\n".join(lines).encode("utf-8") + b"\r\n\r\n" + body

    def spoilt(self, routes: tuple[str, ...]) -> bytes:
        """Return a request of which some bytes are missing, changed, or twice there."""
        data = bytearray(self.whole(routes, last=True))
        for _ in range(self.random.randint(1, 4)):
            place = self.random.randrange(len(data)) if data else 0
            match self.random.randint(0, 3):
                case 0:
                    del data[place:]
                case 1:
                    data[place : place + 1] = self.random.randbytes(1)
                case 2:
                    data[place:place] = data[place : place + 20]
                case _:
                    data[place:place] = self.random.choice(
                        (b"\r\n", b"\n", b"\0", b"transfer-encoding: chunked\r\n", b"content-length: 5\r\n")
                    )
        return bytes(data)


@dataclass
class Found:
    """What came back.

    Attributes:
        wrong: what must not be, in words.
    """

    statuses: Counter[int] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    sent: int = 0
    slowest: tuple[float, str, bytes] = (0.0, "", b"")
    lock: threading.Lock = field(default_factory=threading.Lock)


def statuses_of(data: bytes) -> list[int]:
    """Return the statuses of all responses in what a connection gave until its end."""
    found = []
    while data.startswith(b"HTTP/1.1 "):
        head, _, data = data.partition(b"\r\n\r\n")
        found.append(int(head[9:12]))
        fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:] if b": " in line)
        if b"content-length" in fields:
            data = data[int(fields[b"content-length"]) :]
        elif fields.get(b"transfer-encoding") == b"chunked":
            while data:
                size, _, data = data.partition(b"\r\n")
                data = data[int(size or b"0", 16) + 2 :]
                if int(size or b"0", 16) == 0:
                    break
    return found


def exchange(address: str, data: bytes, seconds: float) -> tuple[bytes, bool]:
    """Send bytes; return what came, and whether the server closed the connection."""
    parts, received = urlsplit(address), b""
    with socket.create_connection((parts.hostname or "", parts.port or 0), ANSWER_S) as sock:
        deadline = time.monotonic() + seconds
        try:
            sock.sendall(data)
            while (left := deadline - time.monotonic()) > 0:
                sock.settimeout(left)
                if not (more := sock.recv(1 << 16)):
                    return received, True
                received += more
        except TimeoutError:
            pass
        except OSError:  # it closed while we still sent
            return received, True
    return received, False


def client(number: int, seed: int, count: int, started: Started, found: Found) -> None:
    """Send so many requests."""
    made = Requests(f"{seed} {number}")
    done = 0
    while done < count:
        api = made.random.choice(("inference", "inference", "management"))
        address, routes = getattr(started.record, api), INFERENCE if api == "inference" else MANAGEMENT
        kind = made.random.random()
        if kind < 0.15:
            expected, data, seconds = 0, made.spoilt(routes), CUT_S
        else:
            expected = made.random.randint(2, 5) if kind < 0.3 else 1
            data = b"".join(made.whole(routes, last=one == expected - 1) for one in range(expected))
            seconds = ANSWER_S
        begun = time.monotonic()
        try:
            received, closed = exchange(address, data, seconds)
        except OSError as error:
            received, closed = repr(error).encode(), False
        statuses = statuses_of(received)
        wrong = [f"status {status}" for status in statuses if status not in GOOD and not 400 <= status < 500]
        if expected and not closed:
            wrong.append(f"no end after {seconds:g} s")
        if expected and not statuses:
            wrong.append("no answer")
        done += max(1, expected)
        with found.lock:
            found.slowest = max(found.slowest, (time.monotonic() - begun, api, data[:300]))
            found.sent += max(1, expected)
            found.statuses.update(statuses)
            found.wrong += [f"{what}: {api} {data[:600]!r} -> {received[:300]!r}" for what in wrong]


def fuzz(options: argparse.Namespace, folder: Path) -> Found:
    """Start a server, send it all, and look whether it is as before."""
    for name in [name for name in os.environ if name.startswith(("TS_", "TORCHMAR_"))]:
        del os.environ[name]
    (folder / "store").mkdir()
    (folder / "hidden").mkdir()
    (folder / "hidden" / "torch.py").write_text("raise ImportError('not needed here, and slow')\n")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(folder / "hidden"), os.environ.get("PYTHONPATH"))))
    handler, config = folder / "handler.py", folder / "model-config.yaml"
    handler.write_text(HANDLER)
    config.write_text("minWorkers: 2\nmaxWorkers: 2\nbatchSize: 8\n")
    archive_tool.build(model_name="echo", handler=handler, config_file=config, export_path=folder / "store")
    state = StateFolder(home=folder / "state")
    made = StartOptions(
        models=("echo=echo.mar",),
        model_store=folder / "store",
        port="auto",
        frontend="python",
        enable_model_api=True,
        disable_token_auth=True,
    )
    started, found = start(made, state), Found()
    try:
        frontend = psutil.Process(started.record.pid)
        share = -(-options.requests // options.clients)
        before = 0
        for part in (0.2, 0.8):
            threads = [
                threading.Thread(
                    target=client, args=(number, f"{options.seed} {part}", int(share * part), started, found)
                )
                for number in range(options.clients)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            before = before or frontend.memory_info().rss
        after = frontend.memory_info().rss
        found.wrong += [f"memory: {before >> 20} MiB, then {after >> 20} MiB"] if after > 1.3 * before else []
        traces = Path(started.record.log_folder, "ts_log.log").read_text(errors="replace").count("Traceback (most")
        found.wrong += [f"{traces} tracebacks in the log"] if traces else []
        found.wrong += [] if frontend.is_running() else ["the frontend has ended"]
    finally:
        if killed := stop(state):
            found.wrong.append(f"{killed} processes had to be killed at the end")
    return found


def main(finish: Callable[[int], None] = sys.exit) -> None:
    """Run and print what came back; the exit code is 1 if something must not be."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--requests", type=int, default=100_000, help="(%(default)s)")
    parser.add_argument("--clients", type=int, default=8, help="(%(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="(%(default)s)")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="tmfuzz-")).resolve()
    begun = time.monotonic()
    found = fuzz(options, folder)
    listed = ", ".join(f"{number} x {status}" for status, number in sorted(found.statuses.items()))
    print(f"{found.sent} requests, seed {options.seed}, {time.monotonic() - begun:.0f} s: {listed}")
    for line in found.wrong[:20]:
        print(f"- {line}")
    if found.wrong:
        print(f"{len(found.wrong)} things must not be. The logs: {folder / 'state'}")
    else:
        shutil.rmtree(folder, ignore_errors=True)
    finish(int(bool(found.wrong)))


if __name__ == "__main__":
    main()
