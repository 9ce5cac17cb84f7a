"""The engine of one machine with real workers."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal

import pytest

from serving.frontend.engine import Registration
from serving.frontend.errors import (
    BadRequestError,
    ConflictError,
    DeadlineError,
    FrontendError,
    InternalError,
    ModelNotFoundError,
    NotAllowedError,
    UnavailableError,
    VersionNotFoundError,
)
from serving.frontend.local import worker

from .conftest import Bench

_ECHO = """
import os, time

def handle(data, context):
    if data is None:
        return None
    answers = []
    for row in data:
        text = bytes(row["body"]).decode()
        if text.startswith("sleep "):
            time.sleep(float(text.split()[1]))
        if text == "die":
            os.kill(os.getpid(), 9)
        answers.append(f"{text} of {len(data)} in {os.getpid()}")
    return answers
"""
_MORTAL = """
import os, socket, stat, time

def handle(data, context):
    if not data:
        return
    for number in map(int, os.listdir("/proc/self/fd")):
        if os.path.exists(f"/proc/self/fd/{number}") and stat.S_ISSOCK(os.fstat(number).st_mode):
            connection = socket.socket(fileno=os.dup(number))
            if ".ts.sock" in str(connection.getsockname()):
                connection.shutdown(socket.SHUT_RDWR)
    """
_RETRY = "backend:\n  retry: true\n"


def test_a_request_is_answered_and_timed(bench: Bench) -> None:
    archive = bench.build("echo", _ECHO)

    async def work() -> None:
        await bench.register(archive)
        answer = await bench.ask("echo", "hello")
        assert bytes(answer.body).startswith(b"hello of 1 in ")
        assert (answer.status, answer.version, answer.rest) == (200, "1.0", None)
        assert answer.timings is not None
        assert 0.0 <= answer.timings.queue < 60.0
        assert bench.counts.batches == [1]

    bench.run(work)


def test_what_waits_is_one_batch_and_nobody_waits_for_it(bench: Bench) -> None:
    archive = bench.build("echo", _ECHO, "batchSize: 8\nmaxBatchDelay: 60000\n")

    async def work() -> None:
        await bench.register(archive)
        await bench.ask("echo", "alone")  # a delay of a minute would end this test
        busy = asyncio.ensure_future(bench.ask("echo", "sleep 0.5"))
        await asyncio.sleep(0.1)
        answers = await asyncio.gather(*(bench.ask("echo", str(one)) for one in range(8)))
        await busy
        assert [bytes(answer.body).split(b" in ")[0] for answer in answers] == [b"%d of 8" % one for one in range(8)]
        assert bench.counts.batches == [1, 1, *[8] * 8]

    bench.run(work)


def test_clients_that_ask_again_come_together(bench: Bench) -> None:
    archive = bench.build("echo", _ECHO, "batchSize: 8\n")

    async def ask_again() -> None:
        for _ in range(4):
            await bench.ask("echo", "sleep 0.4")

    async def work() -> None:
        await bench.register(archive)
        first = asyncio.ensure_future(ask_again())
        await asyncio.sleep(0.1)
        await asyncio.gather(first, *(ask_again() for _ in range(3)))
        assert bench.counts.batches == [1, *[4] * 12, *[3] * 3]

    bench.run(work)


def test_idle_workers_share_what_comes_at_once(bench: Bench) -> None:
    archive = bench.build("echo", _ECHO, "batchSize: 8\nminWorkers: 2\nmaxWorkers: 2\n")

    async def work() -> None:
        await bench.register(archive)
        answers = await asyncio.gather(*(bench.ask("echo", "sleep 0.05") for _ in range(8)))
        assert len({bytes(answer.body).rpartition(b" ")[2] for answer in answers}) == 2
        assert bench.counts.batches == [4] * 8

    bench.run(work)


def test_a_request_whose_worker_dies_is_sent_again(bench: Bench) -> None:
    archive = bench.build("echo", _ECHO, _RETRY + "batchSize: 4\n")

    async def work() -> None:
        await bench.register(archive)
        running = [asyncio.ensure_future(bench.ask("echo", f"sleep 0.{one}")) for one in range(3, 6)]
        await asyncio.sleep(0.2)
        os.kill(bench.pids("echo")[0], signal.SIGKILL)
        answers = await asyncio.gather(*running)
        # Alone each: one of them may have been what killed it.
        assert [bytes(answer.body).split(b" in ")[0] for answer in answers] == [
            b"sleep 0.%d of 1" % n for n in (3, 4, 5)
        ]
        assert bench.counts.resends == 3

    bench.run(work)


def test_a_request_that_kills_takes_two_workers_down_and_no_third(bench: Bench) -> None:
    archive = bench.build("echo", _ECHO, _RETRY + "batchSize: 4\n")

    async def work() -> None:
        await bench.register(archive)
        asked = [asyncio.ensure_future(bench.ask("echo", text)) for text in ("a", "die", "b")]
        good, bad, other = await asyncio.gather(*asked, return_exceptions=True)
        assert isinstance(bad, FrontendError)
        assert bad.message.startswith("Worker died: it ")
        assert not isinstance(good, BaseException)
        assert not isinstance(other, BaseException)
        assert bytes((await bench.ask("echo", "after")).body).startswith(b"after of 1")

    bench.run(work)


def test_a_worker_that_fails_again_and_again_is_started_less_and_less_often() -> None:
    found = list(itertools.islice(worker._pauses(), 20))
    assert found[:6] == [1.0, 1.0, 2.0, 3.0, 5.0, 8.0]
    assert found[-1] == 1597.0


def test_without_leave_a_request_is_sent_once(bench: Bench) -> None:
    archive = bench.build("echo", _ECHO)

    async def work() -> None:
        await bench.register(archive)
        with pytest.raises(FrontendError, match="Worker died"):
            await bench.ask("echo", "die")
        assert bench.counts.resends == 0
        assert bytes((await bench.ask("echo", "after")).body).startswith(b"after")
        assert (bench.counts.deaths, bench.counts.drops) == (1, ["worker"])
        with pytest.raises(FrontendError) as failed:  # the handler cannot read it
            await bench.ask("echo", b"\xff")
        assert bench.counts.statuses == [200, failed.value.status] == [200, 503]

    bench.run(work)


@pytest.mark.parametrize(
    ("end", "told"),
    [
        ("time.sleep(0.3); os._exit(3)", "it ended with the exit code 3"),
        ("time.sleep(0.3); os.kill(os.getpid(), 11)", "it crashed: SIGSEGV"),
        ("time.sleep(60)", "its connection broke"),
    ],
)
def test_a_client_is_told_how_its_worker_died(bench: Bench, end: str, told: str) -> None:
    """Its connections end before that is known, if the process that forked it is to tell."""
    archive = bench.build("mortal", _MORTAL + end)

    async def work() -> None:
        await bench.register(archive)
        with pytest.raises(InternalError, match=f"^Worker died: {told}$"):
            await bench.ask("mortal", "x")

    bench.run(work)


def test_a_worker_that_takes_too_long_is_replaced(bench: Bench) -> None:
    archive = bench.build("echo", _ECHO, _RETRY + "responseTimeout: 1\n")

    async def work() -> None:
        await bench.register(archive)
        with pytest.raises(InternalError, match=r"no answer within 1 s \(responseTimeout\)"):
            await bench.ask("echo", "sleep 60")
        assert bytes((await bench.ask("echo", "after")).body).startswith(b"after")

    bench.run(work)


def test_a_deadline_leaves_the_queue(bench: Bench) -> None:
    archive = bench.build("echo", _ECHO)

    async def work() -> None:
        await bench.register(archive)
        loop = asyncio.get_running_loop()
        busy = asyncio.ensure_future(bench.ask("echo", "sleep 0.6"))
        await asyncio.sleep(0.1)
        begun = loop.time()
        with pytest.raises(DeadlineError):
            await bench.ask("echo", "late", deadline=begun + 0.1)
        assert loop.time() - begun < 0.45
        await busy
        with pytest.raises(DeadlineError):
            await bench.ask("echo", "over", deadline=loop.time())
        assert bench.counts.drops == ["deadline", "deadline"]
        assert bench.counts.batches == [1]

    bench.run(work)


def test_a_full_queue_refuses_and_a_client_that_has_left_is_not_computed_for(bench: Bench) -> None:
    archive = bench.build("echo", _ECHO, "jobQueueSize: 1\n")

    async def work() -> None:
        await bench.register(archive)
        busy = asyncio.ensure_future(bench.ask("echo", "sleep 0.5"))
        await asyncio.sleep(0.1)
        left = asyncio.ensure_future(bench.ask("echo", "left"))
        await asyncio.sleep(0)
        with pytest.raises(UnavailableError, match="has no worker to serve inference request") as full:
            await bench.ask("echo", "one too many")
        assert full.value.headers["Retry-After"]
        left.cancel()
        await asyncio.sleep(0)
        stays = asyncio.ensure_future(bench.ask("echo", "stays"))
        await asyncio.gather(busy, stays)
        assert bench.counts.batches == [1, 1]
        assert bench.counts.drops == ["queue", "client"]

    bench.run(work)


def test_with_job_tickets_nothing_waits(bench: Bench) -> None:
    archive = bench.build("echo", _ECHO, "useJobTicket: true\nbatchSize: 4\n")

    async def work() -> None:
        await bench.register(archive, initial_workers=2)
        busy = [asyncio.ensure_future(bench.ask("echo", "sleep 0.5")) for _ in range(2)]
        await asyncio.sleep(0)
        for _ in range(2):
            with pytest.raises(UnavailableError, match="has no worker to serve inference request") as full:
                await bench.ask("echo", "one too many")
            assert full.value.headers["Retry-After"]
            await asyncio.sleep(0.1)
        await asyncio.gather(*busy)
        await bench.ask("echo", "free again")
        assert bench.counts.batches == [1, 1, 1]
        assert bench.counts.drops == ["queue", "queue"]

    bench.run(work)


def test_a_client_that_waits_for_a_time_only_gets_an_answer_then(bench: Bench) -> None:
    archive = bench.build("echo", _ECHO, "clientTimeoutInMills: 300\n")

    async def work() -> None:
        await bench.register(archive)
        loop = asyncio.get_running_loop()
        begun = loop.time()
        slow = asyncio.ensure_future(bench.ask("echo", "sleep 1"))
        await asyncio.sleep(0.1)
        with pytest.raises(DeadlineError, match=r"within 300 ms \(clientTimeoutInMills\)"):
            await bench.ask("echo", "waits")
        with pytest.raises(DeadlineError):
            await slow
        assert loop.time() - begun < 0.9
        await asyncio.sleep(0.7)
        # The late answer went nowhere, and what waited was not computed.
        assert bytes((await bench.ask("echo", "quick")).body).startswith(b"quick of 1")
        assert bench.counts.statuses == [0, 200]
        assert bench.counts.drops == ["deadline", "deadline"]

    bench.run(work)


def test_a_description_shares_no_batch(bench: Bench) -> None:
    archive = bench.build("echo", _ECHO, "batchSize: 8\n")

    async def work() -> None:
        await bench.register(archive)
        busy = asyncio.ensure_future(bench.ask("echo", "sleep 0.3"))
        await asyncio.sleep(0.1)
        described = {"describe": "True"}
        asked = [bench.ask("echo", text, headers=described if text == "c" else None) for text in "abcde"]
        answers = await asyncio.gather(busy, *asked)
        sizes = [int(bytes(answer.body).split(b" in ")[0].split()[-1]) for answer in answers]
        assert sizes == [1, 2, 2, 1, 2, 2]

    bench.run(work)


def test_who_dies_with_others_is_no_poison_and_lives_through_a_further_death(bench: Bench) -> None:
    archive = bench.build("echo", _ECHO, _RETRY + "batchSize: 4\n")

    async def work() -> None:
        await bench.register(archive)
        running = [asyncio.ensure_future(bench.ask("echo", f"sleep 0.{one}")) for one in range(5, 8)]
        for _ in range(2):
            await asyncio.sleep(0.3)
            (pid,) = bench.pids("echo")
            os.kill(pid, signal.SIGKILL)
            while bench.pids("echo") in ([pid], [-1]) or bench.counts.levels[1] == 0:
                await asyncio.sleep(0.02)
        answers = await asyncio.gather(*running)
        assert [bytes(answer.body).split(b" in ")[0] for answer in answers] == [
            b"sleep 0.%d of 1" % n for n in (5, 6, 7)
        ]
        assert bench.counts.resends == 4

    bench.run(work)


_BROKEN = """
class Handler:
    def initialize(self, context):
        raise ValueError("no such label")

    def handle(self, data, context):
        return data
