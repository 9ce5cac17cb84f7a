"""Archives that an earlier torchmar built, most with a copy of the SDK of that time: see tests/golden/make.py.

They are loaded, served and optimized by the worker of today, which finds in them an SDK of other modules than its own.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from archive_tool import open_archive
from archive_tool.compare import difference
from archive_tool.verify import verify

from .conftest import PYTHON_FIRST, ROOT, Sandbox, Server
from .support import predict

GOLDEN = ROOT / "tests" / "golden"
NAMES = ("audio", "builtin", "eager", "script", "tensor", "text")
TYPES = {".txt": "text/plain", ".json": "application/json"}
LIMIT = 1 << 20


def sample(name: str) -> tuple[str, bytes, bytes]:
    """Return the sample that an archive has: its name, its body, and the answer to it when it was built."""
    with open_archive(GOLDEN / f"{name}.mar") as archive:
        assert archive.manifest is not None
        assert archive.manifest.record is not None
        (one,) = archive.manifest.record.samples
        assert one.expected is not None
        return Path(one.input).name, archive.read(one.input, LIMIT), archive.read(one.expected, LIMIT)


@pytest.fixture(scope="module")
def server(shared_sandbox: Sandbox) -> Server:
    for name in NAMES:
        (shared_sandbox.store / f"{name}.mar").write_bytes((GOLDEN / f"{name}.mar").read_bytes())
    return shared_sandbox.start(*(f"{name}.mar" for name in NAMES))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("frontend", PYTHON_FIRST, scope="module")
def test_served(server: Server, name: str) -> None:
    assert verify(GOLDEN / f"{name}.mar").issues == ()
    file, body, expected = sample(name)
    answer = predict(server, name, body, Content_Type=TYPES.get(Path(file).suffix, "application/octet-stream"))
    assert answer.status == 200, answer.text()
    assert difference(expected, answer.body) is None


@pytest.mark.slow  # a worker each: all but the check itself is shown by `test_served`
@pytest.mark.parametrize("name", ["eager", "tensor"])
def test_checked(sandbox: Sandbox, name: str) -> None:
    found = sandbox.torchmar("check", GOLDEN / f"{name}.mar", "--json", "--repeat", "0").json()
    assert [one["ok"] and one["expected"] for one in found["inputs"]] == [True], found


@pytest.mark.slow  # three candidates
def test_optimized(sandbox: Sandbox) -> None:
    """`optimize` asks the model through the archive's own SDK, whose modules have other names than today's."""
    file, body, _ = sample("eager")
    options = ("--input", sandbox.file(file, body), "--budget", "25", "--json", "--dry-run")
    options = (*options, "--rounds", "3", "--seconds", "0.1", "--batch", "2")
    found = sandbox.torchmar("optimize", GOLDEN / "eager.mar", *options).json()
    assert found["rows"], found


@pytest.mark.slow  # a model is loaded once more
def test_renewed(sandbox: Sandbox) -> None:
    """Converted, it carries the SDK of today in place of the flat one."""
    sandbox.torchmar("convert", GOLDEN / "eager.mar", "--output", "new.mar").ok()
    with open_archive(GOLDEN / "eager.mar") as old, open_archive(sandbox.root / "new.mar") as new:
        assert (old.has("handlers/image_classifier.py"), new.has("handlers/image_classifier.py")) == (True, False)
        assert new.has("handlers/vision/image_classifier.py")
    assert sandbox.torchmar("check", "new.mar", "--json", "--repeat", "0").json()["ok"]
