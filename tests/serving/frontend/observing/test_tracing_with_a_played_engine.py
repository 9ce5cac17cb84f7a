"""Traces as a receiver of OTLP gets them, of requests that a played engine answers."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from serving.frontend.apps.answers import server_timing
from serving.frontend.apps.exchange import close_parts
from serving.frontend.engine import Answer, Call, Timings
from serving.frontend.errors import UnavailableError
from serving.frontend.observing import tracing
from serving.frontend.observing.tracing import Tracing, _parts
from serving.protocol import PARTS, TRACE, Request

from .receiver import Receiver, attributes, receiving

CLIENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
UNSAMPLED = CLIENT[:-2] + "00"


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    with receiving() as found:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", found.address)
        for name in ("OTEL_TRACES_SAMPLER", "OTEL_SERVICE_NAME", "OTEL_RESOURCE_ATTRIBUTES"):
            monkeypatch.delenv(name, raising=False)
        yield found


def traced(
    answered: Callable[[Call], Awaitable[Answer]], *headers: dict[str, str], trace: str = "", read: bool = True
) -> list[Any]:
    """Ask once with each of the headers; the answers, or errors, when all spans were sent."""

    async def main() -> list[Any]:
        watcher = Tracing()
        found: list[Any] = []
        for number, one in enumerate(headers or ({},)):
            call = Call("mnist", None, Request(f"r{number}", one), trace=trace)
            try:
                answer = await watcher.predict(answered, call)
                if answer.rest is not None:
                    if read:
                        answer.body = answer.body + b"".join([bytes(part) async for part in answer.rest])
                    await close_parts(answer.rest)
                found.append(answer)
            except (UnavailableError, asyncio.CancelledError) as error:
                found.append(error)
        await watcher.end()
        return found

    return asyncio.run(main())


async def worked(call: Call) -> Answer:
    """Answer as a worker does that was asked for its times."""
    begin = time.monotonic()
    await asyncio.sleep(0.02)
    told = f"worker={begin + 0.005!r},{begin + 0.019!r};preprocess={begin + 0.006!r},{begin + 0.008!r};"
    told += f"inference={begin + 0.008!r},{begin + 0.015!r};postprocess={begin + 0.015!r},{begin + 0.018!r}"
    headers = {"x-mine": "1", **({PARTS: told} if TRACE in call.request.headers else {})}
    return Answer(200, "", "text/plain", headers, b"answer", version="1.0", timings=Timings(0.004, 0.016, 3))


def test_a_trace_shows_seven_spans(receiver: Receiver) -> None:
    (answer,) = traced(worked, {"Host": "here", "TraceParent": CLIENT})
    (spans,) = receiver.traces().values()
    assert list(receiver.traces()) == [CLIENT.split("-")[1]]
    parents = {"queue": "request", "batch": "request", "worker": "batch"}
    parents |= dict.fromkeys(("preprocess", "inference", "postprocess"), "worker")
    assert spans.keys() == {"request", *parents}
    assert spans["request"].parent_span_id.hex() == CLIENT.split("-")[2]
    for name, parent in parents.items():
        outer, inner = spans[parent], spans[name]
        assert inner.parent_span_id == outer.span_id
        assert outer.start_time_unix_nano <= inner.start_time_unix_nano
        assert inner.start_time_unix_nano < inner.end_time_unix_nano <= outer.end_time_unix_nano
    assert abs(spans["request"].start_time_unix_nano / 1e9 - time.time()) < 60
    took = spans["inference"].end_time_unix_nano - spans["inference"].start_time_unix_nano
    assert took == pytest.approx(7_000_000, abs=100_000)
    of = attributes(spans["request"])
    assert (of["torchmar.model"], of["torchmar.version"], of["torchmar.request_id"]) == ("mnist", "1.0", "r0")
    assert of["http.response.status_code"] == 200
    assert attributes(spans["batch"])["torchmar.batch_size"] == 3
    assert receiver.services == {"torchmar"}
    # The client sees which span it was, and nothing of what the worker told us.
    assert answer.headers == {"x-mine": "1", "traceparent": f"{CLIENT[:36]}{spans['request'].span_id.hex()}-01"}
    assert b", preprocess;dur=2.000, inference;dur=7.000, postprocess;dur=3.000" in server_timing(answer.timings)


def test_the_worker_is_told_of_its_span_before_there_is_one(receiver: Receiver) -> None:
    told = []

    async def answered(call: Call) -> Answer:
        told.append(call.request.headers)
        return await worked(call)

    traced(answered, {"Host": "here"})
    (spans,) = receiver.traces().values()
    assert told == [{"Host": "here", TRACE: f"00-{spans['worker'].trace_id.hex()}-{spans['worker'].span_id.hex()}-01"}]


@pytest.mark.parametrize(
    ("sampler", "headers", "trace", "sampled"),
    [
        ("parentbased_always_on", {"traceparent": UNSAMPLED}, "", False),
        ("parentbased_always_off", {"traceparent": CLIENT}, "", True),
        ("parentbased_always_off", {}, CLIENT, True),  # over gRPC
        ("parentbased_always_off", {}, "", False),
        ("always_off", {"traceparent": CLIENT}, "", False),
        ("parentbased_always_off", {"traceparent": "nonsense"}, "", False),
    ],
)
def test_the_client_and_the_environment_say_what_is_sampled(
    receiver: Receiver,
    monkeypatch: pytest.MonkeyPatch,
    sampler: str,
    headers: dict[str, str],
    trace: str,
    sampled: bool,
) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", sampler)
    (answer,) = traced(worked, headers, trace=trace)
    assert bool(receiver.spans) == sampled == ("traceparent" in answer.headers)
    assert PARTS not in answer.headers


def test_a_share_is_sampled_under_another_name(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_traceidratio")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "0.5")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "digits")

    async def answered(call: Call) -> Answer:
        return Answer(200, "", "", {}, b"")

    traced(answered, *({} for _ in range(200)))
    assert 60 < len(receiver.traces()) < 140
    assert receiver.services == {"digits"}


def test_errors_and_clients_that_have_left(receiver: Receiver) -> None:
    async def answered(call: Call) -> Answer:
        if call.request.request_id == "r0":
            raise UnavailableError("full")
        if call.request.request_id == "r1":
            raise asyncio.CancelledError
        return Answer(503, "", "", {}, b"", counted=504)

    traced(answered, {}, {}, {})
    found = sorted((span for span in receiver.spans), key=lambda span: attributes(span)["torchmar.request_id"])
    assert [(span.name, span.status.code, span.status.message) for span in found] == [
        ("request", 2, "full"),
        ("request", 2, "the client has left"),
        ("request", 2, ""),
    ]
    assert attributes(found[0])["http.response.status_code"] == 503


def test_each_error_of_a_batch_has_a_trace_of_its_own(receiver: Receiver) -> None:
    error = UnavailableError("full", headers={"Retry-After": "1"})

    async def answered(call: Call) -> Answer:
        raise error

    found = traced(answered, {}, {})
    assert error.headers == {"Retry-After": "1"}
    told = [one.headers["traceparent"][3:35] for one in found]
    assert sorted(told) == sorted(span.trace_id.hex() for span in receiver.spans)
    assert all(one.headers["Retry-After"] == "1" and str(one) == "full" for one in found)


@pytest.mark.parametrize(("read", "code"), [(True, 0), (False, 2)])
def test_a_stream_lasts_until_its_last_part(receiver: Receiver, read: bool, code: int) -> None:
    async def rest() -> AsyncIterator[bytes]:
        for part in (b"b", b"c"):
            await asyncio.sleep(0.05)
            yield part

    async def answered(call: Call) -> Answer:
        return Answer(200, "", "", {}, b"a", rest())

    (answer,) = traced(answered, read=read)
    (span,) = receiver.spans
    assert span.status.code == code
    if read:
        assert answer.body == b"abc"
        assert span.end_time_unix_nano - span.start_time_unix_nano > 90_000_000


def streamed(*turns: bool) -> Callable[[Call], Awaitable[Answer]]:
    """Answer in two parts, of which a worker tells its times with the first, the last, both or neither."""

    async def answered(call: Call) -> Answer:
        whole = await worked(call)
        trailers: dict[str, str] = {}

        async def rest() -> AsyncIterator[bytes]:
            last = await worked(call)
            if turns[1]:
                trailers[PARTS] = last.headers[PARTS]
            yield b"b"

        headers = whole.headers if turns[0] else {"x-mine": "1"}
        return replace(whole, headers=headers, rest=rest(), trailers=trailers)

    return answered


def test_a_stream_has_the_spans_of_its_worker(receiver: Receiver) -> None:
    (answer,) = traced(streamed(False, True), {"traceparent": CLIENT})
    (spans,) = receiver.traces().values()
    assert spans.keys() == {"request", "queue", "batch", "worker", "preprocess", "inference", "postprocess"}
    assert spans["inference"].parent_span_id == spans["worker"].span_id
    assert spans["worker"].parent_span_id == spans["batch"].span_id
    # It lasts until the worker was ready with all of it, and tells when the first part was there.
    assert spans["batch"].end_time_unix_nano == spans["worker"].end_time_unix_nano
    assert attributes(spans["batch"])["torchmar.first_part_ms"] == 16.0
    assert answer.headers.keys() == {"x-mine", "traceparent"}


@pytest.mark.parametrize("read", [True, False])
def test_in_continuous_batching_the_workers_span_is_from_the_first_turn_to_the_last(
    receiver: Receiver, read: bool
) -> None:
    traced(streamed(True, True), {"traceparent": CLIENT}, read=read)
    (spans,) = receiver.traces().values()
    assert spans.keys() == {"request", "queue", "batch", "worker"}
    worker = spans["worker"]
    assert spans["batch"].end_time_unix_nano == worker.end_time_unix_nano <= spans["request"].end_time_unix_nano
    if read:
        assert worker.end_time_unix_nano - worker.start_time_unix_nano > 20_000_000


def test_a_stream_of_a_worker_that_tells_nothing_ends_with_its_batch(receiver: Receiver) -> None:
    traced(streamed(False, False), {"traceparent": CLIENT})
    (spans,) = receiver.traces().values()
    assert spans.keys() == {"request", "queue", "batch"}
    took = spans["batch"].end_time_unix_nano - spans["batch"].start_time_unix_nano
    assert took > 30_000_000


def test_what_a_worker_tells_wrongly_is_passed_over() -> None:
    assert [one.name for one in _parts("worker=1.5,2.5;;a=b,c;b=nan,1;c=inf,1;d=1", 0)] == ["worker"]
    assert list(_parts("", 0)) == []


def test_a_receiver_that_is_silent_does_not_hold_up_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "20")
        monkeypatch.setattr(tracing, "END_S", 0.5)
        begun = time.monotonic()
        (answer,) = traced(worked, {"traceparent": CLIENT})
        assert answer.body == b"answer"
        assert time.monotonic() - begun < 10
    # Nobody listens any more, and nothing is tried again.
    for thread in threading.enumerate():
        if thread.name in ("traces", "OtelBatchSpanRecordProcessor"):
            thread.join(30)
            assert not thread.is_alive()
