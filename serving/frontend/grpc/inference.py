"""The inference API: predictions, whole, in parts, and of sequences."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any, Final

from serving.frontend.apps.answers import new_id
from serving.frontend.apps.exchange import parts_of, whole_body
from serving.frontend.apps.inputs import MOST_FIELDS, priority_named
from serving.frontend.engine import Answer, Call, Engine
from serving.frontend.errors import BadRequestError, FrontendError, RequestTimeoutError
from serving.frontend.grpc.calls import Method, failed, told_in
from serving.frontend.grpc.messages import PredictionResponse, TorchServeHealthResponse
from serving.frontend.grpc.statuses import RefusedError, failure, inference_refusal, missing
from serving.frontend.guard import Patience
from serving.frontend.settings import Settings
from serving.protocol import Parameter, Request

#: Seconds for a client that takes nothing of a streamed answer, as over HTTP.
READING_S: Final = Patience.reading_s
#: Requests of one stream that are under way at once; what comes beyond waits at the client.
_MOST_AT_ONCE: Final = 100


class Inference:
    """The methods of the inference API over an engine."""

    def __init__(self, engine: Engine, settings: Settings) -> None:
        self._engine, self._settings = engine, settings
        self.methods: dict[str, Method] = {
            "Ping": self._ping,
            "Predictions": self._predictions,
            "StreamPredictions": self._stream,
            "StreamPredictions2": self._converse,
        }

    async def _ping(self, request: Any, context: Any) -> Any:  # noqa: ARG002 (as every method)
        health = {"status": "Healthy" if self._engine.healthy else "Unhealthy"}
        return TorchServeHealthResponse(health=json.dumps(health, indent=2))

    async def _predictions(self, request: Any, context: Any) -> Any:
        answer = await self._ask(request, context)
        return PredictionResponse(prediction=await whole_body(answer, self._settings.max_response_size))

    async def _stream(self, request: Any, context: Any) -> None:
        await _write(await self._ask(request, context), _patient(context.write))

    async def _converse(self, requests: AsyncIterator[Any], context: Any) -> None:
        """Answer the requests of a stream, each when its answer is there; the stream ends after the last."""
        turn, room = asyncio.Lock(), asyncio.Semaphore(_MOST_AT_ONCE)
        under_way: set[asyncio.Task[None]] = set()
        broken: list[BaseException] = []
        patiently, all_of_it = _patient(context.write), asyncio.current_task()

        async def write(response: Any) -> None:
            async with turn:
                await patiently(response)

        def done(task: asyncio.Task[None]) -> None:
            under_way.discard(task)
            room.release()
            if not task.cancelled() and (error := task.exception()) and all_of_it is not None:
                broken.append(error)  # it cannot be written to
                all_of_it.cancel()

        try:
            async for request in requests:
                await room.acquire()
                # Tasks begin in their order, and with them the requests of a sequence.
                task = asyncio.create_task(self._answer(request, context, write))
                under_way.add(task)
                task.add_done_callback(done)
            while under_way:
                await asyncio.wait(under_way)
        except asyncio.CancelledError:
            if not broken:
                raise
            raise broken[0] from None
        finally:
            for task in under_way:
                task.cancel()

    async def _answer(self, request: Any, context: Any, write: Any) -> None:
        try:
            if not request.sequence_id:
                raise missing("sequenceId")
            # The mark of an end is there always, as TorchServe sends it; handlers end a sequence by their answer.
            headers = {self._settings.sequence_id: request.sequence_id, self._settings.sequence_end: "true"}
            await _write(await self._ask(request, context, headers), write)
        except RequestTimeoutError:
            raise
        except RefusedError as refused:
            await write(refused.response())
        except FrontendError as error:
            await write(inference_refusal(error).response())
        except Exception as error:
            await write(failed("StreamPredictions2", error).response())

    async def _ask(self, request: Any, context: Any, headers: dict[str, str] | None = None) -> Answer:
        """Give a request to a model.

        Args:
            headers: that the worker sees: it takes a request without any for one of gRPC.

        Raises:
            RefusedError, FrontendError: there is no answer, or one of an error.
        """
        if not request.model_name:
            raise missing("model_name")
        if len(request.input) > MOST_FIELDS:
            raise BadRequestError(f"the request has more than {MOST_FIELDS} inputs; send them as one JSON body")
        inputs = tuple(Parameter(name, value) for name, value in request.input.items())
        asked = Request(new_id(), headers or {}, inputs)
        most = self._settings.max_response_size
        return await ask(self._engine, request.model_name, request.model_version, asked, context, most)


async def ask(engine: Engine, name: str, version: str, request: Request, context: Any, most: int) -> Answer:
    """Give a request to a model, with the deadline of the call and the priority of its metadata.

    Args:
        version: empty for the default one.
        most: bytes of an answer that is an error.

    Raises:
        FrontendError: there is no answer, or one of an error.
    """
    left = context.time_remaining()
    deadline = None if left is None else asyncio.get_running_loop().time() + left
    priority = priority_named(told_in(context.invocation_metadata(), "x-request-priority") or "normal")
    trace = told_in(context.invocation_metadata(), "traceparent")
    answer = await engine.predict(Call(name, version or None, request, deadline, priority, trace=trace))
    if answer.status >= 400:
        raise failure(answer.status, await whole_body(answer, most))
    return answer


async def _write(answer: Answer, write: Any) -> None:
    """Write an answer, each part in a response."""
    async with contextlib.aclosing(parts_of(answer.body, answer.rest)) as parts:
        async for part in parts:
            await write(PredictionResponse(prediction=bytes(part)))


def _patient(write: Any) -> Any:
    """Let a client take its time for each response, but not for ever."""

    async def patiently(response: Any) -> None:
        """Write a response.

        Raises:
            RequestTimeoutError: the client takes nothing.
        """
        try:
            await asyncio.wait_for(write(response), READING_S)
        except asyncio.TimeoutError:
            raise RequestTimeoutError(f"nothing of the answer was read in {READING_S:g} s") from None

    return patiently
