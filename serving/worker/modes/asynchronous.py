"""Serves a worker in the frontend's asynchronous mode: requests run side by side, each is answered when it is done.

::

    frontend --> reader thread --> event loop in the main thread, a task for each request --+
                 timekeeper thread, answers what takes too long ----------------------------+--> Outbox --> frontend
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
import socket
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import inf
from types import FrameType
from typing import Any

from serving.protocol import (
    Inference,
    Load,
    PredictionItem,
    ProtocolError,
    Reply,
    Request,
    decoding_enabled,
    encode_reply,
)
from serving.worker.answering import open_inference, warm_up
from serving.worker.answering.service import (
    STREAM_NEXT,
    SUCCESS,
    Answer,
    Failure,
    Timer,
    check,
    failure_item,
    failure_of,
    inputs_of,
    item_of,
    type_of_processor,
)
from serving.worker.loading.loader import Model, load
from serving.worker.modes.connection import Connection, items_of
from serving.worker.modes.dedicated import tell_failure
from serving.worker.process import output
from serving.worker.process.arguments import Arguments
from serving.worker.process.leftovers import OwnProcess

logger = logging.getLogger(__name__)

# Far above what a model runs at once, far below what would fill the memory with waiting requests.
_MAX_IN_FLIGHT = 1000
# Bytes of parts of answers that the frontend has not taken yet; whoever sends more then waits.
_MAX_UNSENT = 64 * 1024 * 1024
# The frontend prepares for the answer to LOAD only after it has sent LOAD, and breaks if that comes earlier.
_LOAD_PAUSE_S = 0.1
# What is above them in a stack is not the user's.
_CALLERS = ("run", "_run")
_LEAVE_S = 1.0
_END_S = 2.0
_NO_WAIT = getattr(socket, "MSG_DONTWAIT", 0)  # where there is none a send waits, which is slower and no more


def serve(connection: Connection, request: Load, arguments: Arguments, processes: int) -> int:
    """Loads the model and answers requests until the frontend closes the connection; returns the exit code.

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
    """Runs an initialization that is a coroutine."""
    if not inspect.isawaitable(result):
        return
    try:
        asyncio.get_event_loop().run_until_complete(result)
    except (TypeError, AttributeError) as error:
        # TorchServe makes the coroutine and forgets it, so there are functions that do not expect to run without data.
        if not is_function or "NoneType" not in str(error):
            raise
        logger.warning("The handler cannot be called without data, for its initialization: %s", error)


def _usable(loop: asyncio.AbstractEventLoop) -> asyncio.AbstractEventLoop:
    """The loop that the handler has chosen, if it has; otherwise ours, or a new one if that was closed."""
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


@dataclass(eq=False)
class _Call:
    """A request in flight.

    Attributes:
        deadline: when it is given up, on the monotonic clock; never before the handler is called.
        streamed: parts of its answer were sent.
    """

    request: Request
    deadline: float = inf
    task: asyncio.Task[None] | None = None
    streamed: bool = False
    answered: bool = False


