"""Two batches at once: that they overlap, that each is its own, and what goes wrong."""

from __future__ import annotations

import random
import threading
import time
import warnings
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.serving.worker.frontend import TIMEOUT_S, rest, wait_for

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # the package leaves a file open and uses what Python deprecates
    from ts.handler_utils.utils import send_intermediate_predict_response

from tests.serving.worker.modes.pipelined import Client, Handler, serving

pytestmark = pytest.mark.usefixtures("no_thread_stays")


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
