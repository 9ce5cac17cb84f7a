"""The frontend's asynchronous mode: requests run side by side, and each is answered when it is done.

::

    frontend --> reader thread --> event loop in the main thread, a task for each request --+
                 Timekeeper's thread, answers what takes too long --------------------------+--> InFlight --> frontend
                 other threads and tasks of the handler, parts of answers ------------------+

The handler is a coroutine function, or anything else whose result can be awaited. An ordinary function may be one, too:
it is called in the thread of the event loop, as it was initialized there, and holds up all other requests meanwhile.

In this mode the frontend neither limits how long a request takes nor how many it sends, and an answer with a code other
than 200 would go to every request that it ever sent. So time is kept here, the socket is not read while much is in
flight, and each failure is the answer to one request. docs/adr/0006-async-replies.md tells what else it asks for.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import gc
import inspect
import logging
import os
import threading
import time
from collections.abc import Sequence
from typing import Any

from serving.protocol import Inference, Load, ProtocolError, Request, decoding_enabled
from serving.worker.answering import warm_up
from serving.worker.answering.replies import STREAM_NEXT, Answer, Failure, check, failure_of, item_of
from serving.worker.answering.service import Timer, inputs_of
from serving.worker.loading.loader import Model, load
from serving.worker.modes.connection import Connection, items_of
from serving.worker.modes.dedicated import tell_failure
from serving.worker.modes.in_flight import Call, InFlight
from serving.worker.modes.timekeeper import Timekeeper
from serving.worker.process import output
from serving.worker.process.arguments import Arguments
from serving.worker.process.leftovers import OwnProcess

logger = logging.getLogger(__name__)

# The frontend prepares for the answer to LOAD only after it has sent LOAD, and breaks if that comes earlier.
_LOAD_PAUSE_S = 0.1
_LEAVE_S = 1.0
_END_S = 2.0


def serve(connection: Connection, request: Load, arguments: Arguments, processes: int) -> int:
    """Load the model and answer requests until the frontend closes the connection; return the exit code.

    The handler is initialized in the thread of the event loop that will run it, while the loop stands still: it may
    use ``asyncio.get_event_loop().run_until_complete``.
    """
    answer_from = time.monotonic() + _LOAD_PAUSE_S
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    try:
        model = load(request, arguments.metrics_config, processes=processes, settle=_settle)
    except (Exception, SystemExit) as error:
        loop.close()
        time.sleep(max(0.0, answer_from - time.monotonic()))
        tell_failure([connection], request, error)
        # Were the connection closed, the frontend would send this worker the next request before it sees that.
        with contextlib.suppress(ProtocolError):
            while connection.receive() is not None:
                pass
        return 1
    loop = _usable(loop)
    server = _Server(connection, model, loop)
    warm_up.run(model, server.rehearse, request.model_path)
    gc.collect()
    gc.freeze()
    try:
        return server.run(answer_from)
    finally:
        asyncio.set_event_loop(None)
        loop.close()


def _settle(result: Any, is_function: bool) -> None:
    """Run an initialization that is a coroutine."""
    if not inspect.isawaitable(result):
        return
    try:
        asyncio.get_event_loop().run_until_complete(result)
    except (TypeError, AttributeError) as error:
        # TorchServe makes the coroutine and forgets it, so some functions do not expect to run without data.
        if not is_function or "NoneType" not in str(error):
            raise
        logger.warning("The handler cannot be called without data, for its initialization: %s", error)


def _usable(loop: asyncio.AbstractEventLoop) -> asyncio.AbstractEventLoop:
    """Return the loop that the handler has chosen, if it has; otherwise ours, or a new one if that was closed."""
    try:
        current = asyncio.get_event_loop()
    except RuntimeError:  # asyncio.run takes away the thread's loop
        current = loop
    if current is not loop and not current.is_closed():
        loop.close()
        loop = current
    elif loop.is_closed():
        loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    return loop


class _Server:
    """Requests from the frontend, and the event loop in which the handler answers them."""

    def __init__(self, connection: Connection, model: Model, loop: asyncio.AbstractEventLoop) -> None:
        self._connection = connection
        self._model = model
        self._loop = loop
        self._decode = decoding_enabled(os.environ.get("TS_DECODE_INPUT_REQUEST"))
        self._view = model.view
        self._timer = Timer()
        self._in_flight = InFlight(connection.sock, model.backend.response_timeout_s)
        self._timekeeper = Timekeeper(self._in_flight, loop, model.name, caller=__file__)
        self._ended = threading.Event()
        self._left = threading.Event()
        self._code = 0
        model.context.cl_socket = self

    def run(self, answer_from: float) -> int:
        """Answer LOAD, not before the time given, and then requests; return the exit code."""
        self._loop.run_until_complete(asyncio.sleep(max(0.0, answer_from - time.monotonic())))
        if not self._connection.send_load_reply(200, f"loaded model {self._model.name}"):
            return 0
        threading.Thread(target=self._read, name="torchmar-reader", daemon=True).start()
        self._timekeeper.start()
        while not self._ended.is_set():
            try:
                self._loop.run_forever()
            except (SystemExit, KeyboardInterrupt) as error:
                # The frontend would forget the requests of all others.
                logger.error("A task of the handler was to end the process; it is not ended", exc_info=error)
        self._leave()
        return self._code

    def rehearse(self, requests: Sequence[Request]) -> list[Answer]:
        """Run the handler on requests of no client, one by one, before `run`. Raises as `Service.rehearse`."""
        try:
            return [self._loop.run_until_complete(self._run(request, report=False)) for request in requests]
        except asyncio.CancelledError as error:  # which is not an Exception
            raise RuntimeError("the handler cancelled its task") from error

    def _leave(self) -> None:
        if tasks := asyncio.all_tasks(self._loop):
            for task in tasks:
                task.cancel()
            with contextlib.suppress(SystemExit, KeyboardInterrupt):
                self._loop.run_until_complete(asyncio.wait(tasks, timeout=_LEAVE_S))
        self._left.set()

    # ---- reader thread ---------------------------------------------------------------------------------------------

    def _read(self) -> None:
        try:
            while (message := self._connection.receive()) is not None:
                if not isinstance(message, Inference):
                    raise ProtocolError("a batch of requests", "LOAD", 0)
                # No answer without a request: the frontend would take it for the answer to LOAD.
                for request in message.requests:
                    self._loop.call_soon_threadsafe(self._start, self._in_flight.add(request))
        except ProtocolError as error:
            output.say(f"The worker of {self._model.name} ends: {error}")
            self._code = 1
        self._ended.set()
        self._timekeeper.stop()
        self._loop.call_soon_threadsafe(self._loop.stop)
        if not self._left.wait(_END_S):
            os._exit(self._code)  # the handler does not let the loop run

    # ---- event loop ------------------------------------------------------------------------------------------------

    def _start(self, call: Call) -> None:
        call.task = self._loop.create_task(self._answer(call))

    async def _answer(self, call: Call) -> None:
        """Answer a request; an error is the answer to this request alone, and is not raised."""
        self._timekeeper.tell_alive()
        try:
            answer = await self._handle(call)
        except (Exception, asyncio.CancelledError, SystemExit, KeyboardInterrupt) as error:
            if call.answered or self._ended.is_set():
                return
            answer = self._failure(call, error)
        self._timekeeper.tell_alive()
        self._in_flight.finish(call, answer)

    async def _handle(self, call: Call) -> Answer:
        self._in_flight.give_time(call)
        return await self._run(call.request, report=True)

    async def _run(self, request: Request, *, report: bool) -> Answer:
        row, headers = inputs_of(request, decode=self._decode)
        context = self._context(request, headers)
        begin = time.monotonic()
        with OwnProcess():
            result = self._model.entry([row], context)
            if inspect.isawaitable(result):
                result = await result
        check(result, 1)
        if report:
            self._timer.report(context.metrics, begin)
        return item_of(request, context.request_processor[0], result[0])

    def _context(self, request: Request, headers: dict[str, Any]) -> Any:
        """Return a context for one request, which shares with the others the attributes that the handler has set."""
        context = copy.copy(self._model.context)
        context.request_ids = {0: request.request_id}
        context.request_processor = [self._view(request, headers)]
        context.metrics = copy.copy(context.metrics)
        context.metrics.request_ids = context.request_ids
        return context

    def _failure(self, call: Call, error: BaseException) -> Failure:
        if not isinstance(error, Exception):
            what = f"sys.exit({error.code!r})" if isinstance(error, SystemExit) else type(error).__name__
            cause, error = error, RuntimeError(f"the handler ended its task: {what}")
            error.__cause__ = cause
        try:
            return failure_of(error, self._model.name, [call.request])
        except Exception:  # of an exception that has no text
            logger.exception("Invoking custom service failed for request %s", call.request.request_id)
            return Failure(503, "Prediction failed")

    # ---- any thread ------------------------------------------------------------------------------------------------

    def sendall(self, data: Any) -> None:
        """Send a part of an answer, a frame made by `ts.handler_utils`. This object is the ``cl_socket`` of contexts.

        What is for a request that has its answer already, because it took too long, is dropped: the frontend would
        close the connection.
        """
        items = items_of(bytes(data))
        if any(item.headers.get(STREAM_NEXT) != "true" for item in items):
            # TorchServe makes such a frame of what it cannot send, and the frontend would take it for the whole answer.
            raise ValueError("a part of the answer cannot be sent: what the handler gave for it is not serializable")
        self._in_flight.send_parts(items)
