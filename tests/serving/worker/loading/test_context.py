"""What the context says of the time of requests, and that nothing of it is lost on handlers."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from handlers import Context
from handlers.testing import FakeContext
from handlers.testing import Request as Fake
from serving.protocol import ATTEMPT, DEADLINE, TRACE, Request
from serving.worker.loading.context import Context as WorkerContext
from serving.worker.loading.context import processor_of


def context_of(*headers: dict[str, str]) -> Any:
    context = WorkerContext("m", "", None, 8, None, "0.12.0")
    context.request_processor = [processor_of(Request(str(n), one), dict(one)) for n, one in enumerate(headers)]
    return context


def test_a_request_without_either() -> None:
    shown = {"Host": "here"}
    processor = processor_of(Request("0", {"Host": "here"}), shown)
    assert (processor.deadline, processor.attempt, processor.get_request_properties()) == (None, 1, shown)
    assert vars(processor).keys().isdisjoint({"deadline", "attempt"})  # it costs no request anything


def test_the_handler_does_not_see_how_they_come() -> None:
    context = context_of({"Host": "here", DEADLINE: "12.5", ATTEMPT: "2"})
    assert (context.get_deadline(), context.get_attempt(), context.deadline, context.attempt) == (12.5, 2, 12.5, 2)
    assert context.get_all_request_header(0) == {"Host": "here"}


def test_a_header_is_found_whatever_the_case_of_its_name() -> None:
    context = context_of({"x-mine": "1", "Host": "here"})
    found = [context.get_request_header(0, name) for name in ("X-Mine", "x-mine", "host", "HOST")]
    assert found == ["1", "1", "here", "here"]
    assert context.get_request_header(0, "X-Other") is None
    assert context.get_request_header(0, None) is None


BATCHES = [
    ([], None, 1),
    ([(None, 1)], None, 1),
    ([(5.0, 1), (7.0, 1)], 7.0, 1),  # at 5 one of the clients still waits
    ([(5.0, 1), (None, 2)], None, 2),
    ([(5.0, 3), (4.0, 2)], 5.0, 3),
]


@pytest.mark.parametrize(("requests", "deadline", "attempt"), BATCHES)
def test_a_batch(requests: list[tuple[float | None, int]], deadline: float | None, attempt: int) -> None:
    context = context_of(
        *({ATTEMPT: str(count)} | ({} if end is None else {DEADLINE: repr(end)}) for end, count in requests)
    )
    fake = FakeContext(requests=[Fake({"body": b""}, deadline=end, attempt=count) for end, count in requests])
    for one in (context, fake):
        assert (one.deadline, one.attempt) == (deadline, attempt)
        assert [(one.get_deadline(n), one.get_attempt(n)) for n in range(len(requests))] == requests


def test_before_the_first_request() -> None:
    context = WorkerContext("m", "", None, 8, None, "0.12.0")
    assert (context.deadline, context.attempt) == (None, 1)
    for name in (*Context.__annotations__, *(name for name in vars(Context) if not name.startswith("_"))):
        assert hasattr(context, name)


def test_what_a_handler_attaches_wins() -> None:
    context = context_of({DEADLINE: "12.5"})
    context.deadline = "the handler's own"
    assert context.deadline == copy.copy(context).deadline == "the handler's own"


def test_a_copy_shows_its_own_batch() -> None:
    """One batch is prepared while another one runs."""
    context = context_of({DEADLINE: "12.5"})
    ahead = copy.copy(context)
    ahead.request_processor = context_of({}).request_processor
    assert (context.deadline, ahead.deadline) == (12.5, None)


SPAN = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
OTHER = "00-0af7651916cd43dd8448eb211c80319c-00f067aa0ba902b7-01"


def test_the_trace_is_the_workers_span_else_the_clients() -> None:
    context = context_of({"Host": "here"}, {"TraceParent": OTHER}, {"traceparent": OTHER, TRACE: SPAN})
    assert [context.get_trace(n) for n in range(3)] == [None, OTHER, SPAN]
    assert context.trace == OTHER
    assert context.get_all_request_header(2) == {"traceparent": OTHER}
    assert context_of({}).trace is None
    assert WorkerContext("m", "", None, 8, None, "0.12.0").trace is None
    fake = FakeContext(requests=[Fake({"body": b""}), Fake({"body": b""}, {"traceparent": OTHER})])
    assert (fake.get_trace(0), fake.get_trace(1), fake.trace) == (None, OTHER, OTHER)
