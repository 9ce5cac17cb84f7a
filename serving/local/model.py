"""A model in this process that takes the frontend's frames, and answers with the worker's own code."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from serving.errors import CheckError, ModelLoadError
from serving.protocol import (
    Decoder,
    Inference,
    Load,
    Reply,
    ReplyDecoder,
    Request,
    encode_inference,
    encode_load,
    encode_reply,
)
from serving.worker.answering.replies import reply_to
from serving.worker.answering.service import Service
from serving.worker.loading import failures
from serving.worker.loading.loader import Model, load
from serving.worker.modes.dedicated import Stream


class LocalModel:
    """A loaded model; frames go in and come out as over the socket of a worker.

    What the handler raises on a request is answered as a worker answers it. Other exceptions than `Exception`, such as
    KeyboardInterrupt, propagate.

    Args:
        message: what the frontend would send first.
        adapt: gets the model before it is asked for the first time.

    Raises:
        ModelLoadError: the model cannot be loaded.
    """

    def __init__(self, message: Load, adapt: Callable[[Model], None] = lambda _: None) -> None:
        self._decoder = Decoder()
        self._replies = ReplyDecoder()
        self._decoder.feed(encode_load(message))
        received = self._decoder.next_message()
        assert isinstance(received, Load)  # noqa: S101 (it is what was just written)
        try:
            model = load(received, "")
        except (Exception, SystemExit) as error:
            raise _load_error(message, error) from error
        adapt(model)
        self._stream = Stream(self._send)
        self._service = Service(model, self._stream)
        self._items_only = model.backend.stateful

    def ask(self, requests: Sequence[Request]) -> Reply:
        """Send requests together, and return the first frame of the answer.

        Raises:
            CheckError: there is no frame.
        """
        self._decoder.feed(encode_inference(Inference(tuple(requests))))
        received = self._decoder.next_message()
        assert isinstance(received, Inference)  # noqa: S101 (it is what was just written)
        self._stream.asked = frozenset(request.request_id for request in received.requests)
        answers = self._service.answer(received.requests)
        self._send(reply_to(received.requests, answers, items_only=self._items_only))
        return self.receive()

    def receive(self) -> Reply:
        """Return the next frame of the answer.

        Raises:
            CheckError: there is none, although the last one announced it.
        """
        reply = self._replies.next_message()
        if reply is None:
            raise CheckError("the handler announced a further part of its answer, and gave none")
        return reply

    def _send(self, reply: Reply) -> None:
        self._replies.feed(encode_reply(reply))


def _load_error(message: Load, error: BaseException) -> ModelLoadError:
    folder = Path(message.model_path)
    cause = failures.first_cause(error)
    if isinstance(cause, SystemExit):
        summary = f"the handler ended the process: sys.exit({cause.code!r})"
    else:
        # As `start` has it from the log: a state dict that does not fit has its keys in the further lines.
        own = getattr(cause, "message", None)  # without the hint
        lines = (own if isinstance(own, str) else failures.text_of(cause)).strip().splitlines()[1:]
        summary = "\n".join([failures.summary(cause), *lines])
    return ModelLoadError(
        f"model {message.model_name} cannot be loaded: {summary}",
        model=message.model_name,
        traceback="".join(traceback.format_exception(error)).rstrip("\n"),
        where=failures.place(cause, folder) or None,
        hint=failures.hint(cause) or failures.hint(error) or None,
    )
