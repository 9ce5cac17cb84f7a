"""Two batches at once: that they overlap, that each is its own, and when the second thread stays idle."""

from __future__ import annotations

import os
import random
import socket
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from handlers import BadInputError, BaseHandler, ImageClassifier
from serving.protocol import Load
from serving.worker.loading import loader
from serving.worker.loading.loader import Model
from serving.worker.loading.settings import Backend
from serving.worker.modes import pipeline, shared
from serving.worker.modes.connection import Connection
from serving.worker.modes.pipeline import Job, can_run
from serving.worker.process import guardian as guardians
from serving.worker.process import rendezvous
from tests.serving.worker.frontend import TIMEOUT_S, Peer, Server, archive, bodies, rest, wait_for

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # the package leaves a file open and uses what Python deprecates
    from ts.context import Context
    from ts.handler_utils.utils import send_intermediate_predict_response
    from ts.torch_handler.request_envelope.body import BodyEnvelope

PREPARER = "torchmar-preparer"


class Metrics:
    """A recorder of what is added, with the requests that it was added for."""

    def __init__(self) -> None:
        self.request_ids: Any = None
        self.added: list[tuple[str, list[str]]] = []

    def add_time(self, name: str, *_: Any) -> None:
        self.added.append((name, list(self.request_ids.values())))


class Handler(BaseHandler):
    """A handler that answers each request with its body and its header `name`; the diary has what a batch is up to."""

    pipelined: bool | None = True

    def __init__(self) -> None:
        super().__init__()
        self.diary: list[str] = []
        self.sizes: list[int] = []
        self.released: dict[str, threading.Event] = {}

    def note(self, what: str, texts: list[str]) -> None:
        """Tell the test, and wait where it asked for it."""
        entry = f"{what} {' '.join(texts)}"
        self.diary.append(entry)
        if released := self.released.get(entry):
            assert released.wait(TIMEOUT_S)

    def stop_at(self, entry: str) -> threading.Event:
        """Let a hook wait for the event when it comes to this entry."""
        return self.released.setdefault(entry, threading.Event())

    def reached(self, entry: str) -> bool:
        return wait_for(lambda: entry in self.diary)

    def preprocess(self, data: Any) -> Any:
        texts = [bytes(row["body"]).decode() for row in data]
        self.note("preprocess", texts)
        if "bad" in texts:
            raise BadInputError("no good")
        if "exit" in texts:
            raise SystemExit(3)
        return [(text, self.header(index)) for index, text in enumerate(texts)]

    def inference(self, data: Any, *args: Any, **kwargs: Any) -> Any:
        self.sizes.append(len(data))
        self.note("inference", [text for text, _ in data])
        return data

    def postprocess(self, data: Any) -> Any:
        self.note("postprocess", [text for text, _ in data])
        assert [name for _, name in data] == [self.header(index) for index in range(len(data))]
        return [f"{text}:{name}" for text, name in data]

    def describe_handle(self) -> Any:
        return {"about": "echo"}

    def header(self, index: int) -> str | None:
        assert self.context is not None
        return self.context.get_request_header(index, "name")


class Client(Peer):
    """A worker of the frontend, and the process that lives as long as it."""

    def __init__(self, channel: socket.socket | None) -> None:
        ours, theirs = socket.socketpair()
        self.lifeline, far = socket.socketpair()
        super().__init__(ours)
        self.given = (theirs, far)
        if channel is not None:
            pipes = [os.open(os.devnull, os.O_WRONLY) for _ in range(2)]
            rendezvous.send(channel, {}, (theirs.fileno(), *pipes, far.fileno()))
            for fd in pipes:
                os.close(fd)
            self.forget()

    def forget(self) -> None:
        for sock in self.given:
            sock.close()

    def loaded(self) -> Client:
        assert self.reply().code == 200
        return self

    def say(self, text: str, **headers: str) -> None:
        self.send(rest(text, text.encode(), **headers))

    def heard(self) -> str:
        (body,) = bodies(self.reply())
        return body.decode()

    def is_released(self) -> bool:
        """Return whether the process that serves has closed the lifeline."""
        self.lifeline.settimeout(TIMEOUT_S)
        return self.lifeline.recv(1) == b""

    def end(self) -> None:
        self.close()
        self.lifeline.close()


