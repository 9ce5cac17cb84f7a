"""The workloads: two networks behind `image_classifier`, and photographs."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.handlers_bench import assets
from benchmarks.serving_bench.workloads import ARCHIVES, Workload, best_class

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
# Whose classes mean something. Of random weights many classes are nearly as probable as the best one, and rounding
# decides between them: how often it does says nothing of an optimization.
TRAINED = frozenset({"lite0"})
# A network with random weights says the same of every image, by a hair, unless its layers' statistics are those of
# images. In a process of its own: one that holds torch would take memory from the workers.
_RESNET18 = """
import sys, torch, torchvision
from PIL import Image
from torchvision import transforms
torch.manual_seed(1)
net = torchvision.models.resnet18(weights=None)
for part in net.modules():
    if isinstance(part, torch.nn.BatchNorm2d):
        part.momentum = None
prepare = transforms.Compose([
    transforms.Resize(256), transforms.CenterCrop(224), transforms.ToTensor(),
    transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])])
with torch.no_grad():
    net(torch.stack([prepare(Image.open(path)) for path in sys.argv[2:]]))
torch.save(net.state_dict(), sys.argv[1])
"""
_LITE0 = """
import sys, torch
state = torch.load(sys.argv[2], map_location="cpu", weights_only=True)
torch.save({f"net.{name}": value for name, value in state.items()}, sys.argv[1])
"""
_CALIBRATED_ON = 48


def resnet18(folder: Path, bodies: Sequence[Path]) -> Workload:
    """Return torchvision's resnet18 with random weights."""
    weights = folder / "resnet18.pt"
    _python(_RESNET18, weights, *bodies[:_CALIBRATED_ON])
    parts = {
        "handler": "image_classifier",
        "model_file": ARCHIVES / "resnet18.py",
        "serialized_file": weights,
        "sample": [str(bodies[0])],  # our worker warms up with it, and compiles before it is ready
    }
    return Workload("resnet18", "torchvision's resnet18, random weights", parts, tuple(bodies), best_class)


def lite0(folder: Path, bodies: Sequence[Path]) -> Workload:
    """Return efficientnet-lite0 with the weights that Google trained.

    Raises:
        DownloadError: they cannot be downloaded.
    """
    given, code = assets.lite0()
    weights = folder / "lite0.pt"
    _python(_LITE0, weights, given)
    parts = {
        "handler": "image_classifier",
        "model_file": HERE / "archives" / "lite0.py",
        "serialized_file": weights,
        "extra_files": [f"{code}={code.name}"],
        "sample": [str(bodies[0])],
    }
    return Workload("lite0", "efficientnet-lite0, real weights", parts, tuple(bodies), best_class)


def _python(code: str, *arguments: Path) -> None:
    subprocess.run([sys.executable, "-W", "ignore", "-c", code, *map(str, arguments)], cwd=ROOT, check=True)


WORKLOADS: dict[str, Callable[[Path, Sequence[Path]], Workload]] = {"resnet18": resnet18, "lite0": lite0}
