"""The copy of the handler SDK inside an archive."""

import sys
import zipfile
from pathlib import Path

import pytest

import archive_tool
from archive_tool.building import vendoring
from archive_tool.building.files import plan
from archive_tool.building.inputs import Inputs
from archive_tool.building.looked import Looked
from archive_tool.building.report import Report
from archive_tool.errors import BuildError


@pytest.fixture
def sdk(work):
    root = work / "lib" / "handlers"
    for name in ("__init__.py", "base.py", "text/words.py", "py.typed", "notes.md", "__pycache__/base.py"):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (root / "__init__.py").write_text("from handlers.base import BaseHandler\n")
    return root


def vendored(sdk, report=None, **options):
    inputs = Inputs(model_name="m", **{"handler": "h.py", **options})
    report = report or Report()
    result = vendoring.vendor(Looked(inputs, plan(inputs, 0, report)), report, sdk_root=sdk)
    assert report.errors == []
    names = [member.name for member in result.members]
    assert names == sorted(names)
    return [name for name in names if name.startswith("handlers")]


COPY = ["handlers/__init__.py", "handlers/base.py", "handlers/py.typed", "handlers/text/words.py"]


def test_no_import_no_copy(sdk):
    assert vendored(sdk) == []


def test_the_handler_imports_it(sdk):
    Path("h.py").write_text("from handlers import BaseHandler\nclass H(BaseHandler): pass\n")
    assert vendored(sdk) == COPY


def test_another_python_file_imports_it(sdk):
    Path("extra").mkdir()
    Path("extra/old.py").write_text("print 'python 2'")
    Path("extra/more.py").write_text("def f():\n    import handlers.base\n")
    assert vendored(sdk, extra_files=("extra",)) == COPY


def test_a_handler_of_the_sdk_needs_a_copy(sdk):
    assert vendored(sdk, handler="tensor_handler") == COPY


def test_a_built_in_handler_needs_no_copy_but_a_model_file_may(sdk):
    assert vendored(sdk, handler="image_classifier") == []
    Path("model.py").write_text("import handlers\nclass Net: pass\n")
    assert vendored(sdk, handler="image_classifier", model_file=Path("model.py")) == COPY


def test_the_cpp_runtime_needs_no_copy(sdk, monkeypatch):
    Path("model.py").write_text("import handlers\nclass Net: pass\n")
    assert vendored(sdk, handler="BaseHandler", runtime="LSP", model_file=Path("model.py")) == []


@pytest.mark.parametrize("own", ["own/handlers.py", "own/handlers/__init__.py"])
def test_the_users_own_module_wins(sdk, own):
    Path(own).parent.mkdir(parents=True)
    Path(own).touch()
    Path("h.py").write_text("import handlers\nclass H(handlers.X): pass\n")
    report = Report()
    assert vendored(sdk, report, extra_files=("own",)) == [own.removeprefix("own/")]
    assert "your own" in report.warnings[0].message


def test_the_sdk_is_found_without_importing_it():
    root = vendoring.find_sdk()
    assert (root / "py.typed").is_file()


@pytest.fixture
def elsewhere(work, monkeypatch):
    """Return a build as if archive_tool were installed in a folder of its own."""
    monkeypatch.setattr(vendoring, "__file__", str(work / "elsewhere" / "archive_tool" / "building" / "vendoring.py"))
    monkeypatch.delitem(sys.modules, "handlers", raising=False)
    monkeypatch.syspath_prepend(work)


def test_no_sdk(work, elsewhere, monkeypatch):
    Path("h.py").write_text("import handlers\nclass H(handlers.X): pass\n")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(BuildError, match="imported but not installed") as caught:
        archive_tool.build(model_name="m", handler="h.py")
    assert "--no-vendor-sdk" in caught.value.hint
    archive_tool.build(model_name="m", handler="h.py", vendor_sdk=False)


def test_a_package_of_the_same_name_is_not_the_sdk(work, elsewhere):
    Path("handlers").mkdir()
    Path("handlers/__init__.py").touch()
    with pytest.raises(BuildError, match="is not the handler SDK"):
        vendoring.find_sdk()
    Path("handlers/py.typed").touch()
    assert vendoring.find_sdk() == work / "handlers"
    assert "handlers" not in sys.modules


def test_a_real_build_holds_the_copy(work):
    Path("h.py").write_text("import handlers\nclass H(handlers.BaseHandler): pass\n")
    result = archive_tool.build(model_name="m", handler="h.py", export_path="store")
    assert "handlers/__init__.py" in result.members
    with zipfile.ZipFile(result.path) as archive:
        assert archive.read("handlers/__init__.py") == (vendoring.find_sdk() / "__init__.py").read_bytes()