class Fixture:
    """A shared process, in a thread."""

    def __init__(self, handler: Any, patch: pytest.MonkeyPatch, config: dict[str, Any] | None, **backend: Any) -> None:
        self.metrics = Metrics()
        self.context = Context("model", "", {}, 8, None, "0.12.0", True, self.metrics, config or {})
        handler.model_yaml_config = config or {}
        handler.context = self.context
        model = Model("model", handler.handle, self.context, handler, Backend(shared=True, **backend))
        patch.setattr(loader, "load", lambda *_: model)
        self.strays: list[str] = []
        for name in ("poll", "waiting", "is_complete", "take"):
            patch.setattr(shared.Server, name, self._watched(name))
        patch.setattr(guardians.Guardian, "start", lambda _: None)  # it would end the process of the tests
        patch.setattr(shared, "gc", SimpleNamespace(collect=lambda: None, freeze=lambda: None))
        output = SimpleNamespace(add=lambda *_: None, remove=os.close)
        self.channel, self._theirs = socket.socketpair()
        load, arguments = Load("model", "", None), SimpleNamespace(metrics_config="")
        self.server = shared.Server(load, arguments, self._theirs, output)  # type: ignore[arg-type]
        self.code: Any = None
        self.clients: list[Client] = []
        first = Client(None)
        connection, lifeline = first.given
        pipes = [os.open(os.devnull, os.O_WRONLY) for _ in range(2)]
        os.close(pipes[1])
        self.server.add(Connection(connection), lifeline, *pipes)
        self.thread = threading.Thread(target=self._run)
        self.thread.start()
        self.clients.append(first.loaded())

    def _watched(self, name: str) -> Any:
        """Return a method of the intake that notes callers out of turn."""
        method = getattr(shared.Server, name)

        def watched(server: shared.Server, *args: Any) -> Any:
            ahead = server._pipeline is not None and server._pipeline.ahead
            second = threading.current_thread().name == PREPARER
            if ahead is not second:
                self.strays.append(f"{name} in {threading.current_thread().name}")
            if second and torch.get_num_threads() != 1:
                self.strays.append("the second thread has threads of its own")
            return method(server, *args)

        return watched

    def _run(self) -> None:
        try:
            self.code = self.server.run()
        except SystemExit as error:
            self.code = error

    def client(self) -> Client:
        client = Client(self.channel)
        self.clients.append(client)
        return client

    def join(self, count: int) -> list[Client]:
        """Connect as many workers, with the first."""
        while len(self.clients) < count:
            self.client().loaded()
        return self.clients

    def end(self) -> None:
        for client in self.clients:
            client.end()
        self.channel.close()
        self.thread.join(TIMEOUT_S)
        assert not self.thread.is_alive()
        server, guardian = self.server, self.server._guardian
        for guest in server._guests.values():
            server._close(guest)
        for thing in (self._theirs, server._epoll, guardian._wake, guardian._waker):
            thing.close()
        assert self.strays == []


@contextmanager
def serving(handler: Any, config: dict[str, Any] | None = None, **backend: Any) -> Iterator[Fixture]:
    """Yield a shared process whose handler is this one."""
    with pytest.MonkeyPatch.context() as patch:
        fixture = Fixture(handler, patch, config, **backend)
        try:
            yield fixture
        finally:
            for released in getattr(handler, "released", {}).values():
                released.set()
            fixture.end()


