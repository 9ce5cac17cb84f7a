"""Mistakes that are reported before anything is written, and odd things that are not mistakes."""

import zipfile
from pathlib import Path

import pytest
import torch

from archive_tool.building import checks
from archive_tool.building.files import plan
from archive_tool.building.inputs import Inputs
from archive_tool.building.looked import Looked
from archive_tool.building.report import Report
from archive_tool.config import default_answer


def check(**options):
    options.setdefault("handler", "h.py")
    inputs = Inputs(model_name="m", **options)
    report = Report()
    checks.check(Looked(inputs, plan(inputs, 0, report)), report)
    return report


def errors(**options):
    return [str(problem) for problem in check(**options).errors]


def handler(text, reference="x.py"):
    Path("x.py").write_text(text)
    return check(handler=reference)


def fake_zip(name, *members):
    with zipfile.ZipFile(name, "w") as archive:
        for member in members:
            archive.writestr(f"a/{member}", b"x")
    return Path(name)


def test_good_inputs(work):
    report = check(model_file=Path("model.py"), serialized_file=Path("weights.pt"))
    assert (report.errors, report.warnings) == ([], [])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "the serialized file is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 4\n", "Git LFS pointer"),
    ],
)
def test_serialized_files_that_are_none(work, data, message):
    Path("w.pt").write_bytes(data)
    (problem,) = errors(serialized_file=Path("w.pt"))
    assert message in problem


def test_lfs_pointers_among_the_other_files(work):
    Path("vocab.json").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 4\n")
    (problem,) = errors(extra_files=("vocab.json",))
    assert problem.startswith("vocab.json: the file is a Git LFS pointer")
    assert "git lfs pull" in problem


def test_torchscript_needs_no_model_file(work):
    script = fake_zip("s.pt", "data.pkl", "constants.pkl", "code/x.py", "version")
    (problem,) = errors(serialized_file=script, model_file=Path("model.py"))
    assert "leave --model-file out" in problem
    assert errors(serialized_file=script) == []
    assert errors(serialized_file=script, handler="image_classifier") == []


def test_a_compiled_library_says_what_torchserves_worker_needs(work):
    library = Path("m.so")
    library.write_bytes(b"\x7fELF" + bytes(200) + b"AOTInductorModelContainerCreate")
    report = check(serialized_file=library, handler="base_handler")
    assert report.errors == []
    assert "pt2: {export: {aot_compile: true}}" in report.warnings[0].hint
    Path("c.yaml").write_text("pt2:\n  export:\n    aot_compile: true\n")
    assert check(serialized_file=library, handler="base_handler", config_file=Path("c.yaml")).warnings == []
    assert check(serialized_file=library).warnings == []


def test_safetensors_need_a_model_file_with_a_built_in_handler(work):
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(1)}, "w.safetensors")
    (problem,) = errors(serialized_file=Path("w.safetensors"), handler="image_classifier")
    assert "holds no TorchScript but a safetensors" in problem
    assert "--model-file" in problem
    assert errors(serialized_file=Path("w.safetensors")) == []


def test_a_state_dict_needs_a_model_file_with_a_built_in_handler(work):
    weights = Path("weights.pt")
    (problem,) = errors(serialized_file=weights, handler="image_classifier")
    assert "--model-file" in problem
    assert errors(serialized_file=weights, handler="vllm_handler") == []
    assert errors(serialized_file=weights) == []
    assert errors(serialized_file=weights, handler="image_classifier", model_file=Path("model.py")) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def f(): pass\n", "net.py: the model file defines no class"),
        ("from torchvision.models import ResNet\n", "net.py: the model file defines no class"),
        ("x = 1\nclass Net(:\n", "net.py:2: the model file is not Python: invalid syntax: class Net(:"),
    ],
)
def test_model_files_that_cannot_work(work, text, message):
    Path("net.py").write_text(text)
    (problem,) = errors(model_file=Path("net.py"))
    assert problem.startswith(message)


@pytest.mark.parametrize("text", ["from zoo import *", "if 1:\n    class A: pass", "A = type('A', (), {})"])
def test_model_files_that_may_work(work, text):
    Path("net.py").write_text(text)
    assert errors(model_file=Path("net.py")) == []


def test_several_classes_in_a_model_file(work):
    Path("net.py").write_text("class A: pass\nclass B: pass\n")
    assert check(model_file=Path("net.py")).warnings == []
    (warning,) = check(model_file=Path("net.py"), handler="image_classifier").warnings
    assert "defines 2 classes (A, B)" in warning.message


ONE = "class H(Base):\n    pass\n"


