from typing import NamedTuple

import pytest
import torch

from handlers.batch.outputs import run_by_shape, split_batch


class Pair(NamedTuple):
    left: torch.Tensor
    right: torch.Tensor


def test_a_tensor_is_split_along_its_first_dimension():
    first, second = split_batch(torch.tensor([[1, 2], [3, 4]]))
    assert (first.tolist(), second.tolist()) == ([1, 2], [3, 4])
    assert split_batch(torch.empty(0, 2)) == []


def test_a_dict_becomes_a_dict_for_each_request():
    found = split_batch({"a": torch.tensor([1, 2]), "b": ["x", "y"]})
    assert [(item["a"].item(), item["b"]) for item in found] == [(1, "x"), (2, "y")]


def test_a_tuple_keeps_its_class():
    found = split_batch((torch.tensor([1, 2]), torch.tensor([3, 4])))
    assert found == [(1, 3), (2, 4)]
    assert all(type(item) is tuple for item in found)
    named = split_batch(Pair(torch.tensor([1, 2]), torch.tensor([3, 4])))
    assert [item.right.item() for item in named] == [3, 4]


def test_a_list_has_an_item_for_each_request_already():
    items = [{"boxes": 1}, {"boxes": 2}]
    assert split_batch(items) is items


@pytest.mark.parametrize("output", [{"a": torch.ones(2), "b": torch.ones(3)}, (torch.ones(2), torch.ones(1))])
def test_tensors_that_disagree_about_the_batch(output):
    with pytest.raises(ValueError, match="zip"):
        split_batch(output)


@pytest.mark.parametrize("output", [5, None, {"loss": 0.5}, (1.0, torch.ones(2))])
def test_what_is_not_split_by_itself(output):
    with pytest.raises(TypeError, match="override split"):
        split_batch(output)


def test_inputs_of_one_shape_run_together_and_all_come_back_in_order():
    inputs = [torch.full((size,), float(index)) for index, size in enumerate((2, 3, 2, 1, 3))]
    batches = []

    def run(batch):
        batches.append(tuple(batch.shape))
        return batch[:, 0].tolist()

    assert run_by_shape(inputs, run) == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert batches == [(2, 2), (2, 3), (1, 1)]
    with pytest.raises(ValueError, match="zip"):
        run_by_shape(inputs, lambda batch: [0])
