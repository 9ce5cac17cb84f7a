"""The contract finds each way to break it."""

import subprocess
import sys
import unittest
from pathlib import Path
from unittest import SkipTest

import pytest
import torch

from handlers.testing import FakeContext, HandlerContract, Reply, Request, same

ROOT = Path(__file__).resolve().parents[2]
RULES = [name for name in vars(HandlerContract) if name.startswith("test_")]


class Doubles:
    """A handler that keeps every rule: a list of numbers in, twice the numbers out."""

    def initialize(self, context):
        self.context = context

    def handle(self, data, context):
        return [self.one(row.get("body"), index, context) for index, row in enumerate(data)]

    def one(self, body, index, context):
        if not isinstance(body, list):
            return self.refuse(index, context)
        return [2.0 * number for number in body]

    def refuse(self, index, context, code=400, answer=None):
        context.set_response_status(code, "", index)
        return {"code": code, "message": "send a list"} if answer is None else answer


def contract(handler=Doubles, **attributes):
    values = {"handler": handler, "good": [[1, 2], [3]], "bad": [{"a": 1}, "text"], **attributes}
    return type("Contract", (HandlerContract,), values)()


def broken(rule, **attributes):
    """Run a rule that is to fail; return what it says."""
    with pytest.raises(AssertionError) as caught:
        getattr(contract(**attributes), rule)()
    return str(caught.value)


@pytest.mark.parametrize("rule", RULES)
def test_a_good_handler_keeps_every_rule(rule):
    getattr(contract(), rule)()


def test_the_rules_are_those_that_are_documented():
    text = (ROOT / "docs" / "testing-handlers.md").read_text()
    assert len(RULES) == 8
    for rule in RULES:
        assert f"`{rule}`" in text


# ---- what breaks them --------------------------------------------------------------------------------------------


def test_a_good_request_that_is_refused():
    text = broken("test_good_requests_are_answered", good=[[1], "text"])
    assert text == "the good request 'text' has status 400: {'code': 400, 'message': 'send a list'}"


def test_an_answer_that_depends_on_the_size_of_the_batch():
    class Broken(Doubles):
        def handle(self, data, context):
            return [[*answer, len(data) > 3] for answer in super().handle(data, context)]

    text = broken("test_any_batch_size", handler=Broken)
    assert text == "[1, 2] has another answer in a batch of 8 than alone: [2.0, 4.0, True], not [2.0, 4.0, False]"
    contract(Broken, batch_sizes=(1, 3)).test_any_batch_size()


def test_a_batch_that_fails_as_a_whole():
    class Broken(Doubles):
        def one(self, body, index, context):
            return self.refuse(index, context) if index == 2 else super().one(body, index, context)

    assert "has status 400 in a batch of 3, and not alone" in broken("test_any_batch_size", handler=Broken)


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (lambda data: None, "handle gave NoneType, and not a list"),
        (lambda data: tuple(data), "handle gave tuple, and not a list"),
        (lambda data: [1] * 2, "handle gave 2 replies for 1 requests"),
    ],
)
def test_replies_that_are_no_list_of_the_right_length(answer, text):
    def handle(data, context):
        return answer(data or [])

    assert broken("test_good_requests_are_answered", handler=handle) == text


def test_an_order_that_is_not_kept():
    class Broken(Doubles):
        def handle(self, data, context):
            return sorted(super().handle(data, context), key=str)

    text = broken("test_order_is_kept", handler=Broken)
    assert text.startswith("[3] has another answer at place 0 of 4 than alone: [2.0, 4.0], not [6.0]")
    # Pairs that are swapped would not show in a batch of two, nor by their reverse alone.
    for good in ([[1]], [[1], [1]]):
        with pytest.raises(SkipTest, match="two good requests"):
            contract(good=good).test_order_is_kept()
    with pytest.raises(SkipTest, match="two good requests"):
        contract(Broken, tolerance=None).test_order_is_kept()


@pytest.mark.parametrize("code", [200, 302, 500, 503])
def test_a_bad_request_that_is_not_refused(code):
    class Broken(Doubles):
        def refuse(self, index, context):
            return super().refuse(index, context, code)

    text = broken("test_bad_requests_are_refused", handler=Broken)
    assert text.startswith(f"the bad request {{'a': 1}} has status {code}, not 400 to 499: ")
    assert f"has status {code}, not 400 to 499" in broken("test_empty_requests", handler=Broken)
    assert f"has status {code}, not 400 to 499" in broken("test_one_bad_request_fails_alone", handler=Broken)


@pytest.mark.parametrize("answer", [{}, {"message": ""}, "", b""])
def test_a_refusal_without_a_word(answer):
    class Broken(Doubles):
        def refuse(self, index, context):
            return super().refuse(index, context, answer=answer)

    text = broken("test_bad_requests_are_refused", handler=Broken)
    assert text == "the client is not told what is wrong with the bad request {'a': 1}"


