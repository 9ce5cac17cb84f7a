"""What may befall a Python frontend and its workers: processes that freeze, disks that fill, floods, replaced files."""

from __future__ import annotations

import os
import shutil
import signal
import statistics
import subprocess
import threading
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

import psutil
import pytest

from .conftest import OPEN, Sandbox, Server, usual_frontend
from .support import Answer, ask, is_alive, model_log, pack, ready, register, scale, session, wait_until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.hides("torch"),
    pytest.mark.parametrize("frontend", ["python"], scope="module"),
]

OBEDIENT = """
import os
import time
from urllib.parse import unquote


class Obedient:
    def initialize(self, context):
        print("initializing", context.model_name, os.getpid())
        time.sleep(LOAD_S)

    def handle(self, data, context):
        scope = {"os": os, "time": time}
        code = unquote(context.get_request_header(0, "X-Do") or "return os.getpid()")
        exec("def do():\\n    " + code.replace("\\n", "\\n    "), scope)
        return [str(scope["do"]())] * len(data)
"""
TWO = "minWorkers: 2\nmaxWorkers: 2\nresponseTimeout: 4\nbackend:\n  retry: false\n"
MODES = {"dedicated": "", "shared": "  mode: shared\n"}


def obedient(box: Sandbox, name: str, config: str = TWO, load_s: float = 0.0) -> str:
    return pack(box, name, "obedient.py", {"obedient.py": f"LOAD_S = {load_s}\n{OBEDIENT}"}, config)


def run(server: Server, model: str, code: str) -> Answer:
    return ask(server.inference, f"/predictions/{model}", "x", {"X-Do": quote(code)}, timeout=120)


def freeze(pid: int) -> None:
    """Stop a process as a debugger does; no number below 2 is one process."""
    assert pid > 1
    os.kill(pid, signal.SIGSTOP)


def backend(server: Server, model: str) -> int:
    return int(run(server, model, "return os.getpid()").text())


@pytest.fixture(scope="module")
def server(shared_sandbox: Sandbox) -> Server:
    box = shared_sandbox
    return box.start(*(obedient(box, mode, TWO + text) for mode, text in MODES.items()), options=OPEN)


# ---- processes that freeze -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_a_worker_that_freezes_is_replaced_after_the_response_timeout(server: Server, mode: str) -> None:
    frozen = backend(server, mode)
    freeze(frozen)
    with ThreadPoolExecutor() as pool:
        answers = list(pool.map(lambda _: run(server, mode, "return os.getpid()"), range(4)))
    assert {answer.status for answer in answers} <= {200, 500}
    assert any("responseTimeout" in answer.text() for answer in answers)
    wait_until(lambda: len(ready(server, mode)) == 2 and run(server, mode, "return 1").status == 200, "other workers")
    wait_until(lambda: not is_alive(frozen), "the end of the frozen one")


@pytest.mark.parametrize("mode", MODES)
def test_frozen_workers_do_not_hold_up_a_change(server: Server, mode: str) -> None:
    frozen = {backend(server, mode), *ready(server, mode)}
    for pid in frozen:
        freeze(pid)
    assert scale(server, mode, 0).status == 200
    wait_until(lambda: not any(is_alive(pid) for pid in frozen), "the end of the frozen ones")
    assert scale(server, mode, 2).status == 200
    wait_until(lambda: run(server, mode, "return 1").status == 200, "an answer")


def test_a_frozen_server_is_told_and_stopped(sandbox: Sandbox) -> None:
    server = sandbox.start(obedient(sandbox, "m"), options=OPEN)
    processes = session(server)
    for process in processes:
        freeze(process.pid)
    status = sandbox.torchmar("status")
    assert status.code not in (0, 7)
    assert "no answer within" in status.err
    stopped = sandbox.torchmar("stop", "--timeout", "2")
    assert (stopped.code, "had to be killed" in stopped.out) == (0, True)
    assert not session(server)
    assert sandbox.leftovers() == []


