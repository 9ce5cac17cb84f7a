"""The workloads: archives of the same handlers, and the request bodies."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import archive_tool
from benchmarks.serving_bench import driver
from benchmarks.serving_bench.contenders import Contender

ROOT = Path(__file__).resolve().parents[2]
ARCHIVES = Path(__file__).resolve().parent / "archives"
MNIST = ROOT / "examples" / "mnist"
_RANDOM_WEIGHTS = """
import importlib.util, sys, torch
spec = importlib.util.spec_from_file_location("model", sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
torch.manual_seed(1)
torch.save(getattr(module, sys.argv[2])().state_dict(), sys.argv[3])
"""


@dataclass(frozen=True)
class Shown:
    """A figure as tables show it: its name, and where a load's figures have it, times `each`."""

    name: str
    field: str
    each: int = 1


@dataclass(frozen=True)
class Workload:
    """A model and what is sent to it.

    Attributes:
        name: of the model.
        parts: arguments of `archive_tool.build`.
        bodies: files that are posted in turn.
        essence: what of an answer must be the same from every contender.
        shown: what its table has; the first of these is what targets are about.
    """

    shown: ClassVar[Sequence[Shown]] = (Shown("requests/s", "rps"), Shown("p99 ms", "p99_ms"))

    name: str
    title: str
    parts: Mapping[str, Any]
    bodies: tuple[Path, ...]
    essence: Callable[[bytes], str]

    def build(self, store: Path, contender: Contender, workers: int) -> str:
        """Write the archive for a contender into a model store of its own. Return its file name."""
        store.mkdir(parents=True, exist_ok=True)
        config = store / "model-config.yaml"
        config.write_text(contender.model_config(workers), encoding="utf-8")
        result = archive_tool.build(
            model_name=self.name, config_file=config, export_path=store, force=True, **self.parts
        )
        config.unlink()
        return result.path.name

    def sent(self, contender: Contender) -> tuple[Path, ...]:  # noqa: ARG002
        """Return the bodies as a contender takes them."""
        return self.bodies

    def load(self, drive: driver.Driver, url: str, contender: Contender, many: int, seconds: float) -> driver.Figures:
        """Send its bodies to a contender for so many seconds, over `many` connections."""
        return driver.send(drive, url, self.sent(contender), many, seconds)


def noop(folder: Path) -> Workload:
    """Return the workload without a model: the body's length is the answer."""
    body = folder / "noop.bin"
    body.write_bytes(b"x" * 300)
    parts = {"handler": ARCHIVES / "noop_handler.py"}
    return Workload("noop", "no-op handler, 300 bytes in", parts, (body,), bytes.decode)


def upload(folder: Path) -> Workload:
    """Return the no-op handler, and bodies that fill most of what a request may hold."""
    body = folder / "upload.bin"
    body.write_bytes(b"x" * 4_000_000)
    parts = {"handler": ARCHIVES / "noop_handler.py"}
    return Workload("upload", "no-op handler, 4 MB in", parts, (body,), bytes.decode)


def stream(folder: Path) -> Workload:
    """Return the workload of a stream without a model: sixteen parts are the answer."""
    body = folder / "stream.bin"
    body.write_bytes(b"x" * 300)
    parts = {"handler": ARCHIVES / "stream_handler.py"}
    return Workload("stream", "300 bytes in, an answer in sixteen parts", parts, (body,), bytes.decode)


def mnist(folder: Path) -> Workload:
    """Return the archive of the MNIST example: PNG in, digit out."""
    weights = MNIST / "build" / "mnist_sd.pt"
    if not weights.is_file():
        _train(folder)
        weights = folder / "mnist_sd.pt"
    parts = {
        "handler": MNIST / "mnist_handler.py",
        "model_file": ROOT / "model_defs" / "mnist.py",
        "serialized_file": weights,
    }
    bodies = tuple(sorted((MNIST / "samples").glob("*.png")))
    return Workload("mnist", "MNIST, PNG in, digit out", parts, bodies, bytes.decode)


def _train(folder: Path) -> None:
    """Train one epoch; the example calls that a failure, since it may be less accurate than it asks of itself."""
    command = [sys.executable, str(MNIST / "train.py"), "--epochs", "1", "--output-dir", str(folder)]
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)


def resnet18(folder: Path) -> Workload:
    """Return torchvision's resnet18 with random weights: JPEG in, five classes out."""
    parts = {
        "handler": ARCHIVES / "resnet18_handler.py",
        "model_file": ARCHIVES / "resnet18.py",
        "serialized_file": _random_weights(ARCHIVES / "resnet18.py", "ResNet18", folder),
    }
    return _photograph("resnet18", parts)


def mobilenet(folder: Path) -> Workload:
    """Return torchvision's mobilenet_v3_small with random weights, a small network: JPEG in, classes out."""
    parts = {
        "handler": "image_classifier",
        "model_file": ARCHIVES / "mobilenet.py",
        "serialized_file": _random_weights(ARCHIVES / "mobilenet.py", "MobileNet", folder),
    }
    return _photograph("mobilenet", parts)


def _random_weights(model_file: Path, name: str, folder: Path) -> Path:
    weights = folder / f"{model_file.stem}.pt"
    # Elsewhere: a process that holds torch's libraries takes its share of their pages from the workers' memory.
    subprocess.run([sys.executable, "-c", _RANDOM_WEIGHTS, str(model_file), name, str(weights)], check=True)
    return weights


def _photograph(name: str, parts: Mapping[str, Any]) -> Workload:
    title = f"{name}, JPEG of 600 x 400 in, five classes out"
    return Workload(name, title, parts, (ARCHIVES / "coffee.jpg",), best_class)


def best_class(answer: bytes) -> str:
    """Return the most probable class; the probabilities' last digits depend on the batch and the threads."""
    found: dict[str, float] = json.loads(answer)
    return max(found, key=lambda name: found[name])


WORKLOADS: dict[str, Callable[[Path], Workload]] = {"noop": noop, "mnist": mnist, "resnet18": resnet18}
