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
