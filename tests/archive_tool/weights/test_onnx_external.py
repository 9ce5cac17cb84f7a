"""The files in which an ONNX model keeps its numbers must lie in the archive."""

import io
import itertools

import pytest

from archive_tool.issues import Kind
from archive_tool.pickles.budget import Budget
from archive_tool.weights import onnx as onnx_tensors
from archive_tool.weights import onnx_external

onnx = pytest.importorskip("onnx")


def tensor(location, name="w", kind=None):
    kept = onnx.TensorProto(name=name, data_type=1, dims=[2])
    kept.data_location = onnx.TensorProto.EXTERNAL if kind is None else kind
    kept.external_data.add(key="offset", value="0")
    kept.external_data.add(key="location", value=location)
    return kept


def in_initializer(kept):
    return onnx.ModelProto(ir_version=8, graph=onnx.GraphProto(initializer=[kept]))


def in_attribute(kept):
    node = onnx.helper.make_node("Constant", [], ["x"], value=kept)
    return onnx.ModelProto(ir_version=8, graph=onnx.GraphProto(node=[node]))


def in_branch(kept):
    branch = onnx.GraphProto(name="then", initializer=[kept])
    node = onnx.helper.make_node("If", ["c"], ["x"], then_branch=branch, else_branch=branch)
    return onnx.ModelProto(ir_version=8, graph=onnx.GraphProto(node=[node]))


def in_sparse(kept):
    graph = onnx.GraphProto(sparse_initializer=[onnx.SparseTensorProto(values=kept)])
    return onnx.ModelProto(ir_version=8, graph=graph)


def in_function(kept):
    node = onnx.helper.make_node("Constant", [], ["x"], value=kept)
    return onnx.ModelProto(ir_version=8, functions=[onnx.FunctionProto(name="f", node=[node])])


PLACES = [in_initializer, in_attribute, in_branch, in_sparse, in_function]


def found(data, name="m.onnx", members=("m.onnx",)):
    return list(onnx_external.issues(io.BytesIO(data), name, members.__contains__, Budget()))


OUTSIDE = ["../../../etc/passwd", "/etc/passwd", "a/../../b", "..", "C:/x", "a\\b", "\0"]


@pytest.mark.parametrize(("place", "location"), list(itertools.product(PLACES, OUTSIDE)))
def test_files_outside_the_archive(place, location):
    (issue,) = found(place(tensor(location)).SerializeToString(), members=("m.onnx", "etc/passwd"))
    assert issue.kind is Kind.UNSAFE
    assert repr(location) in issue.message


@pytest.mark.parametrize("place", PLACES)
def test_files_that_are_not_there(place):
    data = place(tensor("./weights.bin")).SerializeToString()
    (issue,) = found(data)
    assert issue.kind is Kind.UNREADABLE
    assert found(data, members=("weights.bin",)) == []
    assert found(data, "sub/m.onnx", ("sub/weights.bin",)) == []
    assert found(in_initializer(tensor("../w")).SerializeToString(), "sub/m.onnx", ("w",)) == []


def test_numbers_that_are_in_the_model():
    assert found(in_initializer(tensor("../x", kind=onnx.TensorProto.DEFAULT)).SerializeToString()) == []


def test_a_model_that_cannot_be_read_to_its_end(monkeypatch):
    (issue,) = found(b"\x08\x08\x3a\xff\x01location")
    assert issue.kind is Kind.UNREADABLE
    assert found(b"\x08\x08\x3a\xff\x01location", "x.bin") == []
    many = onnx.GraphProto(initializer=[tensor("w", str(number)) for number in range(20)])
    data = onnx.ModelProto(ir_version=8, graph=many).SerializeToString()
    monkeypatch.setattr(onnx_external, "MAX_FIELDS", 50)
    assert "too many fields" in found(data)[0].message


def test_the_steps_of_all_models_are_bounded_together():
    budget = Budget()
    budget.left = 200
    data = in_initializer(tensor("w")).SerializeToString()
    issues = [len(list(onnx_external.issues(io.BytesIO(data), "m.onnx", lambda _: True, budget))) for _ in range(4)]
    assert issues[0] == 0
    assert issues[-1] == 1


def test_a_model_without_such_files_is_not_walked(monkeypatch):
    monkeypatch.setattr(onnx_tensors.Fields, "fields", None)
    assert found(onnx.ModelProto(ir_version=8).SerializeToString()) == []


def test_what_onnx_writes(tmp_path):
    import numpy as np

    weights = onnx.numpy_helper.from_array(np.zeros((100, 100), np.float32), "w")
    model = onnx.ModelProto(ir_version=8, graph=onnx.GraphProto(name="g", initializer=[weights]))
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, location="m.data")
    data = (tmp_path / "m.onnx").read_bytes()
    assert found(data, members=("m.onnx", "m.data")) == []
    assert len(found(data)) == 1
