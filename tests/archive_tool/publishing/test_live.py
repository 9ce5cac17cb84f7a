import collections

import numpy as np
import pytest
import torch
from torch import nn

from archive_tool.errors import BuildError
from archive_tool.publishing import live


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 2)
        self.dropout = nn.Dropout(0.9)

    def forward(self, x, scale=None, *, loud=False):
        y = self.dropout(self.layer(x))
        return {"scores": y if scale is None else y * scale, "best": y.argmax(dim=1)}


class Mean(nn.Module):
    def forward(self, x):
        return x - x.mean()


class Flat(nn.Module):
    def forward(self, x):
        return x.flatten()


class Pair(nn.Module):
    def forward(self, *parts):
        return collections.namedtuple("Sums", "first second")(parts[0] * 2, parts[1] + 1)


@pytest.fixture
def two():
    torch.manual_seed(0)
    return Two()


def test_rows_are_found_and_names_types_and_shapes(two):
    studied = live.study(two, torch.randn(7, 3))
    assert studied.has_rows
    assert [spec.to_dict() for spec in studied.input_specs()] == [{"name": "x", "dtype": "float32", "shape": [None, 3]}]
    assert [spec.to_dict() for spec in studied.output_specs()] == [
        {"name": "scores", "dtype": "float32", "shape": [None, 2]},
        {"name": "best", "dtype": "int64", "shape": [None]},
    ]
    assert studied.inputs["x"].shape == (live.ROWS, 3)
    inputs, outputs = studied.first()
    assert inputs["x"].shape == (1, 3)
    assert torch.equal(outputs["scores"], studied.outputs["scores"][:1])
    assert not studied.warnings


def test_one_row_is_tried_twice(two):
    studied = live.study(two, torch.randn(1, 3))
    assert studied.has_rows
    assert studied.inputs["x"].shape == (2, 3)


@pytest.mark.parametrize("module", [Mean(), Flat()])
def test_a_model_whose_rows_depend_on_each_other_takes_the_examples_shape(module):
    example = torch.randn(6, 3)
    studied = live.study(module, example)
    assert not studied.has_rows
    assert studied.input_specs()[0].shape == (6, 3)
    assert studied.output_specs()[0].shape in ((6, 3), (18,))
    assert studied.first() == (studied.inputs, studied.outputs)
    assert "exactly the example's shape" in studied.warnings[0]


def test_a_model_that_takes_one_number_of_rows_only():
    class Fixed(nn.Module):
        def forward(self, x):
            return x.view(4, 3) * 1

    assert not live.study(Fixed(), torch.randn(4, 3)).has_rows


def test_without_batch_the_shape_is_the_examples(two):
    studied = live.study(two, torch.randn(5, 3), batch=False)
    assert (studied.has_rows, studied.input_specs()[0].shape, studied.warnings) == (False, (5, 3), ())


def test_several_inputs_by_position_and_by_name(two):
    x, scale = torch.randn(4, 3), torch.randn(4, 1)
    for example in ((x, scale), {"scale": scale, "x": x}):
        studied = live.study(two, example)
        assert list(studied.inputs) == ["x", "scale"]
        assert studied.has_rows
    assert list(live.study(Pair(), (x, scale)).inputs) == ["input_0", "input_1"]
    assert list(live.study(Pair(), (x, scale)).outputs) == ["first", "second"]


def test_inputs_without_a_common_number_of_rows(two):
    studied = live.study(two, (torch.randn(4, 3), torch.tensor(2.0)))
    assert not studied.has_rows
    assert [spec.shape for spec in studied.input_specs()] == [(4, 3), ()]


@pytest.mark.parametrize(
    ("example", "reason"),
    [
        ({"y": torch.ones(1)}, "'y', which is no argument"),
        ({"scale": torch.ones(1)}, "no 'x', which comes before"),
        ({"loud": torch.ones(1)}, "'loud', which is no argument"),
        ({}, "example is empty"),
        ((), "example is empty"),
        ((torch.ones(2, 3),) * 3, "3 inputs, and the model's forward takes 2"),
        (torch.ones(2, 4), r"fails on its example \(x float32 \[2, 4\]\): RuntimeError"),
        (torch.ones(0, 3), "no rows"),
        ("text", "no array of numbers"),
        ([[1, 2], [3]], "no array of numbers"),
        (np.array([object()]), "no array of numbers"),
        (torch.ones(2, 3, dtype=torch.complex64), "complex64, which JSON does not hold"),
        (torch.ones(2, 3).to_sparse(), "sparse or quantized"),
    ],
)
def test_examples_that_do_not_fit(two, example, reason):
    with pytest.raises(BuildError, match=reason):
        live.study(two, example)


