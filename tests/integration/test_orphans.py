"""Whatever is killed, at whatever moment: what is wanted comes back, what is not wanted is gone."""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote

import psutil
import pytest

from .conftest import OPEN, Sandbox, Server
from .support import (
    Answer,
    ask,
    at_once,
    is_alive,
    kill,
    model_log,
    pack,
    ready,
    register,
    scale,
    session,
    wait_until,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400), pytest.mark.hides("torchvision")]

EVERYTHING = {"everything.py": (Path(__file__).parent / "models" / "everything.py").read_text()}
TWO = "minWorkers: 2\nmaxWorkers: 2\n"
SHARED = "backend: {mode: shared}\n"
MODES = {"dedicated": "", "shared": SHARED}
SLOW = """
import os
import time

class Slow:
    def initialize(self, context):
        print("initializing", context.model_name, os.getpid())
        time.sleep(4)

    def handle(self, data, context):
        return [os.getpid()] * len(data)
"""
HANG = """
import os
import re
import time


class Hanging:
    def initialize(self, context):
        pass

    def handle(self, data, context):
        body = bytes(data[0]["body"]).decode()
        if body == "sleep":
            self.sleep_for_ever()
        if body == "busy":
            self.hold_the_lock()
        return [os.getpid()] * len(data)

    def sleep_for_ever(self):
        time.sleep(1000)  # the line that hangs

    def hold_the_lock(self):
        re.match("(a+)+$", "a" * 60 + "b")  # the line that is busy
"""
BUSY = "import re; re.match('(a+)+$', 'a' * 60 + 'b')"


def run(server: Server, model: str, code: str) -> Answer:
    return ask(server.inference, f"/predictions/{model}", "x", {"X-Do": quote(code)}, timeout=120)


def backend(server: Server, model: str) -> int:
    """Return the pid of the process that answers."""
    return int(run(server, model, "return [os.getpid()]").text())


# ---- the frontend ------------------------------------------------------------------------------------------------


@pytest.fixture
def doomed(sandbox: Sandbox) -> Server:
    """Return a server with two workers of each kind, of a handler that obeys its requests."""
    archives = [pack(sandbox, name, "everything.py", EVERYTHING, TWO + text) for name, text in MODES.items()]
    return sandbox.start(*archives, options=OPEN)


def assert_nothing_is_left(server: Server) -> None:
    wait_until(lambda: not session(server), "the end of all processes")
    stopped = server.sandbox.torchmar("stop")
    assert stopped.code == 7
    assert "ended by itself" in stopped.err
    assert server.sandbox.leftovers() == []


@pytest.mark.parametrize("moment", ["idle", "requests run", "models are loaded"])
def test_java_is_killed(doomed: Server, moment: str) -> None:
    with ThreadPoolExecutor() as pool:
        if moment == "requests run":
            for mode in MODES:
                pool.submit(run, doomed, mode, f"print('running in {mode}'); time.sleep(600)")
            wait_until(lambda: all(f"running in {mode}" in model_log(doomed) for mode in MODES), "the requests")
        if moment == "models are loaded":
            for mode, text in MODES.items():
                slow = {"slow.py": SLOW.replace("4", "600")}
                archive = pack(doomed.sandbox, f"slow_{mode}", "slow.py", slow, TWO + text)
                ask(doomed.management, f"/models?url={archive}&synchronous=false", "")
            wait_until(lambda: all(f"initializing slow_{mode}" in model_log(doomed) for mode in MODES), "the loads")
        os.kill(doomed.pid, signal.SIGKILL)
    # Every worker ends by itself: a server that is dead need not be stopped.
    wait_until(lambda: not session(doomed), "the end of all processes")
    assert not list(doomed.sandbox.temp.rglob(".ts.sock*"))
    assert_nothing_is_left(doomed)


def test_java_is_killed_while_handlers_let_nobody_else_run(doomed: Server) -> None:
    """Their processes cannot see it."""
    with ThreadPoolExecutor() as pool:
        for mode in MODES:
            pool.submit(run, doomed, mode, BUSY)
        wait_until(lambda: busy(doomed, 2), "the handlers' work")
        os.kill(doomed.pid, signal.SIGKILL)
    assert_nothing_is_left(doomed)


def test_all_are_killed_at_once(doomed: Server) -> None:
    for process in session(doomed):
        process.kill()
    assert_nothing_is_left(doomed)


