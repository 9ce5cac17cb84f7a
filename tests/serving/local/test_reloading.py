"""A worker that follows the files of its model."""

from __future__ import annotations

import json
import textwrap
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

from archive_tool.errors import BuildError, TorchmarError
from serving.check.answers import Answer
from serving.errors import CheckError, ModelLoadError
from serving.local.reloading import Reloading, UnknownModelError
from serving.local.requests import request_of
from serving.local.sources import Sources
from tests.serving.check.conftest import THREE_PARTS

# Each request reports that it has begun, and never ends.
BUSY = "import time\ndef handle(data, context):\n    if data: print('busy'); time.sleep(3600)\n"
ECHO = """
    import os

    print("loading {word}")

    def handle(data, context):
        if data is None:
            return
        return [{{"word": "{word}", "pid": os.getpid(), "body": row.get("body")}} for row in data]
"""


class Author:
    """An author who writes a handler, and asks it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.told: list[tuple[str, bool]] = []
        (folder / "files").mkdir(parents=True)
        (folder / "root").mkdir()
        (folder / "files" / "torch.py").write_text("raise ImportError('not here')")
        self.write(ECHO.format(word="first"))
        self.project("")
        self.model = Reloading(Sources(folder / "files"), folder / "root", gpu=None, tell=self._tell)

    def _tell(self, line: str, is_error: bool) -> None:
        self.told.append((line, is_error))

    def project(self, more: str) -> None:
        text = f"model-name: m\nhandler: h.py\nextra-files: [torch.py]\n{more}"
        (self.folder / "files" / "torchmar.yaml").write_text(text)

    def write(self, source: str) -> None:
        (self.folder / "files" / "h.py").write_text(textwrap.dedent(source))

    def ask(self, body: object = 1, name: str = "m", parts: list[tuple[bytes, bool]] | None = None) -> Any:
        def make(*, sequences: bool) -> Any:
            headers = {"content-type": "application/json"}
            return request_of(headers, json.dumps(body).encode(), sequences=sequences)

        answers: list[Answer] = []

        def part(answer: Answer, data: bytes, more: bool) -> None:
            answers.append(answer)
            if parts is not None:
                parts.append((data, more))

        self.model.ask(name, make, part)
        assert len(set(map(id, answers))) == 1
        answer = answers[0]
        return json.loads(answer.as_sent()[0]) if parts is None else answer

    def ask_in(self, pool: ThreadPoolExecutor) -> Future[Any]:
        """Ask in another thread; return when a handler is at work."""
        asked = pool.submit(self.ask)
        wait_for(lambda: ("busy", False) in self.told)
        return asked


@pytest.fixture
def author(tmp_path: Path) -> Iterator[Author]:
    one = Author(tmp_path / "author")
    with one.model:
        yield one
    leftovers = [process for process in psutil.Process().children() if "model_service_worker" in str(process.cmdline())]
    assert leftovers == []


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_the_life_of_a_handler(author: Author) -> None:
    assert not author.model.healthy
    first = author.ask({"a": 1})
    assert author.model.healthy
    assert (first["word"], first["body"]) == ("first", {"a": 1})
    assert author.ask()["pid"] == first["pid"]  # nothing has changed
    author.model.refresh()
    assert author.ask()["pid"] == first["pid"]
    assert ("loading first", False) in author.told
    assert [line for line, _ in author.told if line.startswith("loaded m in ")]

    # Saved: the next request is answered by it.
    author.write(ECHO.format(word="other"))  # of the same length, within the same second perhaps
    second = author.ask()
    assert second["word"] == "other"
    assert not psutil.pid_exists(first["pid"])
    assert [line for line, _ in author.told if line.startswith("reloaded m in ")]

    # A file that does not parse: every request gets the error, and nothing is started for it.
    author.write("def handle(:\n")
    for _ in range(2):
        with pytest.raises(BuildError, match="the handler is not Python"):
            author.ask()
    assert not author.model.healthy
    assert not psutil.pid_exists(second["pid"])
    errors = [line for line, is_error in author.told if is_error]
    assert len(errors) == 1
    assert errors[0].startswith("error: the handler is not Python")
    assert f"\n  at: {author.folder / 'files' / 'h.py'}:1" in errors[0]

    # A model that cannot be loaded, likewise.
    author.write("def f():\n    raise KeyError('x')\nf()\ndef handle(data, context): pass\n")
    with pytest.raises(ModelLoadError, match="KeyError: 'x'") as caught:
        author.ask()
    assert caught.value.where == "h.py:2"
    assert 'File "h.py", line 2, in f' in caught.value.traceback

    # And the next good save heals.
    author.write(ECHO.format(word="third"))
    assert author.ask()["word"] == "third"
    assert len(list((author.folder / "root" / "models").iterdir())) == 1


def test_the_project_file_is_followed_too(author: Author) -> None:
    with pytest.raises(UnknownModelError, match="m"):
        author.ask(name="n")
    author.project("config-file: c.yaml\n")
    with pytest.raises(BuildError, match=r"c\.yaml does not exist"):
        author.ask()
    (author.folder / "files" / "c.yaml").write_text("batchSize: 3\n")
    author.write("def handle(data, context): return [context.system_properties['batch_size']] * len(data or [])")
    assert author.ask() == 3
    (author.folder / "files" / "c.yaml").write_text("sequenceMaxIdleMSec: 100\nsequenceBatching: true\n")
    author.write("def handle(data, context): return [context.get_sequence_id(0) for _ in data or []]")
    assert author.ask(parts=[]).body.startswith(b"ts-seq-")
    (author.folder / "files" / "c.yaml").write_text("asyncCommunication: true\n")
    with pytest.raises(TorchmarError, match="asynchronous mode"):
        author.ask()


def test_requests_that_fail(author: Author) -> None:
    author.write(
        """
        import ctypes

        def handle(data, context):
            if data is None:
                return
            if data[0]["body"] == "bad":
                context.set_response_status(400, "", 0)
                return [{"message": "no"}]
            if data[0]["body"] == "odd":
                context.set_response_status(501, "", 0)
                return [{"message": "not offered"}]
            if data[0]["body"] == "crash":
                ctypes.string_at(0)
            if data[0]["body"] == "fail":
                raise ValueError("failed")
            return [data[0]["body"]]
        """
    )
    assert author.ask("bad") == {"message": "no"}
    assert author.ask("odd") == {"message": "not offered"}
    with pytest.raises(CheckError, match=r"^ValueError: failed\n") as caught:
        author.ask("fail")
    assert caught.value.where == "h.py:16"
    assert caught.value.traceback.startswith('Traceback (most recent call last):\n  File "h.py", line 16, in handle\n')
    assert author.ask("fine", parts=[]).body == b"fine"  # the same worker goes on
    with pytest.raises(CheckError, match="it crashed: SIGSEGV") as crashed:
        author.ask("crash")
    assert crashed.value.where == "h.py:14 (handle)"
    assert not author.model.healthy
    assert author.ask("fine", parts=[]).body == b"fine"  # another one


def test_a_handler_that_hangs(author: Author) -> None:
    author.project("config-file: c.yaml\n")
    (author.folder / "files" / "c.yaml").write_text("responseTimeout: 1\n")
    author.write("import time\ndef handle(data, context):\n    if data: time.sleep(3600)\n")
    with pytest.raises(CheckError, match="no answer after 1 s") as caught:
        author.ask()
    assert caught.value.where == "h.py:3 (handle)"


def test_a_busy_handler_is_replaced_when_it_changes(author: Author) -> None:
    author.write(BUSY)
    with ThreadPoolExecutor() as pool:
        busy = author.ask_in(pool)
        author.write(ECHO.format(word="other"))
        assert author.ask()["word"] == "other"  # waits until then
    assert str(busy.exception()) == "the handler was still busy when its files changed; it is replaced"


def test_what_is_no_fault_of_the_model_is_tried_again(author: Author, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(Sources, "lay_out", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        for _ in range(2):
            with pytest.raises(OSError, match="No space left"):
                author.ask()
    assert not author.model.healthy
    assert author.ask()["word"] == "first"
    assert 0 < author.model.look_s < 60


def test_streams(author: Author) -> None:
    author.project("config-file: c.yaml\n")
    (author.folder / "files" / "c.yaml").write_text("continuousBatching: true\n")
    author.write(THREE_PARTS)
    parts: list[tuple[bytes, bool]] = []
    assert author.ask(parts=parts).body == b"TrueFalseFalse"
    assert parts == [(b"True", True), (b"False", True), (b"False", False)]


def test_the_end_while_a_request_runs(tmp_path: Path) -> None:
    author = Author(tmp_path / "author")
    author.write(BUSY)
    with ThreadPoolExecutor() as pool:
        with author.model:
            asked = [author.ask_in(pool) for _ in range(2)]
        errors = [str(one.exception()) for one in asked]
    assert sorted(error.split(":")[0] for error in errors) == ["the server is being stopped", "the worker failed"]
    assert [p for p in psutil.Process().children() if "model_service_worker" in str(p.cmdline())] == []
