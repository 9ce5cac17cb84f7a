"""The parts of a handler that TorchServe cannot call, found before it is written."""

import ast
import re
from pathlib import Path

import pytest

from archive_tool.building import checks
from archive_tool.building.files import plan
from archive_tool.building.inputs import Inputs
from archive_tool.building.looked import Looked
from archive_tool.building.report import Report

ROOT = Path(__file__).resolve().parents[3]
ASYNC = "asyncCommunication: true\nparallelType: custom\nbatchSize: 1\n"
#: They hold handlers that are refused, or no handlers at all.
REFUSED = {"test_checks.py", "test_import_checks.py", "test_handler_checks.py"}


def check(text, reference="x.py", config=None, **options):
    Path("x.py").write_text(text)
    if config is not None:
        Path("c.yaml").write_text(config)
        options["config_file"] = Path("c.yaml")
    inputs = Inputs(model_name="m", handler=reference, **options)
    report = Report()
    checks.check(Looked(inputs, plan(inputs, 0, report)), report)
    return report


# ---- coroutines ----------------------------------------------------------------------------------------------------

METHODS = "class H:\n    def initialize(self, context): pass\n    async def handle(self, data, context): pass\n"


@pytest.mark.parametrize(
    ("text", "reference"),
    [
        ("async def handle(data, context): pass\n", "x.py"),
        ("async def run(data, context): pass\n", "x.py:run"),
        (METHODS, "x.py"),
        (METHODS.replace("class H:", "class H(Base):"), "x.py"),
    ],
)
def test_coroutines_that_nothing_awaits(work, text, reference):
    for config in (None, "batchSize: 1\n", "asyncCommunication: false\n"):
        (problem,) = check(text, reference, config).errors
        assert (
            "is a coroutine function (async def), and without asyncCommunication nothing awaits it" in problem.message
        )
        assert problem.where.startswith("x.py:")
        assert "asyncCommunication: true" in problem.hint
    assert check(text, reference, ASYNC).errors == []


@pytest.mark.parametrize(
    "text",
    [
        "@runs\nasync def handle(data, context): pass\n",
        "async def handle(data, context): pass\nhandle = runs(handle)\n",
        METHODS + "    def handle(self, data, context): pass\n",
        METHODS.replace("    async", "    @runs\n    async"),
        METHODS + "    handle = runs(handle)\n",
        METHODS.replace("async def handle", "async def other") + "    def handle(self, data, context): pass\n",
        METHODS.replace("class H:", "class H(metaclass=Runs):"),
    ],
)
def test_coroutines_that_something_may_await(work, text):
    assert check(text).errors == []


def test_an_initialization_that_nothing_awaits_is_a_warning(work):
    text = METHODS.replace("def initialize", "async def initialize").replace("async def handle", "def handle")
    report = check(text)
    assert report.errors == []
    assert "initialize of H is a coroutine function, which nothing awaits" in report.warnings[0].message
    assert check(text, config=ASYNC).warnings == []


# ---- a class where a function is meant -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "from handlers import BaseHandler\nclass H(BaseHandler):\n    pass\n",
        "from ts.torch_handler.base_handler import BaseHandler as B\nclass H(B):\n    pass\n",
        "class H:\n    def handle(self, data, context): pass\n",
        "class H(Base):\n    def __init__(self): pass\n",
    ],
)
def test_a_class_that_is_named_as_a_function(work, text):
    (problem,) = check(text, "x.py:H").errors
    assert problem.message == "H is a class, and TorchServe would call it as a function, with data and context"
    assert "--handler x.py" in problem.hint


@pytest.mark.parametrize(
    "text",
    [
        "class H(Base):\n    pass\n",
        "class H:\n    def __new__(cls, data, context): return data\n",
        "class H:\n    def __init__(self, data, context): pass\n",
        "class H:\n    def __init__(self, *more): pass\n",
        "@call\nclass H:\n    pass\n",
        "class H(metaclass=Called):\n    pass\n",
    ],
)
def test_a_class_that_can_be_called(work, text):
    assert check(text, "x.py:H").errors == []


# ---- what works is not refused -------------------------------------------------------------------------------------


def texts():
    """Yield every Python file of the examples, benchmarks and tests that may be a handler, and every text in one."""
    for folder in ("examples", "benchmarks", "tests"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            if path.name in REFUSED:
                continue
            text = path.read_text(encoding="utf-8")
            inside = [getattr(node, "value", None) for node in ast.walk(ast.parse(text))]
            # The files of a package are not handlers, nor is what pytest alone reads.
            pytests = path.name == "conftest.py" or path.name.startswith("test_")
            whole = [] if pytests or (path.parent / "__init__.py").exists() else [text]
            for one in (*whole, *inside):
                if isinstance(one, str) and "\n" in one and "handle" in one and is_python(one):
                    yield path, one


def is_python(text):
    try:
        tree = ast.parse(text)
    except SyntaxError:
        return False
    return any(isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) for node in tree.body)


def test_no_handler_of_the_examples_or_tests_is_refused(work):
    new = "coroutine function|is a class|takes the place of|cannot work|leads out|imports the file itself"
    seen = 0
    for path, text in texts():
        seen += 1
        problems = check(text, config=ASYNC if "async def handle" in text else None).errors
        assert [one for one in map(str, problems) if re.search(new, one)] == [], path
    assert seen > 100
