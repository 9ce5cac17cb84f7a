"""Wrong input gives one clear message and a proper exit code or status, and the server lives on."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image

from model_defs.mnist import MNISTNet

from .conftest import ROOT, Sandbox, Server

MNIST = ROOT / "examples" / "mnist"
SAMPLE = MNIST / "samples"
# Importing torch takes seconds, and these tests' handlers do not need it.
light = pytest.mark.hides("torch")


def start_refused(sandbox: Sandbox, archive: str, code: int) -> str:
    """Starting must fail with this exit code and leave nothing; returns what it said."""
    done = sandbox.torchmar("start", archive, "--model-store", sandbox.store, "--port", "auto", "--timeout", "60")
    assert done.code == code, done.err
    assert sandbox.leftovers() == []
    assert sandbox.torchmar("status").code == 7
    return done.err


def stock_archive(sandbox: Sandbox, name: str, handler: str, *options: str | Path) -> None:
    """An archive from torch-model-archiver, which checks nothing."""
    source = sandbox.file(f"{name}_handler.py", handler)
    command = ("torch-model-archiver", "--model-name", name, "-v", "1.0", "--handler", source)
    sandbox.run(*command, "--export-path", sandbox.store, *options).ok()


@light
def test_an_archive_that_is_not_there(sandbox: Sandbox) -> None:
    said = start_refused(sandbox, "missing.mar", 1)
    assert "no archive missing.mar in the model store" in said


@light
def test_a_model_store_that_is_not_there(sandbox: Sandbox) -> None:
    done = sandbox.torchmar("start", "x.mar", "--model-store", "nowhere", "--port", "auto")
    assert done.code == 1
    assert "not a folder: nowhere (--model-store)" in done.err


@light
@pytest.mark.parametrize("keep", [0, 10, 200])
def test_a_broken_zip(sandbox: Sandbox, echo: str, keep: int) -> None:
    sandbox.build("broken", echo)
    path = sandbox.store / "broken.mar"
    path.write_bytes(path.read_bytes()[:keep])
    assert "broken.mar" in start_refused(sandbox, "broken.mar", 3)


@light
@pytest.mark.slow
def test_a_handler_with_a_syntax_error(sandbox: Sandbox) -> None:
    stock_archive(sandbox, "bad", "def handle(data, context):\n    return [\n")
    said = start_refused(sandbox, "bad.mar", 6)
    assert "model bad cannot be loaded: SyntaxError" in said
    assert "at: bad_handler.py:2" in said


@light
def test_a_handler_with_a_missing_import(sandbox: Sandbox) -> None:
    stock_archive(sandbox, "bad", "import os\nimport no_such_module\ndef handle(data, context):\n    return data\n")
    said = start_refused(sandbox, "bad.mar", 6)
    assert "No module named 'no_such_module'" in said
    assert "at: bad_handler.py:2" in said
    assert "pip install" in said


@light
@pytest.mark.slow
def test_a_handler_that_fails_in_initialize(sandbox: Sandbox) -> None:
    initialize = "class H:\n    def initialize(self, context):\n        raise ValueError('no licence')\n"
    stock_archive(sandbox, "bad", initialize + "    def handle(self, data, context):\n        return data\n")
    said = start_refused(sandbox, "bad.mar", 6)
    assert "ValueError: no licence" in said
    assert "at: bad_handler.py:3" in said


def test_a_checkpoint_that_does_not_fit_names_the_keys(sandbox: Sandbox) -> None:
    torch.save({"conv1.weight": torch.zeros(2, 2), "extra.bias": torch.zeros(1)}, sandbox.root / "wrong.pt")
    command = ("build", "--model-name", "mnist", "--handler", MNIST / "mnist_handler.py")
    model = ("--model-file", ROOT / "model_defs" / "mnist.py", "--serialized-file", sandbox.root / "wrong.pt")
    sandbox.torchmar(*command, *model, "--export-path", sandbox.store, "-q").ok()
    said = start_refused(sandbox, "mnist.mar", 6)
    for text in ("conv1.weight", "extra.bias", "fc1.weight"):
        assert text in said


@light
def test_a_registration_that_fails_says_why_and_leaves_nothing(sandbox: Sandbox, echo: str) -> None:
    sandbox.build("echo", echo)
    stock_archive(sandbox, "bad", "import no_such_module\ndef handle(data, context):\n    return data\n")
    sandbox.start("echo.mar")
    done = sandbox.torchmar("register", "bad.mar")
    assert done.code == 6
    assert "No module named 'no_such_module'" in done.err
    assert [row["name"] for row in sandbox.torchmar("models", "--json").json()] == ["echo"]
    assert sandbox.torchmar("status").code == 0
    missing = sandbox.torchmar("register", "nothing.mar")
    assert missing.code == 1
    assert "no archive nothing.mar" in missing.err


@pytest.fixture(scope="module")
def mnist(shared_sandbox: Sandbox) -> Server:
    """An untrained but real MNIST net behind the example's handler, in batches of up to four."""
    box = shared_sandbox
    torch.manual_seed(0)
    torch.save(MNISTNet().state_dict(), box.root / "mnist_sd.pt")
    config = box.file("model-config.yaml", "batchSize: 4\nmaxBatchDelay: 500\nminWorkers: 1\nmaxWorkers: 1\n")
    command = ("build", "--model-name", "mnist", "--handler", MNIST / "mnist_handler.py", "-c", config)
    model = ("--model-file", ROOT / "model_defs" / "mnist.py", "--serialized-file", box.root / "mnist_sd.pt")
    box.torchmar(*command, *model, "--export-path", box.store, "-q").ok()
    return box.start("mnist.mar")


