import collections

import pytest
import torch

from handlers import BadInputError, LoadError
from handlers.loading.signature import Signature, Tensor, named_tensors, read_signature


def record(**values):
    return {"model": {}, "torchmar": {"formatVersion": 1, **values}}


def test_a_manifest_with_a_record():
    inputs = [{"name": "ids", "dtype": "int64", "shape": [None, 7]}, {"name": "x"}]
    signature = read_signature(record(inputs=inputs, outputs=[{"name": "y", "dtype": "bool", "shape": []}]))
    assert signature.inputs == (Tensor("ids", torch.int64, (None, 7)), Tensor("x", torch.float32, None))
    assert signature.outputs == (Tensor("y", torch.bool, ()),)
    assert signature.inputs[0].describe() == inputs[0]


@pytest.mark.parametrize("manifest", [None, {}, {"torchmar": {}}, {"torchmar": None}, record()])
def test_a_manifest_without_one(manifest):
    assert read_signature(manifest) == Signature()


@pytest.mark.parametrize(
    ("item", "reason"),
    [
        ({"dtype": "int64"}, "name"),
        ({"name": "x", "dtype": "complex64"}, "complex64.*known are"),
        ({"name": "x", "shape": ["any"]}, "'any' is no size"),
        ({"name": "x", "shape": [True]}, "True is no size"),
        ("x", "indices|attribute"),
    ],
)
def test_a_record_that_cannot_be_used(item, reason):
    with pytest.raises(LoadError, match=reason):
        read_signature(record(inputs=[item]))


@pytest.mark.parametrize(
    ("inputs", "outputs", "has_rows"),
    [
        ([(None, 3)], [(None,)], True),
        ([(None, 3), (None,)], [(None,), (None, 2)], True),
        ([(2, 3)], [(None,)], False),
        ([(None, 3), (3,)], [(None,)], False),
        ([(None, 3)], [(3,)], False),
        ([(None, 3)], [()], False),
        ([(None, 3)], [None], False),
        ([], [], False),
        ([(None, 3)], [], False),
    ],
)
def test_rows_are_known_only_if_every_tensor_has_them(inputs, outputs, has_rows):
    shapes = (tuple(Tensor("x", shape=shape) for shape in part) for part in (inputs, outputs))
    assert Signature(*shapes).has_rows is has_rows


def test_shapes_are_checked():
    spec = Tensor("images", shape=(None, 1, 28))
    spec.check(torch.zeros(5, 1, 28))
    spec.check(torch.zeros(0, 1, 28))
    for wrong in ((5, 28), (5, 2, 28), (1, 28), (5, 1, 28, 1)):
        with pytest.raises(
            BadInputError, match=r"'images' is expected in the shape \[any, 1, 28\], got \[" + str(wrong[0])
        ):
            spec.check(torch.zeros(wrong))
    Tensor("x").check(torch.zeros(3, 4))


def test_types_are_checked():
    with pytest.raises(BadInputError, match="the input 'x' is expected in the type float32, got float64"):
        Tensor("x").check(torch.zeros(1, dtype=torch.float64))
    Tensor("x", torch.uint64).check(torch.zeros(1, dtype=torch.uint64))


def test_outputs_get_names():
    one, two = torch.zeros(1), torch.ones(2)
    pair = collections.namedtuple("Pair", "first second")(one, two)
    assert list(named_tensors(one)) == ["output"]
    assert list(named_tensors((one, two))) == ["output_0", "output_1"]
    assert list(named_tensors([one, two], (Tensor("a"), Tensor("b")))) == ["a", "b"]
    assert list(named_tensors([one, two], (Tensor("a"),))) == ["output_0", "output_1"]
    assert list(named_tensors(one, (Tensor("a"),))) == ["a"]
    assert list(named_tensors(pair)) == ["first", "second"]
    assert named_tensors({"a": one, "b": two}, (Tensor("x"), Tensor("y")))["b"] is two


@pytest.mark.parametrize(
    ("value", "reason"),
    [(None, "gives NoneType"), ({"a": 1}, "gives int as 'a'"), ([[torch.ones(1)]], "gives list as")],
)
def test_outputs_that_are_no_tensors(value, reason):
    with pytest.raises(TypeError, match=reason):
        named_tensors(value)
