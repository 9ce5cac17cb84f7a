"""What the compiling process makes of an archive up to the compiler; the rest is in tests/handlers/test_compiled.py."""

import json
import sys
import textwrap

import pytest
import torch

from archive_tool.errors import BuildError
from archive_tool.publishing import compilation

NET = """
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 2)

        def forward(self, x, scale=None):
            return self.layer(x) if scale is None else self.layer(x) * scale
"""
HANDLER = """
    from handlers import BaseHandler

    class Handler(BaseHandler):
        pass
"""


@pytest.fixture
def unpacked(tmp_path, monkeypatch):
    """Yield a function that makes the folder of an unpacked archive with samples, and the task for it."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    known = set(sys.modules)
    folder = tmp_path / "model"
    folder.mkdir()
    sys.path.insert(0, str(folder))

    def make(handler=HANDLER, net=NET, samples=((1, 2, 3),), config=None, sdk=None, name="h_of_a_user"):
        (folder / f"{name}.py").write_text(textwrap.dedent(handler))
        (folder / "net_of_a_user.py").write_text(textwrap.dedent(net))
        told = []
        for index, sample in enumerate(samples):
            path = folder / f"{index}.json"
            path.write_text(json.dumps(sample))
            told.append({"name": path.name, "file": str(path), "contentType": "application/json"})
        (tmp_path / "output").mkdir(exist_ok=True)
        manifest = {"model": {"modelName": "m", "modelFile": "net_of_a_user.py", "handler": f"{name}.py"}}
        task = {"handler": name, "sdk": sdk, "manifest": manifest, "config": config or {}, "samples": told}
        return folder, {**task, "output": str(tmp_path / "output")}

    yield make
    for one in set(sys.modules) - known:
        if str(getattr(sys.modules[one], "__file__", None) or "").startswith(str(folder)):
            del sys.modules[one]


def specs(folder, task):
    handler, context, _ = compilation._load(folder, task)
    calls, refused = compilation._calls(handler, context, handler.model, task["samples"])
    assert refused == ""
    assert isinstance(handler.model, torch.nn.Module)  # it is as it was
    return compilation._specs(calls)[0]


def test_the_number_of_rows_may_be_any(unpacked):
    assert specs(*unpacked()) == [{"name": "0", "dtype": "float32", "shape": [None, 3]}]


def test_a_handler_that_asks_its_model_request_by_request_has_one_row(unpacked):
    one_by_one = """
        import torch
        from handlers import BaseHandler

        class Handler(BaseHandler):
            def inference(self, data, *args, **kwargs):
                return torch.cat([super(Handler, self).inference(row[None]) for row in data])
    """
    assert specs(*unpacked(one_by_one)) == [{"name": "0", "dtype": "float32", "shape": [1, 3]}]


def test_what_differs_between_samples_may_be_any_size_too(unpacked):
    padded = """
        import torch
        from handlers import BaseHandler

        class Handler(BaseHandler):
            def collate(self, items):
                return torch.nn.utils.rnn.pad_sequence(items, batch_first=True)

            def inference(self, data, *args, **kwargs):
                return super().inference(data, scale=data.sum(1, keepdim=True).long()[:, :1])
    """
    net = """
        from torch import nn

        class Net(nn.Module):
            def forward(self, x, scale):
                return x.sum(1, keepdim=True) * scale
    """
    assert specs(*unpacked(padded, net, samples=[(1, 2, 3), (1, 2)])) == [
        {"name": "0", "dtype": "float32", "shape": [None, None]},
        {"name": "scale", "dtype": "int64", "shape": [None, 1]},
    ]


def test_a_built_in_handler_is_the_sdks(unpacked):
    assert specs(*unpacked(sdk="BaseHandler", name="base_handler"))[0]["shape"] == [None, 3]


def test_the_handler_loads_the_plain_model(unpacked):
    folder, task = unpacked(config={"optimize": {"dtype": "bfloat16", "compile": True}, "handler": {"a": 1}})
    handler, _, optimization = compilation._load(folder, task)
    assert type(handler.model).__name__ == "Net"
    assert handler.model_yaml_config == {"handler": {"a": 1}}
    assert optimization.dtype == "bfloat16"


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"handler": "import nothing_of_that_name"}, "the archive's handler cannot be imported: ModuleNotFoundError"),
        ({"handler": "class Handler:\n    pass"}, "the handler h_of_a_user is not one of the SDK's"),
        ({"net": "from torch import nn\nclass Net(nn.Module):\n    def __init__(self, x): ..."}, "cannot be loaded"),
        ({"config": {"optimize": {"dtype": "int4"}}}, "the archive cannot be loaded: LoadError: optimize.dtype"),
        ({"samples": ["words"]}, "the handler answers the sample 0.json with 400"),
        ({"samples": [(1, 2, 3), (1, 2)]}, "with [45]0"),
    ],
)
def test_what_does_not_load_or_answer(unpacked, parts, message):
    folder, task = unpacked(**parts)
    with pytest.raises(BuildError, match=message):
        specs(folder, task)


@pytest.mark.parametrize(
    ("inference", "message"),
    [
        ("return data.sum(1, keepdim=True)", "without calling its model"),
        ("return self.model(data, 2)", "calls the model with int as its argument 1"),
        ("return self.model(data, scale=torch.tensor(1j)).real", "with torch.complex64 as its argument scale"),
        ("return self.model(data) if len(data) == 1 else self.model(data, data[:, :2])", "with other arguments"),
        ("return self.model(data if len(data) == 1 else data[:, None]).view(len(data), 2)", "other numbers of dim"),
        ("raise KeyError('x')", "with 503|fails on the sample 0.json"),
    ],
)
def test_a_model_that_is_called_otherwise(unpacked, inference, message):
    handler = f"""
        import torch
        from handlers import BaseHandler

        class Handler(BaseHandler):
            def inference(self, data, *args, **kwargs):
                with torch.no_grad():
                    {inference}
    """
    with pytest.raises(BuildError, match=message):
        specs(*unpacked(handler))


@pytest.mark.parametrize("rows", [None, 1, 2])
def test_a_program_of_torch_export(unpacked, rows):
    """Its sizes are those that it was exported with; what it refuses is not what it is compiled for."""
    folder, task = unpacked()
    torch.manual_seed(0)
    net = torch.nn.Linear(3, 2).eval()
    free = ({0: torch.export.Dim.DYNAMIC},) if rows is None else None
    torch.export.save(torch.export.export(net, (torch.rand(rows or 2, 3),), dynamic_shapes=free), folder / "net.pt2")
    task["manifest"]["model"] = {"modelName": "m", "serializedFile": "net.pt2", "handler": "h_of_a_user.py"}
    handler, context, _ = compilation._load(folder, task)
    if rows == 2:
        with pytest.raises(BuildError, match=r"answers the sample 0\.json with 503"):
            compilation._calls(handler, context, handler.model, task["samples"])
        return
    calls, refused = compilation._calls(handler, context, handler.model, task["samples"])
    specs, shapes = compilation._specs(calls)
    assert specs[0]["shape"] == [rows, 3]
    assert ("the model takes no batch of 2 samples" in refused) is (rows == 1)
    largest = max(calls, key=lambda call: len(call[0][0]))
    again = compilation._export(handler.model, largest, specs, shapes).module()
    for count in (1,) if rows == 1 else (1, 2, 5):
        given = torch.rand(count, 3)
        torch.testing.assert_close(again(given), net(given))


def test_models_that_torch_export_does_not_take(unpacked):
    folder, task = unpacked()
    script = torch.jit.script(torch.nn.Linear(3, 2))
    script.save(folder / "script.pt")
    task["manifest"]["model"] = {"modelName": "m", "serializedFile": "script.pt", "handler": "h_of_a_user.py"}
    with pytest.raises(BuildError, match="the model is TorchScript"):
        compilation.compile_archive(folder, task)
    handler = """
        from handlers import BaseHandler

        class Handler(BaseHandler):
            def initialize(self, context):
                self.model = len
    """
    folder, task = unpacked(handler, name="h_other")
    with pytest.raises(BuildError, match="the handler's model is builtin_function_or_method"):
        compilation.compile_archive(folder, task)


def test_the_first_line_of_torchs_error_says_why_a_model_cannot_be_exported(unpacked):
    branching = """
        from torch import nn

        class Net(nn.Module):
            def forward(self, x):
                return x + 1 if x.sum() > 0 else x - 1
    """
    with pytest.raises(BuildError, match=r"cannot be exported by torch\.export: \w+: .") as raised:
        compilation.compile_archive(*unpacked(net=branching))
    assert "\n" not in raised.value.message
    assert "torch.cond" in raised.value.hint


def test_code_that_gives_something_else_is_refused(unpacked, monkeypatch, tmp_path):
    from handlers.loading import programs

    folder, task = unpacked()
    for found, message in [(torch.zeros(1, 2) + 9, "differ by"), (RuntimeError("no"), r"fails on inputs of \[1, 3\]")]:

        def package(x, found=found):
            if isinstance(found, Exception):
                raise found
            return found.expand(len(x), 2)

        monkeypatch.setattr(programs, "load_compiled", lambda path, device, package=package: package)
        monkeypatch.setattr(compilation, "_compile", lambda *_: (tmp_path / "model", ""))
        with pytest.raises(BuildError, match=message):
            compilation.compile_archive(folder, task)
        task["config"] = {"optimize": {"tolerance": 1}}
