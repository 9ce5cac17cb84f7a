"""Archives in this process: what the handler sees, and what clients get."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from archive_tool import build
from archive_tool.errors import InputError, UnreadableArchiveError
from serving.errors import CheckError, ModelLoadError
from serving.local.run import Answered, RunOptions
from serving.local.run import run as run_archive
from tests.serving.check.conftest import ECHO

from .conftest import Ran, given

Run = Callable[..., Ran]

BATCHES = """
    batches = []

    def handle(data, context):
        if data is None:
            return
        batches.append([row["body"] for row in data])
        return [{"batch": batches[-1], "calls": len(batches)} for _ in data]
"""


def bodies(answers: list[Answered]) -> list[object]:
    return [json.loads(answer.body) for answer in answers]


def test_requests_go_through_the_workers_code(run: Run) -> None:
    answers, timings = run(ECHO, *given(b'{"a": 1}'), *given(b"two", content_type="text/plain"))
    assert bodies(answers) == [
        {"got": {"a": 1}, "header": "application/json"},
        {"got": "two", "header": "text/plain"},
    ]
    assert [(one.name, one.status, one.ok, one.content_type) for one in answers] == [("in0", 200, True, "")] * 2
    assert [timing.names for timing in timings] == [("in0",), ("in0",)]
    assert [timing.seconds for timing in timings] == [[answer.seconds] for answer in answers]
    assert not timings[0].rows


def test_batches_are_filled_from_the_first_input_on(run: Run) -> None:
    answers, timings = run(BATCHES, *given(b"1", b"2", b"3"), options={"batch": 2})
    assert bodies(answers) == [{"batch": [1, 2], "calls": 1}] * 2 + [{"batch": [3, 1], "calls": 2}]
    assert [answer.name for answer in answers] == ["in0", "in1", "in2"]
    assert [timing.names for timing in timings] == [("in0", "in1"), ("in2",)]
    answers, _ = run(BATCHES, *given(b"1"), options={"batch": 3})
    assert bodies(answers) == [{"batch": [1, 1, 1], "calls": 1}]


def test_the_handler_has_the_sdk_of_its_archive(run: Run) -> None:
    """And not ours, of which the reader of the archive has imported a part."""
    before = sys.modules["handlers"]
    source = "import handlers\n\ndef handle(data, context): return [handlers.home] * len(data or [])"
    assert [one.body for one in run(source, *given(b"1"), handlers="home = 'the archive'\n")[0]] == [b"the archive"]
    assert sys.modules["handlers"] is before


def test_the_context_knows_the_size_of_the_batches(run: Run) -> None:
    source = "def handle(data, context): return [context.system_properties['batch_size']] * len(data or [])"
    assert bodies(run(source, *given(b"1"), options={"batch": 3})[0]) == [3]
    assert bodies(run(source, *given(b"1"), config="batchSize: 4\n", options={"batch": 3})[0]) == [4]
    assert bodies(run(source, *given(b"1"))[0]) == [1]


def test_repetitions(run: Run) -> None:
    answers, timings = run(BATCHES, *given(b"1", b"2"), options={"repeat": 3})
    assert bodies(answers) == [{"batch": [1], "calls": 1}, {"batch": [2], "calls": 5}]
    assert [len(timing.seconds) for timing in timings] == [4, 4]


def test_what_failed_is_not_repeated(run: Run) -> None:
    source = """
        calls = 0

        def handle(data, context):
            global calls
            calls += 1
            if data and data[0]["body"] == 0:
                raise ValueError("zero")
            return [calls] * len(data or [])
    """
    answers, timings = run(source, *given(b"0", b"1"), options={"repeat": 2})
    assert [answer.status for answer in answers] == [503, 200]
    assert bodies(answers)[1] == 3  # after the initialization and the failure
    assert [len(timing.seconds) for timing in timings] == [1, 3]


def test_failures_are_what_clients_get(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    source = """
        def handle(data, context):
            if data:
                raise ValueError("no")
    """
    (answer,) = run(source, *given(b"1"))[0]
    assert (answer.status, answer.ok, answer.content_type) == (503, False, "application/json")
    assert json.loads(answer.body)["code"] == 503
    assert answer.message.startswith("Prediction failed.")
    assert "ValueError: no" in caplog.text


@pytest.mark.parametrize(("body", "message"), [("{'a': 1}", '{\n  "a": 1\n}'), ("'plain'", "plain")])
def test_messages_of_other_errors(run: Run, body: str, message: str) -> None:
    source = f"""
        def handle(data, context):
            if data:
                context.set_response_status(404, "no", 0)
                return [{body}]
    """
    (answer,) = run(source, *given(b"1"))[0]
    assert (answer.status, answer.message) == (404, message)


def test_headers(run: Run) -> None:
    source = """
        def handle(data, context):
            return [[context.get_all_request_header(0), row["body"]] for row in data or []]
    """
    headers = (("X-Key", "a"), ("explain", "True"), ("Content-Type", "text/plain"))
    ((seen, body),) = bodies(run(source, *given(b"1"), options={"headers": headers})[0])
    assert (seen["X-Key"], seen["explain"], seen["content-type"]) == ("a", "True", "text/plain")
    assert "Content-Type" not in seen
    assert seen["body"] == {"content-type": "text/plain"}
    assert body == "1"


def test_a_stream(run: Run) -> None:
    source = """
        from serving.protocol import PredictionItem, Reply, encode_reply

        def handle(data, context):
            if data is None:
                return
            for part in (b"a", b"b"):
                items = tuple(
                    PredictionItem(one, part, headers={"ts_stream_next": "true"})
                    for one in context.request_ids.values()
                )
                context.cl_socket.sendall(encode_reply(Reply(200, "", items)))
            for index in range(len(data)):
                context.set_response_header(index, "ts_stream_next", "true")
            return ["c"] * len(data)
    """
    answers, _ = run(source, *given(b"1", b"2"), options={"batch": 2})
    assert [answer.body for answer in answers] == [b"abc", b"abc"]


def test_continuous_batching(run: Run) -> None:
    source = """
        steps = {}

        def handle(data, context):
            if data is None:
                return
            ids = list(context.request_ids.values())
            for one in ids:
                steps[one] = steps.get(one, 0) + 1
            context.stopping_criteria = [lambda value, one=one: steps[one] == 2 + int(one[-1]) for one in ids]
            return [str(bool(row)) for row in data]
    """
    config = "continuousBatching: true\nbatchSize: 2\n"
    answers, _ = run(source, *given(b"1", b"2"), config=config, options={"batch": 2})
    assert [answer.body for answer in answers] == [b"TrueFalse", b"TrueFalseFalse"]


def test_sequences(run: Run) -> None:
    source = "def handle(data, context): return [context.get_sequence_id(i) for i in range(len(data or []))]"
    config = "sequenceMaxIdleMSec: 1000\nsequenceBatching: true\n"
    assert [one.body for one in run(source, *given(b"1", b"2"), config=config)[0]] == [b"run-0", b"run-1"]
    own = {"headers": (("ts_request_sequence_id", "mine"),)}
    assert run(source, *given(b"1"), config=config, options=own)[0][0].body == b"mine"


@pytest.mark.parametrize("count", [0, 2])
def test_answers_that_break_the_protocol(run: Run, count: int) -> None:
    source = f"""
        from serving.protocol import PredictionItem, Reply, encode_reply

        def handle(data, context):
            if data is None:
                return
            item = PredictionItem(context.request_ids[0], b"a", headers={{"ts_stream_next": "true"}})
            context.cl_socket.sendall(encode_reply(Reply(200, "", (item,))))
            return ["b"] * {count}
    """
    # A list of a wrong length is answered with an error of the worker's, which ends the stream.
    answers, _ = run(source, *given(b"1"))
    assert answers[0].body.startswith(b"a{")


def test_the_profile(run: Run) -> None:
    source = """
        import time

        class Handler:
            def initialize(self, context):
                pass

            def preprocess(self, data):
                time.sleep(0.02)
                return data

            def inference(self, data):
                time.sleep(0.06)
                return self.preprocess(data)

            def handle(self, data, context):
                return [1 for _ in self.inference(self.preprocess(data))]
    """
    _, (timing,) = run(source, *given(b"1"), options={"profile": True, "repeat": 2})
    rows = {row.name: row for row in timing.rows}
    assert list(rows) == ["preprocess", "inference", "rest of the handler", "frames and worker", "total"]
    assert rows["preprocess"].first >= 0.02
    assert rows["inference"].first >= 0.08  # with the step inside it, which is not counted twice
    assert (rows["inference"].median or 0) >= 0.08
    assert rows["total"].first == timing.seconds[0]
    assert rows["total"].share == 1
    assert sum(row.first for row in timing.rows[:-1]) == pytest.approx(rows["total"].first)


def test_a_trace_has_the_names_of_the_steps_without_a_profile(run: Run, tmp_path: Path) -> None:
    import torch

    assert torch.profiler  # the real one, before that of the archive
    source = """
        class Handler:
            calls = 0

            def initialize(self, context):
                pass

            def inference(self, data):
                self.calls += 1
                return [self.calls for _ in data]

            def handle(self, data, context):
                return self.inference(data)
    """
    options = {"trace": tmp_path / "t.json", "repeat": 1}
    answers, (first, _) = run(source, *given(b"1", b"2"), options=options)
    assert bodies(answers) == [1, 3]
    assert not first.rows
    names = [event.get("name") for event in json.loads((tmp_path / "t.json").read_text())["traceEvents"]]
    assert names.count("inference") == 2  # one further run of each


# ---- what is run -------------------------------------------------------------------------------------------------


def test_a_folder_is_run_where_it_is(
    make: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make("def handle(data, context): return [__file__] * len(data or [])")
    inputs = tmp_path / "inputs"
    handler, extra = inputs / "handler.py", [inputs / "torch.py"]
    folder = build(
        model_name="n", handler=handler, extra_files=extra, export_path=tmp_path, archive_format="no-archive"
    ).path
    answers: list[Answered] = []
    run_archive(RunOptions(folder, given(b"1")), answers.append)
    assert answers[0].body.decode() == str(folder.resolve() / "handler.py")
    before = sorted(folder.rglob("*"))
    with monkeypatch.context() as patched:
        patched.chdir(tmp_path)
        again: list[Answered] = []
        run_archive(RunOptions(Path(folder.name), given(b"1")), again.append)
    assert again[0].body == answers[0].body
    # It may be changed since it was built: that is what it is run for.
    (folder / "handler.py").write_text("def handle(data, context): return ['changed'] * len(data or [])")
    run_archive(RunOptions(folder, given(b"1")), answers.append)
    assert answers[1].body == b"changed"
    assert sorted(folder.rglob("*")) == before


def test_an_archive_is_unpacked_and_nothing_is_left(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / "inputs").mkdir()
    known = set(tmp_path.iterdir()) | {tmp_path / "m.mar"}
    source = "import os\ndef handle(data, context): return [[os.getcwd(), __file__]] * len(data or [])"
    ((where, file),) = bodies(run(source, *given(b"1"))[0])
    assert where.startswith(str(tmp_path / "torchmar-run-"))
    assert file == f"{where}/handler.py"
    assert set(tmp_path.iterdir()) == known
    with pytest.raises(ModelLoadError):
        run("1 / 0\ndef handle(data, context): pass", *given(b"1"))
    assert set(tmp_path.iterdir()) == known


def test_models_that_cannot_be_loaded(run: Run) -> None:
    with pytest.raises(ModelLoadError) as caught:
        run("x = 1\nimport no_such_module\ndef handle(data, context): pass", *given(b"1"))
    error = caught.value
    assert error.message == "model m cannot be loaded: ModuleNotFoundError: No module named 'no_such_module'"
    assert error.where == "handler.py:2 (<module>)"
    assert "pip install" in (error.hint or "")
    assert "import no_such_module" in error.traceback
    with pytest.raises(ModelLoadError, match=r"the handler ended the process: sys.exit\(4\)"):
        run("import sys\nsys.exit(4)\ndef handle(data, context): pass", *given(b"1"))


def test_a_state_dict_that_does_not_fit_has_its_keys_in_the_message(run: Run) -> None:
    source = """
        from handlers.errors import CheckpointMismatchError
        raise CheckpointMismatchError("w.pt does not fit the model Net:\\n  1 missing keys: a.bias", hint="look at it")
        def handle(data, context): pass
    """
    with pytest.raises(ModelLoadError) as caught:
        run(textwrap.dedent(source), *given(b"1"))
    assert caught.value.message == (
        "model m cannot be loaded: CheckpointMismatchError: w.pt does not fit the model Net:\n  1 missing keys: a.bias"
    )
    assert caught.value.hint == "look at it"


def test_the_handlers_own_interrupt_ends_the_run(run: Run) -> None:
    before = Path.cwd()
    with pytest.raises(KeyboardInterrupt):
        run("def handle(data, context):\n    if data: raise KeyboardInterrupt\n", *given(b"1"))
    assert Path.cwd() == before


def test_the_device(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    source = "def handle(data, context): return [str(context.system_properties['gpu_id'])] * len(data or [])"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    assert run(source, *given(b"1"), options={"device": "cuda:1"})[0][0].body == b"1"
    with pytest.raises(InputError, match="no device cuda:2 here"):
        run(source, *given(b"1"), options={"device": "cuda:2"})


def test_what_cannot_be_run(run: Run, tmp_path: Path) -> None:
    source = "async def handle(data, context): return [1]"
    with pytest.raises(InputError, match="asynchronous mode") as caught:
        run(source, *given(b"1"), config="asyncCommunication: true\n")
    assert caught.value.hint == f"torchmar check {tmp_path / 'm.mar'} --input FILE"
    with pytest.raises(InputError, match="torchrun"):
        run(source.removeprefix("async "), *given(b"1"), config="parallelType: tp\nparallelLevel: 2\n")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="trace"):
        run(source.removeprefix("async "), *given(b"1"), options={"trace": tmp_path / "no" / "t.json"})
    with pytest.raises(InputError, match="names no handler"):
        run_archive(RunOptions(tmp_path / "empty", given(b"1")), print)
    with pytest.raises(UnreadableArchiveError):
        run_archive(RunOptions(tmp_path / "gone.mar", given(b"1")), print)


def test_a_module_of_the_archive_with_the_name_of_ours(run: Run) -> None:
    source = "import serving\ndef handle(data, context): return [serving.X] * len(data or [])"
    assert bodies(run(source, *given(b"1"), serving="X = 5\n")[0]) == [5]
    assert "serving.worker.answering.service" in sys.modules
    assert not hasattr(sys.modules["serving"], "X")


def test_a_folder_of_modules_that_the_handlers_name_gives(run: Run) -> None:
    source = "def run(data, context): return [7] * len(data or [])"
    assert bodies(run(source, *given(b"1"), handler="handler.py:run")[0]) == [7]
    assert "handler" not in sys.modules
    assert "TS_IPEX_ENABLE" not in os.environ


def test_a_handler_in_a_folder_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "MAR-INF").mkdir()
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "nested_handler.py").write_text("def go(data, context): return [8] * len(data or [])\n")
    (tmp_path / "torch.py").write_text("raise ImportError('not here')")
    model = {"modelName": "n", "modelVersion": "1.0", "handler": "sub/nested_handler.py:go"}
    (tmp_path / "MAR-INF" / "MANIFEST.json").write_text(json.dumps({"runtime": "python", "model": model}))
    answers: list[Answered] = []
    run_archive(RunOptions(tmp_path, given(b"1")), answers.append)
    assert bodies(answers) == [8]


def test_an_answer_that_does_not_come(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from serving.protocol import PredictionItem, Reply
    from serving.worker.answering.replies import STREAM_NEXT

    def reply(*_: object, **__: object) -> Reply:
        return Reply(200, "", (PredictionItem("run-0", b"", headers={STREAM_NEXT: following}),))

    monkeypatch.setattr("serving.local.model.reply_to", reply)
    following = "true"
    with pytest.raises(CheckError, match="gave none"):
        run("def handle(data, context): return [1] * len(data or [])", *given(b"1"))
    following = "false"
    with pytest.raises(CheckError, match="did not answer 1 of 2 requests"):
        run("def handle(data, context): return [1] * len(data or [])", *given(b"1"), options={"batch": 2})
