"""Each file of a build is looked at once."""

import ast
from collections import Counter
from pathlib import Path

import pytest
import torch

import archive_tool
from archive_tool import files
from archive_tool.building import builder, looked
from archive_tool.building.inputs import Inputs
from archive_tool.building.looked import Contents, Looked
from archive_tool.building.options import BuildOptions
from archive_tool.building.report import Report
from archive_tool.weights.formats import Format

SDK = "import words\nfrom handlers import BaseHandler\nclass H(BaseHandler):\n    pass\n"
NET = "from torch import nn\nclass Net(nn.Module):\n    def __init__(self):\n        self.a = nn.Linear(1, 1)\n"


@pytest.fixture
def counted(monkeypatch):
    """Count how often each file was opened to be looked at, and each of its sources parsed; copying does neither."""
    opened, parsed = Counter(), Counter()
    really_open, really_parse = files.open_regular, ast.parse

    def open_regular(path):
        opened[Path(path).name] += 1
        return really_open(path)

    def parse(source, *arguments, **more):
        parsed[source] += 1
        return really_parse(source, *arguments, **more)

    monkeypatch.setattr(files, "open_regular", open_regular)
    monkeypatch.setattr(ast, "parse", parse)
    return opened, parsed


def test_a_build_opens_each_file_and_parses_each_source_once(work, counted):
    Path("h.py").write_text(SDK)
    Path("words.py").write_text("WORDS = ['a']\n")
    Path("model.py").write_text(NET)
    Path("c.yaml").write_text("batchSize: 2\nhandler:\n  weights_only: true\n")
    Path("r.txt").write_text("numpy\n")
    torch.save({"a.weight": torch.zeros(1, 1), "a.bias": torch.zeros(1)}, "weights.pt")
    names = {"weights.pt", "h.py", "model.py", "words.py", "c.yaml", "r.txt"}
    result = archive_tool.build(
        model_name="m",
        handler="h.py",
        model_file="model.py",
        serialized_file="weights.pt",
        extra_files="words.py",
        config_file="c.yaml",
        requirements_file="r.txt",
        export_path="store",
    )
    assert result.warnings == ()
    assert "handlers/__init__.py" in result.members
    opened, parsed = counted
    assert {name: opened[name] for name in names} == dict.fromkeys(names, 1)
    sources = [Path(name).read_bytes() for name in ("h.py", "model.py", "words.py")]
    assert {source: parsed[source] for source in sources} == dict.fromkeys(sources, 1)


def test_a_service_folder_is_looked_at_once(work, counted):
    Path("service").mkdir()
    Path("service/s.py").write_text("import mxnet\ndef handle(data, context):\n    return data\n")
    options = BuildOptions(model_name="m", handler="s:handle", model_path="service", aot=True)
    report = Report()
    builder.compose(options, report)
    assert [one.message for one in report.warnings] == [
        "s.py imports mxnet, which is not there beside TorchServe (run the model with torch, or as ONNX with "
        "onnxruntime)"
    ]
    opened, parsed = counted
    assert opened["s.py"] == 1
    assert parsed[Path("service/s.py").read_bytes()] == 1


def test_a_source_that_is_not_python_is_parsed_once(work, counted):
    Path("h.py").write_text("def handle(:\n")
    report = Report()
    builder.compose(BuildOptions(model_name="m", handler="h.py"), report)
    assert [one.where for one in report.errors] == ["h.py:1"]
    assert counted[1][b"def handle(:\n"] == 1


def test_little_is_remembered(work, counted, monkeypatch):
    monkeypatch.setattr(looked, "_KEPT", len(SDK))
    contents = Contents()
    Path("h.py").write_text(SDK)
    Path("more.py").write_text("x = 1\n")
    for _ in range(3):
        assert contents.packages(Path("h.py")) == {"words", "handlers"}
        assert contents.tree(Path("more.py")).body
    assert counted[0] == {"h.py": 1, "more.py": 3}


def test_weights(work):
    def look(**more):
        inputs = Inputs("m", "h.py", **more)
        return Looked(inputs, builder.make_plan(inputs, 0, Report()))

    assert look().weights is None
    assert look().weights_format is Format.UNKNOWN
    found = look(serialized_file=Path("weights.pt"), model_file=Path("model.py"))
    assert found.weights == (Format.STATE_DICT, None)  # not a handler that loads a state dict as it is
    for name in ("no.pt", "\0"):
        assert look(serialized_file=Path(name)).weights is None
        assert look(serialized_file=Path("weights.pt"), model_file=Path(name)).weights == (Format.STATE_DICT, None)
    Path("gone.pt").touch()
    gone = look(serialized_file=Path("gone.pt"))
    Path("gone.pt").unlink()
    assert gone.weights_format is Format.UNKNOWN
    with pytest.raises(FileNotFoundError):
        _ = gone.weights
    torch.save({"a": torch.zeros(2)}, "weights.pt")
    Path("h.py").write_text(SDK)
    weights = look(serialized_file=Path("weights.pt"), model_file=Path("model.py")).weights
    assert [tensor.name for tensor in weights.tensors.tensors] == ["a"]
