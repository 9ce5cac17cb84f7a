"""A process with one worker, from LOAD to its end, as the frontend sees it."""

from __future__ import annotations

import cProfile
import json
import os
from pathlib import Path
from typing import Any

import pytest

from serving.protocol import Load, Parameter, Reply, Request, encode_load
from serving.worker.modes import dedicated
from tests.serving.worker.frontend import REST, Server, Worker, archive, bodies, ends, grpc, rest

NEXT = "ts_stream_next"


def load(server: Server, folder: Path, source: str, *, environ: dict[str, str] | None = None, **config: Any) -> Worker:
    """Return a worker that has loaded a handler."""
    folder = archive(folder / "model", source, config=config or None)
    worker = server.worker(folder, **(environ or {}))
    assert worker.load(folder) == Reply(200, "loaded model model"), worker.out.text
    return worker


# ---- a model that is loaded ------------------------------------------------------------------------------------------

ECHO = """
    import os

    class Handler:
        def initialize(self, context):
            print("initialized with", context.system_properties["batch_size"])

        def handle(self, data, context):
            print("asked for", len(data))
            return [row.get("body") for row in data]
"""


def test_requests_are_answered_until_the_frontend_closes(server: Server, tmp_path: Path) -> None:
    worker = load(server, tmp_path, ECHO)
    # What a handler prints is there before its answer.
    assert "initialized with 8\n" in worker.out.wait("initialized")
    assert bodies(worker.ask(rest("a", b"1"), grpc("b", b"2"))) == [b"1", b"2"]
    worker.out.wait("asked for 2\n")
    assert worker.ask() == Reply(200, "Prediction success")
    assert worker.answer(b"x" * 5_000_000) == b"x" * 5_000_000
    worker.close()
    assert server.status(worker) == 0
    assert worker.err.rest() == ""
    assert worker.out.rest().startswith(f"[PID]{worker.pid}\nTorch worker started.\n")


def test_values_are_decoded_unless_it_is_switched_off(server: Server, tmp_path: Path) -> None:
    source = """
        def handle(data, context):
            return [repr(row) for row in data or []]
    """
    for setting, expected in (("true", b"{'a': {'b': 1}, 'c': bytearray(b'x')}"), ("false", None)):
        worker = load(server, tmp_path / setting, source, environ={"TS_DECODE_INPUT_REQUEST": setting})
        parameters = (Parameter("a", bytearray(b'{"b": 1}'), "application/json"), Parameter("c", bytearray(b"x")))
        reply = worker.ask(Request("1", REST, parameters))
        assert bodies(reply) == [expected or b"{'a': bytearray(b'{\"b\": 1}'), 'c': bytearray(b'x')}"]


def test_modes_in_which_the_frontend_takes_items_only(server: Server, tmp_path: Path) -> None:
    source = """
        def handle(data, context):
            if data:
                raise ValueError
    """
    worker = load(server, tmp_path, source, sequenceMaxIdleMSec=60000, sequenceBatching=True)
    reply = worker.ask(rest("1", ts_request_sequence_id="s"))
    assert (reply.code, reply.items[0].status) == (200, 503)


@pytest.mark.parametrize(
    ("config", "environ", "expected"),
    [({"backend": {"threads": 3}}, {}, 3), ({"minWorkers": 1000}, {}, 1), ({}, {"OMP_NUM_THREADS": "5"}, 5)],
)
def test_threads_of_torch(
    server: Server, tmp_path: Path, config: dict[str, Any], environ: dict[str, str], expected: int
) -> None:
    source = """
        import torch

        def handle(data, context):
            torch.ones(300, 300) @ torch.ones(300, 300)  # it must not hang after a fork
            return [torch.get_num_threads()] * len(data or [])
    """
    assert load(server, tmp_path, source, environ=environ, **config).answer() == str(expected).encode()


def test_tensors(server: Server, tmp_path: Path) -> None:
    source = """
        import torch

        def handle(data, context):
            return [torch.tensor([1.5]), {"scores": torch.tensor([1.5])}][: len(data or [])]
    """
    saved, listed = bodies(load(server, tmp_path, source).ask(rest("1"), rest("2")))
    assert saved.startswith(b"PK")
    assert json.loads(listed) == {"scores": [1.5]}


# ---- a model that cannot be loaded -----------------------------------------------------------------------------------

BROKEN = """
    class Handler:
        def initialize(self, context):
            self.read()

        def read(self):
            {failure}

        def handle(self, data, context):
            return data
"""


