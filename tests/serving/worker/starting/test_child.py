"""A forked process is the one that the frontend would have started: nothing of the prefork process shows."""

from __future__ import annotations

import json
import os
import signal
import socket
from pathlib import Path
from typing import Any

import psutil
import pytest

from serving.worker.process.arguments import Arguments
from serving.worker.starting.child import Guest
from tests.serving.worker.frontend import SCRIPT, Server, Worker, archive, ends, has_ended


def load(server: Server, folder: Path, source: str, **environ: str) -> Worker:
    return load_again(server, archive(folder, source), **environ)


def load_again(server: Server, folder: Path, **environ: str) -> Worker:
    worker = server.worker(folder, **environ)
    assert worker.load(folder).code == 200, worker.out.text
    return worker


def test_folder_environment_arguments_and_path(server: Server, tmp_path: Path) -> None:
    source = """
        import json, os, signal, sys

        SEEN = {
            "cwd": os.getcwd(),
            "environ": dict(os.environ),
            "argv": sys.argv,
            "path": sys.path,
            "main": sys.modules["__main__"].__file__,
            "helper": __import__("helper").__file__,
            "int": signal.getsignal(signal.SIGINT) is signal.default_int_handler,
            "child": signal.getsignal(signal.SIGCHLD) is signal.SIG_DFL,
            "wakeup": signal.set_wakeup_fd(-1),
            "started": os.popen("echo $FOR_THIS_ONE; pwd").read().split(),
            "stdin": os.readlink("/proc/self/fd/0"),
        }

        def handle(data, context):
            return [SEEN] * len(data or [])
    """
    load(server, tmp_path / "other", "def handle(data, context): return data", FOR_THE_OTHER="1")
    folder = archive(tmp_path / "model", source, files={"helper.py": "x = 1"})
    worker = server.worker(folder, FOR_THIS_ONE="größer", PATH=os.environ["PATH"])
    assert worker.load(folder).code == 200, worker.out.text
    seen = json.loads(worker.answer())
    assert seen["cwd"] == str(folder)
    assert seen["environ"]["FOR_THIS_ONE"] == "größer"
    assert "FOR_THE_OTHER" not in seen["environ"]
    assert seen["environ"]["PYTHONPATH"].split(os.pathsep)[0] == str(folder)
    assert seen["argv"] == [str(SCRIPT)]
    assert seen["main"] == str(SCRIPT)
    assert seen["path"][0] == str(folder)
    assert str(SCRIPT.parent) not in seen["path"]
    assert str(tmp_path / "other") not in seen["path"]
    assert seen["helper"] == str(folder / "helper.py")
    assert (seen["int"], seen["child"], seen["wakeup"]) == (False, True, -1)
    assert seen["started"] == ["größer", str(folder)]
    assert seen["stdin"].startswith("pipe:")


def test_the_environment_is_that_of_a_plain_worker(server: Server, plain_server: Server, tmp_path: Path) -> None:
    source = """
        import os, sys

        def handle(data, context):
            return [{"environ": dict(os.environ), "path": sys.path}] * len(data or [])
    """
    # There need be no torch for that, whose import takes seconds.
    folder = archive(tmp_path / "model", source)
    seen = []
    for one, hides in ((server, ""), (plain_server, "raise ImportError('not here')")):
        if hides:
            (folder / "torch.py").write_text(hides)
        worker = one.worker(folder, SAME="1")
        assert worker.load(folder).code == 200, worker.out.text
        seen.append(json.loads(worker.answer()))
    # What torch and numpy put into the environment when they are imported is not the frontend's.
    assert seen[0]["path"] == seen[1]["path"]
    assert set(seen[0]["environ"].items()) <= set(seen[1]["environ"].items())


def test_a_handler_that_parses_arguments(server: Server, tmp_path: Path) -> None:
    source = """
        import argparse

        parser = argparse.ArgumentParser()
        parser.add_argument("--size", default=3)
        SIZE = parser.parse_args().size

        def handle(data, context):
            return [SIZE] * len(data or [])
    """
    assert load(server, tmp_path / "model", source).answer() == b"3"


