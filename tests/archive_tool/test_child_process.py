"""Scripts on an unpacked archive."""

import time

import psutil
import pytest

from archive_tool import child_process
from archive_tool.errors import BuildError

REPORT = """
import json, os, sys
folder, task, report = sys.argv[1:]
found = {"cwd": os.getcwd(), "folder": folder, "task": json.load(open(task)), "path": os.environ.get("PYTHONPATH")}
found["more"] = os.environ["MORE"]
json.dump(found, open(report, "w"))
"""
# What it starts outlives it.
LEAVES = """
import json, subprocess, sys
left = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
json.dump({"pid": left.pid}, open(sys.argv[3], "w"))
"""


@pytest.fixture
def run(tmp_path, monkeypatch):
    (tmp_path / "model").mkdir()
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    def run(source, **more):
        script = tmp_path / "script.py"
        script.write_text(source)
        return child_process.run(script, tmp_path / "model", {"a": [1]}, tmp_path, does="tries it", **more)

    return run


def ended(pid):
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_a_report(run, tmp_path):
    folder = str(tmp_path / "model")
    found = run(REPORT, environment={"MORE": "b"})
    assert found == {"cwd": folder, "folder": folder, "task": {"a": [1]}, "path": None, "more": "b"}


def test_without_a_report(run):
    with pytest.raises(BuildError) as caught:
        run("print('what it says'); raise SystemExit(3)", where="--option")
    assert caught.value.message == "the process that tries it ended with the exit code 3\nwhat it says"
    assert caught.value.where == "--option"


def test_nothing_of_it_goes_on(run):
    pid = run(LEAVES)["pid"]
    deadline = time.monotonic() + 20
    while not ended(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert ended(pid)
