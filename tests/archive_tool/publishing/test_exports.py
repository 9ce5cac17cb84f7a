"""The output of each format; that it answers as the live model does is test_publish.py's and the integration test's."""

import warnings

import pytest
import torch
from torch import nn

from archive_tool.errors import BuildError
from archive_tool.publishing import exports, live
from archive_tool.weights.formats import Format, sniff_file
from handlers.loading.load import load_eager, load_program

NETS = """
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self, width=2):
            super().__init__()
            self.layer = nn.Linear(3, width)

        def forward(self, x):
            return self.layer(x)

    class Needy(Net):
        def __init__(self, width, *rest, depth, **more):
            super().__init__(width)

    class Branching(Net):
        def forward(self, x):
            if x.sum() > 0:
                return self.layer(x)
            return -self.layer(x)

    class Untyped(Net):
        def forward(self, x):
            return {**{"y": self.layer(x)}}["y"]

    class FixedRows(Net):
        def forward(self, x):
            return self.layer(x.view(4, 3))

    def create():
        return Net(5)

    class Inside:
        @staticmethod
        def create():
            return Net(4)
"""


@pytest.fixture
def nets(project):
    torch.manual_seed(0)
    return project({"nets_of_a_user.py": NETS}, "nets_of_a_user")


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "written"
    path.mkdir()
    return path


def studied(model, rows=4, **options):
    return live.study(model, torch.randn(rows, 3), **options)


def test_an_eager_model_is_weights_a_model_file_and_the_users_modules(nets, folder, monkeypatch):
    for index, (model, origin) in enumerate(
        [(nets.Net(), None), (nets.Net(5), nets.create), (nets.Net(4), nets.Inside.create)]
    ):
        place = folder / str(index)
        place.mkdir()
        files = exports.write_eager(model, studied(model), place, origin)
        assert [path.name for path in files.modules.iterdir()] == ["nets_of_a_user.py"]
        assert files.warnings == ()
        loaded = load_eager(files.model_file, files.serialized)
        inputs = torch.randn(2, 3)
        assert torch.equal(loaded(inputs), model(inputs))


def test_a_model_whose_class_needs_arguments_needs_a_function(nets, folder):
    model = nets.Needy(2, depth=1)
    with pytest.raises(BuildError, match=r"Needy\(\) needs width, depth") as caught:
        exports.write_eager(model, studied(model), folder, None)
    assert "source=create_net" in caught.value.hint


def test_torchscript_has_no_source(nets, folder):
    scripted = torch.jit.script(nets.Net())
    with pytest.raises(BuildError, match="TorchScript"):
        exports.write_eager(scripted, studied(scripted), folder, nets.Net)


def test_packages_that_a_server_may_lack_are_told(project, folder):
    text = "import yaml, numpy, torchvision\n" + NETS.replace("\n    ", "\n")
    nets = project({"nets_with_more.py": text}, "nets_with_more")
    files = exports.write_eager(nets.Net(), studied(nets.Net()), folder, None)
    assert files.warnings == ("the model's source imports yaml, which must be installed where the server runs",)


def test_torchscript_keeps_control_flow(nets, folder):
    model = nets.Branching().eval()
    files = exports.write_torchscript(model, studied(model, batch=False), folder)
    assert sniff_file(files.serialized) is Format.TORCHSCRIPT
    assert not files.warnings
    loaded = torch.jit.load(files.serialized)
    for inputs in (torch.ones(1, 3), -torch.ones(1, 3)):
        assert torch.equal(loaded(inputs), model(inputs))


def test_what_cannot_be_scripted_is_traced_and_that_is_told(nets, folder):
    model = nets.Untyped().train()
    files = exports.write_torchscript(model, studied(model), folder)
    assert "so it was traced" in files.warnings[0]
    inputs = torch.randn(7, 3)
    assert torch.equal(torch.jit.load(files.serialized)(inputs), model(inputs))
    assert model.training


def test_torchscript_stays_what_it_is(nets, folder):
    model = torch.jit.script(nets.Net())
    files = exports.write_torchscript(model, studied(model), folder)
    assert torch.equal(torch.jit.load(files.serialized)(torch.ones(1, 3)), model(torch.ones(1, 3)))


def test_a_package_is_compiled_from_a_program_and_told_to_be_native(nets, folder, monkeypatch):
    """By a compiler that is played; tests/integration/test_publish.py has the real one."""
    programs = []
    monkeypatch.setattr(exports, "compile_program", lambda program, path: programs.append((program, path)))
    model = nets.Net()
    files = exports.write_aotinductor(model, studied(model), folder)
    ((program, path),) = programs
    assert path == files.serialized == folder / "model.pt2"
    assert torch.equal(program.module()(torch.ones(7, 3)), model(torch.ones(7, 3)))
    assert files.warnings == (
        "the package is native code for this kind of cpu and this version of torch, and runs on no other",
    )


def test_a_program_of_torch_export_takes_any_number_of_rows(nets, folder):
    model = nets.Net()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        files = exports.write_exported(model, studied(model), folder)
    assert sniff_file(files.serialized) is Format.EXPORTED_PROGRAM
    loaded = load_program(files.serialized, None)
    for rows in (1, 2, 9):
        inputs = torch.randn(rows, 3)
        torch.testing.assert_close(loaded(inputs), model(inputs))


def test_a_program_of_a_fixed_shape(nets, folder):
    model = nets.FixedRows()
    example = studied(model)
    assert not example.has_rows
    files = exports.write_exported(model, example, folder)
    assert load_program(files.serialized, None)(torch.ones(4, 3)).shape == (4, 2)


def test_what_cannot_be_exported_says_why(nets, folder):
    model = nets.Branching()
    with pytest.raises(BuildError, match=r"cannot be exported by torch\.export: \w+: .*") as caught:
        exports.write_exported(model, studied(model, batch=False), folder)
    assert "eager" in caught.value.hint
    assert "\n" not in caught.value.message


def test_onnx_names_its_inputs_and_outputs(nets, folder):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model = nets.Net()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        files = exports.write_onnx(model, studied(model), folder)
    assert sniff_file(files.serialized) is Format.ONNX
    assert [path.name for path in folder.iterdir()] == ["model.onnx"]
    session = onnxruntime.InferenceSession(files.serialized)
    assert [item.name for item in (*session.get_inputs(), *session.get_outputs())] == ["x", "output"]
    for rows in (1, 5):
        inputs = torch.randn(rows, 3)
        torch.testing.assert_close(load_program(files.serialized, None)(inputs), model(inputs))


def test_onnx_without_its_packages(nets, folder, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnxscript", None)
    with pytest.raises(BuildError, match="needs the package onnxscript") as caught:
        exports.write_onnx(nets.Net(), studied(nets.Net()), folder)
    assert "torchmar[onnx]" in caught.value.hint


def test_every_format_has_a_way():
    assert list(exports.FORMATS) == ["eager", "torchscript", "export", "aotinductor", "onnx"]
    assert isinstance(nn.Linear(1, 1), nn.Module)
