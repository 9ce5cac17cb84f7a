"""A worker that follows the files of its model."""

from __future__ import annotations

import json
import textwrap
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

from archive_tool.errors import BuildError
from serving.check.process import Worker
from serving.errors import CheckError, ModelLoadError, StartError
from serving.frontend.errors import InternalError
from serving.local.reloading import Reloading
from serving.local.sources import Sources
from serving.protocol import Parameter, PredictionItem, ProtocolError, Reply, Request
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

    def parts(self, body: object = 1) -> list[tuple[PredictionItem, bool]]:
        """Ask as the engine does, in whose turn it is."""
        self.model.refresh()
        if self.model.error is not None:
            raise self.model.error
        content = Parameter("body", json.dumps(body).encode(), "application/json")
        return list(self.model.ask(Request(str(uuid.uuid4()), {"url_path": ""}, (content,))))

    def ask(self, body: object = 1) -> Any:
        ((item, more),) = self.parts(body)
        assert not more
        return json.loads(item.body)

    def ask_in(self, pool: ThreadPoolExecutor) -> Future[Any]:
        """Ask in another thread; return when a handler is at work."""
        asked = pool.submit(self.ask)
        wait_for(lambda: ("busy", False) in self.told)
        return asked


@pytest.fixture
def author(tmp_path: Path) -> Iterator[Author]:
    one = Author(tmp_path / "author")
    yield one
    one.model.close()
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
    assert (author.model.name, author.model.version) == ("m", "")
    author.project("config-file: c.yaml\n")
    with pytest.raises(BuildError, match=r"c\.yaml does not exist"):
        author.ask()
    (author.folder / "files" / "c.yaml").write_text("batchSize: 3\n")
    author.write("def handle(data, context): return [context.system_properties['batch_size']] * len(data or [])")
    assert author.ask() == 3
    assert (author.model.name, author.model.version, author.model.stateful) == ("m", "1.0", False)
    author.project("config-file: c.yaml\nversion: '2.5'\n")
    (author.folder / "files" / "c.yaml").write_text("sequenceMaxIdleMSec: 100\nsequenceBatching: true\n")
    author.model.refresh()
    assert (author.model.version, author.model.stateful) == ("2.5", True)
    (author.folder / "files" / "c.yaml").write_text("asyncCommunication: true\n")
    author.model.refresh()
    assert "asynchronous mode" in str(author.model.error)
    assert author.model.pid == -1


def test_a_name_that_the_files_do_not_say_is_empty(author: Author) -> None:
    author.project("not: [good\n")
    assert Reloading(Sources(author.folder / "files"), author.folder, gpu=None, tell=print).name == ""


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
    assert author.parts("fine")[0][0].body == b"fine"  # the same worker goes on
    with pytest.raises(CheckError, match="it crashed: SIGSEGV") as crashed:
        author.ask("crash")
    assert crashed.value.where == "h.py:14 (handle)"
    assert not author.model.healthy
    assert author.parts("fine")[0][0].body == b"fine"  # another one


def test_a_handler_that_hangs(author: Author) -> None:
    author.project("config-file: c.yaml\n")
    (author.folder / "files" / "c.yaml").write_text("responseTimeout: 1\n")
    author.write("import time\ndef handle(data, context):\n    if data: time.sleep(3600)\n")
    with pytest.raises(CheckError, match="no answer after 1 s") as caught:
        author.ask()
    assert caught.value.where == "h.py:3 (handle)"


REPLACED = "the handler was still busy when its files changed; it is replaced"


