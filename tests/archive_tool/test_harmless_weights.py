"""Weights as the usual libraries write them are never refused, under any suffix of weights."""

import io
import pickle
import warnings

import joblib
import numpy
import pytest
import torch

from archive_tool.weights import scan


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = torch.nn.Linear(3, 2)
        self.norm = torch.nn.BatchNorm1d(2)

    def forward(self, x):
        return self.norm(self.fc(x))


def _written(write, *values, **how):
    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        write(*values, stream, **how)
    return stream.getvalue()


def _torch():
    state = Net().state_dict()
    for protocol in range(2, 6):
        yield f"torch.save {protocol}", _written(torch.save, state, pickle_protocol=protocol)
        old = _written(torch.save, state, pickle_protocol=protocol, _use_new_zipfile_serialization=False)
        yield f"old torch.save {protocol}", old
    half = {name: value.half() if value.is_floating_point() else value for name, value in state.items()}
    yield "half", _written(torch.save, half)
    yield "quantized", _written(torch.save, torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8))
    yield "nested", _written(torch.save, torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]))
    optimizer = torch.optim.Adam(Net().parameters())
    yield "optimizer", _written(torch.save, {"optimizer": optimizer.state_dict(), "epoch": 3, "loss": [0.5] * 1000})
    yield "large", _written(torch.save, {str(number): torch.zeros(1) for number in range(2000)})
    net = Net().eval()
    yield "scripted", _written(torch.jit.save, torch.jit.script(net))
    yield "traced", _written(torch.jit.save, torch.jit.trace(net, torch.zeros(1, 3)))
    yield "exported", _written(torch.export.save, torch.export.export(net, (torch.zeros(2, 3),)))


