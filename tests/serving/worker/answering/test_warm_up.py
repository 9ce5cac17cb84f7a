"""Samples that a worker runs before it reports that it is ready."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from serving.protocol import Reply
from serving.worker.answering import warm_up
from serving.worker.answering.service import Service
from serving.worker.loading.loader import Model
from serving.worker.loading.settings import Backend
from tests.serving.worker.frontend import WITHOUT_TORCH, Server, Worker, archive, ends, rest, wait_for
from tests.serving.worker.handled import CACHE, Context, Sink

SAMPLES = [
    {"input": "MAR-INF/samples/0/input.json", "contentType": "application/json"},
    {"input": "MAR-INF/samples/1/input.bin"},
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for index, (name, data) in enumerate([("input.json", b'{"a": 1}'), ("input.bin", b"\xff")]):
        path = tmp_path / "model" / "MAR-INF" / "samples" / str(index) / name
        path.parent.mkdir(parents=True)
        path.write_bytes(data)
    return tmp_path / "model"


def run(entry: Callable[[Any, Any], Any], folder: Path, samples: Any = SAMPLES, **backend: Any) -> Service:
    manifest = {"model": {"modelName": "m"}, "torchmar": {"formatVersion": 1, "samples": samples}}
    context = Context("m", str(folder), manifest, 8, None, "0.12.0", True, CACHE, {})
    service = Service(Model("m", entry, context, None, Backend(**backend)), Sink())
    warm_up.run(service.model, service.rehearse, str(folder))
    return service


def test_samples_come_as_requests_over_http(folder: Path) -> None:
    seen: list[Any] = []

    def entry(rows: Any, context: Any) -> list[str]:
        seen.append((rows, context.get_all_request_header(0), context.request_ids))
        return ["answer"]

    service = run(entry, folder)
    first, second = seen
    assert first[0] == [{"body": {"a": 1}}]
    assert second[0] == [{"body": bytearray(b"\xff")}]
    headers = {"content-type": "application/json", "explain": "False", "url_path": ""}
    assert first[1] == {"body": {"content-type": "application/json"}, **headers}
    assert second[1]["content-type"] == ""
    assert first[2] == {0: "warm-up-0"}
    # Nothing of it is left.
    assert service.model.context.request_ids is None
    assert service.model.context.request_processor is None


def test_one_line_says_how_it_went(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        run(lambda rows, context: [1], folder)
    (record,) = caplog.records
    assert record.levelno == logging.INFO
    assert record.getMessage().startswith("Warmed up with 2 samples in 0.")


def bad(rows: Any, context: Any) -> Any:
    raise ValueError("bad\nsecond line")


def unusual(rows: Any, context: Any) -> Any:
    raise SystemExit(3)


def refusing(rows: Any, context: Any) -> Any:
    context.set_response_status(400, "no", 0)
    return ["too small"]


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        (bad, "MAR-INF/samples/0/input.json: ValueError: bad in "),
        (unusual, "MAR-INF/samples/0/input.json: SystemExit: 3"),
        (refusing, "MAR-INF/samples/0/input.json: status 400: too small"),
        (lambda rows, context: "no list", "OutputError: "),
        (lambda rows, context: [], "OutputError: "),
        (lambda rows, context: [object()], "Unsupported model output data type."),
    ],
)
def test_a_failure_is_one_warning(
    folder: Path, caplog: pytest.LogCaptureFixture, entry: Callable[[Any, Any], Any], problem: str
) -> None:
    run(entry, folder)
    (record,) = [one for one in caplog.records if one.name == warm_up.__name__]
    assert record.levelno == logging.WARNING
    assert record.getMessage().startswith("Warm-up: 2 of 2 samples of m failed; the model is served all the same. ")
    assert problem in record.getMessage()
    assert "\n" not in record.getMessage()
    assert record.exc_info is None


def test_the_others_are_run_all_the_same(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    def entry(rows: Any, context: Any) -> list[int]:
        return [1 // isinstance(rows[0]["body"], dict)]

    run(entry, folder)
    assert "Warm-up: 1 of 2 samples" in caplog.text
    assert "The first: MAR-INF/samples/1/input.bin: ZeroDivisionError" in caplog.text


def test_what_a_handler_streams_goes_nowhere(folder: Path) -> None:
    def entry(rows: Any, context: Any) -> list[str]:
        context.cl_socket.sendall(b"part")
        return ["end"]

    service = run(entry, folder)
    assert not service.streams.sink.streamed


@pytest.mark.parametrize(
    ("samples", "problem"),
    [
        ([{"input": "../outside"}], "it is not in the archive"),
        ([{"input": "/etc/hostname"}], "it is not in the archive"),
        ([{"input": "gone"}], "No such file or directory"),
        ([{"input": "a\0b"}], "cannot be read"),
        ([{"input": "MAR-INF"}], "no regular file"),
        ([{"input": 3}], "the manifest names no file for it"),
        ([3], "the manifest names no file for it"),
        ([{}], "the manifest names no file for it"),
    ],
)
def test_samples_that_cannot_be_read(
    folder: Path, caplog: pytest.LogCaptureFixture, samples: Any, problem: str
) -> None:
    (folder.parent / "outside").write_bytes(b"x")
    run(lambda rows, context: pytest.fail("nothing to run"), folder, samples)
    assert problem in caplog.text


def test_a_sample_that_is_too_large(
    folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(warm_up, "_LIMIT", 3)
    run(lambda rows, context: [1], folder)
    assert "Warm-up: 1 of 2 samples" in caplog.text
    assert "more than 3 bytes" in caplog.text


@pytest.mark.parametrize("samples", [None, {}, "x", 3, []])
def test_without_samples_nothing_is_said(folder: Path, caplog: pytest.LogCaptureFixture, samples: Any) -> None:
    with caplog.at_level(logging.INFO):
        run(lambda rows, context: pytest.fail("nothing to run"), folder, samples)
    assert caplog.records == []


@pytest.mark.parametrize("manifest", [None, {}, {"torchmar": 3}, []])
def test_archives_of_other_tools(folder: Path, manifest: Any) -> None:
    context = Context("m", str(folder), manifest, 8, None, "0.12.0", True, CACHE, {})
    service = Service(Model("m", lambda rows, context: pytest.fail("nothing"), context, None, Backend()), Sink())
    warm_up.run(service.model, service.rehearse, str(folder))


@pytest.mark.parametrize(
    ("backend", "variables", "expected"),
    [
        ({}, {}, True),
        ({"warm_up": False}, {}, False),
        ({"stateful": True}, {}, False),
        ({}, {"TORCHMAR_WARM_UP": "0"}, False),
        ({}, {"TORCHMAR_WARM_UP": "1"}, True),
        ({}, {"LOCAL_RANK": "0"}, False),
    ],
)
def test_when_it_is_done(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    backend: dict[str, Any],
    variables: dict[str, str],
    expected: bool,
) -> None:
    for name in ("TORCHMAR_WARM_UP", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    seen: list[Any] = []

    def entry(rows: Any, context: Any) -> list[int]:
        seen.append(rows)
        return [1]

    run(entry, folder, **backend)
    assert bool(seen) is expected


# ---- of compiled models --------------------------------------------------------------------------------------------


class Compiled:
    """A handler whose model torch.compile compiles; it keeps the sizes of its batches, and of those compiled for."""

    def __init__(self, *, dynamic: bool | None = None, slow: float = 0.0) -> None:
        self.batches: list[int] = []
        self.compiled: list[int] = []
        torch._dynamo.reset()  # it counts how often a method is compiled, whichever object's

        def backend(graph: Any, inputs: Any) -> Any:
            self.compiled.append(self.batches[-1])
            time.sleep(slow)
            return graph.forward

        self.model = torch.compile(torch.nn.Linear(2, 2).eval(), backend=backend, dynamic=dynamic)

    def __call__(self, rows: Any, context: Any) -> list[Any]:
        self.batches.append(len(rows))
        with torch.inference_mode():
            return list(self.model(torch.ones(len(rows), 2)).tolist())


def warm(handler: Callable[[Any, Any], Any], folder: Path, size: int, **values: Any) -> None:
    manifest = {"torchmar": {"samples": SAMPLES[:1]}}
    context = Context("m", str(folder), manifest, size, None, "0.12.0", True, CACHE, {})
    one_by_one = values.pop("one_by_one", False)
    service = Service(Model("m", handler, context, None, Backend(**values), one_by_one), Sink())
    warm_up.run(service.model, service.rehearse, str(folder))
    assert context.request_processor is None


@pytest.mark.parametrize("dynamic", [None, True])
def test_a_compiled_model_meets_the_sizes_that_it_is_compiled_for(
    folder: Path, caplog: pytest.LogCaptureFixture, dynamic: bool | None
) -> None:
    handler = Compiled(dynamic=dynamic)
    with caplog.at_level(logging.INFO):
        warm(handler, folder, 32)
    assert handler.batches == [1, 2, 32]
    assert handler.compiled == [1, 2]
    assert ", in batches of 1, 2, 32" in caplog.text
    for size in range(1, 33):  # no client waits for the compiler
        handler([{}] * size, None)
    assert len(handler.compiled) == 2


@pytest.mark.parametrize(
    ("most", "sizes"),
    [
        (1, [1]),
        (2, [1, 2]),
        (3, [1, 2, 3]),
        (8, [1, 2, 8, 3, 4, 5, 6, 7]),
        pytest.param(32, [1, 2, 32, 4, 8, 16], marks=pytest.mark.slow),
        pytest.param(1024, [1, 2, 1024, 4, 8, 16, 32, 64], marks=pytest.mark.slow),
    ],
)
def test_without_dynamic_shapes_every_size_is_compiled(folder: Path, most: int, sizes: list[int]) -> None:
    handler = Compiled(dynamic=False)
    warm(handler, folder, most)
    assert handler.batches == handler.compiled == sizes


def test_a_model_that_is_not_compiled_meets_its_samples_only(folder: Path) -> None:
    Compiled()([{}], None)  # another one has been
    seen: list[int] = []

    def entry(rows: Any, context: Any) -> list[int]:
        seen.append(len(rows))
        return [1] * len(rows)

    warm(entry, folder, 32)
    assert seen == [1]


def test_no_batches_where_requests_come_one_by_one(folder: Path) -> None:
    handler = Compiled()
    warm(handler, folder, 32, one_by_one=True)
    assert handler.batches == [1]


def test_the_time_for_the_start_is_kept(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    handler = Compiled(dynamic=False, slow=0.2)
    warm(handler, folder, 4, startup_timeout_s=0.25)
    assert handler.batches == [1]
    assert "batches of 2, 4 of m are compiled when they come" in caplog.text
    assert "startupTimeout (0.25 s)" in caplog.text


def test_a_batch_that_fails_keeps_nobody_from_being_served(folder: Path) -> None:
    handler = Compiled()

    def entry(rows: Any, context: Any) -> list[Any]:
        if len(rows) == 2:
            raise ValueError("no")
        return handler(rows, context)

    warm(entry, folder, 4)
    assert handler.batches == [1, 4, 3]


# ---- in workers ----------------------------------------------------------------------------------------------------

COUNTING = """
    calls = []

    def handle(data, context):
        if data is not None:
            calls.append(bytes(data[0]["body"]))
        return [{"calls": [call.decode() for call in calls]}] * len(data or [])