def digit() -> Path:
    return min(SAMPLE.glob("*.png"))


@pytest.fixture
def alive(mnist: Server) -> Iterator[Server]:
    """The server; after the test it must answer as before, from the same process."""
    before = mnist.sandbox.torchmar("models", "mnist", "--json").json()[0]["workers"][0]["pid"]
    yield mnist
    status, _ = mnist.curl("/predictions/mnist", "-T", digit())
    assert status == 200
    assert mnist.sandbox.torchmar("models", "mnist", "--json").json()[0]["workers"][0]["pid"] == before


def png(size: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("1", (size, size)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("note.txt", b"this is not a picture", "not a picture"),
        ("empty.png", b"", "send a picture"),
        ("cut.png", digit().read_bytes()[:100], ""),
        ("huge.png", png(30_000), "900,000,000 pixels"),
    ],
)
def test_a_bad_picture_is_a_400_with_a_reason(alive: Server, name: str, content: bytes, expected: str) -> None:
    file = alive.sandbox.file(name, content)
    status, body = alive.curl("/predictions/mnist", "-T", file)
    assert status == 400, body
    assert '"type": "BadInputError"' in body
    assert expected in body
    done = alive.sandbox.torchmar("predict", "mnist", file)
    assert done.code == 9
    assert "1 of 1 requests got an error" in done.err


def test_one_bad_picture_of_a_batch_fails_alone(alive: Server) -> None:
    bad = alive.sandbox.file("bad.png", "no picture")
    rows = alive.sandbox.run(
        "torchmar", "predict", "mnist", digit(), bad, digit(), digit(), "--json", "--parallel", "4"
    )
    assert rows.code == 9
    assert [row["status"] for row in json.loads(rows.out)] == [200, 400, 200, 200]


def test_a_model_that_is_not_there(alive: Server) -> None:
    done = alive.sandbox.torchmar("predict", "nothing", digit())
    assert done.code == 9
    assert "Model not found: nothing" in done.err


def test_a_file_that_is_not_there(alive: Server) -> None:
    done = alive.sandbox.torchmar("predict", "mnist", "missing.png")
    assert done.code == 2
    assert "missing.png" in done.err


@light
def test_nobody_listens(sandbox: Sandbox) -> None:
    done = sandbox.torchmar("predict", "mnist", digit(), "--inference", "http://127.0.0.1:9")
    assert done.code == 7
    assert "nobody answers at http://127.0.0.1:9" in done.err
    assert "torchmar start" in done.err


@light
def test_a_broken_archive_among_all(sandbox: Sandbox, echo: str) -> None:
    sandbox.build("echo", echo)
    (sandbox.store / "broken.mar").write_text("broken")
    assert "broken.mar is neither" in start_refused(sandbox, "all", 3)


@light
def test_a_worker_that_dies_without_a_word(sandbox: Sandbox) -> None:
    source = "import ctypes\nclass H:\n    def initialize(self, context):\n        ctypes.string_at(0)\n"
    stock_archive(sandbox, "bad", source + "    def handle(self, data, context):\n        return data\n")
    said = start_refused(sandbox, "bad.mar", 6)
    assert "ended without an error" in said
    assert "Torch worker started" not in said