@pytest.mark.parametrize(
    ("text", "reference"),
    [
        (ONE, "x.py"),
        ("def handle(data, context): pass", "x"),
        ("def run(data, context): pass", "x:run"),
        ("def run(data, context): pass", "x.py:run"),
        ("_service = S()\nhandle = _service.handle\nclass A: pass\nclass B: pass", "x.py"),
        ("class A: pass\nclass B: pass\ndef run(data, context): pass", "x.py:run"),
        ("from a import handle", "x.py"),
        ("from a import *", "x.py"),
        ("from a import *\nclass A: pass\nclass B: pass", "x.py"),
        ("if gpu:\n    class H(A): pass\nelse:\n    class H(B): pass", "x.py"),
        ("class H:\n    def __init__(self):\n        self.handle = f", "x.py"),
        ("class H:\n    handle = f", "x.py"),
        ("class H(metaclass=M):\n    pass", "x.py"),
    ],
)
def test_handlers_that_work_or_may(work, text, reference):
    report = handler(text, reference)
    assert (report.errors, report.warnings) == ([], [])


@pytest.mark.parametrize(
    ("text", "reference", "message"),
    [
        ("", "x.py", "neither a function 'handle' nor a class"),
        ("def run(): pass", "x.py", "neither a function 'handle' nor a class"),
        ("def handle(): pass", "x.py:run", "neither a function 'run' nor a class"),
        ("class A(Z): pass\nclass B(Z): pass", "x.py", "defines 2 classes (A, B) and no function 'handle'"),
        ("class H:\n    def predict(self): pass", "x.py", "x.py:1: the class H of the handler has no method handle"),
        ("def f(:", "x.py", "x.py:1: the handler is not Python"),
    ],
)
def test_handlers_that_cannot_work(work, text, reference, message):
    (problem,) = handler(text, reference).errors
    assert message in str(problem)


def test_a_missing_function_beside_one_class_is_a_warning(work):
    report = handler(ONE, "x.py:missing")
    assert report.errors == []
    assert "no function 'missing'" in report.warnings[0].message


def test_a_dot_in_the_handlers_name(work):
    Path("my.h.py").write_text(ONE)
    (problem,) = errors(handler="my.h.py")
    assert "rename it to my_h.py" in problem


def test_libraries_are_not_parsed(work, monkeypatch):
    monkeypatch.setattr("platform.system", lambda: "Linux")
    Path("x.so").write_bytes(b"\x7fELF")
    assert errors(handler="x", runtime="LSP") == []


GOOD_REQUIREMENTS = """\
# comment
torch>=2.1,<3   # why
numpy ; python_version < "3.13"
pillow[extra]==10.* \\
    --hash=sha256:aa \\
    --hash=sha256:bb
--extra-index-url https://example.org/simple
-e .
-r other.txt
./local/wheel.whl
wheel-1.0-py3-none-any.whl
https://example.org/a.zip#sha256=0
git+https://example.org/a.git@v1
name @ https://example.org/name.zip
package==${VERSION}
"""


def test_good_requirements(work):
    Path("r.txt").write_text("\ufeff" + GOOD_REQUIREMENTS, encoding="utf-8")
    assert errors(requirements_file=Path("r.txt")) == []


def test_bad_requirements_name_the_line(work):
    Path("r.txt").write_text("torch\nnumpy=1.0\n\nscipy >== 2\npillow \\\n  10")
    problems = errors(requirements_file=Path("r.txt"))
    assert [problem.split(": ")[0] for problem in problems] == ["r.txt:2", "r.txt:4", "r.txt:5"]
    assert "'numpy=1.0' is not a requirement" in problems[0]


def test_requirements_that_are_no_text(work):
    Path("r.txt").write_bytes(b"\xff\xfe")
    assert "not UTF-8" in errors(requirements_file=Path("r.txt"))[0]


def test_the_config_file_is_checked(work):
    Path("c.yaml").write_text("batchSize: many\nmaxBatchDelay: 0\n")
    report = check(config_file=Path("c.yaml"))
    assert [problem.where for problem in report.errors] == ["c.yaml:1"]
    assert [problem.where for problem in report.warnings] == ["c.yaml:2"]


def test_the_file_of_a_default_answer_is_looked_for(work):
    Path("c.yaml").write_text("default_answer: none.json\n")
    (problem,) = errors(config_file=Path("c.yaml"))
    assert problem.startswith(
        "c.yaml: default_answer names 'none.json', which is no file of the archive (write the name"
    )
    Path("none.json").write_text("[]")
    given = {"config_file": Path("c.yaml"), "extra_files": ("none.json",)}
    assert errors(**given) == []
    Path("none.json").write_bytes(bytes(default_answer.MAX_BYTES + 1))
    assert "which has 1048577 bytes" in errors(**given)[0]
    Path("c.yaml").write_text("default_answer: ../none.json\n")
    assert "names '../none.json', which is no file of the archive" in errors(**given)[0]


def test_all_mistakes_are_told_at_once(work):
    Path("c.yaml").write_text("")
    Path("net.py").write_text("")
    Path("h.py").write_text("")
    assert len(errors(config_file=Path("c.yaml"), model_file=Path("net.py"), serialized_file=Path("gone"))) == 4


# ---- functions and methods -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "signature",
    [
        "data, context",
        "data, context=None",
        "*rows",
        "data, *more",
        "data, context, /",
        "a, b, *, c=1",
        "a=1, b=2, c=3",
    ],
)
def test_functions_that_can_be_called(work, signature):
    assert handler(f"def handle({signature}): pass").errors == []


