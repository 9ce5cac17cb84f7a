"""Streaming: parts of a reply, sent before it is complete."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from handlers.context import Context

_MESSAGE = "Intermediate Prediction success"


class NothingYet(bytes):
    """An empty part of a reply of which nothing has left, in continuous batching.

    torchmar's worker then says nothing about the request, so that its reply may still be one whole. To TorchServe's
    worker it is a part like others: the head of the reply leaves.
    """

    nothing_yet = True


NOTHING_YET = NothingYet()


def can_stream(context: Context | None, rows: int) -> bool:
    """Return whether the worker takes parts of replies to these rows, each of which is a request of its own."""
    requests = len(getattr(context, "request_processor", None) or ())
    return getattr(context, "cl_socket", None) is not None and requests == rows


def send_parts(context: Any, parts: dict[int, Any]) -> None:
    """Send parts of replies, by the index of their request: bytes and str as they are, anything else as JSON.

    Each part is a chunk of the HTTP response, whose status and headers are those set before the first part. The item
    that the handler returns at the end is the last chunk, and may be empty. Only requests over HTTP may be answered in
    parts: the frontend ends a worker that sends parts to a plain gRPC call. Such a request has no headers.
    """
    from ts.handler_utils.utils import send_intermediate_predict_response

    ids = {index: context.request_ids[index] for index in parts}
    send_intermediate_predict_response(parts, ids, _MESSAGE, 200, context)
