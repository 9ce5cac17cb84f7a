"""One process for all workers of a model."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from serving.protocol import Reply
from serving.worker.scripts import registry
from tests.serving.worker.frontend import Server, Worker, archive, bodies, ends, grpc, has_ended, rest, wait_for

# Answers with its process and the batch; a request whose body names a file waits until that is there.
RECORD = """
    import os, time
    from pathlib import Path

    def handle(data, context):
        if data is None:
            print("loaded")
            return
        batch = [row["body"].decode() for row in data]
        for text in batch:
            if text.startswith("/"):
                Path(text + ".begun").touch()
                while not Path(text).exists():
                    time.sleep(0.005)
            if text == "bad":
                raise ValueError("bad")
        print("a batch of", len(batch))
        pid = os.getpid()
        return [{"pid": pid, "batch": batch, "id": context.get_request_id(index)} for index in range(len(batch))]
"""


def make(folder: Path, source: str = RECORD, *, backend: dict[str, Any] | None = None, **config: Any) -> Path:
    return archive(folder / "model", source, config={"backend": {"mode": "shared", **(backend or {})}, **config})


def workers(server: Server, folder: Path, count: int, **fields: Any) -> list[Worker]:
    found = [server.worker(folder) for _ in range(count)]
    for worker in found:
        assert worker.load(folder, **fields) == Reply(200, "loaded model model"), worker.out.text
    return found


def pid_of(worker: Worker) -> int:
    return int(json.loads(worker.answer())["pid"])


class Gate:
    """A gate that holds up the handler with a request of its own, while others wait."""

    def __init__(self, folder: Path, worker: Worker) -> None:
        self._path = folder / "gate"
        self._worker = worker
        worker.send(rest("gate", str(self._path).encode()))
        assert wait_for(Path(f"{self._path}.begun").exists)

    def open(self) -> Reply:
        """Return the answer to the request that held it up."""
        self._path.touch()
        return self._worker.reply()


def test_two_workers_have_one_process(server: Server, tmp_path: Path) -> None:
    folder = make(tmp_path)
    one, other = workers(server, folder, 2)
    pid = pid_of(one)
    assert pid == pid_of(other)
    assert pid not in (one.pid, other.pid)
    assert one.out.text.count("loaded\n") == 1
    assert f"[PID]{other.pid}\nTorch worker started.\n" == other.out.text
    assert registry.backends(server.pid) == {one.pid: (pid, 2), other.pid: (pid, 2)}


def test_what_waits_is_one_batch_and_each_is_answered_on_its_own_connection(server: Server, tmp_path: Path) -> None:
    folder = make(tmp_path, backend={"max_batch_size": 4})
    first, *others = workers(server, folder, 6)
    gate = Gate(tmp_path, first)
    for number, worker in enumerate(others):
        worker.send(rest(f"id-{number}", str(number).encode()))
    assert json.loads(bodies(gate.open())[0])["batch"] == [str(tmp_path / "gate")]
    answers = []
    for number, worker in enumerate(others):
        reply = worker.reply()
        assert [item.request_id for item in reply.items] == [f"id-{number}"]
        answers.append(json.loads(bodies(reply)[0]))
        assert answers[-1]["id"] == f"id-{number}"
        assert str(number) in answers[-1]["batch"]
    assert sorted(len(answer["batch"]) for answer in answers) == [1, 4, 4, 4, 4]


def test_the_frontends_own_batches(server: Server, tmp_path: Path) -> None:
    """They are joined as long as they fit, never torn apart between calls unless one alone is too large."""
    folder = make(tmp_path, backend={"max_batch_size": 4})
    first, second, third, fourth = workers(server, folder, 4)
    gate = Gate(tmp_path, first)
    second.send(*[rest(f"b{number}", b"b") for number in range(3)])
    third.send(*[rest(f"c{number}", b"c") for number in range(2)])
    fourth.send(*[rest(f"d{number}", b"d") for number in range(9)])
    gate.open()
    sizes = {}
    for worker, count in ((second, 3), (third, 2), (fourth, 9)):
        reply = worker.reply()
        assert len(reply.items) == count
        contents = [json.loads(body) for body in bodies(reply)]
        assert [item.request_id for item in reply.items] == [content["id"] for content in contents]
        sizes[count] = [len(content["batch"]) for content in contents]
    assert sizes[3] == [3, 3, 3]
    assert sizes[2] == [2, 2]
    assert sizes[9] == [4, 4, 4, 4, 4, 4, 4, 4, 1]
    assert fourth.ask() == Reply(200, "Prediction success")


def test_a_batch_may_be_waited_for(server: Server, tmp_path: Path) -> None:
    folder = make(tmp_path, backend={"max_batch_size": 3, "max_batch_delay_ms": 30_000})
    found = workers(server, folder, 3)
    for number, worker in enumerate(found):
        worker.send(rest(str(number), b"x"))
    # It is full long before the time is over.
    assert [len(json.loads(bodies(worker.reply())[0])["batch"]) for worker in found] == [3, 3, 3]


def test_but_not_longer_than_that(server: Server, tmp_path: Path) -> None:
    folder = make(tmp_path, backend={"max_batch_size": 3, "max_batch_delay_ms": 50})
    one, _ = workers(server, folder, 2)
    assert json.loads(one.answer(b"x"))["batch"] == ["x"]


def test_a_bad_request_of_another_worker(server: Server, tmp_path: Path) -> None:
    first, good, bad, also_good = workers(server, make(tmp_path), 4)
    gate = Gate(tmp_path, first)
    good.send(rest("1", b"x"))
    bad.send(grpc("2", b"bad"))
    also_good.send(rest("3", b"y"))
    assert gate.open().code == 200
    assert json.loads(bodies(good.reply())[0])["batch"] == ["x"]
    assert bad.reply().code == 503
    assert json.loads(bodies(also_good.reply())[0])["batch"] == ["y"]
    first.out.wait("A batch of 3 failed (ValueError: bad): running its requests one by one\n")


def test_a_stream_goes_to_who_asked_for_it(server: Server, tmp_path: Path) -> None:
    source = """
        import time
        from pathlib import Path
        from ts.handler_utils.utils import send_intermediate_predict_response

        def handle(data, context):
            if data is None:
                return
            texts = [row["body"].decode() for row in data]
            if texts[0].startswith("/"):
                Path(texts[0] + ".begun").touch()
                while not Path(texts[0]).exists():
                    time.sleep(0.005)
                return texts
            send_intermediate_predict_response(texts, context.request_ids, "part", 200, context)
            return [text + " end" for text in texts]
    """
    first, one, other = workers(server, make(tmp_path, source), 3)
    gate = Gate(tmp_path, first)
    one.send(rest("1", b"one"))
    other.send(rest("2", b"other"), rest("3", b"third"))
    gate.open()
    for worker, expected in ((one, [b"one"]), (other, [b"other", b"third"])):
        part, end = worker.reply(), worker.reply()
        assert bodies(part) == expected
        assert {item.headers["ts_stream_next"] for item in part.items} == {"true"}
        assert bodies(end) == [text + b" end" for text in expected]
        assert {item.headers["ts_stream_next"] for item in end.items} == {"false"}


# ---- workers come and go ---------------------------------------------------------------------------------------------


def test_workers_that_come_while_the_model_is_loading(server: Server, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    source = f"""
        import os, time
        from pathlib import Path

        while not Path({str(gate)!r}).exists():
            time.sleep(0.01)

        def handle(data, context):
            return [{{"pid": os.getpid()}}] * len(data or [])
    """
    folder = make(tmp_path, source)
    found = [server.worker(folder) for _ in range(3)]
    for worker in found:
        worker.send_load(folder)
    gate.touch()
    assert [worker.reply() for worker in found] == [Reply(200, "loaded model model")] * 3
    assert len({pid_of(worker) for worker in found}) == 1


def test_the_first_worker_goes(server: Server, tmp_path: Path) -> None:
    """The log goes on in the pipes of another one, and those of the first are closed."""
    one, other = workers(server, make(tmp_path), 2)
    pid = pid_of(one)
    one.kill()
    one.out.rest()
    one.err.rest()
    assert one.is_closed()
    assert pid_of(other) == pid
    other.out.wait("a batch of 1\n")
    assert wait_for(lambda: registry.backends(server.pid) == {other.pid: (pid, 1)})
    third = server.worker(other.folder)
    assert third.load(other.folder).code == 200
    assert pid_of(third) == pid


def test_the_frontend_closes_a_connection_only(server: Server, tmp_path: Path) -> None:
    """Then the thin process ends by itself."""
    one, other = workers(server, make(tmp_path), 2)
    one.close()
    assert ends(one.pid)
    assert json.loads(other.answer(b"x"))["batch"] == ["x"]


def test_the_last_worker_goes(server: Server, tmp_path: Path) -> None:
    found = workers(server, make(tmp_path), 2)
    pid = pid_of(found[0])
    for worker in found:
        worker.kill()
    assert ends(pid)
    (again,) = workers(server, found[0].folder, 1)
    assert pid_of(again) != pid


def test_all_workers_are_killed_while_the_handler_is_busy(server: Server, tmp_path: Path) -> None:
    one, other = workers(server, make(tmp_path), 2)
    pid = pid_of(one)
    Gate(tmp_path, one)
    one.kill()
    other.kill()
    assert ends(pid)


def test_all_workers_are_killed_while_the_model_is_loading(server: Server, tmp_path: Path) -> None:
    """The frontend gives up after the startup timeout; the next try must not meet the process that hangs."""
    source = f"""
        import os, time
        from pathlib import Path

        def handle(data, context):
            path = Path({str(tmp_path)!r}, "pid")
            if data is None and not path.exists():
                path.with_name("new").write_text(str(os.getpid()))
                path.with_name("new").rename(path)
                time.sleep(1000)
            return [{{"pid": os.getpid()}}] * len(data or [])
    """
    folder = make(tmp_path, source)
    worker = server.worker(folder)
    worker.send_load(folder)
    assert wait_for((tmp_path / "pid").exists)
    worker.kill()
    assert ends(int((tmp_path / "pid").read_text()))
    workers(server, folder, 1)


def test_a_connection_that_breaks_the_protocol_ends_alone(server: Server, tmp_path: Path) -> None:
    one, other = workers(server, make(tmp_path), 2)
    other.sock.sendall(b"nonsense")
    assert other.is_closed()
    assert ends(other.pid)
    assert json.loads(one.answer(b"x"))["batch"] == ["x"]
    one.out.wait("A connection of model ends: ")


def test_a_request_of_a_worker_that_has_gone(server: Server, tmp_path: Path) -> None:
    """It may run once more, as the frontend gives it to another worker; but it holds up no other."""
    first, one, other = workers(server, make(tmp_path), 3)
    gate = Gate(tmp_path, first)
    one.send(rest("1", b"lost"))
    one.kill()
    assert one.is_closed()
    other.send(rest("2", b"kept"))
    gate.open()
    assert json.loads(bodies(other.reply())[0])["batch"][-1] == "kept"
    assert json.loads(other.answer(b"x"))["batch"] == ["x"]


# ---- failures --------------------------------------------------------------------------------------------------------


def test_all_workers_end_if_the_model_cannot_be_loaded(server: Server, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    source = f"""
        import time
        from pathlib import Path

        def handle(data, context):
            while not Path({str(gate)!r}).exists():
                time.sleep(0.01)
            raise RuntimeError("no weights")
    """
    folder = make(tmp_path, source)
    found = [server.worker(folder) for _ in range(3)]
    for worker in found:
        worker.send_load(folder)
    # All of them are waiting for the same process.
    assert wait_for(lambda: len(registry.backends(server.pid)) == 3)
    gate.touch()
    assert all(worker.is_closed() for worker in found)
    assert [server.status(worker) for worker in found] == [1, 1, 1]
    text = "".join(worker.out.rest() for worker in found)
    assert text.count("Failed to load model model: RuntimeError: no weights\n  in handler.py:8 (handle)\n") == 1


def test_all_workers_are_told_that_there_is_not_enough_memory(server: Server, tmp_path: Path) -> None:
    folder = make(tmp_path, "import time\ndef handle(data, context):\n    time.sleep(0.5)\n    raise MemoryError\n")
    found = [server.worker(folder) for _ in range(2)]
    for worker in found:
        worker.send_load(folder)
    assert [worker.reply() for worker in found] == [Reply(507, "MemoryError (handler.py:4)")] * 2


def test_a_handler_that_hangs(server: Server, tmp_path: Path) -> None:
    """Its process is replaced, and with it all workers end."""
    one, other = workers(server, make(tmp_path, responseTimeout=1), 2)
    pid = pid_of(one)
    one.send(rest("1", str(tmp_path / "never").encode()))
    assert one.is_closed()
    assert other.is_closed()
    assert (server.status(one), server.status(other)) == (1, 1)
    text = one.err.rest()
    assert "The handler has been running for " in text
    assert 'handler.py", line 14, in handle' in text
    assert "The process of this model is replaced: its handler hangs.\n" in text
    (again,) = workers(server, one.folder, 1)
    assert pid_of(again) != pid


@pytest.mark.parametrize(("number", "code"), [(signal.SIGKILL, 137), (signal.SIGTERM, 143)])
def test_the_process_is_killed(server: Server, tmp_path: Path, number: int, code: int) -> None:
    found = workers(server, make(tmp_path), 3)
    pid = pid_of(found[0])
    os.kill(pid, number)
    assert all(worker.is_closed() for worker in found)
    assert [server.status(worker) for worker in found] == [code] * 3
    assert len({pid_of(worker) for worker in workers(server, found[0].folder, 3)} - {pid}) == 1


def test_a_handler_that_ends_the_process(server: Server, tmp_path: Path) -> None:
    source = """
        import sys

        def handle(data, context):
            return sys.exit(5) if data else None
    """
    one, other = workers(server, make(tmp_path, source), 2)
    one.send(rest("1"))
    assert one.is_closed()
    assert (server.status(one), server.status(other)) == (5, 5)


# ---- which workers share ---------------------------------------------------------------------------------------------


def test_each_device_has_its_own(server: Server, tmp_path: Path) -> None:
    folder = make(tmp_path)
    (one, also), (other,) = workers(server, folder, 2, gpu_id=0), workers(server, folder, 1, gpu_id=1)
    assert pid_of(one) == pid_of(also) != pid_of(other)


def test_each_model_has_its_own(server: Server, tmp_path: Path) -> None:
    (one,) = workers(server, make(tmp_path / "1"), 1)
    (other,) = workers(server, make(tmp_path / "2"), 1)
    assert pid_of(one) != pid_of(other)


def test_several_processes(server: Server, tmp_path: Path) -> None:
    """Each worker joins the one that has the fewest."""
    found = workers(server, make(tmp_path, backend={"processes": 2}), 5)
    pids = [pid_of(worker) for worker in found]
    assert pids[0] != pids[1]
    assert {pids.count(pid) for pid in set(pids)} == {2, 3}
    # One of them ends: the next worker gets a new one.
    gone = [worker for worker, pid in zip(found, pids, strict=True) if pid == pids[0]]
    os.kill(pids[0], signal.SIGKILL)
    for worker in gone:
        assert server.status(worker) == 137
    (again,) = workers(server, found[0].folder, 1)
    assert pid_of(again) not in pids


def test_their_share_of_the_cores(server: Server, tmp_path: Path) -> None:
    source = """
        import torch

        def handle(data, context):
            return [torch.get_num_threads(), context.system_properties["batch_size"]][: len(data or [])]
    """
    (worker,) = workers(server, make(tmp_path, source, backend={"processes": 256}, minWorkers=1), 1)
    assert bodies(worker.ask(rest("1"), rest("2"))) == [b"1", b"32"]


def test_the_configuration_of_an_archive_that_is_wrong_is_told(server: Server, tmp_path: Path) -> None:
    folder = make(tmp_path, continuousBatching=True)
    worker = server.worker(folder)
    assert worker.refuses(folder)
    worker.out.wait("Failed to load model model: backend.mode: shared and continuousBatching exclude each other")


def test_the_prefork_process_is_killed(tmp_path: Path, server_of_its_own: Callable[[], Server]) -> None:
    """The workers that are here are served on, until the last one goes; a new prefork process serves new ones."""
    server = server_of_its_own()
    folder = make(tmp_path)
    one, other = workers(server, folder, 2)
    pid = pid_of(one)
    prefork = server.prefork()
    os.kill(prefork, signal.SIGKILL)
    assert ends(prefork)
    assert pid_of(one) == pid_of(other) == pid
    one.kill()
    assert pid_of(other) == pid
    (third,) = workers(server, folder, 1)
    assert pid_of(third) not in (pid, prefork)
    assert not has_ended(pid)
    other.close()
    assert ends(other.pid, pid)
