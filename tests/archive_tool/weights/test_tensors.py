"""Tensors found in the headers of real files, and of broken ones."""

import io
import json
import struct
import warnings
import zipfile

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from archive_tool.weights import tensors
from archive_tool.weights.formats import Format, sniff
from archive_tool.weights.tensors import Tensor, Weights


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.small = nn.Parameter(torch.zeros(5, dtype=torch.bfloat16))

    def forward(self, x):
        return self.norm(self.conv(x))


NET = Net()
SHAPES = {key: tuple(value.shape) for key, value in NET.state_dict().items()}
COUNT = sum(value.numel() for value in NET.state_dict().values())
BYTES = sum(value.nbytes for value in NET.state_dict().values())


def read(path):
    with path.open("rb") as stream:
        return tensors.read(stream, sniff(stream))


def saved(folder, value, **options):
    path = folder / "w.pt"
    torch.save(value, path, **options)
    return path


def check(weights, prefix=""):
    assert {tensor.name: tensor.shape for tensor in weights.tensors} == {prefix + key: SHAPES[key] for key in SHAPES}
    assert weights.parameters == COUNT
    assert weights.size == BYTES
    assert weights.types == {"float32": COUNT - 6, "bfloat16": 5, "int64": 1}
    assert next(iter(weights.types)) == "float32"


@pytest.mark.parametrize("new", [True, False], ids=["zip", "legacy"])
def test_a_state_dict(tmp_path, new):
    weights = read(saved(tmp_path, NET.state_dict(), _use_new_zipfile_serialization=new))
    check(weights)
    assert weights.needs == ()


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_pickle_protocols(tmp_path, protocol):
    check(read(saved(tmp_path, NET.state_dict(), pickle_protocol=protocol)))


def test_safetensors(tmp_path):
    path = tmp_path / "w.safetensors"
    save_file(NET.state_dict(), path, metadata={"format": "pt"})
    check(read(path))


def test_torchscript(tmp_path):
    path = tmp_path / "w.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(NET).save(path)
    weights = read(path)
    check(weights)
    assert weights.needs == ()


def test_an_exported_program(tmp_path):
    path = tmp_path / "w.pt2"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(torch.export.export(Net().eval(), (torch.zeros(1, 1, 8, 8),)), path)
    check(read(path))


def test_an_exported_program_of_an_older_torch(tmp_path):
    inner = io.BytesIO()
    torch.save(NET.state_dict(), inner)
    path = tmp_path / "w.pt2"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("serialized_exported_program.json", "{}")
        archive.writestr("serialized_state_dict.pt", inner.getvalue())
    check(read(path))


def test_a_checkpoint_with_more_in_it(tmp_path):
    value = {"epoch": 3, "state": NET.state_dict(), "list": [torch.zeros(2, dtype=torch.int8)]}
    weights = read(saved(tmp_path, value))
    assert Tensor("list.0", "int8", (2,), weights.tensors[-1].storage) == weights.tensors[-1]
    assert weights.tensors[0].name == "state.small"
    assert weights.parameters == COUNT + 2


def test_a_whole_model_needs_its_classes(tmp_path):
    weights = read(saved(tmp_path, NET))
    assert f"{__name__}.Net" in weights.needs
    assert "torch.nn.modules.conv.Conv2d" in weights.needs
    assert not any("_rebuild" in name or "OrderedDict" in name for name in weights.needs)
    assert weights.parameters == COUNT


def test_shared_numbers_count_once(tmp_path):
    weight = torch.zeros(10, 4)
    weights = read(saved(tmp_path, {"part": weight[:2], "in": weight, "out": weight}))
    assert [tensor.name for tensor in weights.tensors] == ["part", "in", "out"]
    assert (weights.parameters, weights.size) == (40, 160)


def test_parameters_subclasses_and_scalars(tmp_path):
    class Special(nn.Parameter):
        pass

    value = {
        "a": nn.Parameter(torch.zeros(3)),
        "b": Special(torch.zeros(2)),
        "c": torch.tensor(1.0, dtype=torch.float64),
    }
    weights = read(saved(tmp_path, value))
    assert [(tensor.name, tensor.dtype, tensor.shape) for tensor in weights.tensors] == [
        ("a", "float32", (3,)),
        ("b", "float32", (2,)),
        ("c", "float64", ()),
    ]


def test_types_without_a_storage_of_their_own(tmp_path):
    weights = read(
        saved(tmp_path, {"a": torch.zeros(3, dtype=torch.uint16), "b": torch.zeros(2).to(torch.float8_e5m2)})
    )
    assert [(tensor.dtype, tensor.size) for tensor in weights.tensors] == [("uint16", 6), ("float8_e5m2", 2)]


def test_other_formats_and_other_contents(tmp_path):
    assert tensors.read(io.BytesIO(b"\x7fELF"), Format.SHARED_LIBRARY) is None
    assert read(saved(tmp_path, {"a": 1})).tensors == ()
    assert Weights(()).parameters == 0
    assert Tensor("a", "type 99", (3,)).size == 0


