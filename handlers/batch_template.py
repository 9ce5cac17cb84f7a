"""The way of a batch through a handler's hooks: at once, in two halves, and in parts where a request is bad."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from handlers.batch import isolation, profiling, request
from handlers.batch.inputs import row_value
from handlers.batch.prepared import Preparation, Prepared, current, is_sdks
from handlers.model_holder import ModelHolder
from handlers.optimization.optimized_model import explaining

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from handlers.batch.request import RequestContext
    from handlers.context import Context

logger = logging.getLogger(__name__)


class BatchTemplate(ModelHolder):
    """The way of a batch through the hooks; the part of `BaseHandler` that is not overridden."""

    # The class that derives from this one, with the defaults of the hooks. Mangled, because handlers may have a
    # `_base`.
    __base: ClassVar[type[BatchTemplate]]
    isolate_errors: bool
    pipelined: bool | None
    preprocess: Callable[..., Any]
    preprocess_one: Callable[..., Any]
    collate: Callable[..., Any]
    inference: Callable[..., Any]
    postprocess: Callable[..., Any]
    split: Callable[..., list[Any]]
    postprocess_one: Callable[..., Any]
    describe_handle: Callable[[], Any]
    explain_handle: Callable[..., Any]

    _first_half: tuple[str, ...] = ("preprocess", "preprocess_one", "collate", "_is_describe", "_is_explain")

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if BatchTemplate in cls.__bases__:
            cls.__base = cls
        for name in ("preprocess", "postprocess"):
            first = next(vars(one) for one in cls.__mro__ if name in vars(one) or f"{name}_one" in vars(one))
            if name not in first:  # a hook for single requests replaces the inherited one for the batch
                setattr(cls, name, getattr(cls.__base, name))

    def __init__(self) -> None:
        super().__init__()
        self.explain = False
        self.target: Any = 0
        self.profiler_args: dict[str, Any] = {}

    def handle(self, data: Any, context: Context) -> list[Any]:
        """Answer a batch: take a list of rows, return a list of as many replies. The worker calls it.

        A request that fails becomes an item `{"code", "type", "message"}` with that status; the others are answered.
        Out-of-memory errors and failures of the GPU are raised; the worker answers them.
        """
        self.context = context
        # Called on the class: a handler may have methods of these names that mean something else.
        return BatchTemplate.complete(self, BatchTemplate.prepare(self, data, context), context)

    def prepare(self, data: Any, context: Context) -> Prepared:
        """Take a batch through `preprocess`: the first half of `handle`.

        Meanwhile, `complete` may run in another thread for the batch before, which has another context. What
        `preprocess` raises is kept for `complete`, and so is all work for anything but plain predictions.
        """
        begin = time.perf_counter()
        prepared = Prepared(data)
        token = current.set(Preparation(self, context))
        try:
            if self._is_plain(data):
                prepared.done = True
                try:
                    self._preprocess(prepared)
                except Exception as error:
                    prepared.error = error
        finally:
            current.reset(token)
        prepared.seconds = time.perf_counter() - begin
        return prepared

    def complete(self, prepared: Prepared, context: Context) -> list[Any]:
        """Answer a batch that `prepare` returned: the second half of `handle`.

        `context` shows the same requests as in `prepare`, and takes the answers.
        """
        begin = time.perf_counter()
        self.context = context
        rows = prepared.rows
        if prepared.done:
            output = self._answer_prepared(prepared, context)
        elif self._is_describe():
            output = [self.describe_handle()]
        elif rows is None or len(rows) == 0:
            output = []
        else:
            output = self._answer(rows)
        metrics = getattr(context, "metrics", None)
        if metrics is not None:
            seconds = prepared.seconds + time.perf_counter() - begin
            metrics.add_time("HandlerTime", round(seconds * 1000, 2), None, "ms")
        return output

    def may_pipeline(self, setting: bool | None = None) -> bool:
        """Return whether a worker may run `prepare` for a batch while `complete` runs for the batch before.

        `setting` is `backend.pipeline` of model-config.yaml: False forbids it, True allows it whatever `pipelined`
        says. A handler that overrides `handle`, `prepare`, `complete` or `context` never may.
        """
        halves = all(is_sdks(method) for method in (self.handle, self.prepare, self.complete))
        if setting is False or not halves or type(self).context is not BatchTemplate.context:
            return False
        if setting is not None:
            return setting
        return self._keeps_no_batch() if self.pipelined is None else self.pipelined

    def _keeps_no_batch(self) -> bool:
        """Return whether the first half of `handle` is known to keep nothing of a batch on `self`."""
        return all(is_sdks(getattr(self, name)) for name in self._first_half)

    def _is_plain(self, rows: Any) -> bool:
        """Return whether each row is a request for a prediction, whose failure `complete` can handle."""
        if self._is_describe() or rows is None or len(rows) == 0:
            return False
        requests = getattr(self.context, "request_processor", None) or ()
        if len(requests) != len(rows) or self.model_yaml_config.get("continuousBatching"):
            return False
        return not profiling.trace_requested() and not self._explained(len(rows))

    def _answer(self, rows: Sequence[Any]) -> list[Any]:
        context = self.context
        requests = len(getattr(context, "request_processor", None) or ())
        if context is None or requests not in (1, len(rows)) or self.model_yaml_config.get("continuousBatching"):
            # Nothing reads statuses; or an envelope made rows of several requests, and the request of a row is not
            # known; or the replies are parts of streams, where an item of another kind would do harm.
            return self.settle(self._run(rows))
        batch = self._batch(rows, context)
        if requests < len(rows):  # an envelope made all of them from one request
            if self._is_explain():
                return isolation.require(self._run(rows))
            explained = []
        else:
            explained = self._explained(len(rows))
        plain = sorted(set(range(len(rows))).difference(explained))
        items = batch.answer(plain) if plain else {}
        for index in explained:  # one by one, since each has its own target
            items |= batch.answer([index])
        return [items[index] for index in range(len(rows))]

    def settle(self, items: list[Any]) -> list[Any]:
        """Return the replies of a batch whose requests cannot fail alone, `Failed` where one did.

        Raises:
            Exception: the error of the first that has failed.
        """
        return isolation.require(items)

    def _answer_prepared(self, prepared: Prepared, context: Context) -> list[Any]:
        indices = range(len(prepared.rows))
        items = self._batch(prepared.rows, context).answer(indices, prepared)
        return [items[index] for index in indices]

    def _batch(self, rows: Sequence[Any], context: Context) -> isolation.Batch:
        return isolation.Batch(
            rows, context, run=self._run, preprocess=self.preprocess, run_twice=self._may_run_twice()
        )

    def _explained(self, count: int) -> list[int]:
        """Return the indices of the requests for an explanation."""
        if type(self)._is_explain is BatchTemplate._is_explain:
            return [index for index in range(count) if self._flag("explain", index)]
        found = []
        for index in range(count):
            with isolation.part_of(self.context, [index]):
                if self._is_explain():
                    found.append(index)
        return found

    def _may_run_twice(self) -> bool:
        stateful = ("sequenceBatching", "sequenceMaxIdleMSec")
        return self.isolate_errors and not any(self.model_yaml_config.get(key) for key in stateful)

    def _run(self, rows: Sequence[Any], prepared: Prepared | None = None) -> list[Any]:
        """Take rows through the hooks once; through the first one only if they are not prepared.

        Return an item a row: the reply, or `Failed` where a hook for single requests raised.
        """
        if prepared is None and profiling.trace_requested():
            with request.serving(self._requests(rows)):
                return isolation.checked(self._infer_with_profiler(rows)[0], len(rows))
        if prepared is None:
            prepared = Prepared(rows)
            self._preprocess(prepared)
        value, failed = prepared.take(), prepared.failed
        if not failed:
            return self._predict(value, rows, prepared.requests)
        good = [index for index in range(len(rows)) if index not in failed]
        items: dict[int, Any] = {index: isolation.Failed(error) for index, error in failed.items()}
        if good:
            shown = len(getattr(self.context, "request_processor", None) or ()) == len(rows)
            with isolation.part_of(self.context if shown else None, good):
                found = self._predict(value, [rows[index] for index in good], [prepared.requests[i] for i in good])
            items |= zip(good, found, strict=True)
        return [items[index] for index in range(len(rows))]

    def _preprocess(self, prepared: Prepared) -> None:
        rows = prepared.rows
        prepared.requests = self._requests(rows)
        with request.serving(prepared.requests):
            if self._has_own("preprocess") or not self._has_own("preprocess_one"):
                prepared.value = self._step("preprocess", rows)
            else:
                prepared.value = self._step("preprocess", prepared, self._preprocess_each)

    def _requests(self, rows: Sequence[Any]) -> Sequence[RequestContext]:
        """Make the requests' contexts, if a hook takes them: each costs a microsecond."""
        used = self._has_own("preprocess_one") or self._has_own("postprocess_one")
        return request.requests_of(self.context, rows) if used else ()

    def _preprocess_each(self, prepared: Prepared) -> Any:
        read, join = self._halves_of_preprocess()
        items = request.each(read, map(row_value, prepared.rows), prepared.requests)
        prepared.failed = {index: item.error for index, item in enumerate(items) if isinstance(item, isolation.Failed)}
        good = [item for item in items if not isinstance(item, isolation.Failed)]
        return join(good) if good else None

    def _halves_of_preprocess(self) -> tuple[Callable[[Any, RequestContext], Any], Callable[[list[Any]], Any]]:
        """Return the function that reads a request, and the one that makes a batch of the results."""
        return self.preprocess_one, self.collate

    def _predict(self, value: Any, rows: Sequence[Any], requests: Sequence[RequestContext]) -> list[Any]:
        with request.serving(requests):
            if self._is_explain():
                output = self._explain(value, rows)
            elif self._has_own("postprocess") or not self._has_own("postprocess_one"):
                output = self._step("postprocess", self._step("inference", value))
            else:
                output = self._step("postprocess", self._step("inference", value), self._postprocess_each)
        return isolation.checked(output, len(rows))

    def _explain(self, value: Any, rows: Sequence[Any]) -> Any:
        token = explaining.set(True)
        try:
            return self.explain_handle(value, rows)
        finally:
            explaining.reset(token)

    def _postprocess_each(self, data: Any) -> list[Any]:
        parts = self.split(data)
        requests = request.of_batch(len(parts))
        return parts if requests is None else request.each(self.postprocess_one, parts, requests)

    def _has_own(self, name: str) -> bool:
        """Return whether the class or the instance has a hook in place of the SDK's."""
        hook = getattr(self, name)
        return getattr(hook, "__func__", hook) is not getattr(self.__base, name)

    def _step(self, name: str, data: Any, run: Callable[[Any], Any] | None = None) -> Any:
        """Run a hook, or what replaces it, and record its time if the configuration or a trace asks for it."""
        parts: list[tuple[str, float, float]] | None = getattr(self.context, "torchmar_parts", None)
        if parts is None:
            return self._run_step(name, data, run)
        begin = time.monotonic()
        try:
            return self._run_step(name, data, run)
        finally:
            parts.append((name, begin, time.monotonic()))

    def _run_step(self, name: str, data: Any, run: Callable[[Any], Any] | None) -> Any:
        hook = getattr(self, name)
        run = hook if run is None else run
        if not self._handler_config().get("profile") or profiling.is_timed(hook):
            return run(data)
        with profiling.timed(name, self.device, self.context):
            return run(data)

    def _infer_with_profiler(self, data: Any) -> tuple[Any, Any]:
        """Answer a batch under the torch profiler. Runs in place of the steps if ENABLE_TORCH_PROFILER is set.

        Return the replies and the profiler. `profiler_args` are its arguments; see `profiling.complete_profiler_args`
        for those that are filled in.
        """
        manifest = self.manifest if self.manifest is not None else getattr(self.context, "manifest", None)
        profiling.complete_profiler_args(self.profiler_args, manifest)
        with torch.profiler.profile(**self.profiler_args) as profiler:
            with torch.profiler.record_function("preprocess"):
                prepared = self.preprocess(data)
            if self._is_explain():
                with torch.profiler.record_function("explain"):
                    output = self._explain(prepared, data)
            else:
                with torch.profiler.record_function("inference"):
                    output = self.inference(prepared)
                with torch.profiler.record_function("postprocess"):
                    output = self.postprocess(output)
        logger.info(profiler.key_averages().table(sort_by="cpu_time_total", row_limit=10))
        return output, profiler

    def _is_explain(self) -> bool:
        """Return whether an explanation is requested. Runs for every batch; request 0 speaks for all that are shown."""
        self.explain = self._flag("explain", 0)
        return self.explain

    def _is_describe(self) -> bool:
        """Return whether a description of the model is requested. Runs first for every batch."""
        return self._flag("describe", 0)

    def _flag(self, header: str, index: int) -> bool:
        context = self.context
        if context is None or not getattr(context, "request_processor", None):
            return False
        return context.get_request_header(index, header) == "True"