# ---- disks, clocks, floods -------------------------------------------------------------------------------------------


def test_a_full_disk_costs_lines_of_the_log_and_no_request(sandbox: Sandbox) -> None:
    disk = sandbox.root / "state"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("this user may not mount a small disk")
    try:
        server = sandbox.start(obedient(sandbox, "m"), options=OPEN)
        with suppress(OSError), (disk / "ballast").open("wb", buffering=0) as ballast:
            while ballast.write(b"x" * 4096):
                pass
        for _ in range(20):
            assert run(server, "m", "print('x' * 10000); return 1").status == 200
        assert scale(server, "m", 1).status == 200  # its snapshot cannot be written
        assert ask(server.inference, "/ping").status == 200
        (disk / "ballast").unlink()
        wait_until(
            lambda: (
                run(server, "m", "print('there is room'); return 1").status == 200
                and "there is room" in model_log(server)
            ),
            "lines in the log",
        )
        log = Path(server.record["log_folder"], "ts_log.log").read_text()
        assert "lines were left out: the disk was slow, or full" in log
        assert scale(server, "m", 2).status == 200
        assert sandbox.torchmar("stop").code == 0
        assert "m" in sandbox.torchmar("start", "--restore", "--port", "auto", "--model-store", sandbox.store).ok().out
        sandbox.torchmar("stop").ok()
    finally:
        if any((sandbox.root / "state").glob("servers/*/server.json")):
            sandbox.torchmar("stop", "--all", "-q")
        subprocess.run(["umount", "-l", disk], check=True)


def test_a_worker_that_prints_without_end_does_not_stop_the_others(server: Server) -> None:
    flood = (
        "import sys\nend = time.time() + 4\nwhile time.time() < end:\n    sys.stdout.write('noise\\n' * 1000)\nreturn 1"
    )
    register(server, obedient(server.sandbox, "loud", "responseTimeout: 60\n"), "loud")
    with ThreadPoolExecutor() as pool:
        loud = pool.submit(run, server, "loud", flood)
        wait_until(lambda: "noise" in model_log(server), "the flood")
        times = []
        while not loud.done():
            begun = time.monotonic()
            assert run(server, "dedicated", "return 1").status == 200
            times.append(time.monotonic() - begun)
        assert loud.result().status == 200
    assert statistics.median(times) < 0.5, times
    wait_until(lambda: "lines of this worker were left out" in model_log(server), "what was left out")
    assert Path(server.record["log_folder"], "model_log.log").stat().st_size < 50_000_000
    ask(server.management, "/models/loud", method="DELETE")


