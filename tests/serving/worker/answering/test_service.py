"""Answers: whatever happens to one request is that request's answer, and all of them have one."""

from __future__ import annotations

import logging
import math
import re
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.protocol import PARTS, TRACE, Parameter, Reply, Request
from serving.worker.answering.replies import SUCCESS
from tests.serving.worker.frontend import REST, bodies, grpc, rest
from tests.serving.worker.handled import (
    NEXT,
    PredictionException,
    ask,
    batch,
    failure,
    giving,
    raising,
    replied,
    service,
)

# ---- the table of what handlers give ---------------------------------------------------------------------------------


def test_a_list_of_the_right_length() -> None:
    reply = ask(giving({"a": 1}, "text", b"raw\xff", None), *batch(4))
    assert (reply.code, reply.message) == (200, SUCCESS)
    assert [item.request_id for item in reply.items] == ["0", "1", "2", "3"]
    assert bodies(reply) == [b'{\n  "a": 1\n}', b"text", b"raw\xff", b"null"]
    assert all((item.status, item.phrase, item.content_type, item.headers) == (200, "", "", {}) for item in reply.items)


class RequestError(Exception):
    """As our SDK has it."""

    status = 415

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


TABLE = [
    (raising(MemoryError()), 507, "Out of resources"),
    (raising(RuntimeError("CUDA out of memory")), 507, "Out of resources"),
    (raising(ValueError("a CUDA error")), 507, "Out of resources"),
    (raising(PredictionException("not this one", 404)), 404, "not this one"),
    (raising(PredictionException("bad")), 500, "bad"),
    (raising(PredictionException("no CUDA here", 400)), 400, "no CUDA here"),
    (raising(RequestError("no picture")), 415, "no picture"),
    (lambda data, context: tuple(data), 503, "Invalid model predict output"),
    (lambda data, context: None, 503, "Invalid model predict output"),
    (lambda data, context: {"a": 1}, 503, "Invalid model predict output"),
    (lambda data, context: "text", 503, "Invalid model predict output"),
    (lambda data, context: (one for one in data), 503, "Invalid model predict output"),
    (lambda data, context: np.zeros(len(data)), 503, "Invalid model predict output"),
    (lambda data, context: [], 503, "number of batch response mismatched"),
    (lambda data, context: [1] * (len(data) + 1), 503, "number of batch response mismatched"),
    (
        giving(object()),
        503,
        "Unsupported model output data type. object: an object of type object is not JSON serializable",
    ),
]


@pytest.mark.parametrize(("entry", "code", "message"), TABLE)
def test_a_failure(entry: Callable[[Any, Any], Any], code: int, message: str) -> None:
    """Alone it is the reply's, which the frontend makes the body of, and gRPC's status; in a batch each item's own."""
    for request in (rest("0"), grpc("0")):
        assert ask(entry, request) == Reply(code, message)
    reply = ask(entry, *batch(3))
    assert (reply.code, reply.message) == (200, SUCCESS)
    assert [failure(item) for item in reply.items] == [(code, message)] * 3
    (item,) = replied([rest("0")], service(entry).answer([rest("0")]), items_only=True).items
    assert failure(item) == (code, message)


