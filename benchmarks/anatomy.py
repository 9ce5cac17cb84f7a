"""Where the time of one request goes, layer by layer: ``python benchmarks/anatomy.py``.

One client sends one request after the other, so that nothing waits for anything else, and the same request is timed at
five depths, each a median over many:

1. the handler called in a loop, without any server;
2. two processes that pass a message of the same size to and fro over a unix socket: the kernel, and waking up;
3. a worker process, over its socket, with this script in the frontend's place;
4. ``GET /ping``: Java's HTTP alone, for no worker is asked;
5. the whole server.

The differences are the layers. TorchServe's worker and ours take turns; the medians of the rounds are compared. Writes
``anatomy.md`` and ``anatomy.json``.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

sys.path[:0] = [str(Path(__file__).resolve().parents[1])]  # run as a script, only this file's own folder is searched

from archive_tool import open_archive  # noqa: E402
from benchmarks import machine  # noqa: E402
from benchmarks.serving_bench.contenders import Contender  # noqa: E402
from benchmarks.serving_bench.servers import serving  # noqa: E402
from benchmarks.serving_bench.workloads import WORKLOADS, Workload  # noqa: E402
from serving.control.configuration.java import WORKER_SCRIPT, torchserve_home, worker_home  # noqa: E402
from serving.protocol import (  # noqa: E402
    Inference,
    Load,
    Parameter,
    ReplyDecoder,
    Request,
    encode_inference,
    encode_load,
)

RESULTS = Path(__file__).resolve().parent / "results"
HOMES = {"stock": torchserve_home, "dedicated": worker_home}
PATIENCE_S = 120.0
HEADERS = {
    "Host": "127.0.0.1:8080",
    "User-Agent": "anatomy",
    "Content-Type": "application/octet-stream",
    "url_path": "",
    "explain": "False",
}
_BARE = """
import json, statistics, sys, time
from itertools import cycle
from pathlib import Path
sys.path[0] = sys.argv[1]
import torch
from benchmarks.serving_bench import bare
torch.set_num_threads(int(sys.argv[4]))
service = bare.load(Path(sys.argv[2]))
bodies = cycle([Path(name).read_bytes() for name in sys.argv[5:]])
seconds, begin = [], time.perf_counter()
while time.perf_counter() - begin < float(sys.argv[3]) or len(seconds) < 20:
    now = time.perf_counter()
    bare.call(service, bodies, 1)
    seconds.append(time.perf_counter() - now)
