"""torchvision without torch's compiler: the real packages, and packages made here for what those do not do."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[4]
PACKAGES = {
    "torch/__init__.py": "",
    "torch/_dynamo/__init__.py": "print('imported')\nSETTING = 7\n",
    "torch/_dynamo/utils.py": "def is_compile_supported(kind):\n    return kind == 'cuda'\nOTHER = 8\n",
    "torchvision/__init__.py": "",
    "torchvision/ops/__init__.py": "from torchvision.ops import roi_align\n",
}


def run(code: str, folder: Path) -> list[str]:
    """Return what a new interpreter prints, with the folder before all others on its path."""
    program = f"import sys\nsys.path[:0] = [{str(folder)!r}, {str(ROOT)!r}]\n" + textwrap.dedent(code)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.fixture
def fake(tmp_path):
    """Run code beside packages of those names, with these lines in the module that imports the compiler."""

    def start(lines: str, code: str) -> list[str]:
        for name, text in {**PACKAGES, "torchvision/ops/roi_align.py": textwrap.dedent(lines)}.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        begin = "from serving.worker.starting import lazy_dynamo\nlazy_dynamo.install()\nlazy_dynamo.install()\n"
        return run(begin + textwrap.dedent(code), tmp_path)

    return start


@pytest.mark.slow  # both, and the compiler
def test_the_real_torchvision_works_and_imports_no_compiler(tmp_path):
    lines = run(
        """
        from serving.worker.starting import lazy_dynamo
        lazy_dynamo.install()
        import torch, torchvision, torchvision.transforms, torchvision.models
        print([name for name in sys.modules if name.startswith(("torch._dynamo", "torch._inductor"))])
        boxes = torch.tensor([[0.0, 0.0, 0.0, 3.0, 3.0]])
        print(torchvision.ops.roi_align(torch.ones(1, 1, 4, 4), boxes, 2).shape)
        module = sys.modules["torchvision.ops.roi_align"]
        answer = module.is_compile_supported("cuda")
        import torch._dynamo.utils
        print(answer == torch._dynamo.utils.is_compile_supported("cuda"), torch._dynamo.config.suppress_errors)
        print(torch.compile(lambda x: x + 1, backend="eager")(torch.ones(1)).item())
        """,
        tmp_path,
    )
    assert lines == ["[]", "torch.Size([1, 1, 2, 2])", "True False", "2.0"]


def test_the_function_imports_its_module_when_it_is_called(fake):
    lines = fake(
        "import torch._dynamo\nfrom torch._dynamo.utils import is_compile_supported\n",
        """
        import torchvision.ops
        print([name for name in sys.modules if name.startswith("torch.")])
        print(torchvision.ops.roi_align.is_compile_supported("cpu"), "torch._dynamo.utils" in sys.modules)
        print(torchvision.ops.roi_align.is_compile_supported("cuda"))
        """,
    )
    assert lines == ["[]", "imported", "False True", "True"]


@pytest.mark.parametrize(
    "lines",
    [
        "import torch._dynamo as dynamo\nFOUND = dynamo.SETTING + 1",
        "from torch._dynamo import SETTING\nFOUND = SETTING + 1",
        "from torch._dynamo.utils import is_compile_supported, OTHER\nFOUND = OTHER",
    ],
)
def test_a_module_that_wants_more_gets_the_real_one(fake, lines):
    printed = fake(
        lines,
        """
        import torchvision.ops
        import torch._dynamo.utils
        print(torchvision.ops.roi_align.FOUND, torch._dynamo.utils.OTHER, torch._dynamo.SETTING)
        """,
    )
    assert printed == ["imported", "8 8 7"]


def test_a_failed_import_leaves_nothing_behind(fake):
    lines = fake(
        "import torch._dynamo\nraise RuntimeError('broken')\n",
        """
        try:
            import torchvision.ops
        except RuntimeError as error:
            print(error)
        import torch._dynamo.utils
        print(torch._dynamo.utils.OTHER)
        """,
    )
    assert lines == ["broken", "imported", "8"]


def test_what_is_imported_already_is_used(fake):
    lines = fake(
        "from torch._dynamo.utils import is_compile_supported\n",
        """
        import torch._dynamo.utils
        import torchvision.ops
        print(torchvision.ops.roi_align.is_compile_supported is torch._dynamo.utils.is_compile_supported)
        """,
    )
    assert lines == ["imported", "True"]


def test_the_source_of_the_module_can_be_shown(fake):
    lines = fake(
        "MARK = 1\n",
        """
        import inspect, torchvision.ops.roi_align
        print(inspect.getsource(torchvision.ops.roi_align))
        """,
    )
    assert lines == ["MARK = 1", ""]
