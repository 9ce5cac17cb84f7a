"""Handlers that are called in this process, and the replies that the frontend would get."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from serving.protocol import PredictionItem, Reply, ReplyDecoder, Request, encode_reply
from serving.worker.answering.replies import Answer, reply_to
from serving.worker.answering.service import Service
from serving.worker.loading.loader import Model
from serving.worker.loading.settings import Backend
from tests.serving.protocol.helpers import outcome
from tests.serving.worker.frontend import METRICS, rest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # the package leaves a file open
    from ts.context import Context
    from ts.metrics.metric_cache_yaml_impl import MetricsCacheYamlImpl
    from ts.utils.util import PredictionException  # noqa: F401 - beside the others, whose import warns

    CACHE = MetricsCacheYamlImpl(str(METRICS))
    CACHE.initialize_cache()

NEXT = "ts_stream_next"


class Sink:
    """A counter of what a handler streams into it."""

    def __init__(self) -> None:
        self.streamed: set[str] = set()

    def sendall(self, data: Any) -> None:
        raise AssertionError


def service(entry: Callable[[Any, Any], Any], *, one_by_one: bool = False, **backend: Any) -> Service:
    context = Context("model", "/models/model", None, 8, None, "0.12.0", True, CACHE, {})
    return Service(Model("model", entry, context, None, Backend(**backend), one_by_one), Sink())


def replied(requests: Sequence[Request], answers: Sequence[Answer], *, items_only: bool = False) -> Reply:
    """Return the reply as the frontend decodes it."""
    frame = encode_reply(reply_to(requests, answers, items_only=items_only))
    (reply,), error, cut = outcome(ReplyDecoder(), [frame])
    assert (error, cut) == (None, False)
    assert isinstance(reply, Reply)
    return reply


def ask(entry: Callable[[Any, Any], Any], *requests: Request, **options: Any) -> Reply:
    return replied(requests, service(entry, **options).answer(requests))


def batch(count: int) -> list[Request]:
    return [rest(str(number), str(number).encode()) for number in range(count)]


def raising(error: BaseException) -> Callable[[Any, Any], Any]:
    def entry(data: Any, context: Any) -> Any:
        raise error

    return entry


def giving(*values: Any) -> Callable[[Any, Any], Any]:
    """Return a handler that gives each request of a batch its value; one value is for all of them."""
    return lambda data, context: list(values) if len(values) > 1 else [values[0] for _ in data]


def failure(item: PredictionItem) -> tuple[int, str]:
    """Return status and message of an item that failed, as the frontend writes errors itself."""
    content = json.loads(bytes(item.body))
    assert list(content) == ["code", "type", "message"]
    assert (content["code"], content["type"]) == (item.status, "InternalServerException")
    assert item.content_type == "application/json"
    return item.status, content["message"]


def with_context(change: Callable[[Any], Any], value: Any = b"body") -> Callable[[Any, Any], Any]:
    def entry(data: Any, context: Any) -> Any:
        change(context)
        return [value] * len(data)

    return entry


def only(entry: Callable[[Any, Any], Any], request: Request | None = None) -> PredictionItem:
    (item,) = ask(entry, request or rest("0")).items
    return item
