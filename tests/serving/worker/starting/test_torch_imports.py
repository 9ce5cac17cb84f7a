"""Settings made before torch is imported: each part has its own tests, here is that all parts are."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from .test_lazy_dynamo import PACKAGES

CODE = """
import os, sys
from serving.worker.starting import torch_imports as imports
from serving.worker.process import cores
cores.available = lambda: 1
imports.prepare()
print("torch" in sys.modules, "GOMP_SPINCOUNT" in os.environ)
import torchvision
print("torch._dynamo" in sys.modules)
"""


def test_openmp_is_calm_and_torchvision_does_without_the_compiler(tmp_path: Path) -> None:
    """With packages of those names; the real ones are in test_lazy_dynamo.py."""
    module = "import torch._dynamo\nfrom torch._dynamo.utils import is_compile_supported\n"
    more = {"torchvision/__init__.py": "import torchvision.ops", "torchvision/ops/roi_align.py": module}
    for name, text in (PACKAGES | more).items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    root = str(Path(__file__).parents[4])
    env = {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True, cwd=root, env=env)
    assert done.stdout.splitlines() == ["False True", "False"]
