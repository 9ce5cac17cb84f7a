"""Traces of requests by OpenTelemetry, sent by OTLP over HTTP: the way of each through queue, batch and worker.

::

    request                          of the client's trace, or of a new one; the attributes are of this span
    ├── queue                        until a worker got it
    └── batch                        until the worker's answer was there, of a streamed one the last part
        └── worker                   the worker's own time, as it tells (serving/worker/answering/service.py)
            ├── preprocess           of handlers of the SDK
            ├── inference
            └── postprocess

This module imports OpenTelemetry, and is imported where the environment names a receiver (`choosing.traces_wanted`).
The worker imports nothing of it: it tells times, and the spans are made of these when the answer is there.
"""

from __future__ import annotations

import asyncio
import copy
import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from archive_tool.version import __version__
from serving.frontend.engine import Answer, Call, Timings
from serving.frontend.errors import FrontendError
from serving.frontend.observing.watched import Passing, Predict
from serving.protocol import PARTS, TRACE, header_of

#: Seconds in which the last spans must be taken by their receiver when the server ends.
END_S: Final = 3.0
_NS: Final = 1_000_000_000
_FAILED: Final = 500


class _Ids(RandomIdGenerator):
    """Makes ids at random, but for one of a span that the worker was told before the span could be made.

    Attributes:
        known: that id; None for a new one.
    """

    known: int | None = None

    def generate_span_id(self) -> int:
        """Return the id of the next span."""
        known, self.known = self.known, None
        return super().generate_span_id() if known is None else known


@dataclass(frozen=True, slots=True)
class _Part:
    """A part of the worker's work; times are the wall clock's, ns."""

    name: str
    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class _Traced:
    """A request of which there is a trace.

    Attributes:
        span: of the whole.
        begun: when, by the wall clock, ns.
        ahead: what that clock is ahead of the monotonic one, on which engine and workers measure, ns.
        worker: id of the worker's span.
    """

    span: Span
    begun: int
    ahead: int
    worker: int

    def parts(self, text: str) -> tuple[_Part, ...]:
        """Read what a worker has told."""
        return tuple(_parts(text, self.ahead))


