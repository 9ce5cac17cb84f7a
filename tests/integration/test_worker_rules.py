"""The rules that TorchServe's frontend sets its workers, one after the other.

Each breaks something that is hard to find: a client that hangs, a worker that is killed with all its requests, a log
line that is lost. They are tested here with the real frontend, and, what that cannot be made to show, in
test_worker_rules_played.py. docs/compatibility.md says what handlers' owners notice of them.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from urllib.parse import quote

import pytest
import torch

from serving.control.configuration.java import worker_home

from .conftest import OPEN, Sandbox, Server
from .direct import PLAIN
from .pairs import source
from .support import (
    Answer,
    ask,
    converse,
    describe,
    grpc,
    is_alive,
    model_log,
    pack,
    predict,
    prediction_request,
    ready,
    register,
    scale,
    session,
    wait_until,
)

pytestmark = [pytest.mark.timeout(400), pytest.mark.hides("torchvision")]

SHARED = "backend: {mode: shared}\n"
# Beside those that the worker's own metrics.yaml has.
METERS = {
    "Large": ("ms", "ModelName, Level"),
    "Small": ("ms", "ModelName, Level"),
    "Endless": ("ms", "ModelName, Level"),
    "After": ("ms", "ModelName, Level"),
    "Placed": ("ms", "Kind, Place, ModelName, Level"),
    "Rated": ("images/s", "ModelName, Level"),
}


def code(text: str) -> dict[str, str]:
    """Return headers that make the handler `everything` run this."""
    return {"X-Do": quote(text)}


@pytest.fixture(scope="module")
def server(shared_sandbox: Sandbox) -> Server:
    box = shared_sandbox
    archives = [
        pack(box, "dedicated", "everything.py", source("everything")),
        pack(box, "shared", "everything.py", source("everything"), SHARED),
    ]
    text = (worker_home() / "ts" / "configs" / "metrics.yaml").read_text()
    own = "".join(
        f"    - {{name: {name}, unit: {unit}, dimensions: [{dims}]}}\n" for name, (unit, dims) in METERS.items()
    )
    metrics = box.file("metrics.yaml", text.rstrip("\n") + "\n" + own)
    config = box.file("config.properties", f"metric_time_interval=1\nmetrics_config={metrics}\n")
    return box.start(*archives, options=("--ts-config", config, *OPEN))


@pytest.fixture(params=["dedicated", "shared"])
def model(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def run(server: Server, model: str, text: str) -> Answer:
    return ask(server.inference, f"/predictions/{model}", "x", code(text))


# ---- 1: listens, then prints its pid, then that it has started -----------------------------------------------------


def test_rule_1_output_is_never_held_back(server: Server, model: str) -> None:
    """Not even by a worker that is killed right after it."""
    mark = f"last words of {model}"
    answer = run(server, model, f"print({mark!r}); os.kill(os.getpid(), 9)")
    # By what Java sees first: the end of the connection, or that of the process, whose 137 is a lack of memory to it.
    assert (answer.status, answer.json()["message"]) in ((500, "Worker died."), (507, "Worker died."))
    wait_until(lambda: mark in model_log(server), "the line")
    wait_until(lambda: ready(server, model), "the worker again")
    state = "return [[sys.stdout.line_buffering, sys.stderr.line_buffering, os.fstat(1).st_ino, os.fstat(2).st_ino]]"
    buffered, errors, out, err = run(server, model, state).json()
    assert (buffered, errors) == (True, True)
    assert out != err
    wait_until(lambda: run(server, model, "os.write(1, b'by number\\n'); return [1]").status == 200, "an answer")
    wait_until(lambda: "by number" in model_log(server), "the line")


# ---- 2: ends with its connection ---------------------------------------------------------------------------------


def test_rule_2_nothing_is_left_of_a_worker_that_is_not_wanted(server: Server, model: str) -> None:
    assert scale(server, model, 2).status == 200
    pids = set(ready(server, model))
    assert len(pids) == 2
    assert scale(server, model, 1).status == 200
    wait_until(lambda: len(ready(server, model)) == 1, "one worker")
    (gone,) = pids - set(ready(server, model))
    wait_until(lambda: not is_alive(gone), "its end")
    assert run(server, model, "return ['here']").text() == "here"


# ---- 4: bytes are counted, and nothing is sent that the frontend cannot ---------------------------------------------

UNSENDABLE = {
    "a phrase of two lines": ("context.set_response_status(201, 'two\\r\\nlines', 0); return ['sent']", 201),
    "a phrase beyond ascii": ("context.set_response_status(201, 'grün \\u4e16', 0); return ['sent']", 201),
    "a type beyond ascii": ("context.set_response_content_type(0, 'text/grün'); return ['sent']", 200),
    "a header of two lines": ("context.set_response_header(0, 'x-a', 'two\\r\\nlines'); return ['sent']", 200),
    "a header beyond ascii": ("context.set_response_header(0, 'x-a', 'grün \\u4e16'); return ['sent']", 200),
    "a header with a zero": ("context.set_response_header(0, 'x-a', 'a\\0b'); return ['sent']", 200),
    "a header's name with a blank": ("context.set_response_header(0, 'x a', 'b'); return ['sent']", 200),
    "a header's name beyond ascii": ("context.set_response_header(0, 'grün', 'b'); return ['sent']", 200),
    "a header without a name": ("context.set_response_header(0, '', 'b'); return ['sent']", 200),
    "a header that is a number": ("context.set_response_header(0, 'x-a', 7); return ['sent']", 200),
    "a header that is nothing": ("context.set_response_header(0, 'x-a', None); return ['sent']", 200),
    "a negative status": ("context.set_response_status(-1, 'x', 0); return ['sent']", 500),
    "a huge status": ("context.set_response_status(100_000, 'x', 0); return ['sent']", 500),
    "a status that is a text": ("context.set_response_status('201', 'x', 0); return ['sent']", 201),
    "a status that is none": ("context.set_response_status('many', 'x', 0); return ['sent']", 500),
    "half a character in a header": ("context.set_response_header(0, 'x-a', 'a\\ud800'); return ['sent']", 200),
    "an answer beyond the limit": ("return ['x' * 7_000_000]", 507),
    "a phrase beyond the limit": ("context.set_response_status(201, 'x' * 7_000_000, 0); return ['sent']", 201),
}


@pytest.mark.parametrize(("text", "status"), UNSENDABLE.values(), ids=UNSENDABLE.keys())
def test_rule_4_what_the_frontend_cannot_send(server: Server, model: str, text: str, status: int) -> None:
    wait_until(lambda: ready(server, model), "a worker")
    before = ready(server, model)
    answer = run(server, model, text)
    assert answer.status == status
    if status == 507:
        assert answer.json()["message"] == (
            "the answer has 7000000 bytes, max_response_size in config.properties allows 6553500"
        )
    else:
        assert answer.text() == "sent"
    assert run(server, model, "return ['next']").text() == "next"
    assert ready(server, model) == before


def test_rule_4_an_answer_at_the_limit(server: Server, model: str) -> None:
    assert len(run(server, model, "return ['x' * 6_553_500]").body) == 6_553_500


# ---- 5: streams are ended, and never only ended ---------------------------------------------------------------------

STREAM = (
    "from ts.handler_utils.utils import send_intermediate_predict_response as send\n"
    "send(['one '], context.request_ids, 'part', 200, context)\n"
    "send(['two '], context.request_ids, 'part', 200, context)\n"
)


def test_rule_5_a_stream_that_only_ends_is_an_answer(server: Server, model: str) -> None:
    answer = run(server, model, "context.set_response_header(0, 'ts_stream_next', 'false'); return ['whole']")
    assert (answer.status, answer.text(), answer.header("ts_stream_next")) == (200, "whole", None)


def test_rule_5_criteria_that_stop_at_once(server: Server, model: str) -> None:
    text = "context.stopping_criteria = [lambda _: True]\ntry:\n    return ['whole']\nfinally:\n    pass"
    answer = run(server, model, text)
    assert (answer.status, answer.text()) == (200, "whole")
    run(server, model, "context.stopping_criteria = None; return [1]")


def test_rule_5_a_stream_ends(server: Server, model: str) -> None:
    assert run(server, model, STREAM + "return ['end']").text() == "one two end"


@pytest.mark.parametrize("end", ["raise ValueError('broken')", "return [object()]", "return None", "return [1, 2]"])
def test_rule_5_a_stream_that_fails_ends(server: Server, model: str, end: str) -> None:
    before = ready(server, model)
    answer = run(server, model, STREAM + end)
    assert answer.status == 200  # it has been sent by then
    assert answer.text().startswith("one two ")
    assert '"code": 503' in answer.text()
    assert ready(server, model) == before


@pytest.mark.parametrize("method", ["Predictions", "StreamPredictions"])
def test_rule_5_grpc_without_a_stream(server: Server, model: str, method: str) -> None:
    """The worker cannot tell the two apart; the frontend kills one that ends no stream."""
    before = ready(server, model)
    for text, status in (("return ['whole']", 0), ("raise PredictionException('none', 404)", 5)):
        answer = grpc(server, method, prediction_request(model, {"do": text.encode()}))
        assert answer.status == status
        assert answer.predictions == ((b"whole",) if status == 0 else ())
    assert ready(server, model) == before


def test_rule_5_a_grpc_stream_ends(server: Server, model: str) -> None:
    before = ready(server, model)
    for end, status, parts in (
        ("return ['end']", 0, (b"one ", b"two ", b"end")),
        ("raise ValueError('broken')", 14, (b"one ", b"two ")),
    ):
        request = prediction_request(model, {"do": (STREAM + end).encode()})
        answer = grpc(server, "StreamPredictions", request)
        assert (answer.status, answer.predictions) == (status, parts)
    assert ready(server, model) == before


# ---- 6: the frontend's other modes take errors of single requests only ----------------------------------------------


def test_rule_6_an_error_in_a_sequence_ends_neither_the_worker_nor_the_others(server: Server) -> None:
    box = server.sandbox
    config = "sequenceBatching: true\nbatchSize: 4\nmaxBatchDelay: 20\nsequenceMaxIdleMSec: 600000\n"
    limits = "maxNumSequence: 8\nmaxSequenceJobQueueSize: 8\n"
    archive = pack(box, "sums", "sequence.py", source("sequence"), config + limits)
    assert register(server, archive, "sums").status == 200
    before = ready(server, "sums")

    def add(sequence: str, text: str) -> Answer:
        headers = {"ts_request_sequence_id": sequence, "Content-Type": "text/plain"}
        return ask(server.inference, "/predictions/sums", text, headers)

    assert add("a", "1").json()["sum"] == 1
    failed = add("a", "raise")
    assert failed.status == 503
    assert "id" in failed.json()["message"]
    assert add("a", "2").json()["sum"] == 3
    # Bidirectional streams: a code of the whole batch would leave the frontend with a dead thread.
    requests = [prediction_request("sums", {"data": text}, "b") for text in (b"1", b"raise", b"5")]
    assert [json.loads(text).get("sum") for text in converse(server, *requests)] == [1, None, 6]
    assert add("a", "4").json()["sum"] == 7
    assert ready(server, "sums") == before
    ask(server.management, "/models/sums", method="DELETE")


# Those of the asynchronous mode are in test_async.py.

# ---- 7: loading --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", [pytest.param("dedicated", marks=pytest.mark.slow), "shared"])
def test_rule_7_a_registration_that_fails_leaves_nothing(server: Server, model: str) -> None:
    before = {process.pid for process in session(server)}
    archive = pack(server.sandbox, f"bad_{model}", "bad.py", {"bad.py": "1 / 0\n"}, SHARED if model == "shared" else "")
    answer = register(server, archive, f"bad_{model}", workers=2)
    assert answer.status == 500
    wait_until(lambda: f"Failed to load model bad_{model}: ZeroDivisionError" in model_log(server), "the reason")
    wait_until(lambda: {process.pid for process in session(server)} <= before, "the end of its processes")
    wait_until(lambda: ask(server.management, f"/models/bad_{model}").status == 404, "the end of the registration")


# ---- 8: ranks ----------------------------------------------------------------------------------------------------


@pytest.mark.slow  # three imports of torch; tests/serving/worker has ranks without torchrun
def test_rule_8_two_ranks_under_torchrun(server: Server) -> None:
    config = "minWorkers: 1\nmaxWorkers: 1\nparallelType: tp\ntorchrun: {nproc-per-node: 2}\nstartupTimeout: 300\n"
    archive = pack(server.sandbox, "ranks", "everything.py", source("everything"), config)
    answer = register(server, archive, "ranks")
    assert answer.status == 200, model_log(server)[-2000:]
    text = "print('rank', os.environ['LOCAL_RANK']); return [os.environ['LOCAL_RANK'] + os.environ['WORLD_SIZE']]"
    for _ in range(5):
        assert run(server, "ranks", text).text() == "02"
    wait_until(lambda: "rank 1" in model_log(server), "the other rank")
    ask(server.management, "/models/ranks", method="DELETE")


# ---- 9: what goes in and out ---------------------------------------------------------------------------------------

KINDS = {
    "bytes": (b"\x00a", "application/octet-stream", "bytearray(b'\\x00a')"),
    "no type": (b"a", "", "bytearray(b'a')"),
    "json": (b'{"a": [1]}', "application/json", "{'a': [1]}"),
    "broken json": (b'{"a"', "application/json", "bytearray(b'{\"a\"')"),
    "another json": (b"{}", "application/hal+json", "bytearray(b'{}')"),
    "text": (b"\xc3\xbc", "text/csv", "'ü'"),
    "broken text": (b"\xff", "text/plain", "bytearray(b'\\xff')"),
}


@pytest.mark.parametrize(("value", "kind", "expected"), KINDS.values(), ids=KINDS.keys())
def test_rule_9_values(server: Server, model: str, value: bytes, kind: str, expected: str) -> None:
    headers = {"Content-Type": kind} if kind else {}
    answer = ask(server.inference, f"/predictions/{model}", value, headers | code("return [repr(data[0]['body'])]"))
    assert answer.text() == expected


def test_rule_9_answers(server: Server, model: str) -> None:
    assert run(server, model, "return [{'a': [1, {}]}]").body == json.dumps({"a": [1, {}]}, indent=2).encode()
    tensor = run(server, model, "return [torch.arange(3)]")
    assert torch.load(io.BytesIO(tensor.body), weights_only=True).tolist() == [0, 1, 2]


# ---- 10: what may be missing ---------------------------------------------------------------------------------------


def test_rule_10_workflows(server: Server) -> None:
    """Their functions have no manifest, and are named file.py:function."""
    if server.record["frontend"] == "python":
        pytest.skip("workflows are for Java's frontend alone")
    box = server.sandbox
    archive = pack(
        box, "inner", "inner.py", {"inner.py": "def handle(data, context):\n    return data and ['inner']\n"}
    )
    functions = (
        "def before(data, context):\n"
        "    return data and [b'before ' + (row.get('data') or row.get('body')) for row in data]\n"
        "def after(data, context):\n    return data and [b'after ' + row['inner'] + row['before'] for row in data]\n"
    )
    # Java's frontend loses an answer that comes before it has noted who waits for it, and asks again only if told to.
    again = {"retry-attempts": 3, "timeout-ms": 3000}
    specification = {
        "models": {"min-workers": 1, "max-workers": 1, "batch-size": 1, **again, "inner": {"url": archive}},
        "dag": {"before": ["inner", "after"], "inner": ["after"]},
    }
    manifest = {
        "createdOn": "01/01/2024 00:00:00",
        "workflow": {"workflowName": "flow", "specFile": "flow.yaml", "handler": "functions.py"},
        "archiverVersion": "0.2.15",
    }
    with zipfile.ZipFile(box.store / "flow.war", "w") as war:
        war.writestr("flow.yaml", json.dumps(specification))
        war.writestr("functions.py", functions)
        war.writestr("WAR-INF/MANIFEST.json", json.dumps(manifest))
    answer = ask(server.management, "/workflows?url=flow.war", "", timeout=150)
    assert answer.status == 200, answer
    try:
        answer = ask(server.inference, "/wfpredict/flow", b"x", {"Content-Type": "application/octet-stream"})
        assert (answer.status, answer.body) == (200, b"after innerbefore x"), answer.text()
    finally:
        ask(server.management, "/workflows/flow", method="DELETE")


# ---- 11: the model's modules come first ----------------------------------------------------------------------------


# A worker that is started plainly, as the second, imports by itself what the other finds: nine seconds.
@pytest.mark.parametrize(
    "extra",
    [pytest.param((), id="forked"), pytest.param(("PIL.py",), id="started plainly", marks=pytest.mark.slow)],
)
def test_rule_11_modules_of_the_archive(server: Server, extra: tuple[str, ...]) -> None:
    names = ("context", "service", "metrics", "utils", "version", "protocol", "serving", "archive_tool", "launch")
    files = {f"{name}.py": f"own = {name!r}\n" for name in names} | dict.fromkeys(extra, "own = 'mine'\n")
    imports = "".join(f"import {name}\n" for name in names) + ("import PIL\n" if extra else "") + "import os\n"
    told = ", ".join(f"{name}.own" for name in names) + (", PIL.own" if extra else "")
    text = (
        f"{imports}import sys\nimport ts\nimport ts.context\nfrom ts.torch_handler.base_handler import BaseHandler\n"
        "class Handler:\n"
        "    def initialize(self, context):\n        pass\n"
        "    def handle(self, rows, _):\n"
        f"        return [[os.getpid(), {told}, ts.__version__, [p for p in sys.path if p.endswith('/ts')]]]\n"
    )
    archive = pack(server.sandbox, "modules", "handler.py", {"handler.py": text, **files})
    assert register(server, archive, "modules").status == 200, model_log(server)[-2000:]
    try:
        pid, *told_back = predict(server, "modules").json()
        assert told_back == [*names, *(["mine"] if extra else []), "0.12.0", []]
        # A worker whose module would come too late in a forked process does without it.
        assert (ready(server, "modules") == [pid]) == bool(extra)
    finally:
        ask(server.management, "/models/modules", method="DELETE")


# ---- 12: metrics -----------------------------------------------------------------------------------------------------


def gauge(server: Server, name: str) -> tuple[str, float] | None:
    lines = ask(server.record["metrics"], "/metrics").text().splitlines()
    line = next((line for line in lines if line.startswith(f"{name}{{")), None)
    return None if line is None else (line.rpartition("}")[0].partition("{")[2], float(line.rpartition(" ")[2]))


@pytest.mark.parametrize(
    ("name", "value"), [("Large", 1e16), ("Large", 123456789012345678901234), ("Small", 2.5e-7), ("Small", -1.5)]
)
def test_rule_12_numbers(server: Server, name: str, value: float) -> None:
    run(server, "dedicated", f"context.metrics.add_time({name!r}, {value!r}); return [1]")
    wait_until(lambda: (gauge(server, name) or ("", 0.0))[1] == pytest.approx(value), f"{value} in the metrics")


def test_rule_12_what_cannot_be_told_harms_nothing(server: Server) -> None:
    for value in ("float('nan')", "float('inf')", "'text'", "None"):
        answer = run(server, "dedicated", f"context.metrics.add_time('Endless', {value}); return ['said']")
        assert answer.text() == "said"
    run(server, "dedicated", "context.metrics.add_time('After', 1); return [1]")
    wait_until(lambda: gauge(server, "After"), "a metric after it")


def test_rule_12_dimensions_have_their_places(server: Server) -> None:
    run(
        server,
        "dedicated",
        "from ts.metrics.dimension import Dimension\n"
        "where = [Dimension('Kind', 'red'), Dimension('Place', 'here')]\n"
        "context.metrics.add_metric('Placed', 3, 'ms', 0, where, metric_type=__import__('ts.metrics.metric_type_enum'"
        ").metrics.metric_type_enum.MetricTypes.GAUGE); return [1]",
    )
    found = wait_until(lambda: gauge(server, "Placed"), "the metric")
    labels = dict(re.findall(r'(\w+)="([^"]+)"', found[0]))
    assert labels.pop("Hostname")
    assert labels == {"Kind": "red", "Place": "here", "ModelName": "dedicated", "Level": "Model"}
    assert found[1] == 3


def test_rule_12_units_with_a_slash(server: Server) -> None:
    run(
        server,
        "dedicated",
        "from ts.metrics.metric_type_enum import MetricTypes\n"
        "context.metrics.add_metric('Rated', 5, 'images/s', metric_type=MetricTypes.GAUGE); return [1]",
    )
    wait_until(lambda: (gauge(server, "Rated") or ("", 0))[1] == 5, "the metric")


# ---- 13: the collector -------------------------------------------------------------------------------------------


def test_rule_13_memory_of_all_workers_again_and_again(server: Server, model: str) -> None:
    def memory() -> dict[int, int]:
        return {worker["pid"]: worker["memoryUsage"] for worker in describe(server, model)["workers"]}

    for workers in (2, 3, 1):
        assert scale(server, model, workers).status == 200
        wait_until(
            lambda workers=workers: len(memory()) == workers and all(used > 10_000_000 for used in memory().values()),
            "the memory of each worker",
        )
    assert "CPUUtilization{" in ask(server.record["metrics"], "/metrics").text()


# ---- 14 and 15: archives and their configuration -----------------------------------------------------------------


@pytest.mark.parametrize(
    "form", ["default", "tgz", *(pytest.param(form, marks=pytest.mark.slow) for form in ("zip-store", "no-archive"))]
)
def test_rule_14_archives(server: Server, form: str) -> None:
    """More in tests/archive_tool/test_peer.py and test_scenarios.py: both archivers, all options, exit codes."""
    box = server.sandbox
    handler = box.file("src/some_handler.py", PLAIN)
    extra = box.file("src/extra/inner/more.txt", "more")
    name = f"form_{form.replace('-', '_')}"
    command = ("build", "--model-name", name, "-v", "1.0", "--handler", handler, "--extra-files", extra.parents[1])
    done = box.torchmar(*command, "--archive-format", form, "--export-path", box.store, "-f", "-q").ok()
    assert (done.out, done.err) == ("", "")
    suffix = {"tgz": ".tar.gz", "no-archive": ""}.get(form, ".mar")
    assert register(server, name + suffix, name).status == 200
    assert predict(server, name, b"x").text() == "{'body': bytearray(b'x')}"
    ask(server.management, f"/models/{name}", method="DELETE")
    assert box.torchmar(*command, "--archive-format", form, "--export-path", box.store).code == 1
    assert box.torchmar("build", "--model-name").code == 2


WRONG = {
    "asyncCommunication: true\nbatchSize: 2\n": "batchSize",
    "asyncCommunication: true\ncontinuousBatching: true\n": "asyncCommunication",
    "sequenceBatching: true\n": "sequenceMaxIdleMSec",
    "batchSize: '4'\n": "batchSize",
    "backend: {mode: joint}\n": "mode",
}


@pytest.mark.parametrize(("text", "named"), WRONG.items(), ids=[text.replace("\n", " ") for text in WRONG])
def test_rule_15_a_configuration_that_would_harm_is_refused(sandbox: Sandbox, text: str, named: str) -> None:
    """More in tests/archive_tool/config/test_schema.py."""
    handler, config = sandbox.file("h.py", PLAIN), sandbox.file("model-config.yaml", text)
    done = sandbox.torchmar(
        "build", "--model-name", "m", "--handler", handler, "-c", config, "--export-path", sandbox.store
    )
    assert done.code == 1
    assert named in done.err
    assert not list(sandbox.store.iterdir())
