"""Assembly of a worker's frames into what clients get."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from serving.errors import CheckError
from serving.protocol import Reply, Request
from serving.worker.answering.replies import STREAM_NEXT, Failure, failure_item


@dataclass
class Answer:
    """The answer to one request, with all its parts if it is a stream.

    Attributes:
        status: 0 until there is one.
        refused: the body is the text of an error, which the frontend turns into JSON.
    """

    status: int = 0
    content_type: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    body: bytearray = field(default_factory=bytearray)
    refused: bool = False

    def as_sent(self) -> tuple[bytes, str]:
        """Return body and content type as a client of the REST API gets them."""
        if not self.refused:
            return bytes(self.body), self.content_type
        item = failure_item("", Failure(self.status, self.body.decode("utf-8", "replace")))
        return bytes(item.body), item.content_type


class Answers:
    """The answers to the requests of one message.

    Args:
        ids: of the requests.
        continuous: the worker may say nothing about some of them, in continuous batching.
    """

    def __init__(self, ids: Sequence[str], *, continuous: bool = False) -> None:
        self._continuous = continuous
        self._found = {one: Answer() for one in ids}

    def __getitem__(self, request_id: str) -> Answer:
        return self._found[request_id]

    def take(self, reply: Reply) -> list[str]:
        """Take a frame; return the ids of the requests that have more to come.

        Raises:
            CheckError: the frame answers another request: the frontend would end the worker.
        """
        if reply.code != 200:
            for answer in self._found.values():
                answer.status, answer.refused = reply.code, True
                answer.body = bytearray(reply.message.encode())
            return []
        if not (reply.items or self._continuous) or any(item.request_id not in self._found for item in reply.items):
            raise CheckError("the worker answered another request than the one that was sent")
        for item in reply.items:
            answer = self._found[item.request_id]
            if not answer.status:
                answer.status, answer.content_type, answer.headers = item.status, item.content_type, item.headers
            answer.body += item.body
        more = [item.request_id for item in reply.items if item.headers.get(STREAM_NEXT) == "true"]
        silent = [name for name, answer in self._found.items() if not answer.status] if self._continuous else []
        return more + silent

    def further(self, request: Request) -> Request:
        """Return a request as the frontend sends it once more, in continuous batching: without its content if a part
        of the answer has come.
        """
        return replace(request, parameters=()) if self._found[request.request_id].status else request