@pytest.fixture(autouse=True)
def no_thread_stays() -> Iterator[None]:
    yield
    assert wait_for(lambda: PREPARER not in names_of_threads())


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the second thread at work whenever it can be."""
    monkeypatch.setattr(pipeline._Costs, "pay", lambda _: True)


def names_of_threads() -> set[str]:
    return {thread.name for thread in threading.enumerate()}


# ---- overlap -------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("always")
def test_the_next_batch_is_preprocessed_while_the_model_runs_this_one() -> None:
    handler = Handler()
    release = handler.stop_at("inference a")
    with serving(handler) as fixture:
        one, two = fixture.join(2)
        one.say("a", name="A")
        assert handler.reached("inference a")
        two.say("b", name="B")
        assert handler.reached("preprocess b")
        assert handler.diary == ["preprocess a", "inference a", "preprocess b"]
        release.set()
        assert (one.heard(), two.heard()) == ("a:A", "b:B")
        assert handler.diary.count("preprocess b") == 1


@pytest.mark.usefixtures("always")
def test_the_answer_does_not_wait_for_the_next_batch() -> None:
    handler = Handler()
    release_model, release = handler.stop_at("inference a"), handler.stop_at("preprocess b")
    with serving(handler) as fixture:
        one, two = fixture.join(2)
        one.say("a")
        assert handler.reached("inference a")
        two.say("b")
        assert handler.reached("preprocess b")
        release_model.set()
        assert one.heard() == "a:None"
        release.set()
        assert two.heard() == "b:None"


@pytest.mark.usefixtures("always")
def test_hooks_in_both_threads_see_their_own_batch() -> None:
    class Looking(Handler):
        def preprocess(self, data: Any) -> Any:
            texts = super().preprocess(data)
            contexts.append(self.context)
            self.note("preprocessed", [text for text, _ in texts])
            return texts

        def inference(self, data: Any, *args: Any, **kwargs: Any) -> Any:
            super().inference(data)
            assert self.context is initialized  # what a handler remembers of initialize shows the batch as well
            return [(text, self.header(index)) for index, (text, _) in enumerate(data)]

    contexts: list[Any] = []
    handler = Looking()
    release, release_ahead = handler.stop_at("inference a"), handler.stop_at("preprocessed b")
    with serving(handler) as fixture:
        initialized = fixture.context
        one, two = fixture.join(2)
        one.say("a", name="A")
        assert handler.reached("inference a")
        two.say("b", name="B")
        assert handler.reached("preprocessed b")
        release.set()
        assert one.heard() == "a:A"
        release_ahead.set()
        assert two.heard() == "b:B"
        assert contexts[0] is initialized
        assert contexts[1] is not initialized
        assert initialized.metrics is fixture.metrics
        assert fixture.metrics.added == [("HandlerTime", ["a"]), ("PredictionTime", ["a"]), ("HandlerTime", ["b"])]


@pytest.mark.usefixtures("always")
def test_what_preprocess_says_of_the_answer_is_kept() -> None:
    class Saying(Handler):
        def preprocess(self, data: Any) -> Any:
            assert self.context is not None
            self.context.set_response_status(code=201, phrase="Made", idx=0)
            self.context.mark = bytes(data[0]["body"])  # type: ignore[attr-defined]
            return super().preprocess(data)

        def postprocess(self, data: Any) -> Any:
            super().postprocess(data)
            return [self.context.mark]  # type: ignore[union-attr]

    handler = Saying()
    release = handler.stop_at("inference a")
    with serving(handler) as fixture:
        one, two = fixture.join(2)
        one.say("a")
        assert handler.reached("inference a")
        two.say("b")
        assert handler.reached("preprocess b")
        release.set()
        for client, mark in ((one, b"a"), (two, b"b")):
            (item,) = client.reply().items
            assert (item.status, item.phrase, bytes(item.body)) == (201, "Made", mark)


@pytest.mark.usefixtures("always")
@settings(max_examples=20, deadline=None)
@given(
    schedule=st.lists(
        st.tuples(st.integers(0, 4), st.sampled_from(["good", "good", "good", "bad", "describe"])), max_size=40
    ),
    limit=st.integers(1, 6),
    seed=st.integers(0, 99),
)
def test_whatever_the_schedule_everybody_gets_their_own_answer(
    schedule: list[tuple[int, str]], limit: int, seed: int
) -> None:
    """Each client sends its requests one after the other, all at the same time; no answer is another one's."""
    sleeps = random.Random(seed)

    class Sleepy(Handler):
        def note(self, what: str, texts: list[str]) -> None:
            time.sleep(sleeps.choice([0, 0, 0.0005, 0.002]))

    def play(client: Client, own: list[tuple[int, str]]) -> None:
        for number, kind in own:
            text = "bad" if kind == "bad" else f"text{number}"
            headers = {"describe": "True"} if kind == "describe" else {}
            client.send(rest(f"id{number}", text.encode(), name=str(number), **headers))
            (item,) = client.reply().items
            assert item.request_id == f"id{number}"
            if kind == "good":
                assert (item.status, bytes(item.body)) == (200, f"{text}:{number}".encode())
            elif kind == "bad":
                assert (item.status, b"no good" in item.body) == (400, True)
            else:
                assert b"echo" in item.body
            done.append(number)

    done: list[int] = []
    handler = Sleepy()
    with serving(handler, max_batch_size=limit) as fixture:
        players = []
        for index, client in enumerate(fixture.join(5)):
            own = [(number, kind) for number, (who, kind) in enumerate(schedule) if who == index]
            players.append(threading.Thread(target=play, args=(client, own)))
        for player in players:
            player.start()
        for player in players:
            player.join(TIMEOUT_S)
    assert sorted(done) == list(range(len(schedule)))
    assert max(handler.sizes, default=0) <= limit