RANDOM = """
    import gc, os, random
    import numpy, torch, uuid

    def draws():
        return [random.random(), float(numpy.random.random()), float(torch.rand(1)), torch.initial_seed(),
                float(numpy.random.default_rng().random()), str(uuid.uuid4())]

    class Handler:
        def initialize(self, context):
            self.first = draws()

        def handle(self, data, context):
            return [[os.getpid(), *self.first, *draws()]] * len(data)
"""


@pytest.mark.parametrize("config", [{}, {"backend": {"mode": "shared", "processes": 2}}])
def test_each_process_has_random_numbers_of_its_own(server: Server, tmp_path: Path, config: dict[str, Any]) -> None:
    folder = archive(tmp_path / "model", RANDOM, config=config)
    workers = [server.worker(folder) for _ in range(2)]
    for worker in workers:
        assert worker.load(folder).code == 200, worker.out.text
    one, other = (json.loads(worker.answer()) for worker in workers)
    assert [a == b for a, b in zip(one, other, strict=True)] == [False] * 13


def test_every_generator_that_was_there_before_the_fork_has_a_seed_of_its_own(server: Server, tmp_path: Path) -> None:
    """Whatever module keeps it, of all that the prefork process imports."""
    source = """
        import gc, random, sys, tempfile
        import numpy, torch

        DRAW = {
            random.Random: lambda one: one.random(),
            torch.Generator: lambda one: float(torch.rand(1, generator=one)),
            numpy.random.Generator: lambda one: one.random(),
            numpy.random.RandomState: lambda one: one.random_sample(),
            numpy.random.BitGenerator: lambda one: int(one.random_raw()),
        }

        def generators():
            gc.unfreeze()
            objects = gc.get_objects()
            found = {id(one): one for one in objects}
            for one in objects:
                found.update((id(other), other) for other in gc.get_referents(one))
            symbol = sys.modules.get("sympy.core.symbol")
            # They number names, and no sample depends on them; that of tempfile knows its process.
            numbering = [getattr(tempfile._name_sequence, "_rng", None), symbol and symbol.Dummy._prng]
            return [(type(one).__name__, draw(one)) for one in found.values()
                    for kind, draw in DRAW.items() if issubclass(type(one), kind) and one not in numbering]

        DRAWN = generators()

        def handle(data, context):
            return [DRAWN] * len(data or [])
    """
    folder = archive(tmp_path / "model", source)
    one, other = (json.loads(load_again(server, folder).answer()) for _ in range(2))
    assert [name for name, _ in one] == [name for name, _ in other]
    assert {"Random", "Generator", "RandomState", "MT19937"} <= {name for name, _ in one}
    assert [name for (name, drawn), (_, again) in zip(one, other, strict=True) if drawn == again] == []


def test_a_seed_of_the_handlers_own_holds(server: Server, tmp_path: Path) -> None:
    seeds = "random.seed(7), numpy.random.seed(7), torch.manual_seed(7)"
    folder = archive(tmp_path / "model", RANDOM.replace("self.first = draws()", f"self.first = [{seeds}] and []"))
    one, other = (json.loads(load_again(server, folder).answer()) for _ in range(2))
    assert one[0] != other[0]
    assert one[1:5] == other[1:5]
    assert one[4] == 7


