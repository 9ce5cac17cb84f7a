"""The parts of an archive that would not run here."""

import json
import platform
import shutil
from pathlib import Path

import pytest

import archive_tool
from archive_tool.config.effective import understand
from archive_tool.inspection import obstacles
from archive_tool.metadata.manifest import Manifest

HERE = ".".join(platform.python_version_tuple()[:2])


@pytest.fixture
def make(make_zip):
    """Make an archive of a manifest's model and files; return what stands in its way, and its entry point."""

    def run(model, files, config=None, runtime="python", record=None):
        document = {"runtime": runtime, "model": {"modelName": "m", **model}}
        if record is not None:
            document["torchmar"] = record
        members = [(name, text if isinstance(text, bytes) else text.encode()) for name, text in files.items()]
        path = make_zip([*members, ("MAR-INF/MANIFEST.json", json.dumps(document).encode())])
        with archive_tool.open_archive(path) as archive:
            found = obstacles.find(archive, archive.manifest, understand(config))
            return found, obstacles.entry_point(archive, archive.manifest)

    return run


@pytest.fixture
def told(make):
    return lambda *args, **kwargs: [(one.where, one.message) for one in make(*args, **kwargs)[0]]


H = {"handler": "h.py"}
HANDLER = "def handle(data, context): pass\n"


def test_nothing_stands_in_the_way(make):
    found, entry = make(H, {"h.py": f"import torch, json\nfrom . import x\nfrom numpy import array\n{HANDLER}"})
    assert found == []
    assert entry.to_dict() == {"handler": "h.py", "kind": "function", "name": "handle", "where": "h.py:4"}


# ---- entry points --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("handler", "text", "kind", "name", "where"),
    [
        ("h", HANDLER, "function", "handle", "h.py:1"),
        ("h:run", "x = 1\ndef run(a, b): pass\n", "function", "run", "h.py:2"),
        ("h.py:run", "from a import run\n", "function", "run", "h.py:1"),
        ("dir/h.py", "class H: pass\n", "class", "H", "h.py:1"),
        ("h:missing", "\nclass H: pass\n", "class", "H", "h.py:2"),
        ("h", "class A: pass\nclass B: pass\n", "unknown", None, "h.py"),
        ("h", "from a import *\nclass A: pass\n", "unknown", None, "h.py"),
        ("h", "x = (\n", "unknown", None, "h.py"),
        ("h", "def handle(): pass\nif 1:\n    handle = other\n", "function", "handle", "h.py:3"),
    ],
)
def test_entry_points(make, handler, text, kind, name, where):
    entry = make({"handler": handler}, {"h.py": text})[1]
    assert (entry.handler, entry.kind, entry.name, entry.where) == (handler, kind, name, where)


@pytest.mark.parametrize(
    ("handler", "runtime", "kind"),
    [
        ("image_classifier", "python", "built-in"),
        ("gone", "python", "unknown"),
        ("TorchScriptHandler", "LSP", "built-in"),
        ("library", "LSP", "unknown"),
    ],
)
def test_handlers_without_a_file(make, handler, runtime, kind):
    assert make({"handler": handler}, {}, runtime=runtime)[1].to_dict() == {"handler": handler, "kind": kind}


def test_no_handler(make):
    assert make({}, {"h.py": HANDLER}) == ([], None)


# ---- members and imports -------------------------------------------------------------------------------------------


def test_members_that_are_not_there(told):
    model = {"serializedFile": "w.pt", "modelFile": "m.py", "configFile": "c.yaml", "requirementsFile": "r.txt"}
    found = told({**H, **model}, {"h.py": HANDLER})
    assert found == [(None, f"the manifest's {key} {name!r} is not in the archive") for key, name in model.items()]


def test_a_handler_that_is_not_there(told):
    message = "there is no file for the handler 'gone.py', and no built-in handler has that name"
    assert told({"handler": "gone.py"}, {"h.py": HANDLER}) == [(None, message)]
    assert told({"handler": "image_classifier"}, {}) == []


def test_imports_that_cannot_be_found(told):
    files = {
        "h.py": "import json\nimport own.deep\nimport no_such_one.x\nfrom no_such_one import y\nimport native\n"
        + HANDLER,
        "m.py": "from no_such_two import x\n",
        "own/__init__.py": "",
        "own/deep.py": "import no_such_three\nimport helper\n",
        "own/unused.py": "import no_such_four\n",
        "helper.py": "import no_such_five, h\n",
        "native.cpython-311-x86_64-linux-gnu.so": b"\x7fELF",
        "stray.py": "import no_such_six\n",
    }
    found = told({**H, "modelFile": "m.py"}, files)
    assert sorted(found) == [
        ("h.py:3", "no module named 'no_such_one' can be found here"),
        ("helper.py:1", "no module named 'no_such_five' can be found here"),
        ("m.py:1", "no module named 'no_such_two' can be found here"),
        ("own/deep.py:1", "no module named 'no_such_three' can be found here"),
    ]


def test_imports_that_may_be_meant_to_fail(told):
    text = "try:\n    import no_such_one\nexcept ImportError:\n    pass\nif 0:\n    import no_such_two\n"
    text += "def handle(data, context):\n    import no_such_three\n"
    assert told(H, {"h.py": text}) == []


def test_files_that_are_not_python_here(told):
    ((where, message),) = told(H, {"h.py": "x = 1\nprint 'old'\n"})
    assert where == "h.py:2"
    assert message.startswith(f"it is not Python {platform.python_version()}: ")
    ((where, message),) = told(H, {"h.py": "\0"})
    assert where == "h.py"


