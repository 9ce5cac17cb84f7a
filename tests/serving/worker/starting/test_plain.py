"""A worker without the prefork process."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import psutil
import pytest

from serving.protocol import Reply, encode_load
from serving.protocol.messages import Load
from tests.serving.worker.frontend import WITHOUT_TORCH, Server, Worker, archive, ends, rest, wait_for


def make(folder: Path, source: str = "def handle(data, context): return data and [b''] * len(data)") -> Path:
    return archive(folder / "model", source, files=WITHOUT_TORCH)


def load(server: Server, folder: Path, source: str, **environ: str) -> Worker:
    worker = server.worker(make(folder, source), **environ)
    assert worker.load(worker.folder) == Reply(200, "loaded model model"), worker.out.text
    return worker


SEEN = """
    import argparse, os, sys

    argparse.ArgumentParser().parse_args()
    print("printed")
    print("error", file=sys.stderr)

    def handle(data, context):
        return [{"pid": os.getpid(), "argv": sys.argv, "cwd": os.getcwd(), "path": sys.path}] * len(data or [])
"""


def test_the_process_that_the_frontend_started_does_it_all(plain_server: Server, tmp_path: Path) -> None:
    worker = load(plain_server, tmp_path, SEEN)
    worker.out.wait("printed\n")
    worker.err.wait("error\n")
    seen = json.loads(worker.answer())
    assert seen["pid"] == worker.pid
    assert len(seen["argv"]) == 1
    assert seen["cwd"] == seen["path"][0] == str(worker.folder)
    assert not any(path.endswith(f"home{os.sep}ts") for path in seen["path"])
    worker.close()
    assert plain_server.status(worker) == 0
    assert worker.out.rest().startswith(f"[PID]{worker.pid}\nTorch worker started.\n")


def test_torch(plain_server: Server, tmp_path: Path) -> None:
    source = """
        import torch

        def handle(data, context):
            return [[torch.get_num_threads(), (torch.ones(2) * 2).tolist()]] * len(data or [])
    """
    folder = archive(tmp_path / "model", source, config={"backend": {"threads": 3}})
    worker = plain_server.worker(folder)
    assert worker.load(folder).code == 200, worker.out.text
    assert json.loads(worker.answer()) == [3, [2.0, 2.0]]


@pytest.mark.parametrize(
    ("data", "code", "text"),
    [
        (b"", 0, ""),
        (encode_load(Load("model", "/model"))[:9], 0, ""),
        (b"nonsense", 1, "The frontend's first message cannot be read: "),
        (b"I\xff\xff\xff\xff", 1, "The frontend sent requests before a model to load\n"),
    ],
)
def test_the_first_message(plain_server: Server, tmp_path: Path, data: bytes, code: int, text: str) -> None:
    worker = plain_server.worker(make(tmp_path))
    worker.sock.sendall(data)
    worker.sock.shutdown(socket.SHUT_WR)
    assert worker.is_closed()
    assert plain_server.status(worker) == code
    assert text in worker.out.rest()
    assert worker.err.rest() == ""


def test_a_model_that_cannot_be_loaded(plain_server: Server, tmp_path: Path) -> None:
    worker = plain_server.worker(make(tmp_path, "import no_such_module"))
    assert worker.refuses(worker.folder)
    worker.out.wait("Failed to load model model: ModuleNotFoundError")
    assert plain_server.status(worker) == 1


def test_the_frontend_dies_while_the_handler_is_busy(plain_server: Server, tmp_path: Path) -> None:
    """Nothing kills the worker then."""
    source = """
        import time

        def handle(data, context):
            print("begun")
            time.sleep(1000 if data else 0)
    """
    worker = load(plain_server, tmp_path, source)
    worker.send(rest("1"))
    os.close(worker.stdin)
    worker.stdin = -1
    assert ends(worker.pid)
    assert worker.is_closed()


def test_the_frontend_dies_before_it_connects(plain_server: Server, tmp_path: Path) -> None:
    """Or torchrun does, that has just started this rank anew."""
    worker = plain_server.start(make(tmp_path))
    worker.out.wait("Torch worker started.\n")
    os.close(worker.stdin)
    worker.stdin = -1
    assert plain_server.status(worker) == 0
    assert not worker.path.exists()
    assert worker.out.rest().endswith("Torch worker started.\n")


@pytest.mark.parametrize("how", ["is stopped", "holds the lock"])
def test_the_frontend_dies_while_the_worker_cannot_see_it(plain_server: Server, tmp_path: Path, how: str) -> None:
    source = """
        import re

        def handle(data, context):
            if data:
                re.match("(a+)+$", "a" * 60 + "b")
    """
    worker = load(plain_server, tmp_path, source)
    process = psutil.Process(worker.pid)
    if how == "is stopped":
        process.suspend()
        threads = Path(f"/proc/{worker.pid}/task")
        assert wait_for(lambda: all(") T " in (one / "stat").read_text() for one in threads.iterdir()))
    else:
        used = process.cpu_times().user
        worker.send(rest("1"))
        assert wait_for(lambda: process.cpu_times().user > used + 0.2)
    os.close(worker.stdin)
    worker.stdin = -1
    assert ends(worker.pid)
    assert worker.is_closed()


def test_threads_of_the_handler_do_not_hold_up_the_end(plain_server: Server, tmp_path: Path) -> None:
    """The ranks of torchrun are not killed: the end of the connection is all that they see."""
    source = """
        import threading, time
        from concurrent.futures import ThreadPoolExecutor

        threading.Thread(target=time.sleep, args=(1000,)).start()
        ThreadPoolExecutor().submit(time.sleep, 1000)

        def handle(data, context):
            return data
    """
    worker = load(plain_server, tmp_path, source)
    worker.close()
    assert plain_server.status(worker) == 0
    assert not worker.path.exists()


def test_a_rank_listens_beside_the_first_and_is_silent(plain_server: Server, tmp_path: Path) -> None:
    source = """
        def handle(data, context):
            print("rank called with", data and len(data))
            return data and [b"rank"] * len(data)
    """
    worker = plain_server.start(make(tmp_path, source), LOCAL_RANK="2")
    worker.out.wait("Torch worker started.\n")
    assert not worker.path.exists()
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(str(worker.path.with_suffix(".9002")))
    worker.attach(sock)
    assert worker.load(worker.folder) == Reply(200, "loaded model model")
    worker.send(rest("1"))
    worker.out.wait("rank called with 1\n")
    worker.send(rest("2"), rest("3"))
    worker.out.wait("rank called with 2\n")
    sock.shutdown(socket.SHUT_WR)
    assert worker.is_closed()
    worker.close()
    assert plain_server.status(worker) == 0


def test_tcp(plain_server: Server, tmp_path: Path) -> None:
    """On systems without unix sockets, or with use_native_io=false."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    worker = plain_server.start(make(tmp_path), tcp=port)
    worker.out.wait("Torch worker started.\n")
    worker.attach(socket.create_connection(("127.0.0.1", port)))
    assert worker.load(worker.folder).code == 200
    assert worker.answer() == b""
    worker.close()
    assert plain_server.status(worker) == 0
