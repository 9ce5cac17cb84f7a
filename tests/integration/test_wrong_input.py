"""Wrong input gives one clear message and a proper exit code or status, and the server lives on."""

from __future__ import annotations

import base64
import json
import re
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from model_defs.mnist import MNISTNet

from .conftest import OPEN, PYTHON_FIRST, ROOT, Sandbox, Server
from .support import ready

pytestmark = pytest.mark.parametrize("frontend", PYTHON_FIRST, scope="module")

MNIST = ROOT / "examples" / "mnist"
SAMPLE = MNIST / "samples"
# Importing torch takes seconds, and these tests' handlers do not need it.
light = pytest.mark.hides("torch")


def start_refused(sandbox: Sandbox, archive: str, code: int) -> str:
    """Check that starting fails with this exit code and leaves nothing; return what it printed."""
    done = sandbox.torchmar("start", archive, "--model-store", sandbox.store, "--port", "auto", "--timeout", "60")
    assert done.code == code, done.err
    assert sandbox.leftovers() == []
    assert sandbox.torchmar("status").code == 7
    return done.err


def stock_archive(sandbox: Sandbox, name: str, handler: str, *options: str | Path) -> None:
    """Make an archive with torch-model-archiver, which checks nothing."""
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


INITIALIZE = (
    "class H:\n    def initialize(self, context):\n        {}\n"
    "    def handle(self, data, context):\n        return data\n"
)
BROKEN = {
    "a syntax error": (
        "def handle(data, context):\n    return [\n",
        ("model bad cannot be loaded: SyntaxError", "at: bad_handler.py:2"),
    ),
    "a missing import": (
        "import os\nimport no_such_module\ndef handle(data, context):\n    return data\n",
        ("No module named 'no_such_module'", "at: bad_handler.py:2", "pip install"),
    ),
    "a failure in initialize": (
        INITIALIZE.format("raise ValueError('no licence')"),
        ("ValueError: no licence", "at: bad_handler.py:3"),
    ),
    "an end without a word": (
        INITIALIZE.format("import ctypes; ctypes.string_at(0)"),
        ("ended without an error",),
    ),
}


@light
@pytest.mark.slow  # a server for each: below they are registered, and test_lifecycle.py starts one with such a model
@pytest.mark.parametrize("what", BROKEN)
def test_a_server_with_a_broken_handler(sandbox: Sandbox, what: str) -> None:
    source, expected = BROKEN[what]
    stock_archive(sandbox, "bad", source)
    said = start_refused(sandbox, "bad.mar", 6)
    for text in expected:
        assert text in said
    assert "Torch worker started" not in said


@pytest.mark.parametrize(("source", "expected"), BROKEN.values(), ids=BROKEN.keys())
def test_a_registration_that_fails_says_why_and_leaves_nothing(
    light_server: Server, echo: str, source: str, expected: tuple[str, ...]
) -> None:
    sandbox = light_server.sandbox
    sandbox.build("echo", echo)
    sandbox.torchmar("register", "echo.mar").ok()
    stock_archive(sandbox, "bad", source, "-f")
    done = sandbox.torchmar("register", "bad.mar")
    assert done.code == 6
    for text in expected:
        assert text in done.err
    assert "Torch worker started" not in done.err
    assert [row["name"] for row in sandbox.torchmar("models", "--json").json()] == ["echo"]
    assert sandbox.torchmar("status").code == 0


def test_a_registration_of_what_is_not_there(light_server: Server) -> None:
    missing = light_server.sandbox.torchmar("register", "nothing.mar")
    assert missing.code == 1
    assert "no archive nothing.mar" in missing.err


@pytest.fixture(scope="module")
def mnist(shared_sandbox: Sandbox) -> Server:
    """Return an untrained but real MNIST network behind the example's handler, in batches of up to four."""
    box = shared_sandbox
    torch.manual_seed(0)
    torch.save(MNISTNet().state_dict(), box.root / "mnist_sd.pt")
    config = box.file("model-config.yaml", "batchSize: 4\nmaxBatchDelay: 100\nminWorkers: 1\nmaxWorkers: 1\n")
    command = ("build", "--model-name", "mnist", "--handler", MNIST / "mnist_handler.py", "-c", config)
    model = ("--model-file", ROOT / "model_defs" / "mnist.py", "--serialized-file", box.root / "mnist_sd.pt")
    box.torchmar(*command, *model, "--export-path", box.store, "-q").ok()
    return box.start("mnist.mar", options=OPEN)


def digit() -> Path:
    return min(SAMPLE.glob("*.png"))


@pytest.fixture
def alive(mnist: Server) -> Iterator[Server]:
    """Yield the server; after the test it must answer as before, from the same process."""
    before = ready(mnist, "mnist")
    yield mnist
    status, _ = mnist.curl("/predictions/mnist", "-T", digit())
    assert status == 200
    assert ready(mnist, "mnist") == before