def test_a_dead_server_is_stopped_at_once(doomed: Server) -> None:
    """Before its workers can have seen it, and with one that never will."""
    with ThreadPoolExecutor() as pool:
        pool.submit(run, doomed, "dedicated", BUSY)
        wait_until(lambda: busy(doomed, 1), "the handler's work")
        os.kill(doomed.pid, signal.SIGKILL)
        # The command is there within milliseconds, and on a busy machine the end may take longer than that.
        while is_alive(doomed.pid):
            time.sleep(0.001)
        assert doomed.sandbox.torchmar("stop").code == 7
    wait_until(lambda: not session(doomed), "the end of all processes")
    assert doomed.sandbox.leftovers() == []


def busy(server: Server, count: int) -> bool:
    """Return whether so many processes of the server have been at work for a while."""
    before = {process.pid: process.cpu_times().user for process in session(server) if process.pid != server.pid}
    time.sleep(1)
    after = {process.pid: process.cpu_times().user for process in session(server)}
    return sum(after.get(pid, 0.0) - used > 0.2 for pid, used in before.items()) >= count


# ---- the workers -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server(shared_sandbox: Sandbox) -> Server:
    box = shared_sandbox
    archives = [pack(box, name, "everything.py", EVERYTHING, TWO + text) for name, text in MODES.items()]
    return box.start(*archives, options=OPEN)


def thin(server: Server, model: str) -> int:
    return ready(server, model)[0]


def anew(server: Server, model: str, workers: int = 2) -> None:
    """Give a model new workers, of one prefork process: those whose prefork process was killed serve on."""
    for count in (0, workers):
        assert scale(server, model, count).status == 200
    wait_until(lambda: len(ready(server, model)) == workers, "new workers")


def prefork(server: Server, model: str) -> int:
    """Return the prefork process that has forked the processes of the model, which are new."""
    anew(server, model)
    return psutil.Process(backend(server, model)).ppid()


VICTIMS: dict[str, Callable[[Server, str], int]] = {"thin": thin, "prefork": prefork, "backend": backend}


@pytest.fixture
def whole(server: Server) -> Iterator[Server]:
    """Yield the server, all of whose workers answer; so they must after the test, with no more processes."""

    def is_whole() -> bool:
        return all(len(ready(server, name)) == 2 and run(server, name, "return [1]").status == 200 for name in MODES)

    for name in MODES:
        if len(ready(server, name)) > 2:  # a test has failed
            scale(server, name, 2)
    wait_until(is_whole, "the server before the test")
    # A prefork process that was killed is replaced when a worker is started.
    before = len(session(server)) + 1
    yield server
    wait_until(is_whole, "the server after the test")
    for name in MODES:
        answers = at_once([lambda name=name: run(server, name, "time.sleep(0.2); return [1]") for _ in range(4)])
        assert [answer.status for answer in answers] == [200] * 4
    wait_until(lambda: len(session(server)) <= before, "the end of what is not needed")


@pytest.mark.parametrize("victim", VICTIMS)
@pytest.mark.parametrize("mode", MODES)
def test_it_is_killed_while_idle(whole: Server, mode: str, victim: str) -> None:
    found = VICTIMS[victim](whole, mode)
    workers = ready(whole, mode)
    kill(found)
    if victim == "prefork":  # the present processes serve on, and the next worker starts another one
        assert ready(whole, mode) == workers
        assert scale(whole, mode, 3).status == 200
        wait_until(lambda: len(ready(whole, mode)) == 3, "a third worker")
        assert scale(whole, mode, 2).status == 200
    else:
        wait_until(lambda: len(ready(whole, mode)) == 2 and ready(whole, mode) != workers, "another worker")


@pytest.mark.parametrize("victim", VICTIMS)
@pytest.mark.parametrize("mode", MODES)
def test_it_is_killed_while_a_request_runs(whole: Server, mode: str, victim: str) -> None:
    found = VICTIMS[victim](whole, mode)
    mark = f"{mode} {victim} {time.monotonic_ns()}"
    code = f"print({mark!r}); time.sleep(3); return [os.getpid()]"
    with ThreadPoolExecutor() as pool:
        # Both workers are at work, so the victim is.
        answers = [pool.submit(run, whole, mode, code) for _ in range(2)]
        wait_until(lambda: mark in model_log(whole), "the requests")
        time.sleep(0.5)
        kill(found)
        statuses = sorted(answer.result().status for answer in answers)
    if victim == "prefork":
        assert statuses == [200, 200]
    else:
        assert set(statuses) <= {200, 500, 507}
        assert statuses[-1] >= 500


