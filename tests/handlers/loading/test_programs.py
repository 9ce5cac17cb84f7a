"""Programs of torch.export and ONNX, against the module that they were made of.

AOTInductor takes a C++ compiler many seconds: tests/integration/test_publish.py has its tests, and one package.
"""

import copy
import io
import json
import sys
import zipfile

import pytest
import torch
from torch import nn

from handlers import LoadError, UnsafeCheckpointError, UnsupportedFormatError
from handlers.loading import programs
from handlers.loading.load import describe, load_eager, load_program
from tests import hostile_programs

CPU = torch.device("cpu")


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 2)
        self.register_buffer("offset", torch.ones(2))

    def forward(self, x, y):
        return {"sum": self.layer(x) + y + self.offset, "x": x * 2}


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return Net().eval()


@pytest.fixture(scope="module")
def program(net):
    rows = torch.export.Dim("rows", min=1)
    return torch.export.export(net, (torch.randn(3, 3), torch.randn(3, 2)), dynamic_shapes=({0: rows}, {0: rows}))


@pytest.fixture(scope="module")
def exported(program, tmp_path_factory):
    path = tmp_path_factory.mktemp("export") / "net.pt2"
    torch.export.save(program, path)
    return path


@pytest.fixture(scope="module")
def onnx(net, tmp_path_factory):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    path = tmp_path_factory.mktemp("onnx") / "net.onnx"
    rows = torch.export.Dim.DYNAMIC
    torch.onnx.export(
        net,
        (torch.randn(3, 3), torch.randn(3, 2)),
        path,
        dynamo=True,
        dynamic_shapes=({0: rows}, {0: rows}),
        input_names=["x", "y"],
        output_names=["sum", "x_twice"],
        external_data=False,
        verbose=False,
    )
    return path


def test_an_exported_program_gives_what_the_module_gives(net, exported):
    loaded = load_program(exported, CPU).eval()
    for rows in (1, 5):
        inputs = torch.randn(rows, 3), torch.randn(rows, 2)
        expected = net(*inputs)
        found = loaded(*inputs)
        assert list(found) == ["sum", "x"]
        torch.testing.assert_close(found, expected)
    assert not loaded.training
    assert describe(loaded) == "ExportedModule, 8 parameters (float32)"


class Hostile:
    def __reduce__(self):
        return (print, ("run",))


def saved(value):
    stream = io.BytesIO()
    torch.save(value, stream)
    return stream.getvalue()


def rewritten(exported, path, change):
    """Return the program with each member as the function gives it."""
    with zipfile.ZipFile(exported) as source, zipfile.ZipFile(path, "w") as target:
        for name in source.namelist():
            target.writestr(name, change(name, source.read(name)))
    return path


def require(exported, member):
    with zipfile.ZipFile(exported) as archive:
        if not any(name.endswith(member) for name in archive.namelist()):
            pytest.skip(f"this torch writes no {member}")


def test_a_program_whose_example_is_code_is_refused(exported, tmp_path):
    evil = saved(Hostile())
    names = ("inputs/model.pt", "example_inputs.pt")  # as torch calls it now, and before 2.8
    path = rewritten(exported, tmp_path / "m.pt2", lambda name, old: evil if name.endswith(names) else old)
    with pytest.raises(UnsafeCheckpointError, match=r"inputs(/model)?\.pt could run code\n.*weights_only"):
        load_program(path, CPU)


@pytest.mark.parametrize("member", ["state_dict.pt", "constants.pt", "example_inputs.pt", "state_dict.json"])
def test_a_program_of_an_older_torch_that_holds_code_is_refused(tmp_path, member):
    path = tmp_path / "m.pt2"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("serialized_exported_program.json", "{}")
        archive.writestr("version", "8.2")
        for name in {"state_dict.pt", "constants.pt", "example_inputs.pt", member}:
            archive.writestr(f"serialized_{name}", saved(Hostile() if name == member else {}))
    with pytest.raises(UnsafeCheckpointError, match=f"serialized_{member} could run code"):
        programs.load_exported(path, CPU)


