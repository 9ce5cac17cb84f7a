"""Answers to requests, and the reply to a message with all of them.

An answer is made of the handler's output, or of its failure. The texts and codes are TorchServe's.
"""

from __future__ import annotations

import json
import logging
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Any, TypeAlias

from serving.protocol import PredictionItem, Reply, Request
from serving.worker.answering import bodies, open_inference
from serving.worker.loading.failures import is_out_of_memory

logger = logging.getLogger(__name__)

STREAM_NEXT = "ts_stream_next"
SUCCESS = "Prediction success"


@dataclass(frozen=True)
class Failure:
    """A request that failed, as the frontend reports it to clients: it makes the body, and gRPC's status, of it.

    Attributes:
        code: HTTP status.
        message: for the client.
    """

    code: int
    message: str


Answer: TypeAlias = PredictionItem | Failure


class OutputError(Exception):
    """The handler returned something else than a list with one item for each request; the text is TorchServe's."""


def check(result: Any, count: int) -> None:
    """Check that a handler gave a list with an item for each of ``count`` requests.

    Raises:
        OutputError: it did not.
    """
    if not isinstance(result, list):
        raise OutputError("Invalid model predict output", f"the handler gave {type(result).__name__}, no list")
    if len(result) != count:
        raise OutputError(
            "number of batch response mismatched", f"the handler gave {len(result)} items for {count} requests"
        )


def item_of(request: Request, processor: Any, value: Any) -> Answer:
    """Make the answer to a request.

    Args:
        processor: TorchServe's RequestProcessor, with the status and the headers that the handler set.
        value: what the handler returned for it.
    """
    try:
        body = bodies.encode(value)
    except bodies.BodyError as error:
        logger.warning("Request %s: the answer cannot be sent: %s", request.request_id, error)
        return Failure(503, f"Unsupported model output data type. {error}")
    headers = processor.get_response_headers()
    status = processor.get_response_status_code()
    phrase = processor.get_response_status_phrase()
    return PredictionItem(
        request.request_id,
        body,
        _status(status),
        "" if phrase is None else str(phrase),
        str(headers.get("content-type") or ""),
        {str(key): str(text) for key, text in headers.items()} if headers else {},
    )


def failure_of(error: Exception, model: str, requests: Sequence[Request]) -> Failure:
    """Log an exception, and return the answer for the clients. The texts and codes are TorchServe's."""
    own = _own_failure(error)
    if is_out_of_memory(error, of=RuntimeError if own else Exception):
        logger.error("System out of memory", exc_info=error)
        return Failure(507, "Out of resources")
    if own:
        logger.error("Prediction error: %s", own.message, exc_info=error)
        return own
    if isinstance(error, OutputError):
        logger.warning("model: %s: %s: %s", model, *error.args)
        return Failure(503, str(error.args[0]))
    error_id = secrets.token_hex(4)
    names = ", ".join(request.request_id for request in requests)
    logger.warning("Error %s: Invoking custom service failed for request %s", error_id, names, exc_info=error)
    return Failure(503, f"Prediction failed. The server's log has the reason under the id {error_id}.")


def _own_failure(error: Any) -> Failure | None:
    """Return what an exception itself says: PredictionException of TorchServe, RequestError of our SDK."""
    try:
        code = getattr(error, "error_code", None)
        code = code if code is not None else getattr(error, "status", None)
        return Failure(code, str(error.message)) if isinstance(code, int) and hasattr(error, "message") else None
    except Exception:  # of properties that fail
        return None


def _status(value: Any) -> int:
    try:
        return 200 if value is None else int(value)
    except (TypeError, ValueError, OverflowError):
        return 500


def failure_item(request_id: str, failure: Failure) -> PredictionItem:
    """Return a failure as the frontend would write it, for a request among others that did not fail."""
    if failure.code == 200:  # of a PredictionException; TorchServe answers so
        return PredictionItem(request_id, b"error")
    content = {"code": failure.code, "type": "InternalServerException", "message": failure.message}
    try:
        phrase = HTTPStatus(failure.code).phrase
    except ValueError:
        phrase = ""
    body = (json.dumps(content, indent=2) + "\n").encode()
    return PredictionItem(request_id, body, failure.code, phrase, "application/json")


def reply_to(requests: Sequence[Request], answers: Sequence[Answer], *, items_only: bool = False) -> Reply:
    """Make the reply to one message of the frontend.

    A code other than 200 is for all of a message, and the only way for gRPC to learn of an error.

    Args:
        requests: of the message.
        answers: as many.
        items_only: the frontend cannot take another code than 200: in its asynchronous and sequence modes.
    """
    if len(answers) == 1 and not items_only:
        only = answers[0]
        if isinstance(only, Failure):
            if only.code != 200:
                return Reply(only.code, only.message)
        elif only.status >= 400 and requests[0].is_grpc:
            return Reply(only.status, open_inference.message_of(only))
        elif text := open_inference.problem(requests[0], only):
            return Reply(500, text)
        else:
            return Reply(200, SUCCESS, (only,))
    items = tuple(_item_for(request, answer) for request, answer in zip(requests, answers, strict=True))
    return Reply(200, SUCCESS, items)


def _item_for(request: Request, answer: Answer) -> PredictionItem:
    if not isinstance(answer, Failure):
        return open_inference.readable(request, answer)
    item = failure_item(request.request_id, answer)
    if not request.is_grpc:
        return item
    # As gRPC wants it, see above.
    return open_inference.readable(request, replace(item, headers={STREAM_NEXT: "false"}))