class _Server:
    def __init__(self, connection: Connection, model: Model, loop: asyncio.AbstractEventLoop) -> None:
        self._connection = connection
        self._model = model
        self._loop = loop
        self._thread = threading.get_ident()
        self._limit_s = model.backend.response_timeout_s
        self._decode = decoding_enabled(os.environ.get("TS_DECODE_INPUT_REQUEST"))
        self._processor = type_of_processor()
        self._timer = Timer()
        self._outbox = _Outbox(connection.sock)
        self._calls: dict[str, _Call] = {}
        self._lock = threading.Lock()  # of the calls, and of the order of what is sent
        self._slots = threading.Semaphore(_MAX_IN_FLIGHT)
        self._busy = threading.Event()
        self._ended = threading.Event()
        self._left = threading.Event()
        self._code = 0
        self._alive = 0.0
        self._asked = False
        model.context.cl_socket = self

    def run(self, answer_from: float) -> int:
        """Answers LOAD, not before the time given, and then requests; returns the exit code."""
        self._loop.run_until_complete(asyncio.sleep(max(0.0, answer_from - time.monotonic())))
        if not self._connection.send_load_reply(200, f"loaded model {self._model.name}"):
            return 0
        threading.Thread(target=self._read, name="torchmar-reader", daemon=True).start()
        threading.Thread(target=self._keep_time, name="torchmar-timekeeper", daemon=True).start()
        while not self._ended.is_set():
            try:
                self._loop.run_forever()
            except (SystemExit, KeyboardInterrupt) as error:
                # The frontend would forget the requests of all others.
                logger.error("A task of the handler was to end the process; it is not ended", exc_info=error)
        self._leave()
        return self._code

    def rehearse(self, requests: Sequence[Request]) -> list[Answer]:
        """Runs the handler on requests that nobody has sent, one by one, before `run`. Raises as `Service.rehearse`."""
        try:
            return [self._loop.run_until_complete(self._run(request, report=False)) for request in requests]
        except asyncio.CancelledError as error:  # which is no Exception
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
                # No answer to none: the frontend would take it for that to LOAD.
                for request in message.requests:
                    self._slots.acquire()
                    self._accept(_Call(request))
        except ProtocolError as error:
            output.say(f"The worker of {self._model.name} ends: {error}")
            self._code = 1
        self._ended.set()
        self._busy.set()
        self._loop.call_soon_threadsafe(self._loop.stop)
        if not self._left.wait(_END_S):
            os._exit(self._code)  # the handler does not let the loop run

    def _accept(self, call: _Call) -> None:
        with self._lock:
            self._calls[call.request.request_id] = call
            self._busy.set()
        self._loop.call_soon_threadsafe(self._start, call)

    # ---- event loop ------------------------------------------------------------------------------------------------

    def _start(self, call: _Call) -> None:
        call.task = self._loop.create_task(self._answer(call))

    async def _answer(self, call: _Call) -> None:
        """Answers a request, and raises nothing: what happens to it is its own affair."""
        self._alive = time.monotonic()
        try:
            answer = await self._handle(call)
        except (Exception, asyncio.CancelledError, SystemExit, KeyboardInterrupt) as error:
            if call.answered or self._ended.is_set():
                return
            answer = self._failure(call, error)
        self._alive = time.monotonic()
        self._finish(call, answer)

    async def _handle(self, call: _Call) -> Answer:
        call.deadline = time.monotonic() + self._limit_s
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
        """A context of its own for each request, which shares with the others what the handler has hung on it."""
        context = copy.copy(self._model.context)
        context.request_ids = {0: request.request_id}
        context.request_processor = [self._processor(headers)]
        context.metrics = copy.copy(context.metrics)
        context.metrics.request_ids = context.request_ids
        return context

    def _failure(self, call: _Call, error: BaseException) -> Failure:
        if not isinstance(error, Exception):
            what = f"sys.exit({error.code!r})" if isinstance(error, SystemExit) else type(error).__name__
            cause, error = error, RuntimeError(f"the handler ended its task: {what}")
            error.__cause__ = cause
        try:
            return failure_of(error, self._model.name, [call.request])
        except Exception:  # of an exception that cannot tell what it is
            logger.exception("Invoking custom service failed for request %s", call.request.request_id)
            return Failure(503, "Prediction failed")

    # ---- any thread ------------------------------------------------------------------------------------------------

    def _finish(self, call: _Call, answer: Answer) -> bool:
        """Sends the answer, or the last part of it; False if the request has been answered already."""
        request = call.request
        with self._lock:
            if call.answered:
                return False
            call.answered = True
            if self._calls.get(request.request_id) is call:
                del self._calls[request.request_id]
            items = last_items(request, answer, streamed=call.streamed)
            self._outbox.put(encode_reply(Reply(200, SUCCESS, items)))
        self._slots.release()
        return True

    def sendall(self, data: Any) -> None:
        """Sends a part of an answer, a frame made by `ts.handler_utils`. This object is the ``cl_socket`` of contexts.

        What is for a request that has its answer already, because it took too long, is dropped: the frontend would
        close the connection.
        """
        items = items_of(bytes(data))
        if any(item.headers.get(STREAM_NEXT) != "true" for item in items):
            # TorchServe makes such a frame of what it cannot send, and the frontend would take it for the whole answer.
            raise ValueError("a part of the answer cannot be sent: what the handler gave for it is not serializable")
        with self._lock:
            parts = []
            for item in items:
                if call := self._calls.get(item.request_id):
                    call.streamed = True
                    call.deadline = time.monotonic() + self._limit_s
                    parts.append(item)
            if parts:
                self._outbox.put(encode_reply(Reply(200, SUCCESS, tuple(parts))))
        self._outbox.wait(_MAX_UNSENT)

    # ---- timekeeper thread -----------------------------------------------------------------------------------------

    def _keep_time(self) -> None:
        pause = min(1.0, max(0.02, self._limit_s / 20))
        while self._busy.wait() and not self._ended.wait(pause):
            now = time.monotonic()
            with self._lock:
                late = [call for call in self._calls.values() if call.deadline <= now]
                if not self._calls and not self._asked:
                    self._busy.clear()
            for call in late:
                self._give_up(call)
            if not self._asked:
                self._ask()
            elif now - self._alive > 2 * self._limit_s:
                # What holds up the loop for so long may do so for ever, and no request is begun any more.
                self._replace()

    def _give_up(self, call: _Call) -> None:
        where = self._where(call.task)
        if not self._finish(call, Failure(500, self._too_long(call))):
            return
        logger.error("Request %s: %s It is here:\n%s", call.request.request_id, self._too_long(call), where)
        if call.task is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(call.task.cancel)

    def _too_long(self, call: _Call) -> str:
        what = "no further part of its answer" if call.streamed else "no answer"
        return f"The handler gave {what} within {self._limit_s:g} s (responseTimeout in model-config.yaml)."

    def _where(self, task: asyncio.Task[None] | None) -> str:
        """The stack of a task, without our own part of it."""
        coroutine: Any = task.get_coro() if task is not None else None
        if coroutine is None or coroutine.cr_running:
            return self._where_loop()
        frames = [frame for frame in _awaiting(coroutine) if frame.f_code.co_filename != __file__]
        return "".join(traceback.StackSummary.extract((frame, frame.f_lineno) for frame in frames).format()).rstrip()

    def _where_loop(self) -> str:
        """The stack of the thread of the loop, from where the handler is called."""
        stack = traceback.extract_stack(sys._current_frames().get(self._thread))
        ours = (index for index, frame in enumerate(stack) if frame.filename == __file__ and frame.name in _CALLERS)
        return "".join(traceback.format_list(stack[max(ours, default=-1) + 1 :])).rstrip()

    def _ask(self) -> None:
        """Asks the loop for a sign of life, unless there is nothing to do."""
        if self._busy.is_set():
            self._asked = True
            self._alive = time.monotonic()
            with contextlib.suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._tell_alive)

    def _tell_alive(self) -> None:
        self._alive = time.monotonic()
        self._asked = False

    def _replace(self) -> None:
        """Ends the process when its loop hangs; the requests in flight are answered, the frontend would not do that."""
        logger.error(
            "This worker of %s is replaced: its event loop has not run for %g s. It is here:\n%s",
            self._model.name,
            2 * self._limit_s,
            self._where_loop(),
        )
        with self._lock:
            calls = list(self._calls.values())
        for call in calls:
            self._finish(call, Failure(500, "The worker is replaced: its handler hangs."))
        self._outbox.wait(0, _LEAVE_S)
        os._exit(1)