# ---- what goes wrong -----------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("always")
def test_a_bad_request_of_a_prepared_batch_fails_alone() -> None:
    handler = Handler()
    release = handler.stop_at("inference a")
    with serving(handler) as fixture:
        one, *others = fixture.join(4)
        one.say("a")
        assert handler.reached("inference a")
        for client, text in zip(others, ("b", "bad", "c"), strict=True):
            client.say(text, name=text)
        assert wait_for(lambda: len(handler.diary) >= 3)
        release.set()
        assert one.heard() == "a:None"
        assert [others[0].heard(), others[2].heard()] == ["b:b", "c:c"]
        (item,) = others[1].reply().items
        assert item.status == 400


@pytest.mark.usefixtures("always")
def test_the_second_half_may_fail_while_the_next_batch_is_prepared() -> None:
    class Failing(Handler):
        def inference(self, data: Any, *args: Any, **kwargs: Any) -> Any:
            super().inference(data)
            if data[0][0] == "a":
                raise MemoryError
            return data

    handler = Failing()
    release = handler.stop_at("inference a")
    with serving(handler) as fixture:
        one, two = fixture.join(2)
        one.say("a")
        assert handler.reached("inference a")
        two.say("b")
        assert handler.reached("preprocess b")
        release.set()
        assert one.reply().code == 507
        assert two.heard() == "b:None"


@pytest.mark.usefixtures("always")
def test_an_error_outside_of_the_hooks_fails_the_batch() -> None:
    class Odd(Handler):
        def _is_describe(self) -> bool:
            if self.header(0) == "odd":
                raise ValueError("an odd header")
            return super()._is_describe()

    handler = Odd()
    release = handler.stop_at("inference a")
    with serving(handler) as fixture:
        one, two, three = fixture.join(3)
        one.say("a")
        assert handler.reached("inference a")
        two.say("b", name="odd")
        three.say("c")
        time.sleep(0.05)
        release.set()
        assert one.heard() == "a:None"
        assert two.reply().code == 503
        assert three.heard() == "c:None"


