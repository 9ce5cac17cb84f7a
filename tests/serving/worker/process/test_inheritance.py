"""A worker inherits from the frontend, and passes on to its handler's children, the same as TorchServe's worker."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from serving.worker.process import rendezvous
from tests.serving.worker.frontend import ONLY_TENSORS, STOCK_SCRIPT, Server, Worker, archive

pytestmark = pytest.mark.skipif(not rendezvous.supported, reason="there is no prefork process on this system")

# A shell and cat change nothing of it, as an interpreter would. Each way to start a program inherits something else.
SOURCE = """
    import json, multiprocessing, os, signal, subprocess, sys, tempfile

    LOOK = '''
        for file in status limits oom_score_adj coredump_filter personality timerslack_ns cgroup
        do echo "== $file"; cat /proc/self/$file 2>/dev/null; done
        echo "== stat"; cut -d')' -f2 /proc/self/stat | cut -d' ' -f5-7,18-19,40-41
        echo "== fd"; ls -l /proc/self/fd | sed 's/.* \\\\([0-9]* ->\\\\)/\\\\1/'
    '''

    def popen():
        return subprocess.run(["sh", "-c", LOOK], stdout=subprocess.PIPE, text=True).stdout

    def with_everything():
        return subprocess.run(["sh", "-c", LOOK], stdout=subprocess.PIPE, text=True, close_fds=False,
                              restore_signals=False).stdout

    def system():
        with tempfile.NamedTemporaryFile("r") as file:
            os.system("( " + LOOK + " ) > " + file.name)
            return file.read()

    def spawned():
        with tempfile.NamedTemporaryFile("r") as file:
            os.waitpid(os.posix_spawn("/bin/sh", ["sh", "-c", "( " + LOOK + " ) > " + file.name], os.environ), 0)
            return file.read()

    def forked():
        ours, theirs = multiprocessing.get_context("fork").Pipe()
        process = multiprocessing.get_context("fork").Process(target=lambda: theirs.send(look()))
        process.start()
        process.join()
        return ours.recv()

    def look():
        reactions = {number: str(signal.getsignal(number)).split(" at ")[0] for number in signal.valid_signals()}
        fds = [os.readlink("/proc/self/fd/%d" % number).split(":")[0] for number in (0, 1, 2)]
        return json.dumps([{int(number): text for number, text in reactions.items()}, fds])

    def handle(data, context):
        if data:
            return [{way.__name__: way() for way in (popen, with_everything, system, spawned, forked)}]
"""
# Settings of the server that its prefork process, which was started before, lacks: Java itself raises limits, an
# administrator may have changed the rest.
CHANGES = """
    import resource, signal
    os.umask(0o027)
    resource.setrlimit(resource.RLIMIT_NOFILE, (500, 600))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 4096))
    resource.setrlimit(resource.RLIMIT_FSIZE, (10**9, 10**9))
    os.nice(3)
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    open("/proc/self/oom_score_adj", "w").write("77")
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGQUIT, signal.SIGUSR1])
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTSTP, signal.SIG_IGN)
"""
# Each process has its own, or it is of this moment.
_OWN = re.compile(
    r"(Name|Pid|PPid|Tgid|Ngid|NS\w+|TracerPid|FDSize|Vm\w+|Rss\w+|HugetlbPages|\w*ctxt_switches|Threads|SigQ):"
)


def _normal(text: str) -> list[str]:
    """Return the values without what is another process's anyway."""
    lines = [re.sub(r"(pipe|socket|anon_inode):?\[.*\]", r"\1", line) for line in text.splitlines()]
    # A signal of glibc's own is ignored by what posix_spawn starts: by Java's workers, and not by those of this server.
    lines = [re.sub(r"(SigIgn:\t0{8})8(?=[0-9a-f]{7}$)", r"\g<1>0", line) for line in lines]
    lines = [re.sub(r"/proc/\d+/fd|/tmp/tmp\w+", "...", line) for line in lines]
    return [line for line in lines if not _OWN.match(line)]


def _seen(worker: Worker, folder: Path) -> dict[str, Any]:
    assert worker.load(folder).code == 200, worker.out.text
    looks = json.loads(worker.answer())
    return {way: _normal(text) for way, text in looks.items()}


@pytest.mark.parametrize("changes", [CHANGES, "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)"])
def test_what_a_handler_starts_has_what_it_has_under_torchserves_worker(
    server_of_its_own: Callable[[], Server], tmp_path: Path, changes: str
) -> None:
    server = server_of_its_own()
    folder = archive(tmp_path / "model", SOURCE)
    # Starts the prefork process.
    assert server.worker(folder).load(folder).code == 200
    server.do(changes)
    ours = _seen(server.worker(folder), folder)
    plain = _seen(server.worker(folder, TORCHMAR_PREFORK="0"), folder)
    # It cannot do without a tensor's class; ours find no torch here.
    tensors = archive(tmp_path / "tensors", files=ONLY_TENSORS)
    path = os.pathsep.join([str(tensors), str(folder)])
    stock = _seen(server.worker(folder, script=STOCK_SCRIPT, PYTHONPATH=path), folder)
    assert ours.keys() == {"popen", "with_everything", "system", "spawned", "forked"}
    for way, look in stock.items():
        assert len(look) == 1 if way == "forked" else len(look) > 50
        assert plain[way] == look, way
        assert ours[way] == look, way
