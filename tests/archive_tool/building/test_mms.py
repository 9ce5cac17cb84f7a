"""Service folders of MXNet Model Server, as its own examples have them."""

import json
from pathlib import Path

import pytest

import archive_tool
from archive_tool.building.looked import Contents
from archive_tool.building.mms import read_folder, read_signature
from archive_tool.errors import BuildError
from archive_tool.metadata.record import TensorSpec

SERVICE = """\
import json


class Service(object):
    def __init__(self):
        self.initialized = False

    def initialize(self, context):
        self.initialized = True

    def preprocess(self, data):
        return [row.get("body") for row in data]

    def inference(self, data):
        return data

    def postprocess(self, data):
        return data

    def handle(self, data, context):
        return self.postprocess(self.inference(self.preprocess(data)))


_service = Service()


def entry(data, context):
    return _service.handle(data, context) if data else None
"""
SIGNATURE = {"inputs": [{"data_name": "input.1", "data_shape": [0, 10]}], "input_type": "application/json"}


@pytest.fixture
def folder(work):
    path = work / "service"
    (path / "words" / "en").mkdir(parents=True)
    (path / "__pycache__").mkdir()
    (path / "__pycache__" / "x.pyc").touch()
    (path / "fizbuz_service.py").write_text(SERVICE)
    (path / "signature.json").write_text(json.dumps(SIGNATURE))
    (path / "words" / "en" / "names.txt").write_text("fizz")
    (path / "fizbuz.onnx").write_bytes(b"\x08\x07\x3a\x00")
    return path


@pytest.mark.parametrize("handler", ["fizbuz_service", "fizbuz_service.py", "fizbuz_service:entry"])
def test_the_whole_folder_goes_in(folder, handler):
    built = archive_tool.build(model_name="fizbuz", handler=handler, model_path=folder)
    assert set(built.members) == {
        "fizbuz_service.py",
        "signature.json",
        "words/en/names.txt",
        "fizbuz.onnx",
        "MAR-INF/MANIFEST.json",
    }
    model = built.manifest.model
    name, colon, function = handler.partition(":")
    assert model.handler == f"{name.removesuffix('.py')}.py{colon}{function}"
    assert model.serialized_file == "fizbuz.onnx"
    assert built.manifest.record.inputs == (TensorSpec("input.1", None, (None, 10)),)
    assert not built.warnings


def test_other_options_still_count(folder):
    Path("more.txt").touch()
    Path("other.onnx").write_bytes(b"\x08\x07\x3a\x00")
    built = archive_tool.build(
        model_name="fizbuz",
        handler="tensor_handler",
        model_path=folder,
        extra_files="more.txt",
        keep_folders=True,
        serialized_file="other.onnx",
        record=archive_tool.metadata.record.Record(inputs=(TensorSpec("x"),)),
    )
    assert {"more.txt", "other.onnx", "fizbuz.onnx", "tensor_handler.py", "words/en/names.txt"} < set(built.members)
    assert built.manifest.model.serialized_file == "other.onnx"
    assert built.manifest.record.inputs == (TensorSpec("x"),)


def test_a_handler_elsewhere(folder):
    assert read_folder(folder, "h.py:f", Contents()).handler == "h.py:f"
    assert read_folder(folder, "image_classifier", Contents()).handler == "image_classifier"


def test_what_is_wrong_with_a_folder(folder, work):
    with pytest.raises(BuildError, match="is not a directory"):
        archive_tool.build(model_name="m", handler="h", model_path=work / "no")
    (folder / "two.onnx").touch()
    with pytest.raises(BuildError, match=r"2 ONNX models: fizbuz\.onnx, two\.onnx"):
        read_folder(folder, "h", Contents())


def test_packages_that_are_gone_are_told(folder):
    (folder / "fizbuz_service.py").write_text("import mxnet as mx\nfrom mms.utils import x\n" + SERVICE)
    (folder / "old.py").write_text("print 'Python 2'")
    built = archive_tool.build(model_name="m", handler="fizbuz_service", model_path=folder)
    assert [text.split(",")[0] for text in built.warnings] == [
        "fizbuz_service.py imports mms",
        "fizbuz_service.py imports mxnet",
    ]
    (folder / "mxnet").mkdir()
    assert len(read_folder(folder, "fizbuz_service", Contents()).warnings) == 1  # the folder brings its own


@pytest.mark.parametrize(
    ("content", "inputs"),
    [
        ({"inputs": []}, ()),
        ({"inputs": [{"data_name": "x"}]}, (TensorSpec("x"),)),
        ({"inputs": [{"data_name": "x", "data_shape": [1, 3, 0]}]}, (TensorSpec("x", None, (1, 3, None)),)),
    ],
)
def test_signatures(content, inputs):
    assert read_signature(json.dumps(content).encode(), "signature.json") == inputs


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"{", "is not JSON"),
        (b"\xff", "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b"[]", "does not list"),
        (b"{}", "does not list"),
        (b'{"inputs": {"a": 1}}', "does not list"),
        (b'{"inputs": [{}]}', "data_name"),
        (b'{"inputs": [{"data_name": 1}]}', "data_name is 1"),
        (b'{"inputs": [{"data_name": "x", "data_shape": "10"}]}', "data_shape is '10'"),
        (b'{"inputs": [{"data_name": "x", "data_shape": [true]}]}', "data_shape"),
        (b'{"inputs": [{"data_name": "x", "data_shape": [-1]}]}', "data_shape"),
    ],
)
def test_signatures_that_cannot_be_used(content, reason):
    with pytest.raises(BuildError, match=reason) as caught:
        read_signature(content, "service/signature.json")
    assert caught.value.where == "service/signature.json"


def test_the_command(folder, torchmar):
    done = torchmar("build", "--model-name", "fizbuz", "--model-path", "service", "--handler", "fizbuz_service")
    assert done.returncode == 0, done.stderr
    assert Path("fizbuz.mar").exists()