@pytest.mark.usefixtures("always")
def test_a_hook_that_ends_the_process_ends_it_after_the_answers_that_are_due() -> None:
    handler = Handler()
    release = handler.stop_at("inference a")
    with serving(handler) as fixture:
        one, two = fixture.join(2)
        one.say("a")
        assert handler.reached("inference a")
        two.say("exit")
        assert handler.reached("preprocess exit")
        release.set()
        assert one.heard() == "a:None"
        fixture.thread.join(TIMEOUT_S)
        assert isinstance(fixture.code, SystemExit)
        assert fixture.code.code == 3
        fixture.server._pipeline.close()  # type: ignore[union-attr]


@pytest.mark.usefixtures("always")
def test_a_description_is_no_batch_to_prepare() -> None:
    handler = Handler()
    release = handler.stop_at("inference a")
    with serving(handler) as fixture:
        one, two, three = fixture.join(3)
        fixture.server._pipeline._delay_s = TIMEOUT_S  # type: ignore[union-attr]  # until all wait
        one.say("a")
        assert handler.reached("inference a")
        two.say("b")
        time.sleep(0.05)
        three.say("c", describe="True")
        time.sleep(0.05)
        assert handler.diary == ["preprocess a", "inference a"]
        release.set()
        assert one.heard() == "a:None"
        assert two.heard() == "b:None"
        assert "echo" in three.heard()


@pytest.mark.usefixtures("always")
def test_explanations_do_not_overlap() -> None:
    class Explaining(Handler):
        def get_insights(self, tensor_data: Any, raw_data: Any, target: Any) -> Any:
            self.note("explain", [tensor_data[0][0]])
            assert self.explain
            return [f"because {tensor_data[0][0]}"]

    handler = Explaining()
    release = handler.stop_at("explain a")
    with serving(handler) as fixture:
        one, two = fixture.join(2)
        one.say("a", explain="True")
        assert handler.reached("explain a")
        two.say("b")
        time.sleep(0.05)
        assert handler.diary == ["preprocess a", "explain a"]
        release.set()
        assert (one.heard(), two.heard()) == ("because a", "b:None")


@pytest.mark.usefixtures("always")
def test_parts_of_answers_go_to_those_who_asked() -> None:
    class Streaming(Handler):
        def stream(self, part: str) -> None:
            context: Any = self.context
            send_intermediate_predict_response([part], context.request_ids, "part", 200, context)

        def preprocess(self, data: Any) -> Any:
            result = super().preprocess(data)
            self.stream(f"preprocess {result[0][0]}")
            return result

        def inference(self, data: Any, *args: Any, **kwargs: Any) -> Any:
            self.stream(f"inference {data[0][0]}")
            super().inference(data)
            self.stream(f"end of {data[0][0]}")
            return data

    handler = Streaming()
    release = handler.stop_at("inference a")
    with serving(handler) as fixture:
        one, two = fixture.join(2)
        one.say("a")
        assert handler.reached("inference a")
        two.say("b")
        assert two.heard() == "preprocess b"
        release.set()
        assert [one.heard() for _ in range(4)] == ["preprocess a", "inference a", "end of a", "a:None"]
        assert [two.heard() for _ in range(3)] == ["inference b", "end of b", "b:None"]


# ---- workers that come and go ----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("always")
def test_a_worker_that_comes_while_the_model_runs_is_told_at_once() -> None:
    handler = Handler()
    release = handler.stop_at("inference a")
    with serving(handler) as fixture:
        (one,) = fixture.join(1)
        one.say("a")
        assert handler.reached("inference a")
        two = fixture.client().loaded()
        two.say("b")
        assert handler.reached("preprocess b")
        three = fixture.client().loaded()  # the batch is prepared, and the model still runs
        release.set()
        assert (one.heard(), two.heard()) == ("a:None", "b:None")
        three.say("c")
        assert three.heard() == "c:None"


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("who", ["running", "prepared", "waiting", "idle"])
def test_a_worker_may_leave_at_any_time(who: str) -> None:
    handler = Handler()
    release = handler.stop_at("inference a")
    with serving(handler, max_batch_size=1) as fixture:
        running, prepared, waiting, idle = fixture.join(4)
        running.say("a")
        assert handler.reached("inference a")
        prepared.say("b")
        assert handler.reached("preprocess b") if who != "idle" else True
        waiting.say("c")
        places = {"running": running, "prepared": prepared, "waiting": waiting, "idle": idle}
        leaving = places.pop(who)
        leaving.close()
        time.sleep(0.05)
        release.set()
        assert leaving.is_released()
        for client, answer in ((running, "a:None"), (prepared, "b:None"), (waiting, "c:None")):
            if client is not leaving:
                assert client.heard() == answer
        for client in places.values():
            client.say("again")
            assert client.heard() == "again:None"
        assert fixture.server._left == []