@pytest.mark.parametrize("signature", ["", "data", "a, b, c", "data, *, context", "a, b, *, c"])
def test_functions_that_cannot_be_called(work, signature):
    (problem,) = handler(f"x = 1\ndef handle({signature}): pass").errors
    assert problem.where == "x.py:2"
    assert "cannot be called with the two arguments" in problem.message


@pytest.mark.parametrize(
    "text",
    [
        "@decorated\ndef handle(): pass",
        "def handle(): pass\nhandle = other",
        "def handle(): pass\nif 1:\n    def handle(a, b): pass",
        "if 1:\n    def handle(): pass",
        "handle = make()",
    ],
)
def test_functions_that_may_be_something_else(work, text):
    assert handler(text).errors == []


def test_a_class_without_initialize(work):
    (problem,) = handler("class H:\n    def handle(self, data, context): pass").errors
    assert problem.message == "the class H of the handler has no method initialize"
    assert "initialize(self, context)" in problem.hint
    assert handler("class H(Base):\n    def handle(self, data, context): pass").errors == []


# ---- weights and classes -------------------------------------------------------------------------------------------

NET = "from torch import nn\nclass Net(nn.Module):\n    def __init__(self):\n        super().__init__()\n        {}\n"
SDK = "from handlers import BaseHandler\nclass H(BaseHandler):\n    pass\n"


def warnings(net="self.fc = nn.Linear(2, 3)", weights=None, handler=SDK, reference="x.py", **options):
    Path("net.py").write_text(NET.format(net))
    Path("x.py").write_text(handler)
    torch.save({"fc.weight": torch.zeros(3, 2), "fc.bias": torch.zeros(3)} if weights is None else weights, "w.pt")
    files = {"model_file": Path("net.py"), "serialized_file": Path("w.pt")}
    report = check(handler=reference, **files, **options)
    assert report.errors == []
    return [str(problem) for problem in report.warnings]


def test_whether_weights_fit_is_told_by_the_load(work):
    assert warnings() == []
    assert warnings("self.fc = nn.Linear(2, 4)") == []  # build --check says it, with the keys
    # A model may be made of the only class here that is an nn.Module by name.
    two = "self.fc = nn.Linear(2, 3)\nclass Two(nn.Sequential):\n    def __init__(self):\n        "
    two += "super().__init__(nn.Linear(2, 2), Net())\n__all__ = ['Two']"
    keys = {"0.weight": (2, 2), "0.bias": (2,), "1.fc.weight": (3, 2), "1.fc.bias": (3,)}
    assert warnings(two, {key: torch.zeros(shape) for key, shape in keys.items()}) == []


@pytest.mark.parametrize(
    "handler",
    [
        "def handle(data, context): pass\n",
        "from handlers import BaseHandler\nclass H(BaseHandler):\n    def initialize(self, context): pass\n",
        "from handlers import BaseHandler\nclass H(BaseHandler):\n    def _load_pickled_model(self, *args): pass\n",
    ],
)
def test_handlers_that_load_in_their_own_way(work, handler):
    assert warnings(weights={"x": Path("a")}, handler=handler) == []


def test_weights_that_could_run_code(work):
    weights = {"fc.weight": torch.zeros(3, 2), "x": Path("a")}
    (warning,) = warnings(weights=weights)
    assert warning.startswith("w.pt: the serialized file is not only tensors: reading it needs pathlib.")
    ts = "from ts.torch_handler.image_classifier import ImageClassifier\nclass H(ImageClassifier): pass\n"
    for given in ({"handler": ts}, {"reference": "image_classifier"}):
        assert len(warnings(weights=weights, **given)) == 1
    Path("c.yaml").write_text("handler: {weights_only: false}\n")
    assert warnings(weights=weights, config_file=Path("c.yaml")) == []


def test_several_modules_in_a_model_file(work):
    two = "self.fc = nn.Linear(2, 3)\nclass Other(nn.Module):\n    pass\n"
    (warning,) = warnings(two)
    assert warning.startswith("net.py: the model file defines 2 subclasses of nn.Module (Net, Other); the handler SDK")
    assert warnings(two + "__all__ = ['Net']\n") == []
    assert warnings(two.replace("nn.Module", "object")) == []
    assert warnings(two, handler="def handle(data, context): pass\n") == []


@pytest.mark.parametrize(
    ("reference", "path"),
    [
        ("pack.h", "pack/h.py"),
        ("pack.h:run", "pack/h.py:run"),
        ("pack.h.Handler", "pack/h.py"),
        ("there.is.none", "there/is/none.py"),
    ],
)
def test_a_handler_that_is_named_as_a_module(work, reference, path):
    Path("pack").mkdir()
    Path("pack/h.py").write_text("")
    (problem,) = errors(handler=reference)
    assert f"a handler is given by its path, not by a module's name: --handler {path})" in problem
