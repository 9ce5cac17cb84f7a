import contextlib
import struct
import zipfile

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from handlers import LoadError, UnsupportedFormatError
from handlers.formats import WeightsFormat, detect_format


@pytest.fixture
def state():
    return torch.nn.Linear(2, 2).state_dict()


def test_checkpoints_are_told_by_content_whatever_their_suffix(tmp_path, state):
    path = tmp_path / "weights.onnx"
    torch.save(state, path)
    assert detect_format(path) is WeightsFormat.TORCH
    torch.save(state, path, _use_new_zipfile_serialization=False)
    assert detect_format(path) is WeightsFormat.TORCH_LEGACY
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(path))
    assert detect_format(path) is WeightsFormat.TORCHSCRIPT


def test_traced_modules_are_torchscript(tmp_path):
    torch.jit.trace(torch.nn.Linear(2, 2), torch.ones(1, 2)).save(str(tmp_path / "m.pt"))
    assert detect_format(tmp_path / "m.pt") is WeightsFormat.TORCHSCRIPT


def test_safetensors(tmp_path, state):
    from safetensors.torch import save_file

    save_file(state, tmp_path / "m.pt")
    assert detect_format(tmp_path / "m.pt") is WeightsFormat.SAFETENSORS


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid", "git lfs pull"),
        (b"<!DOCTYPE html><html>", "the download failed"),
        (b"\n <html>", "the download failed"),
        (b"\x7fELF\x02\x01", "compiled library"),
        (b"GGUF\x03", "GGUF"),
        (b"\x89HDF\r\n", "HDF5"),
        (b"\x1f\x8b\x08", "gzip"),
        (b"\x80\x04\x95", "pickle that torch.save did not write"),
        (b"hello", "holds no known weights"),
        (struct.pack("<Q", 10**15) + b"{", "holds no known weights"),
    ],
)
def test_what_is_not_read_is_named(tmp_path, content, reason):
    path = tmp_path / "weights.pt"
    path.write_bytes(content)
    with pytest.raises(UnsupportedFormatError, match=reason):
        detect_format(path)


@pytest.mark.parametrize("tail", [b"\x12\x07pytorch", b"\x3a\x02\x0a\x00", b"\x42\x02\x10\x12"])
def test_an_onnx_model(tmp_path, tail):
    (tmp_path / "m.bin").write_bytes(b"\x08\x0a" + tail)
    assert detect_format(tmp_path / "m.bin") is WeightsFormat.ONNX


@pytest.mark.parametrize("content", [b"\x08", b"\x08\x0a", b"\x08\x00\x12", b"\x08\xff\x12", b"\x08\x0a\x13"])
def test_what_only_begins_like_onnx(tmp_path, content):
    (tmp_path / "m.onnx").write_bytes(content)
    with pytest.raises(UnsupportedFormatError, match="holds no known weights"):
        detect_format(tmp_path / "m.onnx")


@pytest.mark.parametrize(
    ("names", "form"),
    [
        (["m/archive_format", "m/models/model.json", "m/data/weights/weight_0"], WeightsFormat.EXPORTED),
        (["serialized_exported_program.json", "serialized_state_dict.pt"], WeightsFormat.EXPORTED),
        (["m/archive_format", "m/data/aotinductor/model/x.so"], WeightsFormat.AOT_INDUCTOR),
    ],
)
def test_packages_of_torch_are_told_by_their_members(tmp_path, names, form):
    with zipfile.ZipFile(tmp_path / "m.pt", "w") as archive:
        for name in names:
            archive.writestr(name, b"")
    assert detect_format(tmp_path / "m.pt") is form
    assert form.is_program


def test_an_exported_program(tmp_path):
    torch.export.save(torch.export.export(torch.nn.Linear(2, 2), (torch.ones(1, 2),)), tmp_path / "m.pt2")
    assert detect_format(tmp_path / "m.pt2") is WeightsFormat.EXPORTED


def test_another_zip_is_named(tmp_path):
    with zipfile.ZipFile(tmp_path / "m.pt", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(UnsupportedFormatError, match="zip file without torch weights"):
        detect_format(tmp_path / "m.pt")


def test_missing_empty_and_cut_files(tmp_path, state):
    with pytest.raises(LoadError, match="there are no weights"):
        detect_format(tmp_path / "none.pt")
    (tmp_path / "empty.pt").write_bytes(b"")
    with pytest.raises(LoadError, match="is empty"):
        detect_format(tmp_path / "empty.pt")
    torch.save(state, tmp_path / "cut.pt")
    (tmp_path / "cut.pt").write_bytes((tmp_path / "cut.pt").read_bytes()[:300])
    with pytest.raises(LoadError, match="damaged or cut short"):
        detect_format(tmp_path / "cut.pt")


@given(st.binary(max_size=200), st.sampled_from([b"", b"PK\x03\x04", b"\x80\x02", b"\x10\0\0\0\0\0\0\0{"]))
def test_any_bytes_give_a_format_or_a_load_error(tmp_path_factory, tail, head):
    path = tmp_path_factory.getbasetemp() / "fuzzed.pt"
    path.write_bytes(head + tail)
    with contextlib.suppress(LoadError):
        assert detect_format(path) in WeightsFormat
