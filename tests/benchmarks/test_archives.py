"""Every archive that a benchmark builds is good: `verify` finds nothing in it, not even a note."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from archive_tool.verification.verify import verify
from benchmarks.churn_bench import models as churn
from benchmarks.handlers_bench import assets
from benchmarks.handlers_bench import workloads as handlers
from benchmarks.serving_bench import workloads as serving
from benchmarks.serving_bench.contenders import Contender
from benchmarks.serving_bench.workloads import MNIST, Workload
from benchmarks.soak_bench import models as soak

WORKLOADS = {"noop": serving.noop, "upload": serving.upload, "stream": serving.stream}


def good(store: Path) -> list[str]:
    """Return the archives of a store, all of them looked at."""
    archives = sorted(store.glob("*.mar"))
    assert {path.name: verify(path).issues for path in archives} == {path.name: () for path in archives}
    return [path.name for path in archives]


def built(workload: Workload, folder: Path) -> list[str]:
    workload.build(folder / "store", Contender("stock"), 1)
    return good(folder / "store")


@pytest.mark.parametrize("name", WORKLOADS)
def test_serving(name: str, tmp_path: Path) -> None:
    assert built(WORKLOADS[name](tmp_path), tmp_path) == [f"{name}.mar"]


@pytest.mark.slow  # trains
def test_serving_mnist(mnist_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the weights of the example where the benchmark looks for them, beside its other files."""
    example = tmp_path / "mnist"
    (example / "build").mkdir(parents=True)
    (example / "build" / "mnist_sd.pt").symlink_to(mnist_weights / "mnist_sd.pt")
    (example / "samples").symlink_to(MNIST / "samples")
    (example / "mnist_handler.py").symlink_to(MNIST / "mnist_handler.py")
    monkeypatch.setattr(serving, "MNIST", example)
    assert built(serving.mnist(tmp_path), tmp_path) == ["mnist.mar"]


@pytest.mark.slow  # they take seconds each to make weights of a form that others above have
def test_serving_resnet18(tmp_path: Path) -> None:
    assert built(serving.resnet18(tmp_path), tmp_path) == ["resnet18.mar"]


@pytest.mark.slow
@pytest.mark.parametrize("workload", [handlers.resnet18, handlers.lite0])
def test_handlers(workload: Callable[[Path, Sequence[Path]], Workload], tmp_path: Path) -> None:
    pictures = assets.pictures(assets.photographs(), tmp_path / "pictures", count=2)
    assert built(workload(tmp_path, pictures), tmp_path) == [f"{workload.__name__}.mar"]


@pytest.mark.parametrize(("build", "count"), [(churn.build, 8), (soak.build, 2)])
def test_stress(build: Callable[[Path], Path], count: int, tmp_path: Path) -> None:
    assert len(good(build(tmp_path))) == count