@pytest.mark.parametrize("error", [ValueError("secret"), KeyError("x"), OSError(2, "no file"), AssertionError()])
def test_any_other_exception(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    """The client gets an id, the log has the traceback under it."""
    reply = ask(raising(error), rest("request-7"))
    assert reply.code == 503
    assert reply.message.startswith("Prediction failed. The server's log has the reason under the id ")
    assert "secret" not in reply.message
    error_id = reply.message.rstrip(".").rpartition(" ")[2]
    (record,) = [record for record in caplog.records if error_id in record.getMessage()]
    assert record.levelno == logging.WARNING
    assert "Invoking custom service failed for request request-7" in record.getMessage()
    assert record.exc_info is not None
    assert record.exc_info[1] is error


def test_a_prediction_exception_that_is_none() -> None:
    """TorchServe's clients know it so: status 200, and the body says error."""
    entry = raising(PredictionException("nothing to say", 200))
    assert bodies(ask(entry, rest("0"))) == [b"error"]
    assert bodies(ask(entry, *batch(2))) == [b"error"] * 2
    assert ask(entry, grpc("0")).items[0].headers == {NEXT: "false"}


@pytest.mark.parametrize("code", [-1, 0, 99, 1000, 10**12])
def test_a_code_that_is_none(code: int) -> None:
    entry = raising(PredictionException("odd", code))
    assert ask(entry, rest("0")) == Reply(500, "odd")
    assert [item.status for item in ask(entry, *batch(2)).items] == [500, 500]


def test_an_exception_whose_code_is_no_number() -> None:
    error = PredictionException("odd", "E42")
    assert ask(raising(error), rest("0")).message.startswith("Prediction failed.")


class Mute(Exception):
    error_code = 400

    @property
    def message(self) -> str:
        raise RuntimeError("no message")

    def __str__(self) -> str:
        raise RuntimeError("no text")


def test_an_exception_that_cannot_tell_what_it_is() -> None:
    assert ask(raising(Mute()), rest("0")).message.startswith("Prediction failed.")
    assert [item.status for item in ask(raising(Mute()), *batch(2)).items] == [503, 503]


def test_what_is_to_end_the_process_is_not_held_up() -> None:
    for error in (SystemExit(3), KeyboardInterrupt()):
        with pytest.raises(type(error)):
            ask(raising(error), rest("0"))


# ---- a bad request among good ones -----------------------------------------------------------------------------------


def picky(calls: list[int]) -> Callable[[Any, Any], Any]:
    """Fail on one request, after setting a status and a header for all."""

    def entry(data: Any, context: Any) -> Any:
        calls.append(len(data))
        context.set_all_response_status(202, "Before")
        for index in range(len(data)):
            context.set_response_header(index, "x-seen", str(len(data)))
        if any(row["body"] == b"5" for row in data):
            raise ValueError("five")
        context.set_all_response_status(200)
        return [row["body"] for row in data]

    return entry


def test_it_fails_alone(caplog: pytest.LogCaptureFixture) -> None:
    calls: list[int] = []
    reply = ask(picky(calls), *batch(8))
    assert calls == [8, *[1] * 8]
    assert [item.status for item in reply.items] == [200, 200, 200, 200, 200, 503, 200, 200]
    assert [bytes(item.body) for item in reply.items if item.status == 200] == [
        b"0",
        b"1",
        b"2",
        b"3",
        b"4",
        b"6",
        b"7",
    ]
    # The settings of the attempt that failed are forgotten.
    assert reply.items[0].headers == {"x-seen": "1"}
    assert reply.items[0].phrase == ""
    assert (reply.items[5].phrase, reply.items[5].headers) == ("Service Unavailable", {})
    assert "A batch of 8 failed (ValueError: five): running its requests one by one" in caplog.text


@pytest.mark.parametrize("backend", [{"isolate_errors": False}, {"stateful": True}])
def test_unless_it_must_not_be_tried_again(backend: dict[str, bool]) -> None:
    calls: list[int] = []
    reply = ask(picky(calls), *batch(8), **backend)
    assert calls == [8]
    assert {failure(item)[0] for item in reply.items} == {503}
    assert len(reply.items) == 8


def test_not_after_a_part_of_an_answer_was_sent() -> None:
    """The clients would get it twice. A stream that was begun is ended; the others fail as usual."""
    calls: list[int] = []

    def entry(data: Any, context: Any) -> Any:
        calls.append(len(data))
        context.cl_socket.streamed.add("1")
        raise ValueError

    requests = batch(3)
    reply = ask(entry, *requests)
    assert calls == [3]
    assert [item.headers for item in reply.items] == [{}, {NEXT: "false"}, {}]
    assert [failure(item)[0] for item in reply.items] == [503] * 3
    # Alone, too, it is an item: an error code would begin another answer.
    one = ask(lambda data, context: context.cl_socket.streamed.add("0"), rest("0"))
    assert (one.code, one.items[0].headers) == (200, {NEXT: "false"})


def test_a_text_that_cannot_be_sent_is_not_altered() -> None:
    reply = ask(lambda data, context: ["one", "t\udc80", "three"], *batch(3))
    assert [item.status for item in reply.items] == [200, 503, 200]
    assert failure(reply.items[1])[1].startswith("Unsupported model output data type. str: 'utf-8' codec can't encode")


def test_one_answer_that_cannot_be_sent() -> None:
    calls = []

    def entry(data: Any, context: Any) -> Any:
        calls.append(len(data))
        return [{"ok": 1}, {"bad": {1, 2}}, {"ok": 3}]

    reply = ask(entry, *batch(3))
    assert calls == [3]
    assert [item.status for item in reply.items] == [200, 503, 200]
    assert failure(reply.items[1])[1] == (
        "Unsupported model output data type. dict: an object of type set is not JSON serializable"
    )


class Failing:
    """An object that fails when it is turned into a text or a number, or listed."""

    def __str__(self) -> str:
        raise OSError("secret")

    __int__ = __iter__ = __str__  # type: ignore[assignment]


class FailingList(list[Any]):
    def __iter__(self) -> Any:
        raise OSError("secret")


class Lazy(list[Any]):
    """A handler's list, with one item that fails when it is taken."""

    def __getitem__(self, index: Any) -> Any:
        if index == 1:
            raise OSError("secret")
        return super().__getitem__(index)


@pytest.mark.parametrize(
    "change",
    [
        lambda context, items: items.__setitem__(1, FailingList([1])),
        lambda context, items: context.set_response_header(1, "x", Failing()),
        lambda context, items: context.set_response_status(code=200, phrase=Failing(), idx=1),
        lambda context, items: context.set_response_status(code=Failing(), idx=1),
        lambda context, items: context.set_response_content_type(1, Failing()),
        lambda context, items: setattr(context, "stopping_criteria", [lambda _: None, int, lambda _: None]),
    ],
)
def test_whatever_fails_while_an_answer_is_made_is_that_answers(change: Callable[[Any, Any], Any]) -> None:
    calls = []

    def entry(data: Any, context: Any) -> Any:
        calls.append(len(data))
        items = ["zero", "one", "two"]
        change(context, items)
        return items

    reply = ask(entry, *batch(3))
    assert calls == [3]  # the others are not run again
    assert [item.status for item in (reply.items[0], reply.items[2])] == [200, 200]
    assert [item.body for item in (reply.items[0], reply.items[2])] == [b"zero", b"two"]
    assert failure(reply.items[1])[0] in (500, 503)
    assert "secret" not in failure(reply.items[1])[1]


def test_an_item_that_cannot_be_taken_fails_alone() -> None:
    reply = ask(lambda data, context: Lazy(["zero", "one", "two"]), *batch(3))
    assert [item.status for item in reply.items] == [200, 503, 200]


def test_a_wrong_length_for_a_batch_may_be_right_for_one() -> None:
    """Handlers that only ever look at the first request."""
    assert bodies(ask(lambda data, context: [data[0]["body"]], *batch(3))) == [b"0", b"1", b"2"]


# ---- what a handler gets ---------------------------------------------------------------------------------------------


def seen(request: Request) -> tuple[dict[str, Any], Any]:
    found = []

    def entry(data: Any, context: Any) -> Any:
        found.append((data[0], context))
        return [None]

    ask(entry, request)
    return found[0]


def test_the_rows() -> None:
    parameters = (
        Parameter("body", bytearray(b'{"a": 1}'), "application/json"),
        Parameter("name", bytearray("Zoë".encode()), "text/plain"),
        Parameter("file", bytearray(b"\xff"), "image/png"),
        Parameter("raw", bytearray(b'{"a": 1}')),
    )
    row, context = seen(Request("id-1", {"Host": "here", "name": "header"}, parameters))
    assert row == {"body": {"a": 1}, "name": "Zoë", "file": bytearray(b"\xff"), "raw": bytearray(b'{"a": 1}')}
    assert type(row["file"]) is type(row["raw"]) is bytearray
    assert context.get_all_request_header(0) == {
        "body": {"content-type": "application/json"},
        "name": "header",
        "file": {"content-type": "image/png"},
        "raw": {"content-type": ""},
        "Host": "here",
    }
    assert context.get_request_id(0) == "id-1"
    assert context.metrics.request_ids == {0: "id-1"}


@pytest.mark.parametrize(
    ("value", "content_type"),
    [(b"{", "application/json"), (b"\xff", "text/plain"), (b"[" * 100_000, "application/json")],
)
def test_what_cannot_be_decoded(value: bytes, content_type: str, caplog: pytest.LogCaptureFixture) -> None:
    row, _ = seen(Request("id-1", REST, (Parameter("body", bytearray(value), content_type),)))
    assert row == {"body": bytearray(value)}
    assert f"Request id-1: body is not {content_type}, the handler gets the bytes" in caplog.text


@pytest.mark.parametrize(("setting", "decoded"), [("true", True), ("false", False), ("True", False), ("", False)])
def test_decoding_can_be_switched_off(monkeypatch: pytest.MonkeyPatch, setting: str, decoded: bool) -> None:
    monkeypatch.setenv("TS_DECODE_INPUT_REQUEST", setting)
    row, _ = seen(Request("1", REST, (Parameter("body", bytearray(b"1"), "application/json"),)))
    assert row["body"] == (1 if decoded else bytearray(b"1"))


def test_a_request_without_parameters() -> None:
    assert seen(rest("1", None))[0] == {}


def test_no_requests() -> None:
    """When all clients of a batch have gone; the handler is not called."""
    assert ask(raising(AssertionError())) == Reply(200, SUCCESS)


def test_one_context_for_all_requests() -> None:
    def entry(data: Any, context: Any) -> Any:
        context.count = getattr(context, "count", 0) + len(data)
        return [context.count] * len(data)

    one = service(entry)
    assert bodies(replied(batch(2), one.answer(batch(2)))) == [b"2", b"2"]
    assert bodies(replied(batch(1), one.answer(batch(1)))) == [b"3"]


def test_the_time_is_told_but_not_for_every_request(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    one = service(giving(b""))
    for _ in range(200):
        one.answer(batch(1))
    lines = [record.getMessage() for record in caplog.records if "PredictionTime.Milliseconds:" in record.getMessage()]
    assert 1 <= len(lines) < 200
    # TorchServe keeps the first model's name of a process, which otherwise has but one.
    assert re.search(r"\|#ModelName:\w+,Level:Model\|#type:GAUGE\|#hostname:", lines[0])


# ---- explanations and descriptions -----------------------------------------------------------------------------------


def test_each_kind_of_request_runs_apart() -> None:
    """Handlers look at the first request for what all of a batch want."""
    calls = []

    def entry(data: Any, context: Any) -> Any:
        kinds = [
            "explain" if context.get_request_header(index, "explain") == "True" else
            "describe" if context.get_request_header(index, "describe") == "True" else "predict"
            for index in range(len(data))
        ]  # fmt: skip
        calls.append(kinds)
        return kinds

    requests = [
        rest("0", explain="False"),
        rest("1", explain="True"),
        rest("2"),
        rest("3", None, describe="True"),
        rest("4", explain="True"),
        rest("5"),
    ]
    reply = ask(entry, *requests)
    assert [item.request_id for item in reply.items] == ["0", "1", "2", "3", "4", "5"]
    assert bodies(reply) == [b"predict", b"explain", b"predict", b"describe", b"explain", b"predict"]
    assert calls == [["predict"] * 3, ["explain"], ["describe"], ["explain"]]


def test_an_explanation_that_fails_fails_alone() -> None:
    def entry(data: Any, context: Any) -> Any:
        if context.get_request_header(0, "explain") == "True":
            raise ValueError
        return [b"ok"] * len(data)

    assert [item.status for item in ask(entry, rest("0"), rest("1", explain="True"), rest("2")).items] == [
        200,
        503,
        200,
    ]


def test_an_entry_that_takes_one_request_at_a_time() -> None:
    calls = []

    def entry(data: Any, context: Any) -> Any:
        calls.append(len(data))
        return [context.get_request_id(0)]

    assert bodies(ask(entry, *batch(3), one_by_one=True)) == [b"0", b"1", b"2"]
    assert calls == [1, 1, 1]


# ---- always ----------------------------------------------------------------------------------------------------------


class Odd:
    """An object that raises at everything that is likely to be asked of it."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(name)

    def __str__(self) -> str:
        raise RuntimeError

    def __repr__(self) -> str:
        return "Odd()"  # for hypothesis

    __len__ = __iter__ = __int__ = __float__ = __hash__ = __eq__ = __str__  # type: ignore[assignment]


VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.text(alphabet=st.characters(categories=["Cs"]))
    | st.binary()
    | st.binary().map(bytearray)
    | st.binary().map(lambda data: memoryview(data))
    | st.builds(Odd)
    | st.builds(lambda: np.array([object()]))
    | st.sampled_from([object(), {1, 2}, np.float32(1), np.zeros((2, 2)), math.nan, int]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(max_size=5) | st.integers() | st.tuples(st.integers()), inner, max_size=4)
    ),
    max_leaves=10,
)
ERRORS = st.sampled_from(
    [
        ValueError("x"),
        MemoryError(),
        RuntimeError("CUDA"),
        PredictionException("p", 404),
        PredictionException("p", 200),
        PredictionException(Odd(), 400),
        PredictionException("p", -5),
        RequestError("r"),
        Mute(),
        RecursionError(),
        StopIteration(),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "x"),
    ]
)
STATUSES = st.none() | st.integers() | st.text() | st.floats() | st.builds(Odd)
HEADERS = st.dictionaries(
    st.sampled_from([NEXT, "content-type", "x", "bad name", "", 3]) | st.text(max_size=4),
    st.sampled_from(["true", "false", None, 3, "ü", "a\nb"]) | st.builds(Odd) | st.text(max_size=4),
    max_size=3,
)
SPECIALS = st.sampled_from([{}, {}, REST, REST, {"describe": "True"}, {"explain": "True"}])
CRITERIA = st.sampled_from(
    [None, None, lambda value: True, lambda value: False, lambda value: None, lambda value: 1 / 0]
)


@settings(deadline=None, max_examples=150)
@given(data=st.data())
def test_every_request_has_exactly_one_answer(data: st.DataObject) -> None:
    """For whatever a handler gives: answering never raises, and the frontend can decode one item for each request,
    in order; or a code for a single one. A message of stateful modes always has items.
    """
    kinds = data.draw(st.lists(SPECIALS, max_size=5))
    requests = tuple(Request(f"id-{number}", dict(kind)) for number, kind in enumerate(kinds))

    def entry(rows: Any, context: Any) -> Any:
        draw = data.draw
        for index in range(len(rows)):
            context.set_response_status(draw(STATUSES), draw(STATUSES), index)
            for name, value in draw(HEADERS).items():
                context.set_response_header(index, name, value)
            if draw(st.booleans()) and draw(st.booleans()):
                context.cl_socket.streamed.add(requests[index].request_id)
        criterion = draw(CRITERIA)
        context.stopping_criteria = [criterion] * len(rows) if criterion else None
        if draw(st.integers(0, 3)) == 0:
            raise draw(ERRORS)
        if draw(st.integers(0, 3)) == 0:
            return draw(VALUES)
        return [draw(VALUES) for _ in rows]

    one = service(
        entry,
        one_by_one=data.draw(st.booleans()),
        isolate_errors=data.draw(st.booleans()),
        stateful=data.draw(st.booleans()),
        continuous=data.draw(st.booleans()),
    )
    answers = one.answer(requests)
    assert len(answers) == len(requests)
    items_only = data.draw(st.booleans())
    reply = replied(requests, answers, items_only=items_only)
    if reply.code == 200:
        assert [item.request_id for item in reply.items] == [request.request_id for request in requests]
        for item, request in zip(reply.items, requests, strict=True):
            assert 200 <= item.status <= 999
            assert request.headers or item.headers.get(NEXT) in ("true", "false")
    else:
        assert len(requests) == 1
        assert not items_only
        assert reply.items == ()


def test_the_threads_are_those_that_are_faster(two_threads):
    seen = []

    def handle(data, context):
        seen.append(torch.get_num_threads())
        time.sleep(0.001 * seen[-1])
        return [""] * len(data)

    served = service(handle)
    for _ in range(30):
        served.answer([rest("r")])
    assert set(seen) == {1, 2}
    assert set(seen[-5:]) == {1}

    seen.clear()
    torch.set_num_threads(2)
    served = service(handle, threads=2)
    for _ in range(30):
        served.answer([rest("r")])
    assert set(seen) == {2}


# ---- traces ----------------------------------------------------------------------------------------------------------


def traced(request: Request) -> Request:
    return Request(request.request_id, {**request.headers, TRACE: "00-1-2-01"}, request.parameters)


def noting(data: Any, context: Any) -> Any:
    """Handle as the SDK does: the times of the parts are written down where somebody asks."""
    if context.torchmar_parts is not None:
        context.torchmar_parts.append(("inference", 1.5, 2.25))
    return [str(context.get_trace(n)) for n in range(len(data))]


def test_only_who_is_traced_is_told_the_times() -> None:
    begin = time.monotonic()
    plain, other = ask(noting, rest("0"), traced(rest("1"))).items
    assert (plain.body, other.body) == (b"None", b"00-1-2-01")
    assert PARTS not in plain.headers
    whole, part = other.headers[PARTS].split(";")
    assert part == "inference=1.5,2.25"
    name, _, times = whole.partition("=")
    first, last = map(float, times.split(","))
    assert name == "worker"
    assert begin <= first <= last <= time.monotonic()


def test_times_of_one_batch_are_not_those_of_the_next() -> None:
    of = service(noting)
    of.answer([traced(rest("0"))])
    (plain,) = of.answer([rest("1")])
    assert PARTS not in replied([rest("1")], [plain]).items[0].headers
    assert of._context.torchmar_parts is None
    (again,) = replied([traced(rest("2"))], of.answer([traced(rest("2"))])).items
    assert again.headers[PARTS].count("inference") == 1


def test_what_fails_alone_has_no_times() -> None:
    reply = ask(raising(ValueError("no")), traced(rest("0")))
    assert (reply.code, reply.items) == (503, ())
    assert all(PARTS not in item.headers for item in ask(raising(ValueError("no")), traced(rest("0")), rest("1")).items)
