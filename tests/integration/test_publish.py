"""A live model, published in each format, answers over HTTP as it does here."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import archive_tool
from archive_tool.publishing.exports import FORMATS
from archive_tool.publishing.result import Published
from handlers import LoadError
from handlers.loading import describe, load_program
from model_defs.mnist import MNISTNet

from .conftest import ROOT, Sandbox, Server
from .support import predict

pytestmark = pytest.mark.hides("torchvision")

TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def net() -> MNISTNet:
    torch.manual_seed(0)
    return MNISTNet().eval()


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.randn(6, 1, 28, 28, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def published(
    shared_sandbox: Sandbox, net: MNISTNet, images: torch.Tensor, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Published]:
    """The model in every format; a C++ compiler takes the longest."""
    from torch._inductor import config  # takes seconds

    patch = pytest.MonkeyPatch()
    patch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path_factory.mktemp("inductor")))
    # They save time from the second package on, and cost it before the first.
    patch.setattr(config.aot_inductor, "precompile_headers", False, raising=False)
    with torch.no_grad():
        digits = net(images).argmax(1)
    try:
        return {
            one: archive_tool.publish(
                net,
                name=f"mnist_{one}",
                model_store=shared_sandbox.store,
                format=one,
                x_test=images,
                y_test=digits,
            )
            for one in FORMATS
        }
    finally:
        patch.undo()


@pytest.fixture(scope="module")
def server(shared_sandbox: Sandbox, published: dict[str, Published]) -> Iterator[Server]:
    models = [f"{one.name}={one.path.name}" for one in published.values()]
    running = shared_sandbox.start(*models, name="publish")
    yield running
    shared_sandbox.torchmar("stop", "-q", "--name", "publish")


def outputs(net: MNISTNet, images: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return net(images)


@pytest.mark.parametrize("name", FORMATS)
def test_the_archive_answers_as_the_live_model(
    server: Server, published: dict[str, Published], net: MNISTNet, images: torch.Tensor, name: str
) -> None:
    model = f"{published[name].name}/1.0"
    assert published[name].metrics == {"accuracy": 1.0}
    assert published[name].largest_difference < TOLERANCE
    expected = outputs(net, images)
    for rows in (1, 6):
        body = json.dumps({"tensor_input": images[:rows].tolist()})
        answer = predict(server, model, body, Content_Type="application/json")
        assert answer.status == 200, answer
        found = torch.tensor(answer.json()["tensor_output"])
        torch.testing.assert_close(found, expected[:rows], rtol=TOLERANCE, atol=TOLERANCE)
    body = json.dumps({"instances": images[:2].tolist()})
    found = torch.tensor(predict(server, model, body, Content_Type="application/json").json()["predictions"])
    torch.testing.assert_close(found, expected[:2], rtol=TOLERANCE, atol=TOLERANCE)
    answer = predict(server, model, json.dumps({"tensor_input": [[1, 2]]}), Content_Type="application/json")
    assert answer.status == 400
    assert answer.json()["message"] == "the input 'images' is expected in the shape [any, 1, 28, 28], got [1, 2]"


@pytest.mark.parametrize("name", ["eager", "onnx"])
def test_what_is_there_to_copy_works(
    server: Server, published: dict[str, Published], net: MNISTNet, images: torch.Tensor, name: str
) -> None:
    there = replace(published[name], address=server.inference)
    expected = outputs(net, images[:1])
    environment = server.sandbox.env
    for command in (["bash", "-c", there.curl], [sys.executable, "-c", there.snippet]):
        done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=server.sandbox.root)
        assert done.returncode == 0, done.stderr
        text = done.stdout.replace("'", '"')  # the snippet prints a dict
        torch.testing.assert_close(torch.tensor(json.loads(text)["tensor_output"]), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", [pytest.param("eager", marks=pytest.mark.slow), "export"])
def test_the_stored_sample_passes_the_check(
    shared_sandbox: Sandbox, published: dict[str, Published], name: str
) -> None:
    shared_sandbox.torchmar("check", published[name].path).ok()


def test_the_source_is_in_the_archive(published: dict[str, Published]) -> None:
    with zipfile.ZipFile(published["eager"].path) as archive:
        assert archive.read("model_defs/mnist.py") == (ROOT / "model_defs" / "mnist.py").read_bytes()


# ---- AOTInductor packages, of which a compiler takes many seconds to make one ---------------------------------------


@pytest.fixture
def package(published: dict[str, Published], tmp_path: Path) -> Path:
    with zipfile.ZipFile(published["aotinductor"].path) as archive:
        return Path(archive.extract("model.pt2", tmp_path))


def test_a_compiled_package_takes_any_number_of_rows(package: Path, net: MNISTNet, images: torch.Tensor) -> None:
    loaded = load_program(package, torch.device("cpu"))
    for rows in (1, 5):
        torch.testing.assert_close(loaded(images[:rows]), outputs(net, images[:rows]), rtol=1e-4, atol=1e-4)
    assert describe(loaded) == "AOTInductor package for cpu"


def test_a_compiled_package_for_another_device(package: Path) -> None:
    with pytest.raises(LoadError, match="was compiled for cpu, and this worker's device is meta"):
        load_program(package, torch.device("meta"))


def test_a_damaged_package(package: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.pt2"
    with zipfile.ZipFile(package) as source, zipfile.ZipFile(damaged, "w") as target:
        for name in source.namelist():
            target.writestr(name, b"\x7fELF" if name.endswith(".so") else source.read(name))
    with pytest.raises(LoadError, match="cannot be loaded"):
        load_program(damaged, torch.device("cpu"))
