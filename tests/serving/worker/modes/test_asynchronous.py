"""Requests side by side: each has its own answer, and whatever happens to it is its own affair."""

from __future__ import annotations

import asyncio
import json
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from serving.worker.modes import asynchronous
from tests.serving.worker.asynchronous import IMPORTS, NEXT, SLOW, answer, answers, error, load
from tests.serving.worker.frontend import Server, archive, grpc, rest, wait_for


@pytest.fixture
def server(server: Server) -> Iterator[Server]:
    with server.asynchronous():
        yield server


# ---- the loop --------------------------------------------------------------------------------------------------------


def usable(loop: asyncio.AbstractEventLoop, change: Any) -> tuple[asyncio.AbstractEventLoop, bool]:
    """Return the loop after the handler has done something, and whether it is the thread's."""
    asyncio.set_event_loop(loop)
    try:
        change()
        found = asynchronous._usable(loop)
        return found, asyncio.get_event_loop() is found
    finally:
        asyncio.set_event_loop(None)


def test_the_loop_that_serves() -> None:
    ours, another = asyncio.new_event_loop(), asyncio.new_event_loop()
    assert usable(ours, lambda: None) == (ours, True)
    assert usable(ours, lambda: asyncio.run(asyncio.sleep(0))) == (ours, True)
    assert usable(ours, lambda: asyncio.set_event_loop(another)) == (another, True)
    assert ours.is_closed()
    fresh, current = usable(another, another.close)
    assert current
    assert not fresh.is_closed()
    fresh.close()


# ---- loading ---------------------------------------------------------------------------------------------------------

INITIALIZED = {
    "method": """
class Handler:
    def initialize(self, context):
        self.loop = asyncio.get_event_loop()
        self.loop.run_until_complete(asyncio.sleep(0))

    async def handle(self, data, context):
        return [str(asyncio.get_running_loop() is self.loop)]
""",
    "coroutine": """
class Handler:
    async def initialize(self, context):
        self.loop = asyncio.get_running_loop()
        self.task = asyncio.create_task(asyncio.sleep(600))

    async def handle(self, data, context):
        return [str(asyncio.get_running_loop() is self.loop and not self.task.done())]
""",
    "function": """
known = []
async def handle(data, context):
    if data is None:
        known.append(asyncio.get_running_loop())
        return None
    return [str(known == [asyncio.get_running_loop()])]
""",
    "callable object": """
class _Handler:
    async def __call__(self, data, context):
        await asyncio.sleep(0)
        return ["True"]

handle = _Handler()
""",
    "function that gives an awaitable": """
async def answer():
    return ["True"]
def handle(data, context):
    return data if data is None else asyncio.ensure_future(answer())
""",
    "function that expects data": """
async def handle(data, context):
    return [str(len(data) == 1)]
""",
    "ordinary function": """
def handle(data, context):
    return data if data is None else [str(threading.current_thread() is threading.main_thread())]
""",
}


@pytest.mark.parametrize("form", INITIALIZED)
def test_every_form_of_handler_uses_one_loop(server: Server, tmp_path: Path, form: str) -> None:
    worker = load(server, tmp_path, INITIALIZED[form])
    assert answer(worker) == b"True"


def test_an_initialization_that_fails_is_told() -> None:
    async def initialize(missing: Any) -> None:
        if missing is None:
            missing.load()
        raise ValueError(missing)

    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    try:
        asynchronous._settle(initialize(None), True)  # a function that expects data
        with pytest.raises(AttributeError):
            asynchronous._settle(initialize(None), False)
        with pytest.raises(ValueError, match="model"):
            asynchronous._settle(initialize("model"), True)
    finally:
        asyncio.set_event_loop(None)
        loop.close()


def test_load_is_not_answered_too_early(server: Server, tmp_path: Path) -> None:
    folder = archive(tmp_path / "model", "def handle(data, context): return data")
    worker = server.worker(folder)
    begin = time.monotonic()
    assert worker.load(folder).code == 200
    assert time.monotonic() - begin >= 0.1