print(json.dumps(statistics.median(seconds[len(seconds) // 5:])))
"""
_ECHO = """
import socket, sys
link = socket.socket(fileno=int(sys.argv[1]))
expected, reply = int(sys.argv[2]), b"y" * int(sys.argv[3])
while True:
    left = expected
    while left:
        data = link.recv(left)
        if not data:
            sys.exit()
        left -= len(data)
    link.sendall(reply)
"""


def timed(call: Callable[[], object], seconds: float) -> float:
    """Return the median seconds of a call, after a fifth of the time to warm up."""
    found: list[float] = []
    begin = time.perf_counter()
    while (now := time.perf_counter()) - begin < seconds or len(found) < 20:
        call()
        found.append(time.perf_counter() - now)
    return statistics.median(found[len(found) // 5 :])


def handler(folder: Path, bodies: Sequence[Path], seconds: float) -> float:
    """Return the median seconds of a batch of one, in a process of its own, with one thread.

    Raises:
        RuntimeError: the process failed.
    """
    root = str(Path(__file__).resolve().parents[1])
    command = [sys.executable, "-c", _BARE, root, str(folder), str(seconds), "1", *map(str, bodies)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"the bare handler failed: {done.stderr[-800:]}")
    return float(json.loads(done.stdout.splitlines()[-1]))


def echo(request: int, reply: int, seconds: float) -> float:
    """Return the median seconds of a message of so many bytes there, and one back, between two Python processes."""
    ours, theirs = socket.socketpair()
    with ours:
        child = subprocess.Popen(
            [sys.executable, "-c", _ECHO, str(theirs.fileno()), str(request), str(reply)], pass_fds=[theirs.fileno()]
        )
        theirs.close()
        message = b"x" * request

        def turn() -> None:
            ours.sendall(message)
            left = reply
            while left:
                left -= len(ours.recv(left))

        found = timed(turn, seconds)
    child.wait()
    return found


@contextlib.contextmanager
def worker(kind: str, folder: Path, temporary: Path) -> Iterator[Callable[[bytes], int]]:
    """Yield a function that sends a body to a worker with its model loaded, and returns the bytes of the reply."""
    home = HOMES[kind]()
    path = temporary / ".ts.sock.9000"  # the stock worker counts on from the number
    command = [sys.executable, str(home / WORKER_SCRIPT), "--sock-type", "unix", "--sock-name", str(path)]
    command += ["--metrics-config", str(home / "ts" / "configs" / "metrics.yaml")]
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("OMP_", "TORCHMAR_"))}
    environ = kept | {"PYTHONPATH": os.pathsep.join([str(folder), str(home)]), "OMP_NUM_THREADS": "1"}
    # As the frontend starts its first worker of a server that forks none.
    environ["TORCHMAR_PREFORK"] = "0"
    process = subprocess.Popen(
        command, cwd=folder, env=environ, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    link = socket.socket(socket.AF_UNIX)
    try:
        connect(link, path, process)
        decoder = ReplyDecoder()

        def reply() -> int:
            count = 0
            while (message := decoder.next_message()) is None:
                data = link.recv(65536)
                if not data:
                    raise RuntimeError(f"the {kind} worker closed its connection")
                count += len(data)
                decoder.feed(data)
            if message.code != 200 or any(item.status != 200 for item in message.items):
                raise RuntimeError(f"the {kind} worker answered {message}")
            return count

        manifest = json.loads((folder / "MAR-INF" / "MANIFEST.json").read_text(encoding="utf-8"))["model"]
        link.sendall(encode_load(Load(manifest["modelName"], str(folder), handler=manifest["handler"])))
        reply()

        def ask(frame: bytes) -> int:
            link.sendall(frame)
            return reply()

        yield ask
    finally:
        link.close()
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def connect(link: socket.socket, path: Path, process: subprocess.Popen[bytes]) -> None:
    """Connect as soon as the worker listens.

    Raises:
        RuntimeError: the worker does not listen in time.
    """
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            link.connect(str(path))
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("the worker does not listen") from None
            time.sleep(0.05)
        else:
            return


def frame(body: bytes) -> bytes:
    """Return a request as the frontend sends it to a worker."""
    parameter = Parameter("body", bytearray(body), "application/octet-stream")
    return bytes(encode_inference(Inference((Request("0a1b2c3d-0000-0000-0000-000000000000", HEADERS, (parameter,)),))))


class Client:
    """A client that sends one request after the other over one connection, and does as little as it can."""

    def __init__(self, address: str) -> None:
        parts = urlsplit(address)
        self._host = f"{parts.hostname}:{parts.port}"
        self._link = socket.create_connection((parts.hostname or "", parts.port or 80))
        self._link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def close(self) -> None:
        """End the connection."""
        self._link.close()

    def message(self, method: str, path: str, body: bytes = b"") -> bytes:
        """Return a request as bytes."""
        head = f"{method} {path} HTTP/1.1\r\nHost: {self._host}\r\nContent-Type: application/octet-stream\r\n"
        return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body

    def ask(self, message: bytes) -> None:
        """Send a message and read the whole answer.

        Raises:
            RuntimeError: its status is not 200.
        """
        self._link.sendall(message)
        data = b""
        while (end := data.find(b"\r\n\r\n")) < 0:
            data += self._receive()
        head = data[:end].lower()
        if not head.startswith(b"http/1.1 200"):
            raise RuntimeError(f"the server answered {data!r}")
        length = int(head.partition(b"content-length:")[2].split(b"\r\n")[0])
        while len(data) < end + 4 + length:
            data += self._receive()

    def _receive(self) -> bytes:
        data = self._link.recv(65536)
        if not data:
            raise RuntimeError("the server closed the connection")
        return data


@dataclass
class Depths:
    """Median seconds of a request at each depth, in every round."""

    handler: list[float]
    echo: list[float]
    worker: list[float]
    ping: list[float]
    whole: list[float]

    def layers(self) -> dict[str, float]:
        """Return the microseconds by layer; what they add up to is the whole."""
        handled, echoed, worked, pinged, whole = (
            1e6 * statistics.median(values) for values in (self.handler, self.echo, self.worker, self.ping, self.whole)
        )
        return {
            "client and Java's HTTP (GET /ping)": pinged,
            "Java's queue, threads and its end of the socket": whole - pinged - worked,
            "socket, waking up": echoed,
            "Python worker": worked - echoed - handled,
            "handler (model, pre- and postprocessing)": handled,
            "the whole request": whole,
        }


def measure(workload: Workload, kind: str, folder: Path, seconds: float, depths: Depths) -> None:
    """Measure one round of one contender."""
    contender = Contender(kind)  # type: ignore[arg-type]
    temporary = folder / "w"
    temporary.mkdir(parents=True)
    model = temporary / "model"
    with open_archive(temporary / workload.build(temporary, contender, 1)) as archive:
        archive.extract(model)
    messages = [frame(path.read_bytes()) for path in workload.bodies]
    turn = 0

    def following(count: int) -> int:
        nonlocal turn
        turn = (turn + 1) % count
        return turn

    depths.handler.append(handler(model, workload.bodies, seconds))
    with worker(kind, model, temporary) as ask:
        size = ask(messages[0])
        depths.worker.append(timed(lambda: ask(messages[following(len(messages))]), seconds))
    depths.echo.append(echo(len(messages[0]), size, seconds))
    problems: list[str] = []
    with (
        serving(contender, workload, folder / "s", 1, problems) as server,
        contextlib.closing(Client(server.inference)) as client,
    ):
        requests = [client.message("POST", f"/predictions/{workload.name}", p.read_bytes()) for p in workload.bodies]
        depths.whole.append(timed(lambda: client.ask(requests[following(len(requests))]), 2 * seconds))
        ping = client.message("GET", "/ping")
        depths.ping.append(timed(lambda: client.ask(ping), seconds))
    if problems:
        print(*problems, sep="\n", file=sys.stderr)


def table(found: dict[str, dict[str, dict[str, float]]]) -> str:
    """Format the microseconds as Markdown, a table for each workload."""
    lines = []
    for workload, kinds in found.items():
        lines += [f"## {workload}", "", "| microseconds | " + " | ".join(kinds) + " |"]
        lines.append("| --- |" + " ---: |" * len(kinds))
        for layer in next(iter(kinds.values())):
            lines.append(f"| {layer} | " + " | ".join(f"{layers[layer]:,.0f}" for layers in kinds.values()) + " |")
        lines.append("")
    return "\n".join(lines)


def main() -> int:
    """Measure and write the tables."""
    parser = argparse.ArgumentParser(description="Where the time of one request goes.")
    parser.add_argument("--workloads", default="noop,mnist", help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=3, help="default: %(default)s")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement (%(default)s)")
    parser.add_argument("--output-dir", type=Path, default=RESULTS, help="default: %(default)s")
    options = parser.parse_args()
    machine.compile_packages()
    names = options.workloads.split(",")
    if unknown := set(names) - set(WORKLOADS):
        parser.error(f"no such workload: {', '.join(sorted(unknown))}; there are {', '.join(WORKLOADS)}")
    folder = Path(tempfile.mkdtemp(prefix="tmanat-", dir="/tmp"))  # short: the paths of sockets are below it
    try:
        workloads = [WORKLOADS[name](folder) for name in names]
        depths = {(w.name, kind): Depths([], [], [], [], []) for w in workloads for kind in HOMES}
        for number in range(options.rounds):
            for workload in workloads:
                for kind in HOMES:
                    place = folder / f"{number}{workload.name}{kind}"
                    measure(workload, kind, place, options.seconds, depths[workload.name, kind])
                    shutil.rmtree(place)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    found = {w.title: {kind: depths[w.name, kind].layers() for kind in HOMES} for w in workloads}
    text = f"# Where the time of one request goes\n\nMedians of {options.rounds} rounds.\n\n{table(found)}"
    options.output_dir.mkdir(parents=True, exist_ok=True)
    (options.output_dir / "anatomy.md").write_text(text, encoding="utf-8")
    (options.output_dir / "anatomy.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