# ---- imports of what is not in the copy ------------------------------------------------------------------------------

HANDLER = "class H:\n    def initialize(self, context): pass\n    def handle(self, data, context): return data\n"


def told(source, *, sdk_root=None, **files):
    """Return the errors and the warnings about a handler with this first line."""
    Path("h.py").write_text(f"{source}\n{HANDLER}")
    for name, text in files.items():
        Path(f"{name}.py").write_text(text)
    inputs = Inputs(model_name="m", handler="h.py", extra_files=[f"{name}.py" for name in files])
    report = Report()
    vendoring.vendor(Looked(inputs, plan(inputs, 0, report)), report, sdk_root=sdk_root)
    return report.errors, report.warnings


@pytest.mark.parametrize(
    ("statement", "lacking", "instead"),
    [
        (
            "from handlers.image_classifier import ImageClassifier",
            "handlers.image_classifier",
            "ImageClassifier",
        ),
        (
            "from handlers.image_classifier import ImageClassifier as Base",
            "handlers.image_classifier",
            "ImageClassifier",
        ),
        ("import handlers.image_classifier", "handlers.image_classifier", "ImageClassifier"),
        ("import json, handlers.text_handler as text", "handlers.text_handler", "TextHandler"),
        ("from handlers.isolation import BisectError", "handlers.isolation", "..."),
        ("from handlers import image_classifier", "handlers.image_classifier", "ImageClassifier"),
        ("from handlers import BaseHandler, NoSuchName", "handlers.NoSuchName", "BaseHandler"),
        ("from handlers.base import BaseHandler, no_such_name", "handlers.base.no_such_name", "BaseHandler"),
        ("from handlers.vision import ImageClassifier", "handlers.vision.ImageClassifier", "ImageClassifier"),
    ],
)
def test_what_the_sdk_does_not_have_ends_the_build(work, statement, lacking, instead):
    (error,), warnings = told(f"import os\n{statement}")
    assert warnings == []
    assert error.message == f"`{statement}` fails: the handler SDK has no {lacking}"
    assert error.where == "h.py:2"
    assert error.hint.startswith(f"write `from handlers import {instead}`: ")


@pytest.mark.parametrize(
    "statement",
    [
        "from handlers import BaseHandler, ImageClassifier, vision",
        "from handlers import *",
        "from handlers import __doc__",
        "from handlers.vision.image_classifier import ImageClassifier",
        "import handlers.text.handler, handlers.compile_cache",
        "from handlers.streaming import send_parts",
        "from handlers.testing import FakeContext",
        "from handlers_of_mine import image_classifier",
        # Written for this SDK and for earlier ones.
        "try:\n    from handlers.image_classifier import ImageClassifier\nexcept ImportError:\n    import handlers",
        "if False:\n    import handlers.image_classifier",
    ],
)
def test_what_may_be_imported(work, statement):
    assert told(statement) == ([], [])


def test_what_may_not_be_reached_is_a_warning(work):
    old = "import handlers.image_classifier\n"
    errors, (first, second) = told(f"from handlers import BaseHandler\ndef later():\n    {old}", unused=old)
    assert errors == []
    assert [first.where, second.where] == ["h.py:3", "unused.py:1"]
    assert "fails if it is reached: the handler SDK has no handlers.image_classifier" in first.message
    (error,), warnings = told("from handlers import BaseHandler\nimport used", used=old)
    assert (error.where, warnings) == ("used.py:1", [])


def test_what_is_imported_from_a_package_of_the_users_own_is_not_ours_to_judge(work):
    own = Path("own/handlers")
    own.mkdir(parents=True)
    (own / "__init__.py").touch()
    (own / "image_classifier.py").write_text("class ImageClassifier: pass\n")
    Path("h.py").write_text(f"from handlers.image_classifier import ImageClassifier\n{HANDLER}")
    result = archive_tool.build(model_name="m", handler="h.py", extra_files="own", export_path="store")
    assert "handlers/image_classifier.py" in result.members
    archive_tool.build(model_name="n", handler="h.py", vendor_sdk=False, export_path="store")


def test_a_real_build_says_so(work):
    Path("h.py").write_text(f"from handlers.image_classifier import ImageClassifier\n{HANDLER}")
    with pytest.raises(BuildError, match="handler SDK has no") as caught:
        archive_tool.build(model_name="m", handler="h.py", export_path="store")
    assert caught.value.where == "h.py:1"
    assert list(Path("store").iterdir()) == []


def test_every_name_of_the_sdk_may_be_imported(work):
    import handlers

    assert told(f"from handlers import {', '.join(handlers.__all__)}") == ([], [])
