"""Classes of a notebook: real IPython, in a process of its own, runs the cells as a kernel of Jupyter's does."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from archive_tool.publishing import session

ROOT = Path(__file__).resolve().parents[3]
RUN = """
import json, sys
from IPython.core.interactiveshell import InteractiveShell

shell = InteractiveShell.instance()
for cell in json.load(sys.stdin):
    shell.run_cell(cell, store_history=True)
"""
NET = """
import torch
from torch import nn
from layers_of_a_user import double

class Net(nn.Module):
    def __init__(self, width=WIDTH):
        super().__init__()
        self.layer = nn.Linear(3, width)

    def forward(self, x):
        return scaled(double(self.layer(x)))
"""
CELLS = [
    "%matplotlib_is_not_there",
    "WIDTH = 2",
    "class Net(Missing): pass",
    "this is no Python",
    NET,
    "FACTOR = 10\ndef scaled(x):\n    return x * FACTOR",
    "FACTOR = 0.5",
    "data = open('no such file')",
    "net = Net()",
]
TAKE = """
from archive_tool.publishing.source import take
taken = take(Net)
print(taken.module, taken.name)
print("".join(text.decode() for text in taken.files.values()))
"""


@pytest.fixture
def notebook(tmp_path):
    def run(*cells):
        (tmp_path / "layers_of_a_user.py").write_text("def double(x):\n    return x * 2\n")
        done = subprocess.run(
            [sys.executable, "-c", RUN],
            input=json.dumps(cells),
            capture_output=True,
            text=True,
            timeout=300,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": f"{ROOT}:{tmp_path}", "IPYTHONDIR": str(tmp_path), "NO_COLOR": "1"},
        )
        assert done.returncode == 0, done.stderr
        return done.stdout, done.stderr

    return run


@pytest.mark.slow  # publishes a model more
def test_a_class_of_a_cell_is_published(notebook, tmp_path):
    (tmp_path / "store").mkdir()
    publish = """
import archive_tool
published = archive_tool.publish(net, name="net", model_store="store", example=torch.ones(2, 3))
published
"""
    out, err = notebook(*CELLS, publish, "print(published.format, published.warnings)")
    assert "<Published net 1.0 (eager): " in out
    assert "eager ()" in out
    assert "net: running the model on its example\n" in err


def test_only_what_the_class_needs_is_taken_and_the_last_of_it(notebook):
    out, _ = notebook(*CELLS, NET.replace("double(", "double(1 * "), TAKE)
    _, _, taken = out.partition("published_session Net\n")
    assert "1 * self.layer" in taken
    assert taken.count("class Net(") == 1
    assert "FACTOR = 0.5" in taken
    for junk in ("no such file", "FACTOR = 10", "Missing", "get_ipython", "net = Net()"):
        assert junk not in taken


def test_what_is_not_the_class_of_a_cell(notebook):
    out, _ = notebook(
        "%%time\nclass Timed:\n    pass",
        "class Net:\n    pass",
        "Old = Net",
        "class Net:\n    x = 1",
        TAKE.replace("take(Net)", "take(Timed)"),
        TAKE.replace("take(Net)", "take(Old)"),
    )
    assert "Timed was defined in a notebook or an interactive session that keeps no source" in out
    assert "__main__.Net is not the class or function that was given" in out


def test_outside_of_ipython_there_is_no_session():
    assert session.source_of(Path, "Path") is None
    assert session.source_of(type("Net", (), {"__module__": "__main__"}), "Net") is None
