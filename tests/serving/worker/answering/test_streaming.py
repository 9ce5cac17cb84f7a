"""Every answer says whether more will come, and a stream that was begun is ended."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from handlers.streaming import NOTHING_YET
from serving.protocol import DEADLINE, Reply, Request
from serving.worker.answering.service import Service
from tests.serving.worker.frontend import bodies, grpc, rest
from tests.serving.worker.handled import (
    NEXT,
    ask,
    failure,
    giving,
    only,
    raising,
    replied,
    service,
    with_context,
)


def streaming(text: str) -> Callable[[Any, Any], Any]:
    return with_context(lambda context: context.set_response_header(0, NEXT, text))


def streamed(text: str | None) -> Callable[[Any, Any], Any]:
    """Send a part, as far as the service knows, and then the rest."""

    def change(context: Any) -> None:
        context.cl_socket.streamed.add(context.get_request_id(0))
        if text is not None:
            context.set_response_header(0, NEXT, text)

    return with_context(change)


@pytest.mark.parametrize(
    ("entry", "over_http", "over_grpc"),
    [
        (giving(b"body"), None, "false"),
        (streaming("false"), None, "false"),  # alone it would be a body without a head
        (streaming("true"), None, "false"),  # there is no more: this is the answer
        (streamed("true"), "false", "false"),  # as TorchServe's function leaves it
        (streamed("false"), "false", "false"),
    ],
)
def test_the_end_of_an_answer(entry: Callable[[Any, Any], Any], over_http: str | None, over_grpc: str) -> None:
    assert only(entry).headers.get(NEXT) == over_http
    assert only(entry, grpc("0")).headers.get(NEXT) == over_grpc
    assert only(entry, Request("0", {DEADLINE: "1e9"})).headers.get(NEXT) == over_grpc


def test_all_of_grpc_have_it() -> None:
    """Without it the frontend would kill the worker if the client has asked for a stream."""

    def entry(data: Any, context: Any) -> Any:
        if len(data) == 1:
            raise ValueError
        return [b"ok", object(), b"ok", object()]

    reply = ask(entry, grpc("0"), grpc("1"), rest("2"), rest("3"))
    assert [item.headers.get(NEXT) for item in reply.items] == ["false", "false", None, None]
    reply = ask(raising(ValueError()), grpc("0"), rest("1"))
    assert [item.headers.get(NEXT) for item in reply.items] == ["false", None]
    (item,) = replied([grpc("0")], service(raising(ValueError())).answer([grpc("0")]), items_only=True).items
    assert item.headers.get(NEXT) == "false"


def test_a_stream_of_an_earlier_message_is_forgotten() -> None:
    one = service(streamed(None))
    one.answer([rest("0")])
    assert one.streams.sink.streamed == {"0"}
    one.answer([rest("1")])
    assert one.streams.sink.streamed == {"1"}


class Steps:
    """A handler for continuous batching: each request has as many steps as its body says."""

    def __init__(self) -> None:
        self.left: dict[str, int] = {}

    def __call__(self, data: Any, context: Any) -> Any:
        for index, row in enumerate(data):
            if row:
                self.left[context.get_request_id(index)] = int(row["body"])
        context.stopping_criteria = [self.stop(context.get_request_id(index)) for index in range(len(data))]
        return [f"step {self.left[context.get_request_id(index)]}" for index in range(len(data))]

    def stop(self, request_id: str) -> Callable[[Any], bool]:
        def criterion(value: Any) -> bool:
            self.left[request_id] -= 1
            return self.left[request_id] <= 0

        return criterion


CONTINUOUS = {"continuous": True, "stateful": True}


def marks(reply: Reply) -> list[str | None]:
    return [item.headers.get(NEXT) for item in reply.items]


def test_continuous_batching() -> None:
    one = service(Steps(), **CONTINUOUS)

    def step(*requests: Request) -> Reply:
        return replied(requests, one.answer(requests), items_only=True)

    assert marks(step(rest("a", b"3"), rest("b", b"1"))) == ["true", None]  # one that is over at once is no stream
    assert marks(step(rest("a", None), rest("c", b"2"), grpc("d", b"1"), grpc("e", b"2"))) == [
        "true",
        "true",
        "false",
        "true",
    ]
    reply = step(rest("a", None), rest("c", None), Request("e"))
    assert marks(reply) == ["false", "false", "false"]
    assert bodies(reply) == [b"step 1"] * 3


class Scripted:
    """A handler for continuous batching that returns one value after the other for a request; the last ends it."""

    def __init__(self, *values: Any) -> None:
        self.values = values
        self.steps: dict[str, int] = {}

    def __call__(self, data: Any, context: Any) -> Any:
        names = [context.get_request_id(index) for index in range(len(data))]
        steps = [self.steps.setdefault(name, 0) for name in names]
        self.steps |= {name: self.steps[name] + 1 for name in names}
        ends = [step == len(self.values) - 1 for step in steps]
        context.stopping_criteria = [lambda _, end=end: end for end in ends]
        return [self.values[step] for step in steps]


def in_steps(one: Service, *steps: Sequence[Request]) -> list[Reply]:
    return [one.streams.spoken(replied(step, one.answer(step), items_only=True)) for step in steps]


def test_nothing_yet() -> None:
    """The frontend sends again what a reply leaves out, so the answer is one whole."""
    first = [rest("a", b"1"), grpc("b", b"1")]
    nothing, whole = in_steps(service(Scripted(NOTHING_YET, "answer"), **CONTINUOUS), first, [rest("c"), *first])
    assert nothing.items == ()
    assert [item.request_id for item in whole.items] == ["a", "b"]
    assert (marks(whole), bodies(whole)) == ([None, "false"], [b"answer"] * 2)


def test_nothing_yet_of_a_stream_that_has_begun() -> None:
    requests = [rest("a", b"1")]
    replies = in_steps(service(Scripted("part", NOTHING_YET, "end"), **CONTINUOUS), *[requests] * 3)
    assert [marks(reply) for reply in replies] == [["true"], ["true"], ["false"]]
    assert [bodies(reply) for reply in replies] == [[b"part"], [b""], [b"end"]]


def test_nothing_yet_beside_batches_is_an_empty_answer() -> None:
    assert bodies(ask(giving(NOTHING_YET), rest("0"))) == [b""]


def test_a_description_between_the_steps_of_a_stream() -> None:
    """A message of its own, or beside the others: the stream must still be ended."""
    one = service(Steps(), **CONTINUOUS)
    described = rest("d", b"1", describe="True")
    assert marks(replied([rest("a")], one.answer([rest("a", b"3")]))) == ["true"]
    one.answer([described])
    requests = [rest("a", None), described]
    assert marks(replied(requests, one.answer(requests))) == ["true", None]
    assert marks(replied([rest("a")], one.answer([rest("a", None)]))) == ["false"]


def test_a_client_of_a_stream_has_gone() -> None:
    """The frontend asks no more for it, and may use its id for nothing else; the memory of it must go."""
    one = service(Steps(), **CONTINUOUS)
    one.answer([rest("a", b"9"), rest("b", b"9")])
    one.answer([rest("b", None)])
    assert one.streams._open == {"b"}


def test_a_step_that_fails() -> None:
    steps = Steps()
    one = service(steps, **CONTINUOUS)
    one.answer([rest("a", b"3")])
    del steps.left["a"]
    requests = [rest("a", None), rest("b", b"1")]
    reply = replied(requests, one.answer(requests), items_only=True)
    assert reply.code == 200
    assert marks(reply) == ["false", None]  # the stream ends, the other is an ordinary error
    assert [failure(item)[0] for item in reply.items] == [503, 503]


def test_stopping_criteria_that_do_not_say() -> None:
    def entry(data: Any, context: Any) -> Any:
        context.stopping_criteria = [lambda value: None] * len(data)
        return [b"x"] * len(data)

    assert marks(ask(entry, rest("0"), grpc("1"))) == [None, "false"]


def test_stopping_criteria_that_fail() -> None:
    def entry(data: Any, context: Any) -> Any:
        context.stopping_criteria = [int] * len(data)
        return [row["body"].decode() for row in data]

    reply = ask(entry, rest("0", b"1"), rest("1", b"x"))
    assert [item.status for item in reply.items] == [200, 503]
