import contextlib
import io
import pickle
import struct
import zipfile

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import archive_tool.weights.formats
from archive_tool.reading import zip_consistency
from handlers import LoadError, UnsupportedFormatError
from handlers.loading import formats
from handlers.loading.formats import Format, detect_format


@pytest.fixture
def state():
    return torch.nn.Linear(2, 2).state_dict()


def test_checkpoints_are_told_by_content_whatever_their_suffix(tmp_path, state):
    path = tmp_path / "weights.onnx"
    torch.save(state, path)
    assert detect_format(path) is Format.STATE_DICT
    torch.save(state, path, _use_new_zipfile_serialization=False)
    assert detect_format(path) is Format.LEGACY_PICKLE
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(path))
    assert detect_format(path) is Format.TORCHSCRIPT


def test_traced_modules_are_torchscript(tmp_path):
    torch.jit.trace(torch.nn.Linear(2, 2), torch.ones(1, 2)).save(str(tmp_path / "m.pt"))
    assert detect_format(tmp_path / "m.pt") is Format.TORCHSCRIPT


def test_safetensors(tmp_path, state):
    from safetensors.torch import save_file

    save_file(state, tmp_path / "m.pt")
    assert detect_format(tmp_path / "m.pt") is Format.SAFETENSORS


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid", "git lfs pull"),
        (b"<!DOCTYPE html><html>", "the download failed"),
        (b"\n <html>", "the download failed"),
        (b"GGUF\x03", "GGUF"),
        (b"\x89HDF\r\n", "HDF5"),
        (b"\x1f\x8b\x08", "gzip"),
        (b"\x80\x04\x95", "pickle that torch.save did not write"),
        (b"\x80\x04K\x01.", "pickle that torch.save did not write"),
        (b"hello", "holds no known weights"),
        (struct.pack("<Q", 10**15) + b"{", "holds no known weights"),
    ],
)
def test_what_is_not_read_is_named(tmp_path, content, reason):
    path = tmp_path / "weights.pt"
    path.write_bytes(content)
    with pytest.raises(UnsupportedFormatError, match=reason):
        detect_format(path)


@pytest.mark.parametrize("middle", [b"\x12\x07pytorch", b"", b"\x42\x02\x10\x12"])
def test_an_onnx_model(tmp_path, middle):
    (tmp_path / "m.bin").write_bytes(b"\x08\x0a" + middle + b"\x3a\x02\x0a\x00")
    assert detect_format(tmp_path / "m.bin") is Format.ONNX


@pytest.mark.parametrize("content", [b"\x08", b"\x08\x0a", b"\x08\x00\x12", b"\x08\xff\x12", b"\x08\x0a\x13"])
def test_what_only_begins_like_onnx(tmp_path, content):
    (tmp_path / "m.onnx").write_bytes(content)
    with pytest.raises(UnsupportedFormatError, match="holds no known weights"):
        detect_format(tmp_path / "m.onnx")


@pytest.mark.parametrize(
    ("names", "form"),
    [
        (
            ["m/archive_format", "m/models/model.json", "m/data/weights/weight_0", "m/.data/version"],
            Format.EXPORTED_PROGRAM,
        ),
        (["serialized_exported_program.json", "serialized_state_dict.pt"], Format.EXPORTED_PROGRAM),
        (["m/archive_format", "m/data/aotinductor/model/x.so"], Format.AOT_INDUCTOR),
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
    assert detect_format(tmp_path / "m.pt2") is Format.EXPORTED_PROGRAM


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
        assert detect_format(path) in Format


def _zip(*names):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name in names:
            archive.writestr(name, b"x")
    return stream.getvalue()


ONNX = b"\x08\x0a\x12\x07pytorch\x3a\x02\x0a\x00"
#: What torch itself was seen to make of them: a folder without its version is refused, constants make TorchScript.
ODD = {
    "a package without models": (_zip("m/archive_format", "m/version", "m/data/weights/0"), None),
    "a checkpoint without a version": (_zip("m/data.pkl", "m/data/0"), None),
    "constants and no code": (_zip("m/data.pkl", "m/constants.pkl", "m/version"), None),
    "code and no constants": (_zip("m/data.pkl", "m/code/a.py", "m/version"), Format.STATE_DICT),
    "ONNX, cut short": (ONNX[:-1], None),
    "ONNX": (ONNX, Format.ONNX),
    "a plain pickle": (pickle.dumps({"w": 1}), None),
    "another place of the version": (_zip("m/data.pkl", "m/.data/version"), Format.STATE_DICT),
    "models without their format": (_zip("m/models/model.json", "m/version"), None),
    "constants of another folder": (
        _zip("m/data.pkl", "m/version", "n/constants.pkl", "n/code/a.py"),
        Format.STATE_DICT,
    ),
    "a library of AOTInductor": (b"\x7fELF" + bytes(99) + b"AOTInductorModelContainerCreate", Format.AOT_LIBRARY),
    "another library": (b"\x7fELF" + bytes(99), None),
}


@pytest.mark.parametrize("kind", ODD)
def test_what_builds_and_what_loads_agree(tmp_path, kind):
    """`build`, `inspect` and a worker ask one table."""
    data, form = ODD[kind]
    path = tmp_path / "m.pt"
    path.write_bytes(data)
    if form is None:
        assert archive_tool.weights.formats.sniff_file(path) not in formats.LOADED
        with pytest.raises(LoadError):
            detect_format(path)
    else:
        assert archive_tool.weights.formats.sniff_file(path) is detect_format(path) is form


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("protocol", range(2, 6))
def test_checkpoints_of_every_protocol(tmp_path, state, protocol):
    path = tmp_path / "m.pt"
    torch.save(state, path, pickle_protocol=protocol)
    assert detect_format(path) is Format.STATE_DICT
    torch.save(state, path, pickle_protocol=protocol, _use_new_zipfile_serialization=False)
    assert detect_format(path) is Format.LEGACY_PICKLE


def test_an_onnx_model_that_is_cut_short_is_named(tmp_path):
    (tmp_path / "m.onnx").write_bytes(ONNX[:-1])
    with pytest.raises(LoadError, match="begins as an ONNX model and is damaged or cut short"):
        detect_format(tmp_path / "m.onnx")


def test_a_safetensors_file_that_is_cut_short_is_named(tmp_path):
    (tmp_path / "m.safetensors").write_bytes(struct.pack("<Q", 4096) + b'{"weight": {"dty')
    with pytest.raises(LoadError, match="begins as a safetensors file and is damaged or cut short"):
        detect_format(tmp_path / "m.safetensors")


def test_the_archive_tool_has_no_table_of_its_own(monkeypatch):
    monkeypatch.setattr(formats, "sniff", lambda stream, open_zip: (stream, open_zip))
    assert archive_tool.weights.formats.sniff("stream") == ("stream", zip_consistency.open_zip)
    assert archive_tool.weights.formats.Format is Format