"""


def make(folder: Path, source: str = COUNTING, *, asynchronous: bool = False, **backend: Any) -> Path:
    config = {"backend": backend} | ({"asyncCommunication": True} if asynchronous else {})
    made = archive(folder / "model", source, config=config, files=WITHOUT_TORCH if not backend else {})
    manifest = made / "MAR-INF" / "MANIFEST.json"
    document = json.loads(manifest.read_text())
    document["torchmar"] = {"formatVersion": 1, "samples": [{"input": "sample"}]}
    manifest.write_text(json.dumps(document))
    (made / "sample").write_bytes(b"warm")
    return made


def load(server: Server, folder: Path) -> Worker:
    worker = server.worker(folder)
    assert worker.load(folder) == Reply(200, "loaded model model"), worker.out.text
    return worker


def test_a_dedicated_worker(server: Server, tmp_path: Path) -> None:
    worker = load(server, make(tmp_path, mode="dedicated"))
    assert "Warmed up with 1 samples" in worker.out.wait("Warmed up")
    assert json.loads(worker.answer(b"cold")) == {"calls": ["warm", "cold"]}


def test_a_plain_worker(plain_server: Server, tmp_path: Path) -> None:
    worker = load(plain_server, make(tmp_path))
    assert json.loads(worker.answer(b"cold")) == {"calls": ["warm", "cold"]}


def test_a_shared_process_warms_up_once_for_all_its_workers(server: Server, tmp_path: Path) -> None:
    folder = make(tmp_path, mode="shared")
    first = load(server, folder)
    second = load(server, folder)
    first.answer(b"1")
    assert json.loads(second.answer(b"2")) == {"calls": ["warm", "1", "2"]}


@pytest.mark.slow  # it imports torch's compiler; above, the compiled models are of this process
def test_a_compiled_model_in_a_shared_process(server: Server, tmp_path: Path) -> None:
    source = """
        import torch
        sizes = []
        model = torch.compile(torch.nn.Linear(1, 1), backend="eager")

        def handle(data, context):
            for row in data or []:
                row["x"] = 1.0
            if data:
                sizes.append(len(data))
                model(torch.tensor([[row["x"]] for row in data]))
            return [{"sizes": sizes}] * len(data or [])
    """
    worker = load(server, make(tmp_path, source, mode="shared", max_batch_size=4))
    assert ", in batches of 1, 2, 4" in worker.out.wait("in batches of")
    assert json.loads(worker.answer(b"cold")) == {"sizes": [1, 2, 4, 1]}


@pytest.mark.parametrize("mode", ["dedicated", "shared"])
def test_a_sample_that_fails_does_not_keep_the_model_from_loading(server: Server, tmp_path: Path, mode: str) -> None:
    source = """
        def handle(data, context):
            if data is None:
                return
            if data[0]["body"] == b"warm":
                raise ValueError("no")
            return ["fine"] * len(data)
    """
    worker = load(server, make(tmp_path, source, mode=mode))
    assert "The first: sample: ValueError: no in handler.py:6 (handle)\n" in worker.out.wait("handler.py:6 (handle)\n")
    assert worker.answer() == b"fine"
    assert "Traceback" not in worker.out.text


@pytest.fixture
def async_server(plain_server: Server) -> Iterator[Server]:
    with plain_server.asynchronous():
        yield plain_server


@pytest.mark.parametrize("line", ["raise ValueError('no')", "raise asyncio.CancelledError", "return None"])
def test_the_asynchronous_mode(async_server: Server, tmp_path: Path, line: str) -> None:
    source = f"""
        import asyncio
        calls = []

        async def handle(data, context):
            if data is None:
                return
            calls.append(bytes(data[0]["body"]).decode())
            await asyncio.sleep(0)
            if len(calls) > 1 and calls[-1] == "warm":
                {line}
            return [{{"calls": calls}}]
    """
    folder = make(tmp_path, source, asynchronous=True)
    manifest = folder / "MAR-INF" / "MANIFEST.json"
    manifest.write_text(manifest.read_text().replace('[{"input"', '[{"input": "sample"}, {"input"'))
    worker = async_server.worker(folder)
    assert worker.load(folder) == Reply(200, "loaded model model"), worker.out.text
    assert "Warm-up: 1 of 2 samples of model failed" in worker.out.wait("The first: sample: ")
    reply = worker.ask(rest("1", b"cold"))
    assert json.loads(reply.items[0].body) == {"calls": ["warm", "warm", "cold"]}
    assert "[METRICS]" not in worker.out.text.partition("Warm-up")[0]


SLOW = """
    import time

    def handle(data, context):
        if data and data[0]["body"] == b"warm":
            time.sleep(0.3)
            open("warmed", "w").close()
        return [1] * len(data or [])
