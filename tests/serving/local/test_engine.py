"""The engine of a model that is being written; the model is played."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import weakref
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from archive_tool.errors import InputError, TorchmarError
from serving.errors import CheckError, ModelLoadError
from serving.frontend import settings
from serving.frontend.engine import Answering, Call
from serving.frontend.errors import (
    DeadlineError,
    FrontendError,
    InternalError,
    ModelNotFoundError,
    UnavailableError,
    VersionNotFoundError,
)
from serving.frontend.settings import Place, Settings
from serving.local.engine import FailedError, ReloadingEngine
from serving.protocol import DEADLINE, Parameter, PredictionItem, Request


class PlayedModel:
    """Plays `Reloading`: it answers with the bodies that it gets, and does what they say."""

    def __init__(self) -> None:
        self.name, self.version, self.place = "m", "1.0", Path("/files")
        self.gpu, self.pid, self.started, self.look_s = None, 7, 1.5, 0.0
        self.stateful, self.healthy, self.limit_s = False, True, 120.0
        self.error: TorchmarError | None = None
        self.asked: list[Request] = []
        self.refreshed = 0
        self.held = threading.Event()  # until it is set "hold" waits
        self.closed = False

    def refresh(self) -> None:
        if self.closed:
            raise CheckError("the server is being stopped")
        self.refreshed += 1

    def ask(self, request: Request) -> Iterator[tuple[PredictionItem, bool]]:
        self.asked.append(request)
        text = bytes(request.parameters[0].value).decode()
        if text == "hold":
            self.held.wait(60)
            if self.closed:
                raise CheckError("the worker failed: it was killed")
        if text == "refuse":
            raise InternalError("no memory", status=507)
        if text == "bug":
            raise RuntimeError("a bug")
        if text == "fail":
            raise CheckError("ValueError: x", traceback="Traceback\nValueError: x", where="h.py:1", hint="mend it")
        if text in ("stream", "break"):
            for part in (b"a", b"b"):
                yield PredictionItem(request.request_id, part, headers={"ts_stream_next": "true", "X-A": "1"}), True
            if text == "break":
                raise CheckError("the worker failed")
        headers = {"ts_stream_next": "false"} if text == "stream" else {}
        yield PredictionItem(request.request_id, text.encode(), headers=headers, status=201), False

    def close(self) -> None:
        self.closed = True
        self.held.set()


def _settings(**properties: str) -> Settings:
    addresses = {f"{api}_address": "http://127.0.0.1:0" for api in ("inference", "management", "metrics")}
    here = Path("/")
    return settings.of(addresses | properties, Place(here, here, here, here, here), {})


def call(body: str = "x", name: str = "m", version: str | None = None, **more: Any) -> Call:
    return Call(name, version, Request("id", {}, (Parameter("body", body.encode()),)), **more)


class Body(bytearray):
    """One that can be looked after."""


Doing = Callable[[ReloadingEngine, PlayedModel, list[tuple[str, bool]]], Awaitable[None]]


def during(do: Doing, **properties: str) -> None:
    """Do something with an engine, and end it."""

    async def run() -> None:
        model, told = PlayedModel(), []
        engine = ReloadingEngine(model, _settings(**properties), lambda *line: told.append(line))  # type: ignore[arg-type]
        known: Answering = engine
        assert known
        await do(engine, model, told)
        await engine.drain(0.0)
        assert model.closed

    asyncio.run(run())


async def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.001)


def test_played_model_answers() -> None:
    async def do(engine: ReloadingEngine, model: PlayedModel, _: object) -> None:
        answer = await engine.predict(call(version="1.0"))
        assert (answer.status, answer.body, answer.version, answer.rest, answer.headers) == (201, b"x", "1.0", None, {})
        assert answer.timings is not None
        assert answer.timings.batch == 1
        assert 0 <= answer.timings.queue < 60
        assert model.refreshed == 1

    during(do)


def test_played_model_streams_and_breaks() -> None:
    async def do(engine: ReloadingEngine, _: object, told: list[tuple[str, bool]]) -> None:
        answer = await engine.predict(call("stream"))
        assert (answer.body, answer.headers) == (b"a", {"X-A": "1"})
        assert answer.rest is not None
        assert [part async for part in answer.rest] == [b"b", b"stream"]
        answer = await engine.predict(call("break"))
        assert answer.rest is not None
        with pytest.raises(FrontendError, match="the worker failed"):
            assert [part async for part in answer.rest]
        assert told == [("error: the worker failed", True)]

    during(do)


@pytest.mark.parametrize(
    ("error", "document"),
    [
        (
            CheckError("ValueError: x", traceback="Traceback\nValueError: x", where="h.py:1", hint="mend it"),
            {"type": "ValueError", "where": "h.py:1", "hint": "mend it", "traceback": ["Traceback", "ValueError: x"]},
        ),
        (
            ModelLoadError("cannot be loaded: KeyError", model="m", traceback="T", where="h.py:2"),
            {"type": "ModelLoadError", "where": "h.py:2", "hint": None, "traceback": ["T"]},
        ),
        (InputError("no file"), {"type": "InputError", "where": None, "hint": None, "traceback": None}),
    ],
)
def test_an_error_is_shown_as_its_author_wants_to_see_it(error: TorchmarError, document: dict[str, Any]) -> None:
    assert FailedError(error).document == {"code": 500, "message": error.message} | document


def test_played_model_fails() -> None:
    async def do(engine: ReloadingEngine, model: PlayedModel, told: list[tuple[str, bool]]) -> None:
        with pytest.raises(FailedError) as failed:
            await engine.predict(call("fail"))
        assert failed.value.document["where"] == "h.py:1"
        with pytest.raises(InternalError, match="no memory") as refused:
            await engine.predict(call("refuse"))
        assert refused.value.status == 507
        model.error = InputError("it does not parse")
        for name in ("m", "other"):  # what is wrong with the files comes first: they say the name
            with pytest.raises(FailedError, match="it does not parse"):
                await engine.predict(call(name=name))
        assert len(model.asked) == 2
        assert told == []

    during(do)


def test_played_model_with_a_bug_of_ours(caplog: pytest.LogCaptureFixture) -> None:
    async def do(engine: ReloadingEngine, *_: object) -> None:
        with pytest.raises(InternalError, match="its terminal has the reason"):
            await engine.predict(call("bug"))

    during(do)
    assert "RuntimeError: a bug" in caplog.text


def test_played_model_has_one_name_and_one_version() -> None:
    async def do(engine: ReloadingEngine, model: PlayedModel, _: object) -> None:
        with pytest.raises(ModelNotFoundError, match=r"^Model not found: n; the model here is m: /predictions/m$"):
            await engine.predict(call(name="n"))
        with pytest.raises(VersionNotFoundError, match="Model version: 2 does not exist for model: m"):
            await engine.predict(call(version="2"))
        assert not model.asked
        assert engine.names() == [("m", "/files")]
        (state,) = engine.describe("m", "all")
        assert engine.describe("m", None) == engine.describe("m", "1.0") == (state,)
        assert (state.waiting, state.remaining, state.default, state.loaded_at_startup) == (0, 100, True, True)
        assert [(one.id, one.pid, one.ready) for one in state.workers] == [("9000", 7, True)]
        with pytest.raises(VersionNotFoundError):
            engine.describe("m", "2")
        model.pid, model.healthy = -1, False
        assert engine.describe("m", None)[0].workers == ()
        assert (engine.healthy, engine.ready) == (False, False)
        model.name = ""  # its files do not say
        assert engine.names() == []
        with pytest.raises(ModelNotFoundError, match=r"^Model not found: m$"):
            engine.describe("m", None)

    during(do)


def test_played_model_keeps_sequences() -> None:
    async def do(engine: ReloadingEngine, model: PlayedModel, _: object) -> None:
        model.stateful = True
        await engine.predict(call())
        assert model.asked[0].headers["Sequence"].startswith("ts-seq-")
        assert model.asked[0].headers["ts_request_sequence_start"] == "true"

    during(do, ts_header_key_sequence_id="Sequence")


def test_played_model_who_has_left_leaves_nothing_in_the_line() -> None:
    """A handler may be busy for long, and a body is large."""

    async def do(engine: ReloadingEngine, model: PlayedModel, _: object) -> None:
        held = asyncio.ensure_future(engine.predict(call("hold")))
        await until(lambda: model.asked)
        bodies: list[Any] = []
        for _ in range(20):
            made = Call("m", None, Request("id", {}, (Parameter("body", Body(b"x")),)))
            bodies.append(weakref.ref(made.request.parameters[0].value))
            leaving = asyncio.ensure_future(engine.predict(made))
            del made
            await asyncio.sleep(0)
            leaving.cancel()
            await asyncio.gather(leaving, return_exceptions=True)
            del leaving
        gc.collect()
        assert [one() for one in bodies[:-1]] == [None] * 19  # the last one may still be in a frame
        after = asyncio.ensure_future(engine.predict(call("y")))
        model.held.set()
        assert [(await one).body for one in (held, after)] == [b"hold", b"y"]
        assert len(model.asked) == 2

    during(do, job_queue_size="5")


def test_played_model_is_asked_one_thing_at_a_time_and_not_for_who_has_left() -> None:
    async def do(engine: ReloadingEngine, model: PlayedModel, _: object) -> None:
        first = asyncio.ensure_future(engine.predict(call("hold")))
        await until(lambda: model.asked)
        left, late, last = (asyncio.ensure_future(engine.predict(call(text))) for text in ("left", "late", "last"))
        in_time = asyncio.get_running_loop().time() + 0.01
        too_late = asyncio.ensure_future(engine.predict(call("too late", deadline=in_time)))
        await asyncio.sleep(0)
        assert engine.describe("m", None)[0].waiting == 5
        with pytest.raises(UnavailableError, match="5 requests wait already") as full:
            await engine.predict(call())
        assert full.value.headers == {"Retry-After": "1"}
        left.cancel()
        with pytest.raises(DeadlineError):
            await too_late
        with pytest.raises(DeadlineError):
            await engine.predict(call(deadline=in_time))
        model.held.set()
        assert [(await one).body for one in (first, late, last)] == [b"hold", b"late", b"last"]
        assert [bytes(one.parameters[0].value) for one in model.asked] == [b"hold", b"late", b"last"]

    during(do, job_queue_size="5")


def test_played_model_is_not_late_once_it_has_begun() -> None:
    async def do(engine: ReloadingEngine, model: PlayedModel, _: object) -> None:
        asked = asyncio.ensure_future(engine.predict(call("hold", deadline=asyncio.get_running_loop().time() + 0.2)))
        await until(lambda: model.asked)
        await asyncio.sleep(0.3)
        model.held.set()
        assert (await asked).body == b"hold"
        (request,) = model.asked
        assert abs(float(request.headers[DEADLINE]) - time.monotonic()) < 60  # what the handler is told

    during(do)


def test_played_model_whose_client_leaves_answers_to_nobody() -> None:
    async def do(engine: ReloadingEngine, model: PlayedModel, _: object) -> None:
        asked = asyncio.ensure_future(engine.predict(call("hold")))
        await until(lambda: model.asked)
        asked.cancel()
        stream = await _after(model, engine.predict(call("stream")))
        assert stream.rest is not None
        await stream.rest.aclose()  # type: ignore[attr-defined]
        assert (await engine.predict(call())).body == b"x"

    during(do)


async def _after(model: PlayedModel, waiting: Awaitable[Any]) -> Any:
    model.held.set()
    return await waiting


def test_played_model_is_followed() -> None:
    async def do(engine: ReloadingEngine, model: PlayedModel, _: object) -> None:
        following = asyncio.ensure_future(engine.follow())
        await until(lambda: model.refreshed >= 2)
        following.cancel()

    during(do)


def test_played_model_ends() -> None:
    async def do(engine: ReloadingEngine, model: PlayedModel, _: object) -> None:
        under_way = asyncio.ensure_future(engine.predict(call("hold")))
        await until(lambda: model.asked)
        waits = asyncio.ensure_future(engine.predict(call()))
        await asyncio.sleep(0)
        await engine.drain(0.0)
        for one in (under_way, waits):
            with pytest.raises(UnavailableError, match="about to end"):
                await one
        assert not engine.ready

    async def run() -> None:
        model = PlayedModel()
        engine = ReloadingEngine(model, _settings(), print)  # type: ignore[arg-type]
        await do(engine, model, None)
        with pytest.raises(UnavailableError, match="about to end"):
            await engine.predict(call())

    asyncio.run(run())


def test_played_model_answers_what_was_taken_within_the_grace() -> None:
    async def run() -> None:
        model = PlayedModel()
        engine = ReloadingEngine(model, _settings(), print)  # type: ignore[arg-type]
        asked = asyncio.ensure_future(engine.predict(call("hold")))
        await until(lambda: model.asked)
        asyncio.get_running_loop().call_later(0.05, model.held.set)
        await engine.drain(60.0)
        assert (await asked).body == b"hold"

    asyncio.run(run())
