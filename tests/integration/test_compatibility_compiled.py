"""A model that was compiled ahead of time, on TorchServe's worker and on ours."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from handlers.loading.load import load_eager

from .conftest import Sandbox, make_sandbox
from .pairs import Pair, logged, servers
from .support import predict, wait_until

# Compiling comes first, on a busy machine.
pytestmark = pytest.mark.timeout(1200)

JSON = {"Content_Type": "application/json"}


def ahead(box: Sandbox, folder: Path) -> list[str]:
    """Return an archive with compiled code, and the same one with code that needs what no processor has."""
    shutil.copy(folder / "store" / "ahead.mar", box.store)
    with zipfile.ZipFile(box.store / "ahead.mar") as old, zipfile.ZipFile(box.store / "elsewhere.mar", "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name == "MAR-INF/MANIFEST.json":
                manifest = json.loads(content)
                manifest["model"]["modelName"] = "elsewhere"
                manifest["torchmar"]["compiled"]["capability"].append("quantum")
                content = json.dumps(manifest).encode()
            new.writestr(name, content)
    return ["ahead.mar", "elsewhere.mar"]


@pytest.fixture(scope="module")
def compiled_pair(request: pytest.FixtureRequest, compiled_ahead: Path, java_options: str) -> Iterator[Pair]:
    box = make_sandbox(java_options)
    with servers(box, request, ahead(box, compiled_ahead), box.file("config.properties", "")) as started:
        yield started


LOADED = "Loaded the model compiled ahead of time for cpu in float32"
LEFT = "Not serving the model compiled ahead of time: it needs quantum, which this processor lacks"


@pytest.mark.slow  # two servers and a C++ compiler; tests/handlers/test_compiled.py has all but the servers
@pytest.mark.parametrize(("model", "said", "unsaid"), [("ahead", LOADED, LEFT), ("elsewhere", LEFT, LOADED)])
def test_a_model_that_was_compiled_ahead_of_time(
    compiled_pair: Pair, compiled_ahead: Path, model: str, said: str, unsaid: str
) -> None:
    """On either worker compiled code answers where it fits, and else the eager model; both as the model does here."""
    net = load_eager(compiled_ahead / "net_ahead.py", compiled_ahead / "net.pt").eval()
    inputs = torch.randn(3, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = net(inputs).tolist()
    for row, wanted in zip(inputs.tolist(), expected, strict=True):
        for answer in compiled_pair.both(lambda server, row=row: predict(server, model, json.dumps(row), **JSON)):
            assert answer.status == 200, answer
            assert answer.json() == pytest.approx(wanted, abs=1e-5)
    for server in (compiled_pair.stock, compiled_pair.ours):
        wait_until(lambda server=server: said in "".join(logged(server, f"-{model}_1.0")), said)  # type: ignore[misc]
        lines = "".join(logged(server, f"-{model}_1.0"))
        assert unsaid not in lines
        assert ("Serving the model compiled ahead of time" in lines) is (model == "ahead")