@pytest.mark.parametrize("result", [None, "text", [1, 2], {"a": "b"}])
def test_a_model_that_gives_no_tensors(result):
    class Odd(nn.Module):
        def forward(self, x):
            return result

    with pytest.raises(BuildError, match="the model gives"):
        live.study(Odd(), torch.ones(1, 1))


def test_arrays_and_lists_become_the_models_type(two):
    for example in ([[1.0, 2, 3]], np.ones((2, 3)), np.ones((3, 2)).T, np.arange(6)[::-1].reshape(2, 3) / 2):
        assert live.read_inputs(two, example)["x"].dtype is torch.float32
    assert live.read_inputs(two.double(), np.ones((2, 3)))["x"].dtype is torch.float64
    assert live.read_inputs(two, np.ones((2, 3), dtype=np.int32))["x"].dtype is torch.int32
    assert live.read_inputs(two, torch.ones(2, 3, dtype=torch.float64))["x"].dtype is torch.float64
    assert live.read_inputs(two, [[1, 2, 3]])["x"].dtype is torch.int64
    assert live.read_inputs(two, np.float64(5))["x"].shape == ()


def test_sizes_that_may_be_others_are_recorded_as_such():
    class Embed(nn.Module):
        def forward(self, ids):
            return ids * 2, ids.sum(dim=1)

    studied = live.study(Embed(), torch.ones(3, 7), shapes={"ids": (None, None)})
    assert [spec.shape for spec in studied.input_specs()] == [(None, None)]
    assert [spec.shape for spec in studied.output_specs()] == [(None, None), (None,)]


@pytest.mark.parametrize(
    ("shapes", "reason"),
    [
        ({"y": (None,)}, "'y', and the inputs are 'x'"),
        ({"x": (None,)}, "does not fit the example"),
        ({"x": (None, 4)}, "does not fit the example"),
    ],
)
def test_shapes_that_do_not_fit(two, shapes, reason):
    with pytest.raises(BuildError, match=reason):
        live.study(two, torch.ones(2, 3), shapes=shapes)


def test_the_model_is_left_as_it_was(two):
    two.dropout.eval()
    before = {name: value.clone() for name, value in two.state_dict().items()}
    studied = live.study(two, torch.randn(3, 3))
    assert [two.training, two.layer.training, two.dropout.training] == [True, True, False]
    assert all(torch.equal(before[name], value) for name, value in two.state_dict().items())
    assert not any(one.requires_grad for one in studied.outputs.values())


def test_eval_mode_is_what_is_run(two):
    first, second = (live.run(two, {"x": torch.ones(2, 3)})["scores"] for _ in range(2))
    assert torch.equal(first, second)


def test_the_mode_is_restored_when_the_model_fails(two):
    with pytest.raises(BuildError):
        live.run(two, {"x": torch.ones(2, 9)})
    assert two.training


def test_wrappers_are_taken_off(two):
    assert live.unwrap(two) is two
    assert live.unwrap(nn.DataParallel(two)) is two
    assert live.unwrap(torch.compile(two)) is two
    for wrong in (None, print, nn.Linear):
        with pytest.raises(BuildError, match=r"not a torch\.nn\.Module"):
            live.unwrap(wrong)


def test_torchscript_names_its_arguments():
    assert list(live.study(torch.jit.script(nn.Linear(3, 2)), torch.ones(2, 3)).inputs) == ["input"]


@pytest.mark.parametrize(
    ("found", "expected", "size"),
    [
        ([1.0, 2.0], [1.0, 2.0], 0.0),
        ([1.0], [1.5], 0.5 / 1.5),
        ([0.1], [0.3], 0.2),
        ([100.0], [200.0], 0.5),
        ([float("nan")], [float("nan")], 0.0),
        ([float("inf")], [float("inf")], 0.0),
        ([float("nan")], [1.0], float("inf")),
        ([1.0], [float("nan")], float("inf")),
        ([1.0], [float("inf")], float("inf")),
        ([float("-inf")], [float("inf")], float("inf")),
        ([], [], 0.0),
    ],
)
def test_differences(found, expected, size):
    assert live.difference(torch.tensor(found), torch.tensor(expected)) == pytest.approx(size)
