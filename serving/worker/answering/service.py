"""The handler of a loaded model, and the requests that it answers.

A message of the frontend is a batch, and a shared process joins several. Whatever happens to one request is that
request's answer: it fails alone.
"""

from __future__ import annotations

import copy
import logging
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from serving.protocol import PARTS, TRACE, PredictionItem, Request, decode_value, decoding_enabled
from serving.worker.answering import intra_op_threads
from serving.worker.answering.replies import Answer, Failure, check, failure_of, item_of
from serving.worker.answering.streaming import Nowhere, Sink, Streams
from serving.worker.loading.failures import is_out_of_memory, text_of
from serving.worker.loading.loader import Model
from serving.worker.process.leftovers import OwnProcess

logger = logging.getLogger(__name__)

_METRIC = "PredictionTime"
_METRIC_PAUSE_S = 0.1
# Of a batch whose requests ran one by one after it had failed there are many.
_MOST_PARTS = 16


@dataclass(eq=False)
class Batch:
    """Requests on their way through the handler.

    Attributes:
        rows: what the handler gets.
        context: shows these requests.
        known: what the context held before, if it was made for this batch.
        prepared: result of the handler's first half; None if it was not called, or raised `error`.
        seconds: that it took.
        begun: when this was made, by the monotonic clock; 0 where no request is traced.
        parts: what a handler of the SDK tells of its parts, as `noted` takes it; None where no request is traced.
    """

    requests: Sequence[Request]
    rows: list[dict[str, Any]]
    context: Any
    known: dict[str, Any] = field(default_factory=dict)
    prepared: Any = None
    error: Exception | None = None
    seconds: float = 0.0
    begun: float = 0.0
    parts: list[tuple[str, float, float]] | None = None

    @property
    def ready(self) -> bool:
        """Return whether only the second half of the handler is left to do."""
        return self.prepared is not None and self.prepared.done and self.prepared.error is None


class Service:
    """The handler of a model and its context.

    Args:
        model: loaded.
        sink: where the handler's streamed parts go.
    """

    def __init__(self, model: Model, sink: Sink) -> None:
        self.model = model
        self.streams = Streams(sink)
        self._entry = model.entry
        self._context = model.context
        self._decode = decoding_enabled(os.environ.get("TS_DECODE_INPUT_REQUEST"))
        self._timer = Timer()
        self._view = model.view
        self._context.cl_socket = sink
        self._threads = intra_op_threads.threads_of(model)

    def use(self, sink: Sink) -> None:
        """Set where the parts of the batch go that is answered next."""
        self.streams.sink = sink
        self._context.cl_socket = sink

    def answer(self, requests: Sequence[Request]) -> list[Answer]:
        """Answer every request, in order. Raises nothing but what is to end the process."""
        if not requests:
            return []
        self.streams.begin()
        if self.model.backend.continuous and not all(map(_is_special, requests)):
            # The message has all requests that are not finished, but a description may come between.
            self.streams.forget_others(requests)
        if len(requests) == 1:
            return self._answer_group(requests)
        if self.model.one_by_one:
            return [answer for request in requests for answer in self._answer_group([request])]
        plain = [index for index, request in enumerate(requests) if not _is_special(request)]
        if len(plain) == len(requests):
            return self._answer_group(requests)
        # Handlers of TorchServe look at the first request only for what all of the batch want.
        answers: dict[int, Answer] = {}
        if plain:
            answers = dict(zip(plain, self._answer_group([requests[index] for index in plain]), strict=True))
        for index, request in enumerate(requests):
            if index not in answers:
                answers[index] = self._answer_group([request])[0]
        return [answers[index] for index in range(len(requests))]

    def rehearse(self, requests: Sequence[Request]) -> list[Answer]:
        """Run the handler on a batch of no client; no time is reported, and no part of an answer sent.

        Raises:
            BaseException: what the handler raises.
            OutputError: it returned something else than a list with an item for each.
        """
        context = self._context
        known = context.request_ids, context.request_processor, context.metrics.request_ids
        self.use(Nowhere())
        try:
            rows = self._begin(requests, context).rows
            with OwnProcess():
                result = self._entry(rows, context)
            check(result, len(requests))
            processors = context.request_processor
            return [item_of(*one) for one in zip(requests, processors, result, strict=True)]
        finally:
            context.request_ids, context.request_processor, context.metrics.request_ids = known

    def can_prepare(self, requests: Sequence[Request]) -> bool:
        """Return whether these can go through the two halves of an SDK handler, in which they are all alike."""
        return not self.model.one_by_one and not any(map(_is_special, requests))

    def prepare(self, requests: Sequence[Request], sink: Sink, *, ahead: bool) -> Batch:
        """Take requests that `can_prepare` through the first half of an SDK handler. Raises as `answer` does.

        Args:
            sink: where the parts of this batch go.
            ahead: another thread may run `complete` for the batch before.
        """
        context, known = self._context, {}
        if ahead:
            context = copy.copy(context)
            context.metrics = copy.copy(context.metrics)
            context.cl_socket = sink
            known = dict(vars(context))
        else:
            self.use(sink)
        batch = self._begin(requests, context)
        batch.known = known
        begin = time.monotonic()
        try:
            with OwnProcess():
                batch.prepared = self.model.handler.prepare(batch.rows, context)
        except Exception as error:
            batch.error = error
        batch.seconds = time.monotonic() - begin
        return batch

    def complete(self, batch: Batch, sink: Sink) -> list[Answer]:
        """Answer the requests of a batch that was prepared. Raises as `answer` does."""
        self.use(sink)
        context = self._context
        if batch.context is not context:
            # The handler may hold the context that it was initialized with: it is the one to show the batch.
            for name, value in vars(batch.context).items():
                if name != "_metrics" and batch.known.get(name, batch) is not value:
                    setattr(context, name, value)
            context.metrics.request_ids = context.request_ids
            context.torchmar_parts = batch.parts
            batch.context = context
        return self._answer_group(batch.requests, batch)

    def _answer_group(self, requests: Sequence[Request], batch: Batch | None = None) -> list[Answer]:
        if batch is None:
            self.streams.sink.streamed.clear()
        answers, error = self._try(requests, batch)
        if error is None:
            return answers
        if len(requests) > 1 and self._may_retry():
            logger.warning(
                "A batch of %d failed (%s: %s): running its requests one by one",
                len(requests),
                type(error).__name__,
                text_of(error),
            )
            return [answer for request in requests for answer in self._answer_group([request])]
        failure = failure_of(error, self.model.name, requests)
        return [self.streams.failed(request, failure) for request in requests]

    def _may_retry(self) -> bool:
        backend = self.model.backend
        return backend.isolate_errors and not backend.stateful and not self.streams.sink.streamed

    def _try(self, requests: Sequence[Request], batch: Batch | None) -> tuple[list[Answer], Exception | None]:
        """Run the handler once; only its second half for a batch that was prepared."""
        if batch is None:
            batch = self._begin(requests, self._context)
        if batch.error is not None:
            return [], batch.error
        context, threads = batch.context, self._threads
        if threads is not None:
            threads.before(len(requests))
        begin = time.monotonic()
        try:
            with OwnProcess():
                if batch.prepared is None:
                    result = self._entry(batch.rows, context)
                else:
                    result = self.model.handler.complete(batch.prepared, context)
            check(result, len(requests))
            if threads is not None:
                threads.after(len(requests), time.monotonic() - begin)
            self._timer.report(context.metrics, begin - batch.seconds)
            answers = [self._item(request, index, result) for index, request in enumerate(requests)]
            return answers if batch.parts is None else noted(requests, answers, batch.begun, batch.parts), None
        except Exception as error:
            return [], error

    def _begin(self, requests: Sequence[Request], context: Any) -> Batch:
        """Make rows of requests, and put them into the context."""
        rows: list[dict[str, Any]] = []
        processors = []
        for request in requests:
            row, headers = inputs_of(request, decode=self._decode)
            rows.append(row)
            processors.append(self._view(request, headers))
        ids = {index: request.request_id for index, request in enumerate(requests)}
        context.request_ids = ids
        context.request_processor = processors
        context.metrics.request_ids = ids
        batch = Batch(requests, rows, context)
        if any(TRACE in request.headers for request in requests):
            batch.begun, batch.parts = time.monotonic(), []
        context.torchmar_parts = batch.parts
        return batch

    def _item(self, request: Request, index: int, result: list[Any]) -> Answer:
        processor = self._context.request_processor[index]
        answer: Answer
        try:
            value = result[index]
            if self.model.backend.continuous and self.streams.is_silent(request, value):
                return PredictionItem(request.request_id, b"")
            self.streams.steer(request, index, value, self._context)
            answer = item_of(request, processor, value)
        except Exception as error:  # of the handler's own objects: the list, stopping criteria, headers
            if is_out_of_memory(error):
                raise
            answer = failure_of(error, self.model.name, [request])
        return self.streams.failed(request, answer) if isinstance(answer, Failure) else answer


