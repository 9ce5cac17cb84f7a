"""What is set before torch is imported: each part has its own tests, here is that all parts are."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

CODE = """
import os, sys
from serving.worker import cores, imports
cores.available = lambda: 1
imports.prepare()
print("torch" in sys.modules, "GOMP_SPINCOUNT" in os.environ)
import torchvision
print("torch._dynamo" in sys.modules)
"""


def test_openmp_is_calm_and_torchvision_does_without_the_compiler():
    root = str(Path(__file__).parents[3])
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True, cwd=root, env={})
    assert done.stdout.splitlines() == ["False True", "False"]
