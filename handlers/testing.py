"""The rules that every handler should keep, as tests to subclass, for pytest and unittest alike::

    from handlers.testing import HandlerContract

    class TestDigits(HandlerContract):
        handler = Digits
        folder = "examples/digits"
        manifest = {"model": {"modelFile": "net.py", "serializedFile": "net.pt"}}
        good = [PNG_OF_A_SEVEN, PNG_OF_AN_EIGHT]
        bad = [b"no image", {"image": None}]

No server and no worker runs: the handler is called as the worker calls it, with a `FakeContext`.
"""

from __future__ import annotations

import inspect
import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar
from unittest import SkipTest

from handlers.fake_context import FakeContext, FakeMetrics, FakeProcessor, Metric, Request
from handlers.wording import first_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

__all__ = ["FakeContext", "FakeMetrics", "FakeProcessor", "HandlerContract", "Metric", "Reply", "Request"]

_SHOWN = 300  # characters of a value that a failure quotes


@dataclass(frozen=True)
class Reply:
    """A handler's reply to one request: its item of the list that `handle` returned, and its status."""

    value: Any
    status: int

    @property
    def good(self) -> bool:
        """Whether the request was answered."""
        return 200 <= self.status < 400

    @property
    def refused(self) -> bool:
        """Whether the client is told that the request is wrong."""
        return 400 <= self.status < 500