def png(size: int) -> bytes:
    """Return a black picture, of which nobody needs to hold the pixels: one bit each, in rows that are all alike."""
    row, packed = b"\0" + bytes(-(-size // 8)), zlib.compressobj()
    data = b"".join([*(packed.compress(row) for _ in range(size)), packed.flush()])
    parts = ((b"IHDR", struct.pack("!IIBBBBB", size, size, 1, 0, 0, 0, 0)), (b"IDAT", data), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack("!I", len(content)) + kind + content + struct.pack("!I", zlib.crc32(kind + content))
        for kind, content in parts
    )


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("note.txt", lambda: b"this is not a picture", "not an image"),
        ("empty.png", lambda: b"", "send an image"),
        ("cut.png", lambda: digit().read_bytes()[:100], ""),
        ("huge.png", lambda: png(30_000), "900,000,000 pixels"),
    ],
    ids=["no picture", "empty", "cut", "huge"],
)
def test_a_bad_picture_is_a_400_with_a_reason(
    alive: Server, name: str, content: Callable[[], bytes], expected: str
) -> None:
    file = alive.sandbox.file(name, content())
    status, body = alive.curl("/predictions/mnist", "-T", file)
    assert status == 400, body
    assert '"type": "BadInputError"' in body
    assert expected in body
    done = alive.sandbox.torchmar("predict", "mnist", file)
    assert done.code == 9
    assert "1 of 1 requests got an error" in done.err


def test_base64_however_it_is_sent(alive: Server) -> None:
    box = alive.sandbox
    text = base64.b64encode(digit().read_bytes()).decode()
    assert "+" in text  # which a form without escapes loses
    file, document = box.file("digit.b64", text), box.file("digit.json", json.dumps({"data": text}))
    _, expected = alive.curl("/predictions/mnist", "-T", digit())
    for options in (
        ("-T", file),
        ("-H", "Content-Type: text/plain", "-d", f"@{file}"),
        ("-H", "Content-Type: application/json", "-d", f"@{document}"),
        ("-T", document),
        ("-H", "Content-Type: text/plain", "-d", f"data:image/png;charset=utf-8;base64,{text}"),
        ("-F", f"data={text}"),
        ("-F", f"image=@{file}"),
        ("-F", f"image=@{digit()}"),
        ("--data-urlencode", f"data@{file}"),
        ("-d", f"data={text}"),
    ):
        assert alive.curl("/predictions/mnist", *options) == (200, expected), options


def test_a_form_without_an_image_lists_its_fields(alive: Server, frontend: str) -> None:
    status, body = alive.curl("/predictions/mnist", "-F", "picture=x", "-F", "target=1")
    assert (status, "a form without data or body, it has 'picture', 'target'" in body) == (400, True), body
    status, body = alive.curl("/predictions/mnist", "-d", "some text")
    # Java drops a field without a value.
    field = "no form with a value" if frontend == "java" else "with the field 'some text' alone, which is empty"
    assert (status, f"{field}: send an image; curl -d sends a form unless" in body) == (400, True), body


def test_a_request_that_is_too_large_names_the_setting(alive: Server) -> None:
    done = alive.sandbox.torchmar("predict", "mnist", alive.sandbox.file("large.png", b"x" * 7_000_000))
    assert done.code == 9
    assert re.search(r"max_request_size (in config\.properties )?allows \(HTTP 413\)", done.err)
    assert "max_request_size in config.properties" in done.err


def test_one_bad_picture_of_a_batch_fails_alone(alive: Server) -> None:
    bad = alive.sandbox.file("bad.png", "no picture")
    rows = alive.sandbox.run(
        "torchmar", "predict", "mnist", digit(), bad, digit(), digit(), "--json", "--parallel", "4"
    )
    assert rows.code == 9
    assert [row["status"] for row in json.loads(rows.out)] == [200, 400, 200, 200]


def test_a_checkpoint_that_does_not_fit_names_the_keys(alive: Server) -> None:
    box = alive.sandbox
    torch.save({"conv1.weight": torch.zeros(2, 2), "extra.bias": torch.zeros(1)}, box.root / "wrong.pt")
    command = ("build", "--model-name", "wrong", "--handler", MNIST / "mnist_handler.py", "-f")
    model = ("--model-file", ROOT / "model_defs" / "mnist.py", "--serialized-file", box.root / "wrong.pt")
    box.torchmar(*command, *model, "--export-path", box.store, "-q").ok()
    done = box.torchmar("register", "wrong.mar")
    assert done.code == 6
    for text in ("conv1.weight", "extra.bias", "fc1.weight"):
        assert text in done.err


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
