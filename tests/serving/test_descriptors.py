"""The limit of open files, raised in a process of its own."""

from __future__ import annotations

import resource
import subprocess
import sys

import pytest

CODE = """
import resource
from serving import descriptors
resource.setrlimit(resource.RLIMIT_NOFILE, (200, 300))
descriptors.allow()
assert resource.getrlimit(resource.RLIMIT_NOFILE) == (300, 300)
{further}
print("done")
"""
DENIED = """
def denied(*_):
    raise ValueError("not allowed to raise maximum limit")
resource.setrlimit = denied
descriptors.allow()
"""
MISSING = """
import sys
sys.modules["resource"] = None
descriptors.allow()
"""


@pytest.mark.parametrize("further", ["", DENIED, MISSING], ids=["allowed", "denied", "missing"])
def test_as_many_files_as_there_may_be_are_opened(further: str) -> None:
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[1] >= 300
    code = CODE.format(further=further)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("done\n", "")