class Tracing:
    """Watches predictions, and makes a trace of each that is sampled.

    What is sampled, where spans go and what the service is called is in OpenTelemetry's environment variables, which
    its SDK reads: OTEL_TRACES_SAMPLER, OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_SERVICE_NAME and so on.
    """

    def __init__(self) -> None:
        self._ids = _Ids()
        named = "OTEL_SERVICE_NAME" in os.environ or "service.name=" in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
        resource = Resource.create({} if named else {SERVICE_NAME: "torchmar"})
        self._provider = TracerProvider(resource=resource, id_generator=self._ids, shutdown_on_exit=False)
        self._exporter: Any = OTLPSpanExporter()  # partly typed
        self._provider.add_span_processor(BatchSpanProcessor(self._exporter))
        self._tracer = self._provider.get_tracer("torchmar", __version__)
        self._propagator = TraceContextTextMapPropagator()

    async def predict(self, ask: Predict, call: Call) -> Answer:
        """Pass a request on, and trace it if its client's trace, or the sampler, says so."""
        request = call.request
        begun = time.time_ns()
        ahead = begun - time.monotonic_ns()
        carrier = {name: header_of(request.headers, name) for name in ("traceparent", "tracestate")}
        carrier["traceparent"] = call.trace or carrier["traceparent"]
        parent = self._propagator.extract({name: text for name, text in carrier.items() if text})
        span = self._tracer.start_span("request", parent, SpanKind.SERVER, start_time=begun)
        if not span.is_recording():
            return await ask(call)
        worker = self._ids.generate_span_id()
        trace_id = span.get_span_context().trace_id
        headers = {**request.headers, TRACE: _traceparent(trace_id, worker)}
        told = {"torchmar.model": call.name, "torchmar.request_id": request.request_id}
        span.set_attributes(told)
        try:
            answer = await ask(replace(call, request=replace(request, headers=headers)))
        except FrontendError as error:
            span.set_attribute("http.response.status_code", error.status)
            _end(span, error.status, error.message)
            own = copy.copy(error)  # others of its batch may have the same one
            own.headers = {**error.headers, "traceparent": _traceparent(trace_id, span.get_span_context().span_id)}
            raise own from error
        except BaseException:  # the client has left
            _end(span, 0, "the client has left")
            raise
        self._answered(_Traced(span, begun, ahead, worker), answer)
        return answer

    def _answered(self, of: _Traced, answer: Answer) -> None:
        """Make the spans of an answer, of a streamed one at its end, and take out of it what only they needed."""
        span, timings, status = of.span, answer.timings, answer.counted or answer.status
        parts = of.parts(answer.headers.pop(PARTS, ""))
        context = span.get_span_context()
        answer.headers["traceparent"] = _traceparent(context.trace_id, context.span_id)
        span.set_attributes({"torchmar.version": answer.version, "http.response.status_code": answer.status})
        if answer.rest is None:
            if timings is not None:
                self._below(of, timings, parts)
                seconds = tuple((part.name, (part.end - part.begin) / _NS) for part in parts[1:])
                answer.timings = replace(timings, parts=seconds)
            _end(span, status)
            return

        def ended(whole: bool) -> None:
            if timings is not None:
                now, last = time.time_ns(), of.parts((answer.trailers or {}).get(PARTS, ""))
                self._below(of, timings, _of_stream(parts, last, now), now)
            told = "" if whole else "the rest of the answer did not come, or was not wanted"
            _end(span, status if whole else _FAILED, told)

        answer.rest = Passing(answer.rest, lambda _: None, ended)

    def _below(self, of: _Traced, timings: Timings, parts: Sequence[_Part], until: int = 0) -> None:
        """Make the spans below a request's.

        Args:
            of: the request.
            timings: of its (first part of an) answer.
            parts: what the worker has told of its work, the whole first.
            until: when the last part of a streamed answer was taken; 0 of one that came as a whole.
        """
        sent = of.begun + int(timings.queue * _NS)
        came = sent + int(timings.worker * _NS)
        attributes: dict[str, Any] = {"torchmar.batch_size": timings.batch}
        self._child(of.span, "queue", of.begun, sent)
        if until:
            attributes["torchmar.first_part_ms"] = round(1000 * timings.worker, 3)
            # Its reader may be slow: where the worker tells it is known when it was there.
            came = max(came, parts[0].end if parts else until)
        batch = self._child(of.span, "batch", sent, came, attributes)
        for one in parts[:1]:
            self._ids.known = of.worker
            own = self._child(batch, one.name, one.begin, one.end)
            for part in parts[1:]:
                self._child(own, part.name, part.begin, part.end)

    def _child(
        self, parent: Span, name: str, begin: int, end: int, attributes: Mapping[str, Any] | None = None
    ) -> Span:
        child = self._tracer.start_span(name, set_span_in_context(parent), attributes=attributes, start_time=begin)
        child.end(end)
        return child

    async def end(self) -> None:
        """Send what has not been sent yet, or give it up after a time."""
        # The SDK waits for its receiver as long as that takes. The process does not wait for a thread of this kind.
        thread = threading.Thread(target=self._provider.shutdown, name="traces", daemon=True)
        thread.start()
        await asyncio.to_thread(thread.join, END_S)
        if thread.is_alive():
            self._exporter.shutdown()  # it tries no more


def _end(span: Span, status: int, message: str = "") -> None:
    if message or status >= _FAILED:
        span.set_status(Status(StatusCode.ERROR, message or None))
    span.end()


def _of_stream(first: Sequence[_Part], last: Sequence[_Part], now: int) -> Sequence[_Part]:
    """Return what is shown of a stream that has ended, by what the worker has told with its first and its last part.

    With the first part it tells in continuous batching, where it is asked for each. Then its span is all of the time,
    in which it had other requests, too, and the parts of two of its turns would say nothing.
    """
    return (replace(first[0], end=last[0].end if last else now),) if first else last


def _traceparent(trace_id: int, span_id: int) -> str:
    return f"00-{trace_id:032x}-{span_id:016x}-01"


def _parts(text: str, ahead: int) -> Iterator[_Part]:
    """Read what a worker tells of its parts, the whole first; what cannot be read is passed over."""
    for told in text.split(";") if text else ():
        name, _, times = told.partition("=")
        begin, _, end = times.partition(",")
        try:
            yield _Part(name, ahead + int(float(begin) * _NS), ahead + int(float(end) * _NS))
        except (ValueError, OverflowError):
            continue