def test_nothing_of_other_workers_is_open(server: Server, tmp_path: Path) -> None:
    """Their ends would not be seen any more: neither that of a pipe nor that of a connection."""
    source = """
        import os

        def look():
            found = []
            for fd in os.listdir("/proc/self/fd"):
                try:
                    found.append(os.readlink(f"/proc/self/fd/{fd}"))
                except OSError:
                    pass  # that of the folder itself
            return found

        def handle(data, context):
            return [look()] * len(data or [])
    """
    folder = archive(tmp_path / "model", source)
    waiting = server.start(folder)  # the frontend has not connected to it yet
    waiting.out.wait("started.\n")
    workers = []
    for _ in range(3):
        workers.append(server.worker(folder))
        assert workers[-1].load(folder).code == 200, workers[-1].out.text
    looks = [json.loads(worker.answer()) for worker in workers]
    opened = [{file for file in look if file.startswith(("socket:", "pipe:"))} for look in looks]
    for index, files in enumerate(opened):
        for others in opened[index + 1 :]:
            assert not files & others
    # When the first one is killed, its pipes and its connection end, whichever worker lives on.
    workers[0].kill()
    workers[0].out.rest()
    workers[0].err.rest()
    assert workers[0].is_closed()
    waiting.kill()
    waiting.out.rest()
    assert workers[1].answer()


def test_a_program_that_a_handler_starts_keeps_nothing_open(server: Server, tmp_path: Path) -> None:
    source = """
        import os, subprocess

        def handle(data, context):
            if data:
                started = subprocess.Popen(["sleep", "1000"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                           stderr=subprocess.DEVNULL, close_fds=False, start_new_session=True)
                return [[os.getpid(), started.pid]]
    """
    worker = load(server, tmp_path / "model", source)
    pid, started = json.loads(worker.answer())
    try:
        os.kill(pid, signal.SIGKILL)
        assert worker.is_closed()
        worker.out.rest()
        assert server.status(worker) == 137
        assert not has_ended(started)
    finally:
        os.kill(started, signal.SIGKILL)


def test_what_is_to_be_done_at_the_end_is_done(server: Server, tmp_path: Path) -> None:
    """And what would hold up the end of an interpreter does not: other threads, and functions that hang."""
    source = """
        import atexit, os, threading, time
        from concurrent.futures import ThreadPoolExecutor

        atexit.register(print, "at the end")
        threading.Thread(target=time.sleep, args=(1000,)).start()
        pool = ThreadPoolExecutor()
        pool.submit(time.sleep, 1000)

        def handle(data, context):
            return [os.getpid()] * len(data or [])
    """
    worker = load(server, tmp_path / "model", source)
    pid = int(worker.answer())
    worker.close()
    assert ends(pid)
    assert server.status(worker) == 0
    assert worker.out.rest().endswith("at the end\n")


def test_a_function_at_the_end_that_hangs(server: Server, tmp_path: Path) -> None:
    source = """
        import atexit, time

        atexit.register(time.sleep, 1000)

        def handle(data, context):
            return data
    """
    worker = load(server, tmp_path / "model", source)
    worker.close()
    assert server.status(worker) == 0


def test_an_archive_that_is_removed_at_once(server: Server, tmp_path: Path) -> None:
    folder = archive(tmp_path / "model", "def handle(data, context): return data")
    worker = server.worker(folder)
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    folder.rmdir()
    assert worker.refuses(folder)
    worker.out.wait("Failed to load model model: there is no handler 'handler.py'")


def test_the_copies_of_a_process_share_its_pages(server: Server, tmp_path: Path) -> None:
    """The libraries are in memory once; loading a handler does not copy them."""
    worker = load(
        server, tmp_path / "model", "import os\ndef handle(data, context): return [os.getpid()] * len(data or [])"
    )
    memory: Any = psutil.Process(int(worker.answer())).memory_full_info()
    assert memory.uss < memory.rss / 2


def test_the_descriptors_of_a_guest_are_closed_once() -> None:
    (out, theirs_out), (err, theirs_err) = os.pipe(), os.pipe()
    lifeline, other = socket.socketpair()
    arguments = Arguments("/s.1", "", 0, "", False, 0)
    guest = Guest(arguments, [], {}, "/", [], {}, os.open(os.devnull, os.O_RDONLY), theirs_out, theirs_err, lifeline)
    guest.close()
    assert os.read(out, 1) == os.read(err, 1) == other.recv(1) == b""
    again = [os.dup(out), os.dup(err)]  # they get the numbers that have become free
    guest.close()
    for fd in (*again, out, err):
        os.close(fd)
    other.close()