@pytest.mark.parametrize("hostile", [False, True])
def test_a_pickled_weight_is_data_or_refused(net, exported, tmp_path, hostile):
    def change(name, content):
        if name.endswith("model_weights_config.json"):
            document = json.loads(content)
            document["config"]["layer.weight"] |= {"path_name": "pickled", "use_pickle": True}
            return json.dumps(document).encode()
        return content

    require(exported, "model_weights_config.json")
    path = rewritten(exported, tmp_path / "m.pt2", change)
    with zipfile.ZipFile(path, "a") as archive:
        folder = archive.namelist()[0].partition("/")[0]
        content = saved(Hostile() if hostile else nn.Parameter(net.layer.weight.detach().clone()))
        archive.writestr(f"{folder}/data/weights/pickled", content)
    inputs = torch.randn(2, 3), torch.randn(2, 2)
    if hostile:
        with pytest.raises(UnsafeCheckpointError, match="pickled could run code"):
            load_program(path, CPU)
    else:
        torch.testing.assert_close(load_program(path, CPU)(*inputs), net(*inputs))


@pytest.mark.parametrize("kind", ["custom_obj_0", "opaque_obj_0"])
def test_custom_objects_are_refused(exported, tmp_path, kind):
    config = json.dumps({"config": {"c": {"path_name": kind, "use_pickle": False}}}).encode()
    require(exported, "constants_config.json")
    path = rewritten(exported, tmp_path / "m.pt2", lambda name, old: config if "constants_config" in name else old)
    with pytest.raises(UnsafeCheckpointError, match=kind):
        load_program(path, CPU)


def test_a_text_of_which_torch_would_make_code_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for what, data, *_ in (*hostile_programs.attacks(), *hostile_programs.others()):
        (tmp_path / "m.pt2").write_bytes(data)
        with pytest.raises(UnsafeCheckpointError, match="weights_only"):
            programs.load_exported(tmp_path / "m.pt2", CPU)
        assert [path.name for path in tmp_path.iterdir()] == ["m.pt2"], what