@pytest.mark.parametrize(
    ("failure", "code", "message", "hint"),
    [
        ("raise RuntimeError('no weights')", 500, "RuntimeError: no weights", ""),
        ("{}['weights']", 500, "KeyError: 'weights'", ""),
        ("import no_such_module", 500, "ModuleNotFoundError: No module named 'no_such_module'", "pip install"),
        ("import sys; sys.exit(3)", 500, "RuntimeError: the handler ended the process: sys.exit(3)", ""),
        ("raise MemoryError", 507, "MemoryError", "mode: shared"),
        # As long as the one before: the worker waits five seconds for the frontend to close the connection.
        pytest.param(
            *("raise RuntimeError('CUDA error')", 507, "RuntimeError: CUDA error", "mode: shared"),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_the_log_is_told_why_and_the_worker_ends(
    server: Server, tmp_path: Path, failure: str, code: int, message: str, hint: str
) -> None:
    """Only the lack of memory has an answer; the connection is closed in any case, whatever the frontend does."""
    folder = archive(tmp_path / "model", BROKEN.format(failure=failure))
    worker = server.worker(folder)
    worker.send_load(folder)
    if code == 507:
        assert worker.reply() == Reply(507, f"{message} (handler.py:7)")
    assert worker.is_closed()
    lines = worker.out.rest().splitlines()
    # The traceback stands first, as from TorchServe's worker; what sums it up has a blank line after it.
    title = lines.index(f"Failed to load model model: {message}")
    traceback = lines[lines.index("Traceback (most recent call last):") : title]
    assert any(line.endswith('handler.py", line 4, in initialize') for line in traceback)
    assert traceback[-1].startswith(message)
    place, *advice, end = lines[title + 1 :]
    assert (place, end) == ("  in handler.py:7 (read)", "")
    assert (len(advice) == 1 and advice[0].startswith("  hint: ") and hint in advice[0]) == bool(hint)
    assert worker.err.rest() == ""
    assert server.status(worker) == 1


def test_the_log_is_read_before_the_worker_ends(server: Server, tmp_path: Path) -> None:
    """The frontend reads no further once it has given up the worker; and it may be slow."""
    failure = "print('x' * 1_000_000); raise RuntimeError('no weights')"
    folder = archive(tmp_path / "model", BROKEN.format(failure=failure))
    worker = server.worker(folder)
    assert worker.refuses(folder)
    assert "RuntimeError: no weights\n" in worker.out.wait("Failed to load model")


def test_an_archive_that_is_wrong(server: Server, tmp_path: Path) -> None:
    folder = archive(tmp_path / "model", config={"backend": {"mode": "both"}})
    worker = server.worker(folder)
    assert worker.refuses(folder)
    text = worker.out.wait("  hint: ")
    assert "Failed to load model model: backend.mode: expected dedicated or shared" in text
    assert "\n  in model-config.yaml:2\n  hint: " in text


def test_our_own_handler_is_the_built_in_one(server: Server, tmp_path: Path) -> None:
    folder = archive(tmp_path / "model", handler="image_classifier")
    worker = server.worker(folder)
    assert worker.refuses(folder, "image_classifier")
    text = worker.out.wait("Traceback")
    assert "neither a model file nor a serialized file" in text
    assert "\n  hint: " in text
    assert f"handlers{os.sep}model_holder.py" in text
    assert "torch_handler" not in text


def test_the_built_in_base_handler(server: Server, tmp_path: Path) -> None:
    net = """
        import torch

        class Net(torch.nn.Module):
            def forward(self, x):
                return x * 2
    """
    folder = archive(tmp_path / "model", handler="base_handler", files={"net.py": net})
    manifest = {"model": {"modelName": "model", "handler": "base_handler", "modelFile": "net.py"}}
    (folder / "MAR-INF" / "MANIFEST.json").write_text(json.dumps(manifest))
    worker = server.worker(folder)
    assert worker.load(folder, "base_handler").code == 200, worker.out.text
    requests = [
        Request(name, REST, (Parameter("data", bytearray(text), "application/json"),))
        for name, text in (("a", b"[1.0, 2.0]"), ("b", b"[3.0, 4.0]"))
    ]
    assert [json.loads(body) for body in bodies(worker.ask(*requests))] == [[2.0, 4.0], [6.0, 8.0]]


# ---- streams ---------------------------------------------------------------------------------------------------------

STREAM = """
    from ts.handler_utils.utils import send_intermediate_predict_response

    def handle(data, context):
        if data is None:
            return
        parts, then = data[0]["body"].decode().split(",")
        for number in range(int(parts)):
            rows = [f"{number} of {index}" for index in range(len(data))]
            send_intermediate_predict_response(rows, context.request_ids, "part", 200, context)
        if then == "fail":
            raise ValueError
        if then == "odd":
            send_intermediate_predict_response([object()], context.request_ids, "part", 200, context)
        return ["end"] * len(data)
"""


def test_a_streamed_answer(server: Server, tmp_path: Path) -> None:
    worker = load(server, tmp_path, STREAM)
    requests = [rest("a", b"2,end"), rest("b"), grpc("c")]
    worker.send(*requests)
    for number in range(2):
        reply = worker.reply()
        assert bodies(reply) == [f"{number} of {index}".encode() for index in range(3)]
        assert [item.request_id for item in reply.items] == ["a", "b", "c"]
        assert {item.headers[NEXT] for item in reply.items} == {"true"}
    reply = worker.reply()
    assert bodies(reply) == [b"end"] * 3
    assert {item.headers[NEXT] for item in reply.items} == {"false"}
    # The next one is not streamed, and says nothing of the kind.
    reply = worker.ask(rest("d", b"0,end"))
    assert (bodies(reply), reply.items[0].headers) == ([b"end"], {})


@pytest.mark.parametrize("body", [b"1,fail", b"1,odd"])
def test_a_stream_that_fails_is_ended(server: Server, tmp_path: Path, body: bytes) -> None:
    worker = load(server, tmp_path, STREAM)
    worker.send(rest("a", body))
    assert worker.reply().items[0].headers == {NEXT: "true"}
    last = worker.reply()
    assert last.code == 200
    assert (last.items[0].status, last.items[0].headers) == (503, {NEXT: "false"})
    # One over gRPC ends with a status, which is not sent before.
    worker.send(grpc("b", body))
    assert worker.reply().items[0].headers == {NEXT: "true"}
    assert worker.reply().code == 503
    assert worker.answer(b"0,end") == b"end"


def test_a_part_that_cannot_be_sent(server: Server, tmp_path: Path) -> None:
    """Nothing of it is: the frontend would take it for the answer, and the answer for that of the next request."""
    worker = load(server, tmp_path, STREAM)
    reply = worker.ask(rest("a", b"0,odd"))
    assert reply.code == 503
    assert worker.answer(b"0,end") == b"end"


# ---- the end ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("end", "code"), [("sys.exit(3)", 3), ("os._exit(137)", 137), ("os.kill(os.getpid(), 9)", 137), ("os.abort()", 134)]
)
def test_a_handler_that_ends_the_process(server: Server, tmp_path: Path, end: str, code: int) -> None:
    """The frontend sees the process that it has started end in that way."""
    source = f"""
        import os, sys

        def handle(data, context):
            if data:
                {end}
    """
    worker = load(server, tmp_path, source)
    worker.send(rest("1"))
    assert worker.is_closed()
    assert server.status(worker) == code


def test_what_is_no_message_ends_the_worker(server: Server, tmp_path: Path) -> None:
    for data in (b"nonsense", encode_load(Load("model", "/other"))):
        worker = load(server, tmp_path / str(len(data)), ECHO)
        worker.sock.sendall(data)
        assert worker.is_closed()
        assert server.status(worker) == 1
        assert "The worker of model ends: " in worker.out.rest()


BUSY = """
    import os, time

    def the_handlers_function():
        time.sleep({seconds})

    def handle(data, context):
        if data:
            print(os.getpid(), "is busy")
            the_handlers_function()
        return [b"late"] * len(data or [])
"""


def test_the_worker_is_killed_while_its_handler_is_busy(server: Server, tmp_path: Path) -> None:
    worker = load(server, tmp_path, BUSY.format(seconds=1000))
    worker.send(rest("1"))
    pid = int(worker.out.wait(" is busy\n").splitlines()[-1].split()[0])
    assert pid != worker.pid
    worker.kill()
    assert ends(pid)
    assert worker.is_closed()
    assert worker.err.rest() == ""


def test_a_handler_that_hangs_is_told_of(server: Server, tmp_path: Path) -> None:
    """Before the frontend kills the worker, which it does after the response timeout."""
    worker = load(server, tmp_path, BUSY.format(seconds=1.5), responseTimeout=1)
    assert worker.answer() == b"late"  # this frontend has patience
    text = worker.err.wait("in the_handlers_function")
    assert "the frontend gives up on it after 1 s (responseTimeout)" in text


@pytest.mark.parametrize(("setting", "wanted"), [("true", True), ("True", True), ("false", False), ("", False)])
def test_the_switch_for_a_profile(monkeypatch: pytest.MonkeyPatch, setting: str, wanted: bool) -> None:
    monkeypatch.setenv("TS_BENCHMARK", setting)
    assert isinstance(dedicated._profile(), cProfile.Profile) == wanted
