"""Two batches at once: which, when it pays, which handlers may, and that each is watched."""

from __future__ import annotations

import os
import sys
import threading
import time
import warnings
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from handlers import BaseHandler, ImageClassifier
from serving.worker.loading import loader
from serving.worker.loading.loader import Model
from serving.worker.loading.settings import Backend
from serving.worker.modes import pipeline
from serving.worker.modes.pipeline import Job, can_run
from serving.worker.process import guardian as guardians
from tests.serving.worker.frontend import TIMEOUT_S, Server, archive, bodies, rest, wait_for

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # the package leaves a file open and uses what Python deprecates
    from ts.torch_handler.request_envelope.body import BodyEnvelope

from tests.serving.worker.modes.pipelined import PREPARER, Client, Handler, names_of_threads, serving

pytestmark = pytest.mark.usefixtures("no_thread_stays")


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