@pytest.mark.parametrize("answer", [{"message": "no"}, "no", b"no"])
def test_refusals_of_other_forms(answer):
    class Refuses(Doubles):
        def refuse(self, index, context):
            return super().refuse(index, context, answer=answer)

    contract(Refuses).test_bad_requests_are_refused()


def test_an_error_that_is_raised():
    class Broken(Doubles):
        def refuse(self, index, context):
            raise ValueError("send a list")

    expected = "handle raised ValueError for {'a': 1}, and no request has an answer: send a list"
    assert broken("test_bad_requests_are_refused", handler=Broken) == expected
    assert "handle raised ValueError" in broken("test_one_bad_request_fails_alone", handler=Broken)
    assert "handle raised ValueError" in broken("test_empty_requests", handler=Broken)


@pytest.mark.parametrize("number", range(3))
def test_an_empty_request_that_breaks_the_handler(number):
    class Broken(Doubles):
        def handle(self, data, context):
            for row in data:
                if [row.get("body") == bytearray(), row.get("body") == "", "body" not in row][number]:
                    raise KeyError("body")
            return super().handle(data, context)

    assert "handle raised KeyError" in broken("test_empty_requests", handler=Broken)
    assert "handle raised KeyError" in broken("test_one_bad_request_fails_alone", handler=Broken, bad=[])


def test_a_handler_that_takes_empty_requests():
    class Takes(Doubles):
        def one(self, body, index, context):
            return super().one(body or [], index, context)

    for rule in RULES:
        getattr(contract(Takes, takes_empty=True), rule)()
    assert "has status 200, not 400 to 499" in broken("test_empty_requests", handler=Takes)
    text = broken("test_empty_requests", handler=Doubles, takes_empty=True)
    assert text == "the empty request b'' has status 400"
    with pytest.raises(SkipTest, match="no bad requests"):
        contract(Takes, takes_empty=True, bad=[]).test_one_bad_request_fails_alone()


def test_a_bad_request_that_takes_others_with_it():
    class Broken(Doubles):
        def handle(self, data, context):
            answers = super().handle(data, context)
            if any(isinstance(answer, dict) for answer in answers[1:]):
                return [self.refuse(index, context) for index in range(len(data))]
            return answers

    text = broken("test_one_bad_request_fails_alone", handler=Broken)
    assert text.startswith("[1, 2] has status 400 beside {'a': 1}, and not alone: ")

    class Shifts(Doubles):
        def handle(self, data, context):
            answers = super().handle(data, context)
            good = [answer for answer in answers if isinstance(answer, list)]
            return [good[0] if isinstance(answer, list) else answer for answer in answers] if len(good) < len(answers) \
                else answers  # fmt: skip

    assert "has another answer beside" in broken("test_one_bad_request_fails_alone", handler=Shifts)


@pytest.mark.parametrize("place", range(3))
def test_a_bad_request_that_harms_at_one_place_only(place):
    class Broken(Doubles):
        def handle(self, data, context):
            answers = super().handle(data, context)
            if len(data) == 3 and isinstance(answers[place], dict):
                answers[place - 1] = [0.0]
            return answers

    assert "has another answer beside" in broken("test_one_bad_request_fails_alone", handler=Broken)


@pytest.mark.parametrize(
    ("status", "good", "refused"),
    [(199, 0, 0), (200, 1, 0), (399, 1, 0), (400, 0, 1), (499, 0, 1), (500, 0, 0)],
)
def test_what_a_status_means(status, good, refused):
    reply = Reply(None, status)
    assert (reply.good, reply.refused) == (bool(good), bool(refused))


@pytest.mark.parametrize("value", [{1, 2}, float("nan"), [float("inf")], object(), {"a": b"x"}])
def test_answers_that_are_no_json(value):
    def handle(data, context):
        return [value] * len(data or [])

    assert "is no JSON" in broken("test_answers_can_be_sent", handler=handle, takes_empty=True)


def test_refusals_that_are_no_json():
    class Broken(Doubles):
        def refuse(self, index, context):
            return super().refuse(index, context, answer={"message": {1}})

    assert "the reply to {'a': 1} is no JSON" in broken("test_answers_can_be_sent", handler=Broken)
    assert "the reply to b'' is no JSON" in broken("test_answers_can_be_sent", handler=Broken, bad=[])


@pytest.mark.parametrize("value", ["text", b"bytes", bytearray(b"x"), torch.ones(2), {"a": [1, None, True]}, 1.5])
def test_answers_that_can_be_sent(value):
    def handle(data, context):
        return [value] * len(data or [])

    contract(handle).test_answers_can_be_sent()


def test_state_of_a_good_request_before():
    class Broken(Doubles):
        last = None

        def one(self, body, index, context):
            if isinstance(body, list):
                before, self.last = self.last, body
                return [before == [3], *super().one(body, index, context)]
            return super().one(body, index, context)

    text = broken("test_no_state_between_requests", handler=Broken)
    assert " has another answer after [3] than alone: " in text


