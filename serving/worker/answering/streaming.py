"""Answers in parts: where the parts go, and the header that tells the frontend whether more will come."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any, Protocol

from serving.protocol import Reply, Request
from serving.worker.answering.replies import STREAM_NEXT, Answer, Failure, failure_item


class Sink(Protocol):
    """The receiver of the parts of an answer that a handler streams."""

    streamed: set[str]

    def sendall(self, data: Any) -> None:
        """Send a frame of the frontend's protocol, as `ts.handler_utils` makes it."""


class Nowhere:
    """The receiver of parts for which no client waits."""

    def __init__(self) -> None:
        self.streamed: set[str] = set()

    def sendall(self, data: Any) -> None:
        """Drop them."""


class Streams:
    """The streams that were begun, by a part that was sent or by an answer that was not the last, and must be ended.

    Attributes:
        sink: where the parts of the batch go that is answered now.
    """

    def __init__(self, sink: Sink) -> None:
        self.sink = sink
        self._silent: set[str] = set()
        self._open: set[str] = set()  # those begun by an answer, in this message or in one before

    def begin(self) -> None:
        """Begin with a message: of which of its requests nothing is to be said is not known yet."""
        self._silent.clear()

    def forget_others(self, requests: Iterable[Request]) -> None:
        """Forget the streams of all other requests, whose clients have gone."""
        self._open.intersection_update(request.request_id for request in requests)

    def is_silent(self, request: Request, value: Any) -> bool:
        """Return whether a handler has no answer yet, in continuous batching, to a request of which nothing has left.

        Then nothing is said about it, and the frontend sends it again: its answer may still be one whole.

        Args:
            value: what the handler returned for it: `handlers.streaming.NOTHING_YET`, of the archive's copy.
        """
        if not getattr(value, "nothing_yet", False) or self._is_begun(request):
            return False
        self._silent.add(request.request_id)
        return True

    def spoken(self, reply: Reply) -> Reply:
        """Return a reply without the requests that have no answer yet."""
        if not self._silent:
            return reply
        return replace(reply, items=tuple(item for item in reply.items if item.request_id not in self._silent))

    def steer(self, request: Request, index: int, value: Any, context: Any) -> None:
        """Set the header that tells the frontend whether more will come.

        A stream that was begun must be ended. For REST the end may not come first: the frontend would send a body
        without a head, and the client hang. For gRPC, which has no headers, it must come always, or the frontend kills
        the worker if the client asked for a stream.

        Args:
            index: of the request in its batch, which the context shows.
            value: what the handler returned for it.
        """
        headers = context.request_processor[index].get_response_headers()
        criteria = context.stopping_criteria
        if criteria:
            stop = criteria[index](value)
            if stop is not None:
                headers[STREAM_NEXT] = "false" if stop else "true"
        elif headers.get(STREAM_NEXT) == "true":
            headers[STREAM_NEXT] = "false"
        following = headers.get(STREAM_NEXT)
        if following == "true":
            self._open.add(request.request_id)
        elif request.is_grpc:
            headers[STREAM_NEXT] = "false"
        elif following is not None:
            if not self._is_begun(request):
                del headers[STREAM_NEXT]
            self._open.discard(request.request_id)

    def failed(self, request: Request, failure: Failure) -> Answer:
        """Return the answer to a request that failed: its last part if there were others, for the status is sent."""
        if not self._is_begun(request):
            return failure
        self._open.discard(request.request_id)
        return replace(failure_item(request.request_id, failure), headers={STREAM_NEXT: "false"})

    def _is_begun(self, request: Request) -> bool:
        return request.request_id in self._open or request.request_id in self.sink.streamed