def test_a_worker_that_cannot_load_says_so_and_stays(server: Server, tmp_path: Path) -> None:
    folder = archive(tmp_path / "model", "async def handle(data, context):\n    import missing_module")
    worker = server.worker(folder)
    reply = worker.load(folder)
    assert reply.code == 500
    assert "missing_module" in reply.message
    text = worker.out.wait("Traceback")
    assert "Failed to load model model: ModuleNotFoundError" in text
    worker.sock.settimeout(0.5)
    with pytest.raises(TimeoutError):
        worker.sock.recv(1)
    worker.close()
    assert server.status(worker) == 1


# ---- answers ---------------------------------------------------------------------------------------------------------

ECHO = """
class Handler:
    def initialize(self, context):
        self.last = asyncio.Event()
        context.shared = ["hung on the context"]
        self.shared = context.shared

    async def handle(self, data, context):
        body = bytes(data[0]["body"]).decode()
        if body == "last":
            self.last.set()
        await self.last.wait()
        await asyncio.sleep(0)
        index = context.get_request_header(0, "X-Index")
        context.set_response_header(0, "X-Index", index)
        context.set_response_status(200 + int(index), f"phrase {index}")
        context.metrics.add_counter("Seen", 1)
        same = context.shared is self.shared
        return [{"id": context.get_request_id(), "body": body, "same": same}]
"""


def test_requests_run_side_by_side_each_with_its_own_context(server: Server, tmp_path: Path) -> None:
    worker = load(server, tmp_path, ECHO)
    for index in range(5):
        worker.send(rest(f"id {index}", b"last" if index == 4 else str(index).encode(), **{"X-Index": str(index)}))
    found = answers(worker, 5)
    for index in range(5):
        item, end = found[f"id {index}"]
        body = "last" if index == 4 else str(index)
        assert json.loads(bytes(item.body)) == {"id": f"id {index}", "body": body, "same": True}
        assert (item.status, item.phrase, item.headers) == (200 + index, f"phrase {index}", {"X-Index": str(index)})
        assert (end.body, end.headers) == (b"", {NEXT: "false"})
        worker.out.wait(f"id {index}\n")
    lines = [line for line in worker.out.text.splitlines() if "[METRICS]Seen" in line]
    assert sorted(line.rpartition(",")[2] for line in lines) == [f"id {index}" for index in range(5)]


def test_answers_come_when_they_are_done(server: Server, tmp_path: Path) -> None:
    source = """
    waiting = []
    async def handle(data, context):
        if data is None:
            return
        while len(waiting) < int(data[0]["body"]):
            await asyncio.sleep(0.001)
        waiting.append(1)
        return [data[0]["body"]]
    """
    worker = load(server, tmp_path, "\n".join(line[4:] for line in source.splitlines()))
    worker.send(*(rest(str(number), str(number).encode()) for number in (3, 2, 1, 0)))  # in one message, too
    assert [bytes(worker.reply().items[0].body) for _ in range(4)] == [b"0", b"1", b"2", b"3"]


def test_a_message_without_requests_is_not_answered(server: Server, tmp_path: Path) -> None:
    worker = load(server, tmp_path, INITIALIZED["method"])
    worker.send()
    assert answer(worker) == b"True"


def test_a_description_is_one_item(server: Server, tmp_path: Path) -> None:
    source = "async def handle(data, context):\n    return [[data, context.get_request_header(0, 'describe')]]"
    worker = load(server, tmp_path, source)
    (item,) = worker.ask(rest("1", None, describe="True")).items
    assert json.loads(bytes(item.body)) == [[{}], "True"]
    assert item.headers == {NEXT: "false"}


# ---- failures --------------------------------------------------------------------------------------------------------