@pytest.mark.parametrize("victim", VICTIMS)
@pytest.mark.parametrize("mode", MODES)
def test_it_is_killed_while_a_model_is_loaded(whole: Server, mode: str, victim: str) -> None:
    name = f"slow_{mode}_{victim}"
    archive = pack(whole.sandbox, name, "slow.py", {"slow.py": SLOW}, TWO + MODES[mode])
    assert ask(whole.management, f"/models?url={archive}&synchronous=false", "").status == 202
    try:
        text = f"initializing {name} "
        wait_until(lambda: text in model_log(whole), "the load")
        loading = int(model_log(whole).partition(text)[2].split()[0])
        parent = psutil.Process(loading).ppid()
        pids = {"backend": lambda: loading, "prefork": lambda: parent}
        if victim == "thin":
            workers = ask(whole.management, f"/models/{name}").json()[0]["workers"]
            kill(next(worker["pid"] for worker in workers if worker["pid"] > 0))
        else:
            kill(pids[victim]())
        wait_until(lambda: len(ready(whole, name)) == 2, "both workers")
        assert ask(whole.inference, f"/predictions/{name}", b"x").status == 200
    finally:
        ask(whole.management, f"/models/{name}", method="DELETE")


# ---- handlers that hang ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hanging(server: Server) -> Server:
    for mode, text in MODES.items():
        archive = pack(server.sandbox, f"hang_{mode}", "hang.py", {"hang.py": HANG}, f"responseTimeout: 3\n{TWO}{text}")
        assert register(server, archive, f"hang_{mode}").status == 200
    return server


@pytest.mark.parametrize("kind", ["sleep", "busy"])
@pytest.mark.parametrize("mode", MODES)
def test_a_handler_that_hangs_is_told_in_the_log_and_its_process_replaced(
    hanging: Server, mode: str, kind: str
) -> None:
    model = f"hang_{mode}"

    def pid() -> int:
        return int(ask(hanging.inference, f"/predictions/{model}", b"x").text())

    wait_until(lambda: len(ready(hanging, model)) == 2, "both workers")
    before = {pid() for _ in range(6)}
    known = len(model_log(hanging))
    begin = time.monotonic()
    answer = ask(hanging.inference, f"/predictions/{model}", kind.encode(), timeout=120)
    assert answer.status == 500
    assert time.monotonic() - begin >= 2.0
    line = "the line that hangs" if kind == "sleep" else "the line that is busy"
    number = next(number for number, text in enumerate(HANG.splitlines(), 1) if line in text)
    function = "sleep_for_ever" if kind == "sleep" else "hold_the_lock"
    place = re.compile(rf'hang\.py", line {number},? in {function}')
    wait_until(lambda: place.search(model_log(hanging), known), "the stack in the log")
    wait_until(lambda: len(ready(hanging, model)) == 2, "both workers again")
    if mode == "shared":
        wait_until(lambda: pid() not in before, "another process")
    after = {pid() for _ in range(6)}
    assert after - before
    wait_until(lambda: len([one for one in before if is_alive(one)]) == len(after & before), "the end of what hung")
    assert not busy(hanging, 1)


# ---- scaling -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_scaling_under_load_loses_no_request(whole: Server, mode: str) -> None:
    stop = threading.Event()

    def client(number: int) -> list[int]:
        statuses = []
        while not stop.is_set():
            answer = run(whole, mode, f"time.sleep(0.01); return ['{number}']")
            assert answer.status >= 500 or answer.text() == str(number)
            statuses.append(answer.status)
        return statuses

    with ThreadPoolExecutor() as pool:
        clients = [pool.submit(client, number) for number in range(6)]
        try:
            for workers in (4, 1, 4, 1, 2):
                assert scale(whole, mode, workers).status == 200
                wait_until(lambda workers=workers: len(ready(whole, mode)) == workers, f"{workers} workers")
                time.sleep(0.3)
        finally:
            stop.set()
        statuses = [status for found in clients for status in found.result()]
    assert set(statuses) <= {200, 500, 503, 507}
    assert statuses.count(200) > 0.9 * len(statuses)


def test_prints_reach_the_log_whichever_worker_leaves(whole: Server) -> None:
    anew(whole, "shared", 4)
    process = backend(whole, "shared")
    for number in range(3):
        # The oldest, whose pipes the process was born with.
        victim = min(ready(whole, "shared"), key=lambda pid: psutil.Process(pid).create_time())
        kill(victim)
        mark = f"said after {number} of {time.monotonic_ns()}"
        wait_until(lambda mark=mark: run(whole, "shared", f"print({mark!r}); return [1]").status == 200, "an answer")
        wait_until(lambda mark=mark: mark in model_log(whole), "the line")
        wait_until(lambda: len(ready(whole, "shared")) == 4, "four workers")
    assert backend(whole, "shared") == process
    assert scale(whole, "shared", 2).status == 200
    run(whole, "shared", "print('said at the end'); return [1]")
    wait_until(lambda: "said at the end" in model_log(whole), "the line")
