import math
from collections import OrderedDict, namedtuple
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from handlers.optimization.output_difference import Difference, compare, has_gradient, map_tensors, widened

Pair = namedtuple("Pair", "first second")


@dataclass(frozen=True)
class Output:
    logits: Any
    other: str = "x"


def test_the_difference_is_a_part_of_the_largest_number():
    difference = compare(torch.tensor([1.0, -10.0]), torch.tensor([1.5, -10.0]))
    assert difference == Difference(0.05, "output", 1)
    assert compare(torch.zeros(3), torch.full((3,), 0.25)).size == 0.25
    assert compare(torch.ones(3), torch.ones(3)) == Difference(compared=1)


def test_sixteen_bits_are_compared_as_they_are():
    assert compare(torch.tensor([256.0]), torch.tensor([257.0]).bfloat16()).size == 0.0
    assert compare(torch.tensor([60000.0]).half(), torch.tensor([30000.0])).size == pytest.approx(0.5, abs=1e-3)


def test_numbers_that_are_none():
    nan, inf = math.nan, math.inf
    assert compare(torch.tensor([1.0, 2.0]), torch.tensor([1.0, nan])).size == inf
    assert compare(torch.tensor([1.0, 2.0]), torch.tensor([1.0, inf])).size == inf
    assert compare(torch.tensor([nan, 2.0]), torch.tensor([1.0, 2.0])).size == inf
    assert compare(torch.tensor([inf]), torch.tensor([-inf])).size == inf
    assert not compare(torch.tensor([1.0]), torch.tensor([nan])).is_finite
    # Such as a mask gives.
    assert compare(torch.tensor([nan, -inf, 2.0]), torch.tensor([nan, -inf, 2.5])).size == 0.25
    assert compare(torch.tensor([nan]), torch.tensor([nan])).size == 0.0


def test_whole_numbers_are_counted():
    difference = compare(torch.tensor([1, 2, 3, 900]), torch.tensor([1, 2, 3, 4]))
    assert (difference.size, difference.compared) == (0.25, 1)
    assert compare(torch.tensor([True]), torch.tensor([False])).size == 1.0


@pytest.mark.parametrize(
    ("make", "place"),
    [
        (lambda x: {"a": torch.ones(1), "b": x}, "b"),
        (lambda x: OrderedDict(out=x), "out"),
        (lambda x: (torch.ones(1), [x]), "1.0"),
        (lambda x: Pair(x, None), "first"),
        (lambda x: Output(x), "logits"),
        (lambda x: [{"y": x}, "text", 3], "0.y"),
    ],
)
def test_nests_of_tensors(make, place):
    difference = compare(make(torch.ones(2)), make(torch.tensor([1.0, 1.5])))
    assert (difference.size, difference.place, difference.left_out) == (0.5, place, ())


def test_what_cannot_be_compared_is_named():
    expected = {"a": torch.ones(2), "b": torch.ones(1), "c": torch.ones(0), "d": torch.ones(1).to_sparse()}
    found = {"a": torch.ones(3), "b": torch.ones(1), "c": torch.ones(0), "d": torch.ones(1).to_sparse()}
    assert compare(expected, found) == Difference(compared=1, left_out=("a", "c"))
    assert compare(torch.ones(1), None) == Difference(left_out=("output",))
    assert compare("text", SimpleNamespace()).compared == 0


def test_of_detections_the_scores_count():
    def detections(scores, shift=0.0):
        boxes = torch.arange(len(scores) * 4).reshape(-1, 4) + shift
        return [{"boxes": boxes.flip(0), "labels": torch.ones(len(scores)), "scores": torch.tensor(scores)}]

    difference = compare(detections([0.8, 0.4, 0.1]), detections([0.8, 0.44], 5.0))
    assert difference.size == pytest.approx(0.05)
    assert (difference.place, difference.compared, difference.left_out) == ("0.scores", 1, ())
    assert compare(detections([]), detections([0.1])).left_out == ("0.scores",)


def test_tensors_are_changed_in_their_places():
    one, two = torch.zeros(1), torch.ones(1)
    changed = map_tensors({"a": (one, "x"), "b": [Pair(two, 3)], "c": Output(one)}, lambda tensor: tensor + 1)
    assert changed == {"a": (torch.ones(1), "x"), "b": [Pair(2 * two, 3)], "c": Output(torch.ones(1))}
    assert type(changed["b"][0]) is Pair
    assert (one, two) == (torch.zeros(1), torch.ones(1))


def test_what_is_not_changed_stays_itself():
    for value in ({"a": [torch.ones(1)]}, (torch.ones(1),), "text", None, SimpleNamespace(a=torch.ones(1))):
        assert map_tensors(value, lambda tensor: tensor) is value


def test_only_sixteen_bits_are_widened():
    given = [torch.ones(1, dtype=dtype) for dtype in (torch.bfloat16, torch.float16, torch.float64, torch.int8)]
    assert [one.dtype for one in widened(given)] == [torch.float32, torch.float32, torch.float64, torch.int8]


def test_gradients_are_found():
    assert has_gradient((1, {"a": [torch.ones(1, requires_grad=True)]}))
    assert not has_gradient((torch.ones(1), {"a": 3}))