FAILURES = """
class Odd(Exception):
    def __str__(self):
        raise ValueError

async def background():
    sys.exit(3)

async def handle(data, context):
    if data is None:
        return
    wish = bytes(data[0]["body"]).decode()
    if wish == "wait":
        await asyncio.sleep(1)
        return ["waited"]
    await asyncio.sleep(0)
    if wish == "background":
        asyncio.create_task(background())
        await asyncio.sleep(0.1)
        return ["went on"]
    if wish == "oom":
        raise MemoryError
    if wish == "own":
        raise PredictionException("as wished", 418)
    if wish == "unknown":
        raise KeyError("secret")
    if wish == "odd":
        raise Odd
    if wish == "exit":
        sys.exit(1)
    if wish == "cancel":
        asyncio.current_task().cancel()
        await asyncio.sleep(0)
    return {"none": None, "two": [1, 2], "bad": [{1, 2}], "large": ["x" * 7_000_000]}[wish]
"""
EXPECTED = {
    "oom": (507, "Out of resources"),
    "own": (418, "as wished"),
    "unknown": (503, "Prediction failed. The server's log has the reason under the id"),
    "odd": (503, "Prediction failed"),
    "exit": (503, "Prediction failed"),
    "cancel": (503, "Prediction failed"),
    "none": (503, "Invalid model predict output"),
    "two": (503, "number of batch response mismatched"),
    "bad": (503, "Unsupported model output data type."),
    "large": (507, "the answer has 7000000 bytes"),
}


def test_whatever_goes_wrong_is_the_answer_to_one_request(server: Server, tmp_path: Path) -> None:
    worker = load(server, tmp_path, FAILURES)
    worker.send(rest("neighbour", b"wait"))
    for wish in EXPECTED:
        worker.send(rest(wish, wish.encode()))
        worker.send(grpc(f"grpc {wish}", wish.encode()))
    found = answers(worker, 1 + 2 * len(EXPECTED))
    for wish, (status, message) in EXPECTED.items():
        for key in (wish, f"grpc {wish}"):
            got = error(found[key][0])
            assert got[0] == status
            assert got[1].startswith(message)
    assert bytes(found["neighbour"][0].body) == b"waited"
    text = worker.out.wait("secret")
    assert json.loads(bytes(found["unknown"][0].body))["message"].split()[-1].rstrip(".") in text
    assert "sys.exit(1)" in text


def test_a_task_of_the_handler_does_not_end_the_worker(server: Server, tmp_path: Path) -> None:
    worker = load(server, tmp_path, FAILURES)
    assert worker.ask(rest("1", b"background")).items[0].body == b"went on"
    worker.out.wait("A task of the handler was to end the process")


# ---- streams ---------------------------------------------------------------------------------------------------------

STREAM = """
async def handle(data, context):
    if data is None:
        return
    wish = bytes(data[0]["body"]).decode()
    context.set_response_header(0, "X-Wish", wish)
    if wish == "set":
        part(context, {1, 2})
    if wish == "many":
        for _ in range(200):
            part(context, "x" * 100_000)
        return ["end"]
    part(context, "one")
    await asyncio.sleep(0)
    if wish == "thread":
        thread = threading.Thread(target=part, args=(context, "two"))
        thread.start()
        await asyncio.get_running_loop().run_in_executor(None, thread.join)
    else:
        part(context, "two")
    if wish == "raise":
        raise PredictionException("no more", 500)
    return ["end"]
"""


@pytest.mark.parametrize("wish", ["task", "thread"])
@pytest.mark.parametrize("make", [rest, grpc], ids=["rest", "grpc"])
def test_parts_and_their_end(server: Server, tmp_path: Path, wish: str, make: Any) -> None:
    worker = load(server, tmp_path, STREAM)
    worker.send(make("1", wish.encode()))
    items = answers(worker, 1)["1"]
    assert [bytes(item.body) for item in items] == [b"one", b"two", b"end"]
    assert [item.headers for item in items] == [{"X-Wish": wish, NEXT: text} for text in ("true", "true", "false")]