"""


def test_a_model_that_cannot_be_loaded_is_not_registered(bench: Bench) -> None:
    archive = bench.build("broken", _BROKEN)

    async def work() -> None:
        with pytest.raises(InternalError, match="no such label"):
            await bench.register(archive)
        assert bench.engine.names() == []
        await bench.register(archive, synchronous=False)
        while not any("Failed to load model broken" in line for line in bench.lines):
            await asyncio.sleep(0.05)
        await asyncio.sleep(0.2)
        with pytest.raises(UnavailableError):  # and does not wait for what will not come
            await bench.ask("broken", "x")
        assert (bench.engine.healthy, bench.engine.ready) == (True, False)

    bench.run(work)


def test_models_come_and_go(bench: Bench) -> None:
    one = bench.build("echo", _ECHO)
    two = bench.root / "store" / "two.mar"
    bench.build("echo", _ECHO, version="2.0")
    (bench.store / one).rename(two)
    bench.build("echo", _ECHO)

    async def work() -> None:
        engine = bench.engine
        done = await engine.register(Registration(one, initial_workers=0))
        assert (done.status, done.message) == (
            200,
            'Model "echo" Version: 1.0 registered with 0 initial workers. Use scale workers API to add workers for '
            "the model.",
        )
        with pytest.raises(UnavailableError):
            await bench.ask("echo", "x")
        with pytest.raises(ConflictError):
            await engine.register(Registration(one))
        done = await engine.register(Registration("two.mar", initial_workers=1))
        assert done.message == 'Model "echo" Version: 2.0 registered with 1 initial workers'
        assert (await bench.ask("echo", "x", version="2.0")).version == "2.0"
        with pytest.raises(VersionNotFoundError):
            await bench.ask("echo", "x", version="3.0")
        with pytest.raises(ModelNotFoundError):
            await engine.register(Registration("nothing.mar"))
        with pytest.raises(BadRequestError, match="max_worker cannot be less than min_worker"):
            await engine.scale("echo", None, 2, 1, synchronous=True)
        done = await engine.scale("echo", None, 1, None, synchronous=True)
        assert done.message == "Workers scaled to 1 for model: echo"
        with pytest.raises(NotAllowedError):
            await engine.unregister("echo", None)
        assert (await engine.set_default("echo", "2.0")).message.endswith('for model "echo" to "2.0"')
        assert [state.version for state in engine.describe("echo", "all")] == ["2.0", "1.0"]
        await engine.unregister("echo", "1.0")
        assert (await engine.unregister("echo", None)).message == 'Model "echo" unregistered'
        assert engine.names() == []

    bench.run(work)


def test_a_worker_that_is_gone_for_good_is_told_of_after_its_last_line(bench: Bench) -> None:
    late = "threading.Timer(0.3, lambda: print('last words', end='', flush=True)).start()"
    archive = bench.build("echo", "import threading\n" + _ECHO.replace("answers = []", f"answers = {late} or []"))
    bench.ended = bench.lines

    async def work() -> None:
        await bench.register(archive)
        first = bench.pids("echo")
        os.kill(first[0], signal.SIGKILL)
        while bench.pids("echo") in (first, [-1]):
            await asyncio.sleep(0.01)
        await bench.ask("echo", "hello")
        await asyncio.sleep(1.0)
        assert "W-9000-echo_1.0" not in bench.lines  # it was started again
        await bench.engine.unregister("echo", None)
        assert bench.lines[-2:] == ["W-9000-echo_1.0 stdout last words", "W-9000-echo_1.0"]

    bench.run(work)
    assert bench.lines.count("W-9000-echo_1.0") == 1


def test_fewer_workers_and_none_cut_no_request(bench: Bench) -> None:
    archive = bench.build("echo", _ECHO, "minWorkers: 2\nmaxWorkers: 2\n")

    async def work() -> None:
        await bench.register(archive)
        running = [asyncio.ensure_future(bench.ask("echo", "sleep 0.4")) for _ in range(4)]
        await asyncio.sleep(0.1)
        await bench.engine.scale("echo", None, 1, None, synchronous=True)
        assert len(bench.pids("echo")) == 1
        ends = asyncio.ensure_future(bench.engine.unregister("echo", None))
        await asyncio.sleep(0)
        with pytest.raises(FrontendError):
            await bench.ask("echo", "after")
        assert all(bytes(answer.body).startswith(b"sleep") for answer in await asyncio.gather(*running))
        await ends

    bench.run(work)


def test_the_end_answers_what_was_taken(bench: Bench) -> None:
    archive = bench.build("echo", _ECHO)

    async def work() -> None:
        await bench.register(archive)
        pids = bench.pids("echo")
        running = [asyncio.ensure_future(bench.ask("echo", "sleep 0.2")) for _ in range(3)]
        await asyncio.sleep(0.05)
        ends = asyncio.ensure_future(bench.engine.drain(30.0))
        await asyncio.sleep(0)
        with pytest.raises(UnavailableError):
            await bench.ask("echo", "after")
        assert not bench.engine.ready
        assert len(await asyncio.gather(*running)) == 3
        await ends
        for pid in pids:
            with pytest.raises(ProcessLookupError):
                os.kill(pid, 0)

    bench.run(work)


def test_a_registration_that_somebody_undoes_is_told_so(bench: Bench) -> None:
    archive = bench.build("slow", "import time\ntime.sleep(30)\n\ndef handle(data, context):\n    return data\n")

    async def work() -> None:
        registering = asyncio.ensure_future(bench.register(archive, synchronous=True))
        while "slow" not in dict(bench.engine.names()):
            await asyncio.sleep(0.05)
        await bench.engine.unregister("slow", None)
        with pytest.raises(ConflictError, match="was unregistered before its workers were ready"):
            await registering

    bench.run(work)


@pytest.mark.parametrize("name", ["a" * 300, "b" * 5000, "/" + "c" * 300, "d" * 300 + ".mar"])
def test_a_name_that_no_file_can_have_is_not_found(bench: Bench, name: str) -> None:
    async def work() -> None:
        with pytest.raises(ModelNotFoundError, match="Model not found at"):
            await bench.register(name)

    bench.run(work)