@pytest.mark.usefixtures("always")
def test_a_prepared_batch_that_nobody_waits_for_is_not_run() -> None:
    handler = Handler()
    release, release_ahead = handler.stop_at("inference a"), handler.stop_at("preprocess b")
    with serving(handler) as fixture:
        one, two = fixture.join(2)
        one.say("a")
        assert handler.reached("inference a")
        two.say("b")
        assert handler.reached("preprocess b")
        two.close()
        one.close()
        release_ahead.set()
        assert wait_for(lambda: not fixture.server._guests)
        release.set()
        fixture.thread.join(TIMEOUT_S)
        assert fixture.code == 0
        assert "inference b" not in handler.diary


# ---- how batches are made ------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("always")
def test_the_prepared_batch_is_no_larger_than_allowed() -> None:
    handler = Handler()
    release = handler.stop_at("inference a b")
    with serving(handler, max_batch_size=2, max_batch_delay_s=60.0) as fixture:
        clients = fixture.join(6)
        for client, text in zip(clients, "abcde", strict=False):
            client.say(text)
        assert handler.reached("inference a b")
        assert handler.reached("preprocess c d")
        release.set()
        clients[5].say("f")
        assert [client.heard()[0] for client in clients] == list("abcdef")
        assert handler.sizes == [2, 2, 2]


@pytest.mark.usefixtures("always")
def test_two_batches_at_once_are_of_like_size() -> None:
    handler = Handler()
    release = handler.stop_at("inference a")
    with serving(handler) as fixture:
        clients = fixture.join(8)
        fixture.server._pipeline._delay_s = TIMEOUT_S  # type: ignore[union-attr]  # until all wait
        clients[0].say("a")
        assert handler.reached("inference a")
        for client, text in zip(clients[1:], "bcdefgh", strict=True):
            client.say(text)
        assert wait_for(lambda: len(handler.diary) == 3)
        assert len(handler.diary[2].split()) == 1 + 4
        release.set()
        assert [client.heard()[0] for client in clients] == list("abcdefgh")
        assert handler.sizes[:2] == [1, 4]


@pytest.mark.usefixtures("always")
def test_a_batch_waits_as_long_as_the_configuration_says() -> None:
    handler = Handler()
    release = handler.stop_at("inference a")
    with serving(handler, max_batch_delay_s=0.2) as fixture:
        clients = fixture.join(4)
        clients[0].say("a")
        assert handler.reached("inference a")
        begin = time.monotonic()
        clients[1].say("b")
        assert handler.reached("preprocess b")
        assert time.monotonic() - begin >= 0.2
        release.set()
        assert [clients[0].heard(), clients[1].heard()] == ["a:None", "b:None"]


# ---- when it pays --------------------------------------------------------------------------------------------------


class Slow(Handler):
    def preprocess(self, data: Any) -> Any:
        time.sleep(0.003)
        return super().preprocess(data)


def ask_together(clients: list[Client], times: int) -> None:
    for _ in range(times):
        for client in clients:
            client.say("a")
        for client in clients:
            assert client.heard() == "a:None"


