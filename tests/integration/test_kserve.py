"""What `torchmar deploy` prints, and what KServe's client is answered: judged by KServe's own package and by schemas.

Both are in an environment of their own, which the first run makes: they want other versions of what ours holds.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

import archive_tool
from benchmarks.serving_bench.peers import environment
from serving.control.configuration.ports import choose_free

from .conftest import Sandbox
from .test_image import TRUSTED, container

# The classes of KServe's clients are read by a reader that does not know the types of newer ones of Kubernetes.
REQUIREMENTS = ("kserve==0.21.0", "kubernetes==32.0.1", "kubernetes-validate==1.37.0")
PEER = Path(__file__).with_name("kserve_peer.py")
IMAGE = ("--image", "registry.example.com/m:1.0")

# Packages of half a gigabyte, and two servers.
pytestmark = [pytest.mark.slow, pytest.mark.hides("torchvision"), pytest.mark.timeout(1200)]


class Sums(torch.nn.Module):
    """The model of kserve_peer.py."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.sum(1)


@pytest.fixture(scope="module")
def python() -> Path:
    return environment.python(REQUIREMENTS)


def peer(python: Path, *arguments: str, text: str = "") -> str:
    done = subprocess.run(
        [python, PEER, *arguments], input=text, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_document_is_valid(sandbox: Sandbox, python: Path) -> None:
    gpus = sandbox.file("gpus.yaml", "minWorkers: 2\nmaxWorkers: 2\nbatchSize: 4\ndeviceType: gpu\n")
    handler = "def handle(data, context):\n    return data\n"
    sandbox.build("mnist", handler)
    sandbox.build("Big_Model", handler, "--version", "1e3", "--config-file", gpus)
    both = (sandbox.store / "mnist.mar", sandbox.store / "Big_Model.mar")
    storage = ("--storage-uri", "s3://b/{name}")
    more = ("--namespace", "team", "--pull-secret", "reg", "--label", "release=prometheus", "--workers", "3")
    more += ("--cpu", "500m", "--memory", "2Gi")
    asked: dict[str, tuple[str | Path, ...]] = {
        "usual": ("kubernetes", both[0], *IMAGE),
        "more": ("kubernetes", both[1], *IMAGE, *more, "--replicas", "1", "--max-replicas", "1"),
        "both": ("kubernetes", *both, *IMAGE, "--name", "both", "--gpus", "0", "--no-monitor"),
        "kserve": ("kserve", *both, *IMAGE, *storage),
        "kserve, more": ("kserve", *both, *IMAGE, *storage, *more, "--protocol", "v2", "--service-account", "reader"),
    }
    said = {
        name: peer(python, "check", text=sandbox.torchmar("deploy", *words, "--quiet").ok().out).splitlines()
        for name, words in asked.items()
    }
    objects = ["Deployment", "Service", "PodDisruptionBudget", "HorizontalPodAutoscaler"]
    assert said["usual"] == [*(f"{kind} mnist: good" for kind in objects), "ServiceMonitor mnist: not checked"]
    assert [line.split()[0] for line in said["more"]] == [*objects[:3], "ServiceMonitor"]
    assert said["both"] == [f"{kind} both: good" for kind in objects]
    services = ["ServingRuntime torchmar: good", "InferenceService mnist: good", "InferenceService big-model: good"]
    assert said["kserve"] == said["kserve, more"] == services


@pytest.fixture
def theirs(python: Path, tmp_path: Path) -> Iterator[str]:
    """Yield the address of KServe's own server of the model."""
    (port,) = choose_free("127.0.0.1", 1)
    address = f"http://127.0.0.1:{port}"
    with (tmp_path / "peer.log").open("w+") as log:
        process = subprocess.Popen([python, PEER, "serve", str(port)], stdout=log, stderr=log)
        try:
            deadline = time.monotonic() + 120
            while not is_ready(address):
                assert process.poll() is None, Path(log.name).read_text()
                assert time.monotonic() < deadline, Path(log.name).read_text()
                time.sleep(0.2)
            yield address
        finally:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(30)
            process.kill()
            process.wait()


def is_ready(address: str) -> bool:
    try:
        return httpx.get(f"{address}/v2/health/ready", timeout=5).status_code == 200
    except httpx.TransportError:
        return False


def test_kserves_client_sees_what_its_own_server_answers(sandbox: Sandbox, python: Path, theirs: str) -> None:
    example = torch.tensor([[1.0, 2.5], [3.0, -4.0]])
    models = sandbox.root / "root" / "mnt" / "models"
    models.mkdir(parents=True)
    archive_tool.publish(Sums(), name="whatever", model_store=models, example=example, format="torchscript", quiet=True)
    with container(sandbox, "--model_name=sums", **TRUSTED) as box:
        ours: dict[str, Any] = json.loads(peer(python, "ask", str(box.client.base_url)))
        expected: dict[str, Any] = json.loads(peer(python, "ask", theirs))
    assert ours.keys() == expected.keys()
    for call, answer in ours.items():
        if call == "v1 bad":  # TorchServe's status of what a client did wrong
            assert (answer["made"], expected[call]["made"]) == ("status 400", "status 500")
        else:
            assert answer["made"] == expected[call]["made"], call
    # Byte by byte but for blanks: what no server says in words of its own.
    for call in ("live", "ready", "v2 model", "v1 predict"):
        assert without_blanks(ours[call]["body"]) == expected[call]["body"], call
    # The route is OpenAI's, too: what its clients read stands beside.
    least, mine = (json.loads(one["v1 model"]["body"]) for one in (expected, ours))
    assert least.items() <= mine.items()


def without_blanks(body: str) -> str:
    return json.dumps(json.loads(body), separators=(",", ":"))