class _Outbox:
    """Sends frames in the order they are given, without waiting for the frontend to take them."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._changed = threading.Condition()
        self._frames: deque[memoryview] = deque()
        self._unsent = 0
        self._writer: threading.Thread | None = None

    def put(self, frame: bytes) -> None:
        """Sends a frame, or what the socket takes of it now; a thread sends the rest."""
        with self._changed:
            rest = memoryview(frame)
            if not self._frames:
                rest = rest[self._send_now(rest) :]
            if not rest:
                return
            self._frames.append(rest)
            self._unsent += len(rest)
            if self._writer is None:
                self._writer = threading.Thread(target=self._write, name="torchmar-writer", daemon=True)
                self._writer.start()
            self._changed.notify_all()

    def wait(self, most: int, timeout: float | None = None) -> None:
        """Waits until not more than ``most`` bytes are unsent."""
        with self._changed:
            self._changed.wait_for(lambda: self._unsent <= most, timeout)

    def _send_now(self, data: memoryview) -> int:
        try:
            return self._sock.send(data, _NO_WAIT)
        except BlockingIOError:
            return 0
        except OSError:  # the frontend has closed the connection, which the reader sees, too
            return len(data)

    def _write(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._frames)
                frame = self._frames[0]
            with contextlib.suppress(OSError):
                self._sock.sendall(frame)
            with self._changed:
                self._frames.popleft()  # only now: what is put meanwhile must come after it
                self._unsent -= len(frame)
                self._changed.notify_all()


def last_items(request: Request, answer: Answer, *, streamed: bool) -> tuple[PredictionItem, ...]:
    """What ends a request: the frontend forgets one only at an item with ``ts_stream_next: false``.

    That alone would be an HTTP body without a head if no part was sent before it. So the answer then is an ordinary
    item, and an empty one ends the request; the frontend cannot write it, for its HTTP encoder is between two answers,
    and drops it. Both are in one frame, for nothing else may be written to that client in between.

    Args:
        request: as the frontend sent it; gRPC has no headers.
        answer: the whole of it, or its last part.
        streamed: parts were sent before.
    """
    item = failure_item(request.request_id, answer) if isinstance(answer, Failure) else answer
    if not streamed:
        item = open_inference.readable(request, item)
    headers = {name: text for name, text in item.headers.items() if name != STREAM_NEXT}
    end = {STREAM_NEXT: "false"}
    if streamed or not request.headers or _is_description(request):
        return (replace(item, headers=end | headers),)
    return replace(item, headers=headers), PredictionItem(request.request_id, b"", headers=end)


def _is_description(request: Request) -> bool:
    """Whether it is one of the management API: each item would be an HTTP answer, whatever its headers say.

    A client may send the header with a prediction, but that has a body, be it empty.
    """
    return request.headers.get("describe") == "True" and not request.parameters


def _awaiting(coroutine: Any) -> Iterator[FrameType]:
    """Frames of a coroutine that waits, of the one that it awaits, and so on."""
    while coroutine is not None:
        for kind, following in (("cr", "await"), ("gi", "yieldfrom"), ("ag", "await")):
            frame = getattr(coroutine, f"{kind}_frame", None)
            if frame is not None:
                yield frame
                coroutine = getattr(coroutine, f"{kind}_{following}", None)
                break
        else:
            return