def test_modules_with_an_odd_spec(told, monkeypatch):
    import sys
    import types

    module = types.ModuleType("odd_module")
    module.__spec__ = None
    monkeypatch.setitem(sys.modules, "odd_module", module)
    assert told(H, {"h.py": "import odd_module\n" + HANDLER}) == []


# ---- requirements, versions, runtimes ------------------------------------------------------------------------------


def test_requirements(told):
    text = "torch\nnumpy>=99\n\nno-such-package==1\nno-such-other; python_version < '3'\nbad ==\npillow[x]>=1\n"
    found = told({**H, "requirementsFile": "r.txt"}, {"h.py": HANDLER, "r.txt": text})
    assert [where for where, _ in found] == ["r.txt:2", "r.txt:4", "r.txt:6"]
    assert found[0][1].endswith("is installed here, >=99 is wanted")
    assert found[1][1] == "no-such-package is not installed here"
    assert "'bad ==' is not a requirement" in found[2][1]


def test_requirements_that_are_no_text(told):
    found = told({**H, "requirementsFile": "r.txt"}, {"h.py": HANDLER, "r.txt": b"\xff\xfe"})
    assert found == [("r.txt", "the requirements file cannot be read")]


def test_a_development_version_is_as_good(make, monkeypatch):
    monkeypatch.setattr("importlib.metadata.version", lambda name: "3.0.dev1")
    assert make({**H, "requirementsFile": "r.txt"}, {"h.py": HANDLER, "r.txt": "torch>=2"})[0] == []


def test_what_the_record_says(told):
    record = {"formatVersion": 1, "python": HERE, "frameworks": {"torch": "2.0.0"}}
    assert told(H, {"h.py": HANDLER}, record=record) == []
    record = {"formatVersion": 1, "python": "3.1", "frameworks": {"torch": "1.0", "no-such-package": "2.0"}}
    found = [message for _, message in told(H, {"h.py": HANDLER}, record=record)]
    assert found[0] == f"it was built with Python 3.1, this is {HERE}"
    assert found[1].startswith("it was built with torch 1.0, this is 2.")
    assert found[2] == "no-such-package 2.0 is not installed here"
    (message,) = [message for _, message in told(H, {"h.py": HANDLER}, record={"formatVersion": "x"})]
    assert message.startswith("torchmar's part of the manifest cannot be read")


def test_runtimes(told, monkeypatch):
    assert "C++ backend" in told({"handler": "TorchScriptHandler"}, {}, runtime="LSP")[0][1]
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert "no" not in [message for _, message in told(H, {"h.py": HANDLER}, runtime="python")]
    assert "needs a program python3" in told(H, {"h.py": HANDLER}, runtime="python3")[0][1]


# ---- GPUs ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "visible", "message"),
    [
        ("deviceType: gpu", "", "a GPU is wanted, and there is none here"),
        ("deviceIds: [0]", "-1", "a GPU is wanted, and there is none here"),
        ("parallelType: tp", "", "a GPU is wanted, and there is none here"),
        ("deviceIds: [0, 2]", "0,1", "GPU 2 is wanted, and there are 2 here"),
        ("deviceIds: [0, 1]", "0,1", None),
        ("deviceType: gpu", "3", None),
        ("deviceType: cpu", "", None),
        ("batchSize: 1", "", None),
    ],
)
def test_gpus_that_are_wanted(told, monkeypatch, config, visible, message):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    found = [message for _, message in told(H, {"h.py": HANDLER}, config=config)]
    assert found == ([message] if message else [])


def test_counting_gpus(monkeypatch, tmp_path):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0, 1,")
    assert obstacles.gpus() == 2
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    (tmp_path / "gpus" / "0000").mkdir(parents=True)
    monkeypatch.setattr(obstacles, "Path", lambda path: tmp_path / "gpus")
    assert obstacles.gpus() == 1
    monkeypatch.setattr(obstacles, "Path", lambda path: tmp_path / "none")
    monkeypatch.setattr("platform.system", lambda: "Linux")
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert obstacles.gpus() == 0
    monkeypatch.setattr(shutil, "which", lambda name: "/bin/nvidia-smi" if name == "nvidia-smi" else None)
    assert obstacles.gpus() is None


def test_hostile_sources_are_bounded(told):
    big = "x = 1\n" * 400_000
    assert told(H, {"h.py": big}) == []
    (found,) = told(H, {"h.py": "(" * 100_000})
    assert found[0].startswith("h.py")
    many = {f"m{index}.py": f"import m{index + 1}, no_such_{index}\n" for index in range(600)}
    found = told(H, {"h.py": "import m0\n", **many})
    assert len(found) == obstacles._MAX_MODULES - 1


def test_a_folder(work):
    Path("m/MAR-INF").mkdir(parents=True)
    Path("m/h.py").write_text("import no_such_one\n")
    manifest = {"model": {"modelName": "m", "handler": "h.py"}}
    Path("m/MAR-INF/MANIFEST.json").write_text(json.dumps(manifest))
    with archive_tool.open_archive("m") as archive:
        (found,) = obstacles.find(archive, Manifest.from_dict(manifest), understand(None))
    assert found.to_dict() == {
        "message": "no module named 'no_such_one' can be found here",
        "where": "h.py:1",
        "hint": "install it, or put its file into the archive (--extra-files)",
    }