def test_one_client_is_served_by_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "available", lambda: 8)
    with serving(Slow(), max_batch_size=1) as fixture:
        one, _ = fixture.join(2)
        ask_together([one], 20)
        assert PREPARER not in names_of_threads()


def test_the_second_thread_is_there_for_several_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "available", lambda: 8)
    with serving(Slow(), max_batch_size=1) as fixture:
        ask_together(fixture.join(2), 4)
        assert PREPARER in names_of_threads()


@pytest.mark.parametrize(
    ("handler", "cores", "backend"),
    [(Handler(), 8, {}), (Slow(), 1, {}), (Slow(), 8, {"processes": 8}), (Slow(), 8, {"pipeline": False})],
    ids=["fast", "one core", "one core each", "switched off"],
)
def test_who_gains_nothing_has_no_second_thread(
    monkeypatch: pytest.MonkeyPatch, handler: Handler, cores: int, backend: dict[str, Any]
) -> None:
    monkeypatch.setattr(pipeline, "available", lambda: cores)
    monkeypatch.setattr(pipeline, "_WORTH_S", 0.001 if isinstance(handler, Slow) else 60.0)
    with serving(handler, **backend) as fixture:
        ask_together(fixture.join(3), 10)
        assert PREPARER not in names_of_threads()


def test_a_crowd_is_forgotten() -> None:
    costs = pipeline._Costs(1)
    costs._cores = 2
    costs.prepared(SimpleNamespace(seconds=0.01, requests=[1, 2]))  # type: ignore[arg-type]
    assert costs.would_pay()
    assert not costs.pay()
    costs.crowded()
    for _ in range(pipeline._CROWDED):
        assert costs.pay()
        costs.completed(0.1)
    assert not costs.pay()


def test_the_next_batch_is_begun_in_time() -> None:
    costs = pipeline._Costs(1)
    assert costs.hold_s(1) == 0.0
    costs.completed(1.0)
    costs.prepared(SimpleNamespace(seconds=0.1, requests=[1, 2]))  # type: ignore[arg-type]
    assert costs.hold_s(1) == pytest.approx(0.9)
    assert costs.hold_s(100) == 0.5


def test_the_second_thread_has_the_settings_of_the_first_but_no_threads_besides_itself() -> None:
    before = torch.get_num_threads()
    seen: list[tuple[bool, int]] = []

    def run(work: Callable[[], None]) -> None:
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()

    def note() -> None:
        seen.append((torch.is_grad_enabled(), torch.get_num_threads()))

    def probe() -> None:
        kept.adopt()
        note()

    try:
        torch.set_num_threads(3)
        with torch.no_grad():
            kept = pipeline._TorchSettings()
        run(probe)
        kept.keep()
        run(note)  # a thread that a handler starts
        note()
    finally:
        torch.set_num_threads(before)
    assert seen == [(False, 1), (True, 3), (True, 3)]


def test_without_torch_there_is_nothing_to_hand_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "torch")
    kept = pipeline._TorchSettings()
    kept.adopt()
    kept.keep()


# ---- which handlers may ---------------------------------------------------------------------------------------------


class Stateful(BaseHandler):
    def preprocess(self, data: Any) -> Any:
        self.texts = [bytes(row["body"]).decode() for row in data]
        time.sleep(0.003)
        return data

    def inference(self, data: Any, *args: Any, **kwargs: Any) -> Any:
        time.sleep(0.003)
        return data

    def postprocess(self, data: Any) -> Any:
        return self.texts


class Override(Handler):
    def handle(self, data: Any, context: Any) -> Any:
        return super().handle(data, context)


class NotOurs:
    def handle(self, data: Any, context: Any) -> Any:
        return data