@pytest.mark.parametrize(("bad", "before"), [([{"a": 1}], "after {'a': 1}"), ([], "after b''")])
def test_state_of_a_bad_request_before(bad, before):
    class Broken(Doubles):
        poisoned = False

        def refuse(self, index, context):
            self.poisoned = True
            return super().refuse(index, context)

        def one(self, body, index, context):
            return [self.poisoned, *answer] if isinstance(answer := super().one(body, index, context), list) else answer

    assert before in broken("test_no_state_between_requests", handler=Broken, bad=bad)


# ---- how it is used ----------------------------------------------------------------------------------------------


def test_a_handler_is_initialized_once_for_each_class():
    made = []

    class Counts(Doubles):
        def initialize(self, context):
            made.append(context)

    first = contract(Counts, config={"a": 1}, manifest={"model": {}}, batch_sizes=(1, 5))
    first.ask([1])
    type(first)().ask([1])
    assert len(made) == 1
    assert (made[0].model_yaml_config, made[0].manifest) == ({"a": 1}, {"model": {}})
    assert made[0].system_properties["batch_size"] == 5
    type("Sub", (type(first),), {})().ask([1])
    assert len(made) == 2


def test_functions():
    calls = []

    def handle(data, context):
        calls.append(data)
        return data and Doubles().handle(data, context)

    for given in (handle, staticmethod(handle)):
        contract(given).test_good_requests_are_answered()
    assert calls[0] is None


def test_requests_with_parameters_and_headers():
    class Other(Doubles):
        def handle(self, data, context):
            return [[row.get("n"), context.get_request_header(i, "X")] for i, row in enumerate(data)]

    (reply,) = contract(Other).ask(Request({"n": 5}, {"X": "y"}))
    assert (reply.value, reply.status, reply.good, reply.refused) == ([5, "y"], 200, True, False)


def test_a_context_of_ones_own():
    class Own(HandlerContract):
        handler = Doubles
        good = ([1],)

        def make_context(self):
            return FakeContext(model_name="own")

    one = Own()
    one.test_good_requests_are_answered()
    assert one._entry()[1].model_name == "own"


def test_what_is_not_given():
    assert broken("test_good_requests_are_answered", good=[]).endswith(".good is empty: give at least one request")
    assert "Contract.handler is not set" in broken("test_good_requests_are_answered", handler=None)
    with pytest.raises(SkipTest, match="no bad requests"):
        contract(bad=[]).test_bad_requests_are_refused()


def test_long_values_are_cut():
    assert len(broken("test_good_requests_are_answered", good=["x" * 5000])) < 500

    def handle(data, context):
        return [row["body"] for row in data or []] if len(data or []) < 2 else 1 / 0

    assert "for [1, 2], [3], and no request" in broken("test_any_batch_size", handler=handle)
    many = broken("test_order_is_kept", handler=handle, good=[[1], [2], [3]])
    assert "for [3], [2], [1], [1] and 2 more, and no request" in many


def test_as_a_test_case_of_unittest():
    values = {"handler": Doubles, "good": [[1, 2], [3]], "bad": []}
    kind = type("Case", (HandlerContract, unittest.TestCase), values)
    result = unittest.TestResult()
    unittest.defaultTestLoader.loadTestsFromTestCase(kind).run(result)
    assert (result.testsRun, result.failures, result.errors) == (8, [], [])
    assert [reason for _, reason in result.skipped] == ["no bad requests are given"]


def test_random_answers():
    import random

    def handle(data, context):
        return [random.random() for _ in data or []]

    for rule in ("test_any_batch_size", "test_no_state_between_requests"):
        getattr(contract(handle, tolerance=None), rule)()
        broken(rule, handler=handle)


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [
        (1.0, 1.00005, True),
        (1.0, 1.0005, False),
        (0.0, 1e-7, True),
        (0.0, 1e-5, False),
        (1, 1.0, True),
        (1, True, False),
        (True, True, True),
        (float("nan"), float("nan"), True),
        (float("nan"), 1.0, False),
        ([1, [2.0]], (1, [2.00001]), True),
        ([1], [1, 2], False),
        ({"a": 1.0}, {"a": 1.00001}, True),
        ({"a": 1}, {"b": 1}, False),
        ({"a": 1}, {"a": 2}, False),
        (b"a", b"a", True),
        ("a", "b", False),
        ("a", 1, False),
        (None, None, True),
        (torch.tensor([1.0]), torch.tensor([1.00001]), True),
        (torch.tensor([1.0]), torch.tensor([2.0]), False),
    ],
)
def test_answers_that_are_the_same(one, other, equal):
    assert same(one, other, 1e-4) is equal
    assert same(other, one, 1e-4) is equal


def test_it_needs_neither_pytest_nor_torch_nor_torchserve():
    program = (
        "import sys; import handlers.testing; "
        "print(sorted({'pytest', 'torch', 'ts', 'serving', 'archive_tool'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