def test_a_structure_imports_nothing(tmp_path, monkeypatch):
    (tmp_path / "evil_module.py").write_text("open('pwned', 'w').close()\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "m.pt2").write_bytes(dict(hostile_programs.others())["an enum"])
    with pytest.raises(UnsafeCheckpointError, match="imports an enum, 'evil_module:Kind'"):
        programs.load_exported(tmp_path / "m.pt2", CPU)
    assert not (tmp_path / "pwned").exists()
    with pytest.raises(LoadError):  # there is no such enum, which is found out too late
        programs.load_exported(tmp_path / "m.pt2", CPU, weights_only=False)
    assert (tmp_path / "pwned").exists()


def test_a_damaged_program(exported, tmp_path):
    path = rewritten(
        exported,
        tmp_path / "m.pt2",
        lambda name, old: old[:99] if name.endswith(("model.json", "program.json")) else old,
    )
    with pytest.raises(LoadError, match="cannot be read"):
        load_program(path, CPU)


def test_a_program_takes_no_model_file(exported, tmp_path):
    (tmp_path / "some_net.py").write_text("from torch import nn\nclass SomeNet(nn.Module):\n    pass\n")
    with pytest.raises(UnsupportedFormatError, match=r"is a program of torch\.export, which needs no model file"):
        load_eager(tmp_path / "some_net.py", exported)


def test_an_onnx_model_gives_what_the_module_gives(net, onnx):
    loaded = load_program(onnx, CPU)
    for rows in (1, 5):
        inputs = torch.randn(rows, 3), torch.randn(rows, 2)
        total, twice = loaded(*inputs)
        torch.testing.assert_close(total, net(*inputs)["sum"])
        torch.testing.assert_close(twice, inputs[0] * 2)
        torch.testing.assert_close(loaded(y=inputs[1], x=inputs[0].requires_grad_())[0], total)
    assert describe(loaded) == "ONNX model on ONNX Runtime's CPU provider"
    with pytest.raises(TypeError, match="takes 2 inputs, and 3 were given"):
        loaded(*inputs, inputs[0])


def test_an_onnx_model_is_asked_as_the_session_that_torchserve_gives(net, onnx):
    loaded = load_program(onnx, CPU)
    names = [item.name for item in loaded.get_inputs()]
    inputs = torch.randn(2, 3), torch.randn(2, 2)
    total, _ = loaded.run(None, {name: one.numpy() for name, one in zip(names, inputs, strict=True)})
    torch.testing.assert_close(torch.from_numpy(total), net(*inputs)["sum"])
    assert not hasattr(loaded, "eval")
    assert not hasattr(copy.copy(loaded), "_no_such")


def test_one_output_of_onnx_is_a_tensor(tmp_path):
    pytest.importorskip("onnxscript")
    module, path = nn.ReLU().eval(), tmp_path / "m.onnx"
    torch.onnx.export(module, (torch.ones(2),), path, dynamo=True, external_data=False, verbose=False)
    assert load_program(tmp_path / "m.onnx", None)(torch.tensor([-1.0, 1.0])).tolist() == [0.0, 1.0]


def test_a_damaged_onnx_model(onnx, tmp_path):
    (tmp_path / "m.onnx").write_bytes(onnx.read_bytes()[:60])
    with pytest.raises(LoadError, match="damaged or cut short"):
        load_program(tmp_path / "m.onnx", CPU)
    (tmp_path / "m.onnx").write_bytes(b"\x08\x07\x3a\x04\xff\xff\xff\xff")  # framed as a model, with no graph in it
    with pytest.raises(LoadError, match="cannot be read"):
        load_program(tmp_path / "m.onnx", CPU)


def test_onnx_without_its_runtime(onnx, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UnsupportedFormatError, match="onnxruntime is not installed"):
        load_program(onnx, CPU)


def test_onnx_runs_on_as_many_threads_as_torch(onnx):
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        loaded = load_program(onnx, CPU)
    finally:
        torch.set_num_threads(before)
    assert loaded._session.get_session_options().intra_op_num_threads == 3


# ---- libraries of AOTInductor's older form -------------------------------------------------------------------------

LIBRARY = b"\x7fELF\x02\x01 and AOTInductorModelContainerCreate"


@pytest.mark.slow
def test_a_compiled_library_gives_what_the_module_gives(net, tmp_path):
    inputs = (torch.randn(2, 3), torch.randn(2, 2))
    options = {"aot_inductor.output_path": str(tmp_path / "model.so")}
    with torch.no_grad():
        torch._inductor.aot_compile(torch.export.export(net, inputs).module(), inputs, options=options)
    (tmp_path / "model.so").rename(tmp_path / "model.bin")  # whatever it is called
    model = load_program(tmp_path / "model.bin", torch.device("cpu"))
    with torch.no_grad():
        torch.testing.assert_close(model(*inputs), net(*inputs), rtol=1e-5, atol=1e-6)
    assert describe(model) == "AOTInductor library for cpu"


def test_a_compiled_library_is_loaded_as_torchserves_worker_does(tmp_path, monkeypatch):
    path = tmp_path / "model.so"
    path.write_bytes(LIBRARY)
    asked = []
    monkeypatch.setattr("torch._export.aot_load", lambda *given: asked.append(given) or (lambda x: x + 1))
    assert load_program(path, None)(1) == 2
    assert asked == [(str(path), "cpu")]


def test_a_library_that_cannot_be_loaded(tmp_path, monkeypatch):
    path = tmp_path / "model.so"
    path.write_bytes(LIBRARY)
    with pytest.raises(LoadError, match=r"model\.so cannot be loaded: .*\nHint: it is no library of AOTInductor"):
        load_program(path, torch.device("cpu"))
    monkeypatch.delattr("torch._export.aot_load")
    with pytest.raises(UnsupportedFormatError, match=r"does not load any more\nHint: compile the model into a package"):
        load_program(path, torch.device("cpu"))