def test_a_stream_that_fails_is_ended(server: Server, tmp_path: Path) -> None:
    worker = load(server, tmp_path, STREAM)
    worker.send(rest("1", b"raise"))
    *parts, last = answers(worker, 1)["1"]
    assert [bytes(item.body) for item in parts] == [b"one", b"two"]
    assert error(last) == (500, "no more")


def test_a_part_that_cannot_be_sent_fails_its_request(server: Server, tmp_path: Path) -> None:
    worker = load(server, tmp_path, STREAM)
    item, end = worker.ask(rest("1", b"set")).items
    assert error(item)[0] == 503
    assert end.headers == {NEXT: "false"}
    worker.out.wait("a part of the answer cannot be sent")


def test_many_parts_stay_in_order(server: Server, tmp_path: Path) -> None:
    worker = load(server, tmp_path, STREAM)
    worker.send(rest("1", b"many"))
    time.sleep(0.3)  # more is sent than the socket takes
    items = answers(worker, 1)["1"]
    assert [len(item.body) for item in items] == [100_000] * 200 + [3]


# ---- how many --------------------------------------------------------------------------------------------------------


def test_no_more_is_read_than_may_be_in_flight(server: Server, tmp_path: Path) -> None:
    source = """
class Handler:
    def initialize(self, context):
        self.go = asyncio.Event()
        self.begun = 0

    async def wait(self, context):
        while not os.path.exists(os.path.join(context.system_properties["model_dir"], "go")):
            await asyncio.sleep(0.02)
        print("was in flight:", self.begun, flush=True)
        self.go.set()

    async def handle(self, data, context):
        self.begun += 1
        if self.begun == 1:
            self.task = asyncio.create_task(self.wait(context))
        if self.begun == 1000:
            print("all begun", flush=True)
        await self.go.wait()
        return ["done"]
"""
    worker = load(server, tmp_path, source)
    for number in range(1003):
        worker.send(rest(str(number)))
    worker.out.wait("all begun")
    time.sleep(0.1)
    (tmp_path / "model" / "go").touch()
    assert len(answers(worker, 1003)) == 1003
    worker.out.wait("was in flight: 1000\n")


# ---- the end ---------------------------------------------------------------------------------------------------------


def test_the_frontends_end_is_the_workers(server: Server, tmp_path: Path) -> None:
    worker = load(server, tmp_path, SLOW)
    worker.send(rest("1", b"hang"))
    assert answer(worker, b"cancelled") == b""
    worker.close()
    assert server.status(worker) == 0


def test_also_while_the_loop_hangs(server: Server, tmp_path: Path) -> None:
    worker = load(server, tmp_path, SLOW)
    worker.send(rest("1", b"block"))
    time.sleep(0.2)
    worker.close()
    assert server.status(worker) == 0


def test_a_second_load_ends_the_worker(server: Server, tmp_path: Path) -> None:
    worker = load(server, tmp_path, SLOW)
    worker.send_load(tmp_path / "model")
    assert server.status(worker) == 1
    worker.out.wait("The worker of model ends")


def test_without_the_prefork_process(server: Server, tmp_path: Path) -> None:
    folder = archive(tmp_path / "model", IMPORTS + INITIALIZED["method"])
    worker = server.worker(folder, TORCHMAR_PREFORK="0")
    assert worker.load(folder).code == 200
    assert answer(worker) == b"True"
    worker.close()
    assert server.status(worker) == 0
    assert wait_for(lambda: not worker.path.exists())


def test_a_child_that_comes_back_from_the_handler_answers_nothing(server: Server, tmp_path: Path) -> None:
    source = """
        async def handle(data, context):
            if data and data[0]["body"] == b"fork":
                if child := os.fork():
                    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])]
                return ["the child's"]
            return [os.getpid()]
    """
    worker = load(server, tmp_path, textwrap.dedent(source))
    pid = answer(worker)
    assert answer(worker, b"fork") == b"0"
    assert [answer(worker) for _ in range(5)] == [pid] * 5
