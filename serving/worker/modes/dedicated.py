"""A process with one worker: TorchServe's own way to serve."""

from __future__ import annotations

import cProfile
import gc
import os
import select
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from serving.protocol import Inference, Load, ProtocolError, Reply
from serving.worker.answering import warm_up
from serving.worker.answering.replies import SUCCESS, reply_to
from serving.worker.answering.service import Service
from serving.worker.loading import failures
from serving.worker.loading.loader import load
from serving.worker.modes.connection import Connection, items_of
from serving.worker.process import output
from serving.worker.process.arguments import Arguments
from serving.worker.process.guardian import Guardian

_PROFILE = "/tmp/tsPythonProfile.prof"  # noqa: S108 (where users of TS_BENCHMARK look for it)
# After the answer to a failed load: the frontend reads the log until it has killed us.
_LINGER_S = 5.0


class Stream:
    """The parts of an answer that the handler streams, on their way to the frontend.

    Attributes:
        streamed: requests that a part was sent for since this was cleared.
        asked: ids of the requests of the message that is being answered; the frontend ends over any other.

    Args:
        send: sends a frame to the frontend.
    """

    def __init__(self, send: Callable[[Reply], object]) -> None:
        self.streamed: set[str] = set()
        self.asked: frozenset[str] = frozenset()
        self._send = send

    def sendall(self, data: Any) -> None:
        """Send a frame made by `ts.handler_utils`."""
        items = tuple(item for item in items_of(bytes(data)) if item.request_id in self.asked)
        if items:
            self.streamed.update(item.request_id for item in items)
            self._send(Reply(200, SUCCESS, items))


def serve(connection: Connection, request: Load, arguments: Arguments, guardian: Guardian, processes: int) -> int:
    """Load the model and answer requests until the frontend closes the connection; return the exit code.

    Raises:
        ProtocolError: the frontend sent something that is not a batch of requests.
    """
    try:
        model = load(request, arguments.metrics_config, processes=processes)
    except (Exception, SystemExit) as error:
        tell_failure([connection], request, error, end=True)
        return 1

    def send_part(reply: Reply) -> None:
        connection.send(reply)
        guardian.busy_since = time.monotonic()  # the frontend's clock of the response begins anew, too

    stream = Stream(send_part)
    service = Service(model, stream)
    warm_up.run(model, service.rehearse, request.model_path)
    gc.collect()
    gc.freeze()
    guardian.limit(model.backend.response_timeout_s)
    if not connection.send_load_reply(200, f"loaded model {request.model_name}"):
        return 0
    service.use(stream)
    silent = arguments.rank != 0
    items_only = model.backend.stateful
    profile = _profile()
    try:
        while (message := connection.receive()) is not None:
            if not isinstance(message, Inference):
                raise ProtocolError("a batch of requests", "LOAD", 0)
            guardian.busy_since = time.monotonic()
            stream.asked = frozenset(request.request_id for request in message.requests)
            with profile or nullcontext():
                answers = service.answer(message.requests)
            guardian.busy_since = 0.0
            if profile is not None:
                profile.dump_stats(_PROFILE)
            if silent:
                continue
            reply = reply_to(message.requests, answers, items_only=items_only)
            if not connection.send(service.streams.spoken(reply)):
                return 0
    except ProtocolError as error:
        output.say(f"The worker of {request.model_name} ends: {error}")
        return 1
    return 0


def tell_failure(connections: Sequence[Connection], request: Load, error: BaseException, *, end: bool = False) -> None:
    """Print why a model cannot be loaded, and answer the frontend.

    Its readers must have the whole text before the pipes end with this process.

    Args:
        end: this process ends now. Then the connections are closed, as TorchServe's worker has it: if they are answered
            while our process is still there, the frontend fails to take a registration back. Only the lack of memory
            has an answer, for clients see its status.
    """
    if isinstance(error, SystemExit):
        cause: BaseException = RuntimeError(f"the handler ended the process: sys.exit({error.code!r})")
        cause.__traceback__ = error.__traceback__
        error = cause
    folder = Path(request.model_path)
    output.say(failures.block(request.model_name, error, folder))
    output.wait_until_read(_LINGER_S)
    code, message = failures.reply(error, folder)
    if end and code == 500:
        for connection in connections:
            connection.close()
        return
    told = [connection.sock for connection in connections if connection.send_load_reply(code, message)]
    deadline = time.monotonic() + _LINGER_S
    while told and (left := deadline - time.monotonic()) > 0:
        closed = select.select(told, (), (), left)[0]
        told = [sock for sock in told if sock not in closed]


def _profile() -> cProfile.Profile | None:
    """Profile the whole service, where TorchServe's switch is on."""
    return cProfile.Profile() if os.environ.get("TS_BENCHMARK") in ("True", "true", "TRUE") else None