class HandlerContract:
    """The rules for a handler's replies, whatever comes together in a batch.

    `handler` is the class, or a function `handle(data, context)`. `good` are requests that it answers, `bad` ones that
    it refuses: bodies (bytes, str, or anything else for JSON), or a `Request` with its own headers and parameters. Two
    good ones with different answers test most. The handler loads its files from `folder`; `manifest` is by default the
    folder's own, `config` is model-config.yaml. Override `make_context` for anything else.

    `takes_empty` says that an empty request is a good one. `tolerance` is the relative difference that two numbers of
    an answer may have between batches; None compares no answers, for a model that answers at random.
    """

    handler: ClassVar[Any] = None
    good: ClassVar[Sequence[Any]] = ()
    bad: ClassVar[Sequence[Any]] = ()
    folder: ClassVar[str | Path] = ""
    manifest: ClassVar[dict[str, Any] | None] = None
    config: ClassVar[dict[str, Any] | None] = None
    batch_sizes: ClassVar[Sequence[int]] = (1, 2, 3, 8)
    takes_empty: ClassVar[bool] = False
    tolerance: ClassVar[float | None] = 1e-4

    _loaded: ClassVar[tuple[type, Callable[[Any, Any], Any], FakeContext] | None] = None

    # ---- to override ---------------------------------------------------------------------------------------------

    def make_context(self) -> FakeContext:
        """Make the context with which the handler is initialized and called."""
        return FakeContext(
            self.folder, manifest=self.manifest, config=self.config, batch_size=max(self.batch_sizes, default=1)
        )

    # ---- to use in tests of one's own ----------------------------------------------------------------------------

    def ask(self, *requests: Any) -> list[Reply]:
        """Answer a batch of bodies, or of `Request`s. The handler is made and initialized once for the class.

        Raises:
            AssertionError: the handler raises, or returns something other than a list with an item a request.
        """
        entry, context = self._entry()
        rows = context.show(requests)
        try:
            answers = entry(rows, context)
        except Exception as error:
            raise AssertionError(
                f"handle raised {type(error).__name__} for {_listed(requests)}, and no request has an answer: {error}"
            ) from error
        _expect(isinstance(answers, list), f"handle gave {type(answers).__name__}, and not a list")
        _expect(len(answers) == len(requests), f"handle gave {len(answers)} replies for {len(requests)} requests")
        return [Reply(answer, context.get_response_status(index)[0]) for index, answer in enumerate(answers)]

    # ---- the rules -----------------------------------------------------------------------------------------------

    def test_good_requests_are_answered(self) -> None:
        """Answer each good request alone, without an error."""
        for request in self._good():
            self._ask_good(request)

    def test_any_batch_size(self) -> None:
        """Give a request the same answer in a batch of any size as alone."""
        alone = [self._ask_good(request).value for request in self._good()]
        for size in self.batch_sizes:
            numbers = [place % len(alone) for place in range(size)]
            replies = self.ask(*(self.good[number] for number in numbers))
            for number, reply in zip(numbers, replies, strict=True):
                self._expect_same(reply, alone[number], self.good[number], f"in a batch of {size}")

    def test_order_is_kept(self) -> None:
        """Return replies in the order of the requests."""
        alone = [self._ask_good(request).value for request in self._good()]
        if self.tolerance is None or not any(self._differ(one, alone[0]) for one in alone[1:]):
            raise SkipTest("the order shows only with two good requests that have different answers")
        numbers = [*reversed(range(len(alone))), *range(len(alone))]
        replies = self.ask(*(self.good[number] for number in numbers))
        for place, (number, reply) in enumerate(zip(numbers, replies, strict=True)):
            self._expect_same(reply, alone[number], self.good[number], f"at place {place} of {len(numbers)}")

    def test_bad_requests_are_refused(self) -> None:
        """Refuse a bad request alone with a status of 400 to 499, and a message."""
        if not self.bad:
            raise SkipTest("no bad requests are given")
        for request in self.bad:
            (reply,) = self.ask(request)
            self._expect_refused(reply, request)

    def test_empty_requests(self) -> None:
        """Refuse a request without a body, or with an empty one, or answer it if `takes_empty`; break nothing."""
        for request in _EMPTY:
            (reply,) = self.ask(request)
            if self.takes_empty:
                _expect(reply.good, f"the empty request {_shown(request)} has status {reply.status}")
            else:
                self._expect_refused(reply, request)

    def test_one_bad_request_fails_alone(self) -> None:
        """Answer the good requests, and refuse only the bad one, wherever it stands in a batch."""
        wrong = [*self.bad, *(() if self.takes_empty else _EMPTY)]
        if not wrong:
            raise SkipTest("no bad requests are given")
        alone = [self._ask_good(request).value for request in self._good()]
        numbers = [place % len(alone) for place in range(max(2, len(alone)))]
        for request in wrong:
            for place in range(len(numbers) + 1):
                batch = [self.good[number] for number in numbers]
                batch.insert(place, request)
                replies = self.ask(*batch)
                self._expect_refused(replies.pop(place), request)
                for number, reply in zip(numbers, replies, strict=True):
                    self._expect_same(reply, alone[number], self.good[number], f"beside {_shown(request)}")

    def test_answers_can_be_sent(self) -> None:
        """Make every reply, errors too, of bytes, text, a tensor, or JSON that every program can read."""
        for request in [*self._good(), *self.bad, *_EMPTY]:
            (reply,) = self.ask(request)
            value = reply.value
            if isinstance(value, str | bytes | bytearray) or _is_tensor(value):
                continue
            try:
                json.dumps(value, allow_nan=False)
            except (TypeError, ValueError, RecursionError) as error:
                raise AssertionError(f"the reply to {_shown(request)} is no JSON: {error}: {_shown(value)}") from error

    def test_no_state_between_requests(self) -> None:
        """Give a request the same answer whatever was asked before it."""
        alone = [self._ask_good(request).value for request in self._good()]
        for number, request in enumerate(self.good):
            for before in [*self.good, *self.bad, *_EMPTY]:
                self.ask(before)
                (reply,) = self.ask(request)
                self._expect_same(reply, alone[number], request, f"after {_shown(before)}")

    # ---- how -----------------------------------------------------------------------------------------------------

    def _entry(self) -> tuple[Callable[[Any, Any], Any], FakeContext]:
        cls = type(self)
        if cls._loaded is None or cls._loaded[0] is not cls:
            context = self.make_context()
            found = inspect.getattr_static(cls, "handler")
            found = found.__func__ if isinstance(found, staticmethod) else found
            if found is None:
                raise AssertionError(
                    f"{cls.__name__}.handler is not set: name the class of the handler, or its function"
                )
            if isinstance(found, type):
                instance = found()
                instance.initialize(context)
                entry = instance.handle
            else:
                entry = found
                entry(None, context)
            cls._loaded = (cls, entry, context)
        return cls._loaded[1], cls._loaded[2]

    def _good(self) -> Sequence[Any]:
        _expect(len(self.good) > 0, f"{type(self).__name__}.good is empty: give at least one request")
        return self.good

    def _ask_good(self, request: Any) -> Reply:
        (reply,) = self.ask(request)
        _expect(reply.good, f"the good request {_shown(request)} has status {reply.status}: {_shown(reply.value)}")
        return reply

    def _differ(self, one: Any, other: Any) -> bool:
        return self.tolerance is not None and not same(one, other, self.tolerance)

    def _expect_same(self, reply: Reply, expected: Any, request: Any, where: str) -> None:
        _expect(
            reply.good, f"{_shown(request)} has status {reply.status} {where}, and not alone: {_shown(reply.value)}"
        )
        _expect(
            not self._differ(reply.value, expected),
            f"{_shown(request)} has another answer {where} than alone: {_shown(reply.value)}, not {_shown(expected)}",
        )

    def _expect_refused(self, reply: Reply, request: Any) -> None:
        _expect(
            reply.refused,
            f"the bad request {_shown(request)} has status {reply.status}, not 400 to 499: {_shown(reply.value)}",
        )
        _expect(
            bool(_message(reply.value)), f"the client is not told what is wrong with the bad request {_shown(request)}"
        )


_EMPTY = (b"", "", Request())


def same(one: Any, other: Any, tolerance: float) -> bool:
    """Return whether two answers are equal, but for numbers with a smaller relative difference than `tolerance`."""
    one, other = (value.tolist() if _is_tensor(value) else value for value in (one, other))
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, int | float) and isinstance(other, int | float):
        both_nan = math.isnan(one) and math.isnan(other)
        return both_nan or math.isclose(one, other, rel_tol=tolerance, abs_tol=tolerance * 1e-2)
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key], tolerance) for key in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(lambda a, b: same(a, b, tolerance), one, other))
    return bool(one == other)


def _is_tensor(value: Any) -> bool:
    return callable(getattr(value, "tolist", None)) and hasattr(value, "shape")


def _message(value: Any) -> str:
    if isinstance(value, dict):
        return str(value.get("message") or "")
    return str(value) if isinstance(value, str) else bytes(value or b"").decode("utf-8", "replace")


def _expect(condition: bool, message: str) -> None:
    if not condition:
        raise AssertionError(message)


def _shown(value: Any) -> str:
    text = repr(dict(value.parameters) if isinstance(value, Request) else value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _listed(requests: Sequence[Any]) -> str:
    return first_of(requests, 4, shown=_shown)