"""


@pytest.mark.parametrize("mode", ["dedicated", "shared"])
def test_it_is_done_before_the_worker_is_ready(server: Server, tmp_path: Path, mode: str) -> None:
    load(server, make(tmp_path, SLOW, mode=mode))
    assert (tmp_path / "model" / "warmed").exists()


def test_a_plain_worker_does_it_before_it_is_ready(plain_server: Server, tmp_path: Path) -> None:
    load(plain_server, make(tmp_path, SLOW))
    assert (tmp_path / "model" / "warmed").exists()


@pytest.mark.parametrize("mode", ["dedicated", "shared"])
def test_a_sample_that_hangs_keeps_no_process_alive(server: Server, tmp_path: Path, mode: str) -> None:
    source = """
        import os, time

        def handle(data, context):
            if data:
                with open("pid.tmp", "w") as file:
                    file.write(str(os.getpid()))
                os.rename("pid.tmp", "pid")
                time.sleep(3600)
    """
    folder = make(tmp_path, source, mode=mode)
    worker = server.worker(folder)
    worker.send_load(folder)
    assert wait_for((folder / "pid").exists)
    worker.kill()
    assert ends(int((folder / "pid").read_text()))


def test_it_can_be_switched_off(server: Server, tmp_path: Path) -> None:
    worker = load(server, make(tmp_path, mode="dedicated", warm_up=False))
    assert json.loads(worker.answer(b"cold")) == {"calls": ["cold"]}


def test_streams_of_requests_still_go_to_the_frontend(server: Server, tmp_path: Path) -> None:
    source = """
        def handle(data, context):
            if data is None:
                return
            from ts.handler_utils.utils import send_intermediate_predict_response
            for part in ("a", "b"):
                send_intermediate_predict_response([part], context.request_ids, "part", 200, context)
            return ["c"]
    """
    worker = load(server, make(tmp_path, source, mode="dedicated"))
    worker.send(rest("1"))
    parts = [bytes(worker.reply().items[0].body) for _ in range(3)]
    assert parts == [b"a", b"b", b"c"]
