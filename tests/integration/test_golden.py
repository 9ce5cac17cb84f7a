"""Archives that an earlier torchmar built, each with its own copy of the SDK of that time: see tests/golden/make.py.

They are loaded, served and optimized by the worker of today, which finds in them an SDK of other modules than its own.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from archive_tool import open_archive
from archive_tool.verification.verify import verify

from .conftest import ROOT, Sandbox, Server
from .support import predict

GOLDEN = ROOT / "tests" / "golden"
SAMPLED = ("audio", "eager", "script", "tensor", "text")
TYPES = {".txt": "text/plain", ".json": "application/json"}


def sample(name: str) -> tuple[str, bytes, object]:
    """The sample that an archive has: its name, its body, and the answer to it when it was built."""
    with open_archive(GOLDEN / f"{name}.mar") as archive:
        assert archive.manifest is not None
        assert archive.manifest.record is not None
        (one,) = archive.manifest.record.samples
        assert one.expected is not None
        return one.input, archive.read(one.input), json.loads(archive.read(one.expected))


@pytest.fixture(scope="module")
def server(shared_sandbox: Sandbox) -> Server:
    for path in GOLDEN.glob("*.mar"):
        (shared_sandbox.store / path.name).write_bytes(path.read_bytes())
    return shared_sandbox.start(*(f"{name}.mar" for name in (*SAMPLED, "builtin")))


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.mar")), ids=lambda path: path.stem)
def test_good(path: Path) -> None:
    assert verify(path).issues == ()


@pytest.mark.parametrize("name", SAMPLED)
def test_checked(sandbox: Sandbox, name: str) -> None:
    found = sandbox.torchmar("check", GOLDEN / f"{name}.mar", "--json", "--repeat", "1").json()
    assert (found["status"], [one["status"] for one in found["inputs"]]) == ("ok", ["ok"]), found


@pytest.mark.parametrize("name", SAMPLED)
def test_served(server: Server, name: str) -> None:
    file, body, expected = sample(name)
    answer = predict(server, name, body, Content_Type=TYPES.get(Path(file).suffix, "application/octet-stream"))
    assert answer.status == 200, answer.text()
    found = answer.json()
    numbers = isinstance(expected, dict)
    assert found == (
        pytest.approx(expected, rel=1e-4) if numbers else [pytest.approx(row, rel=1e-4) for row in expected]
    )


def test_a_built_in_name_means_the_handler_of_today(server: Server) -> None:
    _, body, _ = sample("eager")
    answer = predict(server, "builtin", body)
    # The image is a grey one, and today's classifier gives a model three channels: the model says that it takes one.
    assert (answer.status, b"channels" in answer.body) == (503, True), answer.text()


@pytest.mark.parametrize("name", ["eager", "text"])
def test_optimized(sandbox: Sandbox, name: str) -> None:
    """`optimize` asks the model through the archive's own SDK, whose modules are elsewhere than today's."""
    options = ("--budget", "60", "--json", "--dry-run")
    found = sandbox.torchmar("optimize", GOLDEN / f"{name}.mar", *options).ok().json()
    assert found["rows"], found