def test_an_archive_that_is_replaced_while_it_is_loaded_is_the_old_one_or_the_new_one(server: Server) -> None:
    """Or, where it is written over in place, refused in words; never half of each."""
    store, names = server.sandbox.store, ["old", "new"]
    kept = []
    for name in names:
        handler = f"def handle(data, context):\n    return [{name!r}] * len(data or [])\n"
        pack(server.sandbox, "moving", "moving.py", {"moving.py": handler, "weights.bin": os.urandom(500_000)})
        kept.append(store / f"{name}.bytes")
        (store / "moving.mar").rename(kept[-1])
    shutil.copy(kept[0], store / "moving.mar")
    ended = threading.Event()

    def replace() -> None:
        turn = 0
        while not ended.is_set():
            turn += 1
            if turn % 2:
                shutil.copy(kept[turn // 2 % 2], store / "moving.tmp")
                (store / "moving.tmp").replace(store / "moving.mar")
            else:
                shutil.copy(kept[turn // 2 % 2], store / "moving.mar")
            time.sleep(0.01)

    thread = threading.Thread(target=replace)
    thread.start()
    try:
        served = 0
        for _ in range(12):
            answer = register(server, "moving.mar", "moving")
            if answer.status == 200:
                served += 1
                assert ask(server.inference, "/predictions/moving", b"x").text() in names
                assert ask(server.management, "/models/moving", method="DELETE").status == 200
            else:
                assert answer.status in (400, 404), answer
                assert answer.json()["message"]
        assert served
    finally:
        ended.set()
        thread.join()


# ---- the start -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("who", ["the command", "the frontend"])
@pytest.mark.parametrize("after_s", [0.1, 0.5, 1.0, 2.0])
def test_a_signal_while_it_starts_leaves_nothing(sandbox: Sandbox, who: str, after_s: float) -> None:
    archive = obedient(sandbox, "m", load_s=30.0)
    command = sandbox.popen("torchmar", "start", archive, "--model-store", sandbox.store, "--port", "auto", "-q")
    record = sandbox.root / "state" / "servers" / "default" / "server.json"
    wait_until(record.exists, "the frontend's process")
    time.sleep(after_s)
    if who == "the frontend":
        for process in psutil.Process(command.pid).children():
            process.terminate()
    else:
        command.terminate()
    out, err = command.communicate(timeout=60)
    assert command.returncode == (143 if who == "the command" else 6), (out, err)
    assert who == "the command" or "the server was stopped while it started" in err
    assert sandbox.leftovers() == []
    assert sandbox.torchmar("status").code == 7


# pip builds a package in a process of its own, by what the package names for that.
BUILDS_FOR_EVER = """
import time
from pathlib import Path

Path(__file__).with_name("building").touch()
time.sleep(1000)
"""
BUILT_BY_ITSELF = """
[build-system]
requires = []
build-backend = "sleepy"
backend-path = ["."]
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_what_is_installed_for_a_model_ends_with_the_server(sandbox: Sandbox, number: signal.Signals) -> None:
    source = sandbox.file("sleepy/sleepy.py", BUILDS_FOR_EVER).parent
    sandbox.file("sleepy/pyproject.toml", BUILT_BY_ITSELF)
    files = {"m.py": "def handle(data, context):\n    return data\n", "requirements.txt": f"{source.as_uri()}\n"}
    archive = pack(sandbox, "m", "m.py", files, requirementsFile="requirements.txt")
    settings = sandbox.file("own.properties", "install_py_dep_per_model=true\n")
    server = sandbox.start(options=("--ts-config", settings, *OPEN))
    with ThreadPoolExecutor() as pool:
        asked = pool.submit(ask, server.management, f"/models?url={archive}&initial_workers=1", "", timeout=60)
        wait_until((source / "building").exists, "the installation")
        assert server.pid > 1
        os.kill(server.pid, number)
        asked.exception()
    wait_until(lambda: not session(server), "the end of all processes")
    sandbox.torchmar("stop")
    if usual_frontend() == "python":  # Java has pip's temporary folders where its own are
        assert not list(sandbox.temp.glob("pip-*"))


def test_of_two_servers_at_one_port_the_second_says_so(
    sandbox: Sandbox, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the port was free when that was looked at: what the first answers is not taken for the second's."""
    from serving.control import StartOptions, StateFolder, start
    from serving.control.configuration import ports
    from serving.errors import StartError

    monkeypatch.setattr(ports, "check_free", lambda _: None)
    monkeypatch.chdir(sandbox.root)
    obedient(sandbox, "other")
    addresses = {key: server.record[key.partition("_")[0]] for key in ("inference_address", "management_address")}
    text = "".join(f"{key}={address}\n" for key, address in addresses.items())
    config = sandbox.file("same.properties", text + f"metrics_address={server.record['metrics']}\n")
    options = StartOptions(models=("other.mar",), model_store=sandbox.store, ts_config=config, frontend="python")
    with pytest.raises(StartError, match="somebody listens there already: inference_address="):
        start(options, StateFolder(home=sandbox.root / "state"))
    assert zipfile.is_zipfile(sandbox.store / "other.mar")
    assert ask(server.inference, "/ping").status == 200
