"""Each format is known from a real file of it; a file of no format is not guessed."""

import io
import json
import struct
import zipfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archive_tool.weights.formats import Format, sniff, sniff_file


@pytest.fixture(scope="session")
def saved(tmp_path_factory):
    """Return files saved by torch itself; it takes seconds to import."""
    torch = pytest.importorskip("torch")
    folder = tmp_path_factory.mktemp("saved")
    net = torch.nn.Sequential(torch.nn.Linear(2, 2))
    torch.save(net.state_dict(), folder / "weights.pt")
    torch.save(net.state_dict(), folder / "legacy.pt", _use_new_zipfile_serialization=False)
    torch.jit.trace(net, torch.zeros(1, 2)).save(str(folder / "script.pt"))
    torch.export.save(torch.export.export(net, (torch.zeros(1, 2),)), folder / "program.pt2")
    return folder


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("weights.pt", Format.STATE_DICT),
        ("legacy.pt", Format.LEGACY_PICKLE),
        ("script.pt", Format.TORCHSCRIPT),
        ("program.pt2", Format.EXPORTED_PROGRAM),
    ],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_what_torch_saves(saved, name, kind):
    assert sniff_file(saved / name) is kind


def zipped(*names):
    """Return a zip; the same bytes at any time, for pytest makes names of tests of them."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name in names:
            archive.writestr(zipfile.ZipInfo(name), b"x")
    return stream.getvalue()


def safetensors(header):
    data = json.dumps(header).encode()
    return struct.pack("<Q", len(data)) + data


def field(number, data):
    return bytes([number << 3 | 2, len(data)]) + data


ONNX = b"\x08\x0a" + field(2, b"pytorch") + field(7, b"graph") + field(8, b"\x10\x12")
GOOD_TENSORS = {"w": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}, "__metadata__": {"a": "b"}}


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"", Format.EMPTY),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", Format.LFS_POINTER),
        (b"version https://git-lfs" + b"x" * 2000, Format.UNKNOWN),
        (zipped("a/data.pkl", "a/version", "a/data/0"), Format.STATE_DICT),
        (zipped("a/data.pkl", "a/code/x.py", "a/constants.pkl", "a/version"), Format.TORCHSCRIPT),
        (zipped("a/data/aotinductor/model/x.so", "a/version"), Format.AOT_INDUCTOR),
        (zipped("serialized_exported_program.json", "version"), Format.EXPORTED_PROGRAM),
        (zipped("a.txt"), Format.UNKNOWN),
        (zipped(), Format.UNKNOWN),
        (zipped("a/data.pkl", "a/version")[:-5], Format.UNKNOWN),
        (safetensors(GOOD_TENSORS), Format.SAFETENSORS),
        (safetensors({}), Format.SAFETENSORS),
        (safetensors({"w": 3}), Format.UNKNOWN),
        (struct.pack("<Q", 9) + b'{"a"', Format.UNKNOWN),
        (struct.pack("<Q", 2) + b"{]", Format.UNKNOWN),
        (ONNX, Format.ONNX),
        (ONNX[:-1], Format.UNKNOWN),
        (ONNX + b"\xff", Format.UNKNOWN),
        (b"\x08\x0a", Format.UNKNOWN),
        (b"\x7fELF" + b"\0" * 99, Format.SHARED_LIBRARY),
        (b"\x7fELF" + b"\0" * 99 + b"AOTInductorModelContainerCreate\0", Format.AOT_LIBRARY),
        (b"\x80\x04K\x01.", Format.PICKLE),
        (b"\x80\x04K\x01", Format.UNKNOWN),
        (b"hello", Format.UNKNOWN),
    ],
)
def test_from_bytes(data, kind):
    assert sniff(io.BytesIO(data)) is kind


@given(
    st.sampled_from([b"", b"PK\x03\x04", b"\x08", b"\x80\x02", struct.pack("<Q", 20) + b"{", zipped("a/data.pkl")]),
    st.binary(max_size=80),
)
def test_any_bytes_have_an_answer(start, rest):
    assert isinstance(sniff(io.BytesIO(start + rest)), Format)