class Shapes(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.odd = torch.nn.ModuleDict({"a-b": torch.nn.Conv2d(3, 4, 3, 2), "class": torch.nn.BatchNorm2d(4)})
        self.register_buffer("kept", torch.ones(4, 1, 1), persistent=False)

    def forward(self, x, other=None, *, mode="sum"):
        torch._check(x["a b"].shape[0] % 2 == 0)
        y = self.odd["class"](self.odd["a-b"](x["a b"])) + self.kept
        rows = max(y.shape[2], 1) * 2 + y.shape[3] // 3
        return {mode: torch.nn.functional.max_pool2d(y, 2, ceil_mode=True), "n": y.new_zeros(rows), "o": (other,)}


class Branches(torch.nn.Module):
    def forward(self, x):
        with torch.no_grad():
            y = torch.cond(x.sum() > 0, lambda x: x + 1, lambda x: x - 1, (x,))
        return y.nonzero(), (x.int() & 3) << 1, torch.vmap(lambda a: a.sum())(x), x * float("inf")


def _programs():
    auto = torch.export.Dim.AUTO
    lstm = torch.nn.LSTM(4, 5, 2, batch_first=True)
    layer = torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    shapes = {"x": {"a b": {0: auto, 2: auto, 3: auto}}, "other": None, "mode": None}
    kinds = {
        "shapes": (Shapes(), ({"a b": torch.zeros(4, 3, 33, 35)},), {"mode": "mean"}, None),
        "shapes, dynamic": (Shapes(), ({"a b": torch.zeros(4, 3, 33, 35)}, torch.ones(2)), {"mode": "mean"}, shapes),
        "branches": (Branches(), (torch.ones(3, 2),), None, None),
        "lstm": (lstm, (torch.zeros(2, 6, 4),), None, ({0: auto, 1: auto},)),
        "attention": (layer, (torch.zeros(2, 5, 8),), None, None),
    }
    for what, (net, args, named, sizes) in kinds.items():
        yield what, _written(torch.export.save, torch.export.export(net.eval(), args, named, dynamic_shapes=sizes))


def _torch_script_of_many_kinds():
    class Odd(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.sizes: list[int] = [1, 2]
            self.scales: list[float] = [0.5]
            self.names: dict[str, torch.Tensor] = {"a": torch.ones(1)}
            self.parts = torch.nn.ModuleList([torch.nn.Linear(2, 2), torch.nn.LSTM(2, 2)])

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for _ in self.parts:
                x = x + len(self.parts)
            return x * self.scales[0] + self.names["a"] + self.sizes[0]

    extra = {"labels.txt": "cat\ndog\ncow\nhen\nbird\n", "notes.json": "{}"}
    yield "lists and more", _written(torch.jit.save, torch.jit.script(Odd()), _extra_files=extra)


def _numpy():
    for dtype in ("f2", "f4", "f8", "i1", "u8", "?", "c16", "S5", "U7", "M8[ns]", "m8[s]", ">f8", "V3"):
        yield f"numpy {dtype}", _written(lambda array, stream: numpy.save(stream, array), numpy.zeros((3, 2), dtype))
    record = numpy.zeros(4, numpy.dtype([("a", "f8"), ("b", "i4", (2, 3)), ("c", [("d", "U2")])], align=True))
    yield "numpy record", _written(lambda array, stream: numpy.save(stream, array), record)
    wide = numpy.zeros(2, numpy.dtype([(f"field{number}", "f4") for number in range(200)]))
    yield "numpy wide", _written(lambda array, stream: numpy.save(stream, array), wide)
    yield "numpy order", _written(lambda array, stream: numpy.save(stream, array), numpy.zeros((3, 4), order="F"))
    yield "numpy none", _written(lambda array, stream: numpy.save(stream, array), numpy.zeros((0, 3)))
    yield "numpy one", _written(lambda array, stream: numpy.save(stream, array), numpy.array(3.5))
    yield (
        "numpy objects",
        _written(lambda array, stream: numpy.save(stream, array), numpy.array([1, "a"], dtype=object)),
    )
    yield "numpy twice", next(_numpy_of("f4")) + next(_numpy_of("i8"))
    yield "npz", _written(lambda stream: numpy.savez(stream, a=numpy.zeros(3), b=numpy.ones((2, 2))))
    yield "npz packed", _written(lambda stream: numpy.savez_compressed(stream, a=numpy.zeros(300)))


def _numpy_of(dtype):
    yield _written(lambda array, stream: numpy.save(stream, array), numpy.arange(10, dtype=dtype))


def _joblib():
    values = {
        "array": numpy.arange(1000.0),
        "arrays": {"w": numpy.zeros((3, 4), "f4"), "b": [numpy.ones(7, "i8"), numpy.zeros(2, "?")], "n": 3},
        "same twice": [numpy.arange(5)] * 2,
        "order": numpy.zeros((30, 4), order="F"),
        "none": numpy.zeros((0, 2)),
        "numbers": [numpy.float32(1), numpy.int64(2)],
        "plain": {"a": [1, 2.5, "x", None, True]},
        "large": numpy.zeros(200_000),
    }
    for what, value in values.items():
        for protocol in (2, 4, 5):
            yield f"joblib {what} {protocol}", _written(joblib.dump, value, protocol=protocol)


def _others():
    safetensors = pytest.importorskip("safetensors.torch")
    yield "safetensors", safetensors.save(Net().state_dict())
    yield "safetensors, empty", safetensors.save({})
    for protocol in range(6):
        value = {"w": numpy.arange(300.0), "names": {"a", "b"}, "n": [1, 2.5, None, b"x", 2**70]}
        yield f"pickle {protocol}", pickle.dumps(value, protocol)
    yield "two pickles", pickle.dumps(1) + pickle.dumps([2])
    yield "empty", b""
    yield "pointer", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"


def _onnx():
    onnx = pytest.importorskip("onnx")
    weights = onnx.numpy_helper.from_array(numpy.ones((3, 2), numpy.float32), "w")
    sides = [onnx.helper.make_tensor_value_info(name, 1, [1, size]) for name, size in (("x", 3), ("y", 2))]
    node = onnx.helper.make_node("MatMul", ["x", "w"], ["y"])
    graph = onnx.helper.make_graph([node], "g", sides[:1], sides[1:], [weights])
    yield "onnx", onnx.helper.make_model(graph).SerializeToString()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("source", [_torch, _programs, _torch_script_of_many_kinds, _numpy, _joblib, _others, _onnx])
def test_nothing_of_it_is_refused(source):
    refused = {}
    for what, data in source():
        for name in ("m.pt", "m.pkl", "m.bin", "m.npy", "m.data", "m"):
            if problems := list(scan.scan(io.BytesIO(data), name)):
                refused[what] = problems
    assert refused == {}


def test_the_data_of_an_onnx_model(tmp_path):
    """Its numbers stand in files of their own, which may look like anything."""
    onnx = pytest.importorskip("onnx")
    values = numpy.random.default_rng(3).integers(0, 256, 40_000, dtype=numpy.uint8)
    graph = onnx.helper.make_graph([], "g", [], [], [onnx.numpy_helper.from_array(values, "layer.weight")])
    for one in (True, False):
        model = onnx.helper.make_model(graph)
        where = {"location": "m.onnx.data"} if one else {}
        onnx.save_model(
            model,
            tmp_path / "m.onnx",
            save_as_external_data=True,
            all_tensors_to_one_file=one,
            size_threshold=0,
            **where,
        )
    files = list(tmp_path.iterdir())
    assert len(files) == 3
    for file in files:
        with file.open("rb") as stream:
            assert list(scan.scan(stream, file.name)) == []