def test_a_busy_handler_is_replaced_when_it_changes(author: Author, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.local.reloading._PATIENCE_S", 0.5)
    author.write(BUSY)
    with ThreadPoolExecutor(1) as pool:
        busy = author.ask_in(pool)
        author.write(ECHO.format(word="other"))
        assert pool.submit(author.ask).result()["word"] == "other"
    assert str(busy.exception()) == REPLACED


def test_a_handler_that_streams_without_end_is_replaced_when_it_changes(author: Author) -> None:
    author.project("config-file: c.yaml\n")
    (author.folder / "files" / "c.yaml").write_text("continuousBatching: true\n")
    author.write(
        """
        import time

        def handle(data, context):
            if data:
                print("busy")
                time.sleep(0.1)
            context.stopping_criteria = [lambda value: False]
            return ["x"] * len(data or [])
        """
    )
    with ThreadPoolExecutor(1) as pool:
        busy = author.ask_in(pool)
        author.write(ECHO.format(word="other"))
        assert str(busy.exception()) == REPLACED


def test_what_is_no_fault_of_the_model_is_tried_again_and_told_once(
    author: Author, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(Sources, "lay_out", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        for _ in range(2):
            with pytest.raises(StartError, match="No space left"):
                author.ask()
    assert not author.model.healthy
    assert len([line for line, is_error in author.told if is_error]) == 1
    assert author.ask()["word"] == "first"
    assert 0 < author.model.look_s < 60


def test_streams(author: Author) -> None:
    author.project("config-file: c.yaml\n")
    (author.folder / "files" / "c.yaml").write_text("continuousBatching: true\n")
    author.write(THREE_PARTS)
    assert [(item.body, more) for item, more in author.parts()] == [
        (b"True", True),
        (b"False", True),
        (b"False", False),
    ]


def test_replies_that_are_refusals_or_for_somebody_else_played_worker(
    author: Author, monkeypatch: pytest.MonkeyPatch
) -> None:
    author.model.refresh()
    answer = PredictionItem("other", b"x")
    for reply, error, words in (
        (Reply(413, "no memory"), InternalError, "no memory"),
        (Reply(503, "no"), InternalError, "no"),
        (Reply(200, "", (answer,)), CheckError, "another request"),
        (Reply(200, ""), CheckError, "another request"),
        (ProtocolError("a field", "a huge one", 7), CheckError, "cannot be read: expected a field"),
    ):
        monkeypatch.setattr(Worker, "ask", lambda *_, reply=reply: _given(reply))
        with pytest.raises(error, match=words) as caught:
            author.parts()
        assert author.model.healthy is (error is InternalError)  # who answers so is replaced
        author.model._lost = False
        if error is InternalError:
            assert caught.value.status in (503, 507)
    monkeypatch.undo()
    assert author.ask()["word"] == "first"


def _given(reply: Reply | Exception) -> Reply:
    if isinstance(reply, Exception):
        raise reply
    return reply


def test_a_stream_that_begins_with_a_failure_is_one_played_worker(
    author: Author, monkeypatch: pytest.MonkeyPatch
) -> None:
    author.model.refresh()

    def part(request: Request, text: bytes, more: str) -> Reply:
        return Reply(200, "", (PredictionItem(request.request_id, text, status=500, headers={"ts_stream_next": more}),))

    def ask(_: Worker, request: Request, timeout: float) -> Reply:
        assert timeout > 0
        monkeypatch.setattr(Worker, "receive", lambda *_: part(request, b"b", "false"))
        return part(request, b"a", "true")

    monkeypatch.setattr(Worker, "ask", ask)
    assert [(item.body, more) for item, more in author.parts()] == [(b"a", True), (b"b", False)]


def test_the_end_while_a_request_runs(tmp_path: Path) -> None:
    author = Author(tmp_path / "author")
    author.write(BUSY)
    with ThreadPoolExecutor(1) as pool:
        asked = [author.ask_in(pool), pool.submit(author.ask)]
        author.model.close()
        errors = [str(one.exception()) for one in asked]
    assert [error.split(":")[0] for error in errors] == ["the worker failed", "the server is being stopped"]
    assert [p for p in psutil.Process().children() if "model_service_worker" in str(p.cmdline())] == []