class Timer:
    """The metric of the handler's time, at most ten times a second: it is a gauge, and each line costs Java more than
    the frontend's whole share of a small request.
    """

    def __init__(self) -> None:
        self._last = 0.0

    def report(self, metrics: Any, begin: float) -> None:
        """Report the time since ``begin``, on the monotonic clock; ``metrics`` are the context's."""
        now = time.monotonic()
        if now - self._last >= _METRIC_PAUSE_S:
            self._last = now
            metrics.add_time(_METRIC, round((now - begin) * 1000, 2))


def noted(
    requests: Sequence[Request], answers: list[Answer], begun: float, parts: Sequence[tuple[str, float, float]]
) -> list[Answer]:
    """Return the answers with what the traces of their requests are to show.

    Args:
        requests: of a batch.
        answers: to them.
        begun: when the worker began with it, by the monotonic clock.
        parts: names, begins and ends.
    """
    told = [("worker", begun, time.monotonic()), *parts[:_MOST_PARTS]]
    text = ";".join(f"{name}={begin!r},{end!r}" for name, begin, end in told)
    return [
        replace(answer, headers={**answer.headers, PARTS: text})
        if TRACE in request.headers and isinstance(answer, PredictionItem)
        else answer
        for request, answer in zip(requests, answers, strict=True)
    ]


def inputs_of(request: Request, *, decode: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a row for the handler, and the headers that the context shows for the request."""
    row: dict[str, Any] = {}
    headers: dict[str, Any] = {}
    for parameter in request.parameters:
        value, problem = decode_value(parameter.value, parameter.content_type, decode=decode)
        if problem is not None:
            logger.warning(
                "Request %s: %s is not %s, the handler gets the bytes: %s",
                request.request_id,
                parameter.name,
                parameter.content_type,
                problem,
            )
        row[parameter.name] = value
        headers[parameter.name] = {"content-type": parameter.content_type}
    headers.update(request.headers)
    return row, headers


def _is_special(request: Request) -> bool:
    headers = request.headers
    return headers.get("describe") == "True" or headers.get("explain") == "True"