def built_in() -> Any:
    module = loader._built_in("image_classifier")
    assert module is not None
    return module.ImageClassifier()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("make", "setting", "expected"),
    [
        (ImageClassifier, None, True),
        (built_in, None, True),
        (Handler, None, True),
        (Stateful, None, False),
        (Stateful, True, True),
        (Handler, False, False),
        (ImageClassifier, False, False),
        (Override, None, False),
        (Override, True, False),
        (NotOurs, None, False),
        (NotOurs, True, False),
    ],
)
def test_whose_batches_may_overlap(make: Any, setting: bool | None, expected: bool, caplog: Any) -> None:
    handler = make()
    assert can_run(Model("m", handler.handle, None, handler, Backend(pipeline=setting))) is expected
    assert ("backend.pipeline has no effect" in caplog.text) is (setting is True and not expected)


def test_functions_and_envelopes_are_called_as_they_are() -> None:
    assert not can_run(Model("m", lambda data, context: data, None, None, Backend(pipeline=True)))
    handler = Handler()
    assert not can_run(Model("m", BodyEnvelope(handler.handle).handle, None, handler, Backend(pipeline=True)))


@pytest.mark.usefixtures("always")
def test_a_handler_with_state_on_itself_is_answered_right() -> None:
    with serving(Stateful(), max_batch_size=2) as fixture:
        clients = fixture.join(6)
        for _ in range(5):
            for client, text in zip(clients, "abcdef", strict=True):
                client.say(text)
            assert [client.heard() for client in clients] == list("abcdef")


# ---- the watchdog --------------------------------------------------------------------------------------------------

HANGING = """
    import time
    from handlers import BaseHandler

    class Handler(BaseHandler):
        pipelined = True

        def initialize(self, context):
            self.context = context

        def preprocess(self, data):
            texts = [bytes(row["body"]).decode() for row in data]
            time.sleep(0.005)
            if "hang" in texts:
                self.hang_in_preprocess()
            return texts

        def hang_in_preprocess(self):
            time.sleep(1000)

        def inference(self, data):
            time.sleep(0.3 if "slow" in data else 0.01)
            return data

        def postprocess(self, data):
            return data
"""


def test_a_preprocess_that_hangs_in_the_second_thread_is_told_and_ended(server: Server, tmp_path: Any) -> None:
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("there is no second thread on one core")
    config = {"responseTimeout": 2, "backend": {"mode": "shared", "max_batch_size": 1}}
    folder = archive(tmp_path / "model", HANGING, config=config)
    one, two = server.worker(folder), server.worker(folder)
    assert one.load(folder).code == two.load(folder).code == 200
    for _ in range(4):  # until the second thread is at work
        for worker in (one, two):
            worker.send(rest("1", b"x"))
        for worker in (one, two):
            assert bodies(worker.reply()) == [b"x"]
    one.send(rest("1", b"slow"))
    time.sleep(0.1)
    two.send(rest("2", b"hang"))
    assert bodies(one.reply()) == [b"slow"]
    text = one.err.wait("is replaced: its handler hangs")
    assert "The handler has been running for" in text
    told = text[text.index("The thread of the handler is here") :]
    assert "hang_in_preprocess" in told[: told.index("is replaced")]
    assert "pipeline.py" in told
    assert one.is_closed()
    assert two.is_closed()


def test_the_clock_of_a_batch_runs_on_in_the_other_thread() -> None:
    guardian = guardians.Guardian(alone=False)
    service: Any = SimpleNamespace(
        model=SimpleNamespace(backend=Backend()),
        complete=lambda *_: seen.append(guardian.busy_since) or [],
        can_prepare=lambda _: True,
    )
    intake: Any = SimpleNamespace(waiting=lambda: 0, poll=lambda _: None)
    seen: list[float] = []
    running = pipeline.Pipeline(service, intake, guardian)
    batch: Any = SimpleNamespace(seconds=5.0, ready=False)
    now = time.monotonic()
    running.run(Job([], [], SimpleNamespace(), batch), lambda *_: None)  # type: ignore[arg-type]
    assert now - 5.0 <= seen[0] <= time.monotonic() - 5.0
    assert guardian.busy_since == 0.0
    running.close()
    guardian._wake.close()
    guardian._waker.close()
