"""Imports that fail when a worker loads the archive, found before it is written."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from archive_tool.building import checks, import_checks
from archive_tool.building.files import plan
from archive_tool.building.inputs import Inputs
from archive_tool.building.looked import Looked
from archive_tool.building.report import Report

SDK = "from handlers import BaseHandler\nclass H(BaseHandler):\n    pass\n"
OWN = "def handle(data, context):\n    return data\n"
NET = "class Net:\n    pass\n"


def check(files, handler="x.py", **options):
    for name, text in files.items():
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(text)
    inputs = Inputs(model_name="m", handler=handler, **options)
    report = Report()
    checks.check(Looked(inputs, plan(inputs, 0, report)), report)
    return report


def errors(files, **options):
    report = check(files, **options)
    assert report.warnings == []
    return [str(problem) for problem in report.errors]


# ---- relative imports ----------------------------------------------------------------------------------------------


def test_a_relative_import_in_the_handler(work):
    (problem,) = errors({"x.py": f"import os\nfrom .net import Net\n{OWN}"})
    assert problem.startswith("x.py:2: `from .net import Net` cannot work")
    assert "write `from net import Net`" in problem
    (problem,) = errors({"x.py": f"from . import net as n\n{OWN}"})
    assert "write `import net as n`" in problem


def test_a_relative_import_in_the_model_file(work):
    files = {"net.py": f"from .layers import Layer\n{NET}"}
    for handler in ("image_classifier", "x.py"):
        (problem,) = errors({**files, "x.py": SDK}, handler=handler, model_file=Path("net.py"))
        assert problem.startswith("net.py:1: `from .layers import Layer` cannot work")


def test_a_model_file_that_the_handler_loads_in_its_own_way(work):
    report = check({"x.py": OWN, "net.py": f"from .layers import Layer\n{NET}"}, model_file=Path("net.py"))
    assert report.errors == []
    assert [problem.where for problem in report.warnings] == ["net.py:1"]


def test_what_the_handler_imports_is_followed(work):
    files = {
        "x.py": f"import a\n{OWN}",
        "more/a.py": "from pkg.inner import thing\n",
        "more/pkg/__init__.py": "",
        "more/pkg/inner.py": "from .. import too_far\nfrom . import fine\n",
        "more/pkg/fine.py": "",
        "more/unused.py": "from . import a\n",
    }
    (problem,) = errors(files, extra_files=("more",))
    assert problem.startswith("more/pkg/inner.py:1: `from .. import too_far` leads out of the package pkg")


@pytest.mark.parametrize(
    "text",
    [
        "try:\n    from .net import Net\nexcept ImportError:\n    from net import Net\n",
        "if __package__:\n    from .net import Net\n",
        "def load():\n    from .net import Net\n",
        "__package__ = 'net'\nfrom .net import Net\n",
        "from __future__ import annotations\n",
    ],
)
def test_relative_imports_that_may_work(work, text):
    assert errors({"x.py": text + OWN}) == []


def test_a_package_may_import_from_itself(work):
    files = {
        "x.py": f"from pkg import part\n{OWN}",
        "more/pkg/__init__.py": "from . import part\nfrom pkg import part\nfrom .part import thing\n",
        "more/pkg/part.py": "from .deep.er import x\nthing = 1\n",
        "more/pkg/deep/er.py": "from ..part import thing\nx = 1\n",
    }
    assert errors(files, extra_files=("more",)) == []


# ---- files that hide others ----------------------------------------------------------------------------------------


def test_a_file_that_imports_what_it_hides(work):
    (problem,) = errors({"transformers.py": f"from transformers import AutoModel\n{OWN}"}, handler="transformers.py")
    assert problem.startswith("transformers.py:1: `from transformers import AutoModel` in a file of that name")
    for text in ("from torch.nn import Linear", "import torch.nn as nn"):
        (problem,) = errors({"torch.py": f"import torch\n{text}\n{OWN}"}, handler="torch.py")
        assert problem.startswith(f"torch.py:2: `{text}` in a file of that name")
    assert errors({"x.py": f"there = 1\nfrom x import there\n{OWN}"}) == []


@pytest.mark.parametrize("name", ["random", "types", "time", "os"])
def test_handlers_that_hide_a_module(work, name):
    (problem,) = errors({f"{name}.py": OWN}, handler=f"{name}.py")
    assert problem.startswith(f"{name}.py: ")
    assert "rename the file" in problem


def test_extra_files_that_hide_a_module(work):
    (problem,) = errors({"x.py": OWN, "more/types.py": NET}, extra_files=("more",))
    assert problem.startswith("more/types.py: the file takes the place of the standard library's module types")
    (problem,) = errors({"x.py": OWN, "pack/queue/__init__.py": NET}, extra_files=("pack",))
    assert problem.startswith("pack/queue/__init__.py: ")


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("more/code.py", NET),  # nothing that a worker needs
        ("more/dataclasses.py", "def dataclass(cls): pass\n"),  # a backport
        ("more/types.py", "from _types import *\n"),
        ("more/os.py", NET),  # it is never seen
    ],
)
def test_extra_files_that_may_work_beside_the_module_that_they_hide(work, file, text):
    report = check({"x.py": OWN, file: text}, extra_files=("more",))
    assert report.errors == []
    assert [problem.where for problem in report.warnings] == [file]


def test_other_places_hide_nothing(work):
    files = {"x.py": OWN, "more/pkg/types.py": NET, "more/random/notes.txt": "", "more/token.txt": ""}
    assert errors(files, extra_files=("more",)) == []


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in ("random", "types", "logging") else pytest.mark.slow)
        for name in import_checks.NEEDED
    ],
)
def test_torchserves_worker_does_not_start_beside_such_a_module(tmp_path, name):
    # All of the real module but the one name, so that this name it is.
    needed = import_checks.NEEDED[name]
    real = subprocess.run(
        [sys.executable, "-c", f"import {name}; print({name}.__file__)"], capture_output=True, text=True, check=True
    ).stdout.strip()
    path = tmp_path / (f"{name}/__init__.py" if real.endswith("__init__.py") else f"{name}.py")
    path.parent.mkdir(exist_ok=True)
    found = f"__path__.append({str(Path(real).parent)!r})\n" if path.parent != tmp_path else ""
    path.write_text(f"{found}exec(compile(open({real!r}).read(), {real!r}, 'exec'))\ndel {needed}\n")
    script = "import ts.model_service_worker as w; w.ArgParser.model_service_worker_args()"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, cwd="/")
    assert done.returncode != 0