# ---- streams that cannot be rewound --------------------------------------------------------------------------------


def test_the_start_of_a_checkpoint(tmp_path):
    path = saved(tmp_path, NET.state_dict())
    kind, weights = tensors.read_start(io.BytesIO(path.read_bytes()))
    assert kind is Format.STATE_DICT
    check(weights)


def test_the_start_of_safetensors(tmp_path):
    path = tmp_path / "w.safetensors"
    save_file(NET.state_dict(), path)
    kind, weights = tensors.read_start(io.BytesIO(path.read_bytes()))
    assert kind is Format.SAFETENSORS
    check(weights)


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04", b"PK\x03\x04" + bytes(100), b"text" * 10, bytes(100)])
def test_other_starts(data):
    assert tensors.read_start(io.BytesIO(data)) is None


def test_a_first_member_that_is_packed_or_another():
    for name, method in (("a/data.pkl", zipfile.ZIP_DEFLATED), ("a/other", zipfile.ZIP_STORED)):
        sink = io.BytesIO()
        with zipfile.ZipFile(sink, "w", method) as archive:
            archive.writestr(name, b"N." * 100)
        assert tensors.read_start(io.BytesIO(sink.getvalue())) is None


# ---- damage --------------------------------------------------------------------------------------------------------


def header(entries):
    data = json.dumps(entries).encode()
    return struct.pack("<Q", len(data)) + data


@pytest.mark.parametrize(
    "shape",
    [[-1], [2**32, 2**31], [1.5], "3", [True], [2**63], [1] * 65, None, {"a": 1}],
    ids=lambda value: str(value)[:10],
)
def test_shapes_that_are_none(shape):
    data = header({"a": {"dtype": "F32", "shape": shape, "data_offsets": [0, 4]}})
    assert tensors.read(io.BytesIO(data), Format.SAFETENSORS) is None


def test_a_header_that_is_too_long():
    data = struct.pack("<Q", tensors.MAX_HEADER + 1) + b"{}"
    assert tensors.read(io.BytesIO(data), Format.SAFETENSORS) is None
    assert tensors.read_start(io.BytesIO(data)) is None


def test_a_bomb_in_the_place_of_the_pickle():
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("a/data.pkl", "w") as member:
        for _ in range(tensors.MAX_HEADER // (1 << 20) + 8):
            member.write(bytes(1 << 20))
    assert tensors.read(sink, Format.STATE_DICT) is None


def test_a_pickle_that_refers_to_itself():
    data = b"\x80\x02}q\x00X\x01\x00\x00\x00ah\x00s."
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        archive.writestr("a/data.pkl", data)
    assert tensors.read(sink, Format.STATE_DICT) == Weights(())


def test_lists_in_lists_without_end():
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        archive.writestr("a/data.pkl", b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".")
    assert tensors.read(sink, Format.STATE_DICT) == Weights(())


def test_a_pickle_that_holds_too_much():
    """Lists of lists of lists, each a hundred times the one below."""
    level = b"]"
    for _ in range(4):
        level = b"](" + level + b"2" * 99 + b"e"
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        archive.writestr("a/data.pkl", b"\x80\x02" + level + b".")
    weights = tensors.read(sink, Format.STATE_DICT)
    assert weights is None or weights.tensors == ()


def _good():
    sink = io.BytesIO()
    torch.save({"a": torch.zeros(2), "b": nn.Parameter(torch.zeros(1))}, sink)
    return sink.getvalue()


GOOD = _good()


def test_a_zip_without_the_object():
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        archive.writestr("archive/data.pkx", b"")
    assert tensors.read(sink, Format.STATE_DICT) is None


@settings(max_examples=150)
@given(st.integers(0, len(GOOD) - 1), st.integers(0, 255), st.integers(0, len(GOOD)))
def test_changed_bytes(position, byte, length):
    """A changed or shortened checkpoint gives tensors or None, and no error."""
    data = bytearray(GOOD)
    data[position] = byte
    for kind in (Format.STATE_DICT, Format.EXPORTED_PROGRAM):
        tensors.read(io.BytesIO(bytes(data)), kind)
    tensors.read(io.BytesIO(bytes(data[:length])), Format.STATE_DICT)
    tensors.read_start(io.BytesIO(bytes(data)))


@given(
    st.recursive(
        st.none() | st.integers() | st.text(max_size=3),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["a", "dtype", "shape", "config", "tensor_meta", "sizes", "as_int", "path_name"]),
                inner,
                max_size=4,
            )
        ),
        max_leaves=10,
    )
)
def test_any_json(value):
    data = header(value)
    tensors.read(io.BytesIO(data), Format.SAFETENSORS)
    tensors.read_start(io.BytesIO(data))
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        archive.writestr("x/model_weights_config.json", json.dumps(value))
    tensors.read(sink, Format.EXPORTED_PROGRAM)


def test_an_empty_state_dict(tmp_path):
    assert read(saved(tmp_path, {})) == Weights(())
