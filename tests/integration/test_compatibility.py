"""The same archives on TorchServe's worker and on ours, under the same frontend: the same answers, byte for byte.

What differs on purpose is tested at the end, both sides of it; docs/compatibility.md lists it. Batches, streams and
sequences are in test_compatibility_modes.py, envelopes in test_compatibility_envelopes.py.
"""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import torch
from PIL import Image

from model_defs.mnist import MNISTNet
from serving.control.configuration.java import WORKER_SCRIPT, torchserve_home, worker_home

from .conftest import ROOT, Sandbox, Server, make_sandbox, not_on_ray, usual_frontend
from .pairs import Pair, logged, run, servers, source, without_id
from .support import (
    GrpcAnswer,
    ask,
    describe,
    grpc,
    model_log,
    pack,
    predict,
    prediction_request,
    ready,
    register,
    session,
    wait_until,
)

# Workers that import torch come first, on a busy machine.
pytestmark = pytest.mark.timeout(1200)

MNIST = ROOT / "examples" / "mnist"
SAMPLES = sorted((MNIST / "samples").glob("*.png"))
METRICS = """
  counter:
    - {name: Asked, unit: Count, dimensions: [ModelName, Level]}
    - {name: Sorted, unit: Count, dimensions: [Kind, Place, ModelName, Level]}
  histogram:
    - {name: Spread, unit: ms, dimensions: [ModelName, Level]}
"""
GAUGES = """
    - {name: Took, unit: ms, dimensions: [ModelName, Level]}
    - {name: Weighs, unit: MB, dimensions: [ModelName, Level]}
    - {name: Share, unit: percent, dimensions: [ModelName, Level]}
"""


def table(cases: Mapping[str, str], others: Mapping[str, str]) -> list[Any]:
    """Return parameters, with what Ray Serve does otherwise, and why."""
    marks = {name: not_on_ray(why) for name, why in others.items()}
    return [pytest.param(code, id=name, marks=marks.get(name, ())) for name, code in cases.items()]


def tutorial(box: Sandbox) -> str:
    """Pack scenario A2: the tutorial's handler with its network, untrained: both see the same."""
    torch.manual_seed(0)
    torch.save(MNISTNet().state_dict(), box.root / "mnist_sd.pt")
    handler = (MNIST / "mnist_handler_ts.py").read_text()
    model = {"mnist_model.py": (ROOT / "model_defs" / "mnist.py").read_text()}
    data = {"mnist_sd.pt": (box.root / "mnist_sd.pt").read_bytes()}
    names = {"modelFile": "mnist_model.py", "serializedFile": "mnist_sd.pt"}
    return pack(box, "tutorial", "mnist_handler.py", {"mnist_handler.py": handler, **model, **data}, **names)


def built_in(box: Sandbox) -> str:
    """Return `image_classifier` by name, with a network of seconds."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(4), torch.nn.Flatten(), torch.nn.Linear(48, 10))
    torch.jit.script(net).save(str(box.root / "small.pt"))
    names = {str(number): f"kind {number}" for number in range(10)}
    files = {"small.pt": (box.root / "small.pt").read_bytes(), "index_to_name.json": json.dumps(names)}
    return pack(box, "builtin", "image_classifier", files, serializedFile="small.pt")


@pytest.fixture(scope="module")
def pair(request: pytest.FixtureRequest, java_options: str) -> Iterator[Pair]:
    box = make_sandbox(java_options)
    archives = [
        pack(box, "everything", "everything.py", source("everything")),
        tutorial(box),
    ]
    text = (torchserve_home() / "ts" / "configs" / "metrics.yaml").read_text()
    text = text.replace("model_metrics:\n", f"model_metrics:{METRICS}", 1)
    metrics = box.file("metrics.yaml", text + GAUGES)
    config = box.file("config.properties", f"metrics_config={metrics}\ndefault_response_timeout=60\n")
    with servers(box, request, archives, config) as started:
        yield started


@pytest.fixture(scope="module")
def classifiers(pair: Pair) -> Pair:
    """Return the servers with one model more: TorchServe's worker imports for seven seconds."""
    archive = built_in(pair.ours.sandbox)
    pair.both(lambda server: register(server, archive, "builtin"))
    return pair


def test_each_has_its_own_worker(pair: Pair) -> None:
    for server, home in ((pair.stock, torchserve_home()), (pair.ours, worker_home())):
        lines = [argument for process in session(server) for argument in process.cmdline()]
        assert {line for line in lines if line.endswith(WORKER_SCRIPT.name)} == {str(home / WORKER_SCRIPT)}


# ---- what comes out ----------------------------------------------------------------------------------------------

VALUES = {
    "text": "'plain'",
    "text beyond ascii": "'größer \u4e16\u754c \U0001f600'",
    "empty text": "''",
    "bytes": "bytes(range(256))",
    "bytearray": "bytearray(b'abc')",
    "integer": "7",
    "number": "0.1",
    "true": "True",
    "none": "None",
    "nan": "float('nan')",
    "not finite": "{'a': [float('inf'), -float('inf')]}",
    "list": "[1, [2, 'three'], {}]",
    "empty list": "[]",
    "dict": "{'b': 1, 'a': {'c': [None, True, 1.5]}}",
    "empty dict": "{}",
    "tuple": "(1, 2)",
    "keys that are no text": "{1: 'a', None: 'b', True: 'c', 1.5: 'd'}",
    "text in json": "{'ü': '\\u4e16 \\n \\x00 </a>'}",
    "long": "'x' * 1_000_000",
    "tensor": "torch.arange(12, dtype=torch.float32).reshape(3, 4)",
}


@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES.keys())
def test_values(pair: Pair, value: str) -> None:
    answer = pair.run(f"return [{value}]")
    # Java sends the handler's phrase, which is empty, uvicorn the usual one.
    phrase = "" if usual_frontend() == "java" else "OK"
    assert (answer.status, answer.phrase, answer.header("content-type")) == (200, phrase, None)
    assert answer.header("content-length") == str(len(answer.body))


STATUSES = {
    "created": "context.set_response_status(201, 'Made', 0); return ['x']",
    "not found": "context.set_response_status(404, 'Nothing here', 0); return [{'why': 1}]",
    "without a phrase": "context.set_response_status(202); return ['x']",
    "all": "context.set_all_response_status(203, 'All'); return ['x']",
    "error": "context.set_response_status(500, 'Own', 0); return ['mine']",
    "teapot": "context.set_response_status(code=418, phrase='Short and stout', idx=0); return ['tea']",
    "unknown code": "context.set_response_status(299, 'Custom', 0); return ['x']",
    "by the processor": "context.request_processor[0].report_status(409, 'Old way'); return ['x']",
    "content type": "context.set_response_content_type(0, 'image/png'); return [b'png']",
    "content type as header": "context.set_response_header(0, 'content-type', 'text/csv'); return ['a,b']",
    "content type with parameters": "context.set_response_content_type(0, 'text/html; charset=utf-8'); return ['ü']",
    "headers": "h = context.set_response_header; h(0, 'x-one', '1'); h(0, 'X-Two', 'b c'); return [1]",
    "header by the processor": "context.request_processor[0].add_response_property('x-a', 'b'); return ['x']",
    "empty header": "context.set_response_header(0, 'x-empty', ''); return ['x']",
    "read back": "context.set_response_status(201, 'Made', 0); context.set_response_content_type(0, 'a/b'); "
    "return [[context.get_response_status(0), context.get_response_content_type(0), context.get_response_headers(0)]]",
}


@pytest.mark.parametrize("code", table(STATUSES, {"unknown code": "it sends the phrases of HTTP alone"}))
def test_statuses_and_headers(pair: Pair, code: str) -> None:
    pair.run(code)


FAILURES = {
    "prediction exception": ("raise PredictionException('gone for good', 410)", 410),
    "prediction exception of utils": ("raise SamePredictionException('no', 422)", 422),
    "prediction exception without a code": ("raise PredictionException('hm')", 500),
    "prediction exception that is none": ("raise PredictionException('fine', 200)", 200),
    "no memory": ("raise MemoryError('none left')", 507),
    "cuda": ("raise RuntimeError('CUDA out of memory. Tried to allocate')", 507),
    "no list": ("return 'text'", 503),
    "nothing": ("return None", 503),
    "too many": ("return [1, 2]", 503),
    "too few": ("return []", 503),
}


@pytest.mark.parametrize(("code", "status"), FAILURES.values(), ids=FAILURES.keys())
def test_failures(pair: Pair, code: str, status: int) -> None:
    assert pair.run(code).status == status


# ---- what goes in ------------------------------------------------------------------------------------------------

MULTIPART = (
    b'--X\r\nContent-Disposition: form-data; name="plain"\r\n\r\nvalue\r\n'
    b'--X\r\nContent-Disposition: form-data; name="file"; filename="a.json"\r\nContent-Type: application/json\r\n\r\n'
    b'{"a": [1]}\r\n'
    b'--X\r\nContent-Disposition: form-data; name="text"; filename="a.txt"\r\nContent-Type: text/plain\r\n\r\n'
    b"\xc3\xbc\r\n"
    b'--X\r\nContent-Disposition: form-data; name="raw"; filename="a.bin"\r\n'
    b"Content-Type: application/octet-stream\r\n\r\n\x00\xff\r\n--X--\r\n"
)
INPUTS: dict[str, tuple[bytes, str | None]] = {
    "json object": (b'{"a": {"b": [1, 2.5, null]}}', "application/json"),
    "json list": (b"[1, 2]", "application/json"),
    "json text": (b'"text"', "application/json"),
    "json with a charset": ('{"ü": "ß"}'.encode(), "application/json; charset=utf-8"),
    "broken json": (b'{"a": ', "application/json"),
    "json that is no text": (b'{"a": "\xff"}', "application/json"),
    "empty json": (b"", "application/json"),
    "json of a vendor": (b'{"a": 1}', "application/vnd.api+json"),
    "text": ("größer".encode(), "text/plain"),
    "text with a charset": ("größer".encode("latin-1"), "text/plain; charset=iso-8859-1"),
    "csv": (b"a,b\n1,2\n", "text/csv"),
    "text that is none": (b"\xff\xfe", "text/plain"),
    "bytes": (bytes(range(256)), "application/octet-stream"),
    "picture": (SAMPLES[0].read_bytes(), "image/png"),
    "no type": (b'{"a": 1}', None),
    "form": (b"a=1&b=two+words&a=3&c=%C3%BC", "application/x-www-form-urlencoded"),
    "multipart": (MULTIPART, "multipart/form-data; boundary=X"),
}


@pytest.mark.parametrize(("body", "kind"), INPUTS.values(), ids=INPUTS.keys())
def test_inputs(pair: Pair, body: bytes, kind: str | None) -> None:
    headers = {"Content-Type": kind} if kind else {}
    answer = pair.same(lambda server: ask(server.inference, "/predictions/everything", body, headers))
    assert answer.status == 200
    assert answer.json()


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH"])
def test_methods(pair: Pair, method: str) -> None:
    body = b"x" if method != "GET" else None
    assert pair.same(lambda server: ask(server.inference, "/predictions/everything", body, method=method)).status == 200


CONTEXT = {
    "headers": "h = dict(context.get_all_request_header(0)); h.pop('Host'); return [h]",
    "one header": "return [[context.get_request_header(0, 'X-Do')[:6], context.get_request_header(0, 'x-other')]]",
    "url path": "return [context.get_request_header(0, 'url_path')]",
    "parameters": "return [context.request_processor[0].get_request_property('body')]",
    "explain": "return [context.get_request_header(0, 'explain')]",
    "request id": "return [context.get_request_id(0) == context.request_ids[0] and len(context.get_request_id(0))]",
    "sequence": "return [context.get_sequence_id(0)]",
    "criteria": "return [context.stopping_criteria]",
    "keys": "return [[getattr(context, 'header_key_sequence_' + name) for name in ('id', 'start', 'end')]]",
    "properties": "p = self.properties | {'model_dir': os.path.realpath(self.properties['model_dir']) == os.getcwd()}; "
    "return [p]",
    "manifest": "return [self.manifest]",
    "name": "return [context.model_name]",
    "configuration": "return [context.model_yaml_config]",
    "limit": "return [context._limit_max_image_pixels]",
    "type": "return [type(context).__module__ + type(context).__name__]",
    "rows": "return [[type(data).__name__, type(data[0]).__name__, type(data[0]['body']).__name__]]",
    "module": "return [type(self).__module__]",
    "environment": "return [[os.environ.get(k) for k in ('TS_DECODE_INPUT_REQUEST', 'TS_IPEX_ENABLE', 'LOCAL_RANK')]]",
    "path": "return [[os.path.realpath(sys.path[0]) == os.getcwd(), any(p.endswith('/ts') for p in sys.path)]]",
    "logging": "return [[logging.getLogger().level, len(logging.getLogger().handlers)]]",
    "state": "self.count += 1; return [self.count]",
}


@pytest.mark.parametrize("code", table(CONTEXT, {"headers": "HAProxy writes their names in small letters"}))
def test_context(pair: Pair, code: str) -> None:
    assert pair.run(code).status == 200


INHERITED = """import subprocess
look = "grep -E '^(Sig|Shd|Umask|NoNew|Seccomp|Cpus|Cap)' /proc/self/status | grep -v SigQ; cat /proc/self/limits"
look += "; cat /proc/self/oom_score_adj; readlink /proc/self/fd/0 | cut -d: -f1; nice; cut -d' ' -f6 /proc/self/stat"
seen = subprocess.run(["sh", "-c", look], stdout=subprocess.PIPE, text=True).stdout.splitlines()
# Signals 32 and 33 are the C library's own: no program sets them, and Java's children differ by how it was started.
seen = [f"SigIgn: {int(x[7:], 16) & ~(3 << 31):x}" if x.startswith("SigIgn:") else x for x in seen]
return [{"seen": seen[:-1], "in the server's session": int(seen[-1]) == os.getsid(os.getppid())}]"""


@not_on_ray("a replica is no session of its own")
def test_what_a_program_that_a_handler_starts_has_of_the_server(pair: Pair) -> None:
    """Java itself changes some of it: it raises limits, and has a signal ignored."""
    seen = pair.run(INHERITED).json()["seen"]
    assert len(seen) > 30
    assert seen[-2:] == ["pipe", "0"]


def test_paths(pair: Pair) -> None:
    code = {"X-Do": quote("return [[context.get_request_header(0, 'url_path'), repr(data)]]")}
    for path in (
        "/predictions/everything/1.0/some/more?x=1",
        "/models/everything/invoke?x=1&y=%C3%BC",
        "/invocations?model_name=everything&z=2",
        "/everything/predict?x=1",
    ):
        assert pair.same(lambda server, path=path: ask(server.inference, path, "body", code)).status == 200


# ---- explain, describe, metrics, log -----------------------------------------------------------------------------


def test_explain(pair: Pair) -> None:
    code = {"X-Do": quote("return [context.get_request_header(0, 'explain')]")}
    answer = pair.same(lambda server: ask(server.inference, "/explanations/everything", "x", code))
    assert answer.body == b"True"


def test_describe(pair: Pair) -> None:
    found = pair.same(lambda server: describe(server, "everything", "?customized=true")["customizedMetadata"])
    assert found == {"inputs": ["anything"], "nested": {"a": 1, "b": [1.5, None, True]}, "text": "ü"}


def metrics(server: Server, names: str) -> list[str]:
    lines = ask(server.record["metrics"], "/metrics").text().splitlines()
    return sorted(line for line in lines if re.match(rf"(# \w+ )?({names})[_{{ ]", line))


@not_on_ray("Ray counts")
def test_custom_metrics(pair: Pair) -> None:
    code = (
        "m = context.metrics\n"
        "m.add_counter('Asked', 2)\n"
        "m.add_time('Took', 1.5)\n"
        "m.add_size('Weighs', 12)\n"
        "m.add_percent('Share', 33.3)\n"
        "m.add_metric('Sorted', 1, 'count', 0, [Dimension('Kind', 'red'), Dimension('Place', 'here')])\n"
        "m.get_metric('Spread', MetricTypes.HISTOGRAM).add_or_update(3, [context.model_name, 'Model'])\n"
        "return ['counted']"
    )
    imports = "from ts.metrics.dimension import Dimension\nfrom ts.metrics.metric_type_enum import MetricTypes\n"
    for _ in range(2):
        assert pair.run(imports + code).body == b"counted"
    names = "Asked|Took|Weighs|Share|Sorted|Spread"
    found = wait_until(lambda: [x for x in metrics(pair.ours, names) if x.startswith("Asked")], "the counter")
    assert found[0].endswith(" 4.0")
    wait_until(lambda: metrics(pair.ours, names) == metrics(pair.stock, names), "the same metrics")
    assert sum(not line.startswith("#") for line in metrics(pair.ours, "Asked|Took|Weighs|Share|Sorted")) == 5


@not_on_ray("Ray counts")
def test_time_metrics_of_the_worker(pair: Pair) -> None:
    for server in (pair.stock, pair.ours):
        lines = wait_until(lambda server=server: metrics(server, "PredictionTime"), "PredictionTime")
        assert any('ModelName="everything"' in line and 'Level="Model"' in line for line in lines)


@not_on_ray("its log is Ray's")
def test_what_a_handler_prints_and_logs(pair: Pair) -> None:
    code = (
        "print('mark print ü'); print('mark', 1, [2]); logging.info('mark info'); logging.debug('mark debug')\n"
        "logging.getLogger('mine').warning('mark %s', 'warning'); sys.stdout.write('mark written\\n')\n"
        "print('mark two\\nmark lines'); return ['x']"
    )
    pair.run(code)
    wait_until(lambda: len(logged(pair.stock, "mark")) == 7 == len(logged(pair.ours, "mark")), "seven lines")
    assert logged(pair.ours, "mark") == logged(pair.stock, "mark")
    pair.run("print('errmark', file=sys.stderr, flush=True); return ['x']")
    wait_until(lambda: logged(pair.stock, "errmark") and logged(pair.ours, "errmark"), "the line")
    assert logged(pair.ours, "errmark") == logged(pair.stock, "errmark")
    assert "WARN" in logged(pair.ours, "errmark")[0]


# ---- handlers with networks ----------------------------------------------------------------------------------------


def test_the_tutorials_handler(pair: Pair) -> None:
    """Scenario A2."""
    for sample in SAMPLES[:12]:
        picture = sample.read_bytes()
        answer = pair.same(lambda server, picture=picture: predict(server, "tutorial", picture))
        assert answer.text() in "0123456789"
    form = (
        b'--X\r\nContent-Disposition: form-data; name="data"; filename="7.png"\r\nContent-Type: image/png\r\n\r\n'
        + SAMPLES[0].read_bytes()
        + b"\r\n--X--\r\n"
    )
    kind = {"Content-Type": "multipart/form-data; boundary=X"}
    assert pair.same(lambda server: ask(server.inference, "/predictions/tutorial", form, kind)).status == 200


def test_the_tutorials_handler_explains(pair: Pair) -> None:
    answer = pair.same(lambda server: ask(server.inference, "/explanations/tutorial", SAMPLES[0].read_bytes()))
    assert len(answer.json()[0]) == 28


@pytest.mark.slow  # a worker more; tests/handlers compares the two handlers
def test_the_built_in_classifier(classifiers: Pair) -> None:
    pair = classifiers
    for sample in SAMPLES[:3]:
        data = picture(sample, "RGB")
        answer = pair.same(lambda server, data=data: predict(server, "builtin", data))
        assert len(answer.json()) == 5
    encoded = base64.b64encode(data).decode()
    assert pair.same(lambda server: predict(server, "builtin", encoded, Content_Type="text/plain")) == answer
    both = json.dumps([[[0.5, 0.25], [1.0, 0.0]]] * 3)
    answer = pair.same(lambda server: predict(server, "builtin", both, Content_Type="application/json"))
    assert len(answer.json()) == 5


def picture(sample: Path, mode: str) -> bytes:
    buffer = io.BytesIO()
    Image.open(sample).resize((300, 280)).convert(mode).save(buffer, "PNG")
    return buffer.getvalue()


@not_on_ray("it has no gRPC")
def test_grpc(pair: Pair) -> None:
    def call(code: str) -> GrpcAnswer:
        request = prediction_request("everything", {"do": code.encode(), "b": b"2"})
        answer = pair.same(lambda server: grpc(server, "Predictions", request))
        assert isinstance(answer, GrpcAnswer)
        return answer

    plain = call("return [{key: repr(value) for key, value in row.items()} for row in data]")
    assert json.loads(plain.predictions[0])["b"] == "bytearray(b'2')"
    assert call("return [dict(context.get_all_request_header(0))]").status == 0
    assert call("return [b'bytes']").predictions == (b"bytes",)
    assert call("raise PredictionException('not there', 404)") == GrpcAnswer(
        5, "not there%0Aorg.pytorch.serve.http.InternalServerException", ()
    )
    request = prediction_request("nobody", {})
    assert pair.same(lambda server: grpc(server, "Predictions", request)).status != 0


# ---- what differs on purpose -------------------------------------------------------------------------------------


@not_on_ray("its log is Ray's")
@pytest.mark.parametrize("error", ["ValueError('wrong')", "KeyError('a')", "RuntimeError('no')"])
def test_differs_a_failure_has_an_id_that_the_log_repeats(pair: Pair, error: str) -> None:
    stock, ours = pair.both(lambda server: run(server, f"raise {error}"))
    assert stock.json() == {"code": 503, "type": "InternalServerException", "message": "Prediction failed"}
    assert without_id(ours) == without_id(stock)
    found = re.search(r"under the id ([0-9a-f]{8})\.$", ours.json()["message"])
    assert found
    wait_until(lambda: f"Error {found[1]}" in model_log(pair.ours), "the id in the log")
    wait_until(lambda: error.partition("(")[0] in model_log(pair.ours).partition(found[1])[2], "the error in the log")


NUMPY = {
    "array": ("{'a': numpy.arange(3)}", {"a": [0, 1, 2]}),
    "scalars": ("[numpy.float32(0.5), numpy.int64(7), numpy.bool_(True)]", [0.5, 7, True]),
    "tensor": ("{'t': torch.ones(2, 2)}", {"t": [[1.0, 1.0], [1.0, 1.0]]}),
    "array alone": ("numpy.eye(2)", [[1.0, 0.0], [0.0, 1.0]]),
}


@pytest.mark.parametrize(("value", "expected"), NUMPY.values(), ids=NUMPY.keys())
def test_differs_arrays_may_stand_in_answers(pair: Pair, value: str, expected: Any) -> None:
    stock, ours = pair.both(lambda server: run(server, f"return [{value}]"))
    assert stock.status == 503
    assert (ours.status, ours.json()) == (200, expected)


@not_on_ray("it has no gRPC")
def test_differs_grpc_learns_of_an_error_that_the_handler_sets(pair: Pair) -> None:
    code = b"context.set_response_status(404, 'None', 0); return ['there is none']"
    request = prediction_request("everything", {"do": code})
    stock, ours = pair.both(lambda server: grpc(server, "Predictions", request))
    if usual_frontend() == "java":
        assert stock == GrpcAnswer(0, "", (b"there is none",))
    else:  # it tells of every worker's
        assert (stock.status, stock.message, stock.predictions) == (ours.status, ours.message, ours.predictions)
    assert (ours.status, ours.predictions) == (5, ())
    assert "there is none" in ours.message


UNSENDABLE = {
    "a phrase of two lines": "context.set_response_status(201, 'two\\r\\nlines', 0); return ['sent']",
    "a phrase beyond ascii": "context.set_response_status(201, 'grün', 0); return ['sent']",
    "a header of two lines": "context.set_response_header(0, 'x-a', 'two\\r\\nlines'); return ['sent']",
    "a header's name with blanks": "context.set_response_header(0, 'x a', 'b'); return ['sent']",
    "a header that is a number": "context.set_response_header(0, 'x-a', 7); return ['sent']",
    "a negative status": "context.set_response_status(-1, 'x', 0); return ['sent']",
    "an answer beyond the limit": "return ['x' * 7_000_000]",
    "a stream that only ends": "context.set_response_header(0, 'ts_stream_next', 'false'); return ['sent']",
}


@pytest.mark.parametrize("code", UNSENDABLE.values(), ids=UNSENDABLE.keys())
def test_differs_what_the_frontend_cannot_send_does_not_end_the_worker(pair: Pair, code: str) -> None:
    before = ready(pair.ours, "everything")
    answer = run(pair.ours, code)
    if "7_000_000" in code:
        assert answer.status == 507
        assert "6553500" in answer.text() or "6,553,500" in answer.text()
    elif "-1" in code:
        assert answer.status == 500
    else:
        assert answer.text() == "sent"
    assert ready(pair.ours, "everything") == before


@pytest.mark.slow  # it shows nothing of ours
def test_differs_one_of_them_on_torchserves_worker(pair: Pair) -> None:
    (before,) = ready(pair.stock, "everything")
    assert run(pair.stock, UNSENDABLE["an answer beyond the limit"]).status == 500
    wait_until(lambda: ready(pair.stock, "everything") not in ([], [before]), "TorchServe's worker again")


@pytest.mark.slow
def test_differs_the_built_in_classifier_takes_grey_pictures_and_says_what_is_wrong(classifiers: Pair) -> None:
    pair = classifiers
    stock, ours = pair.both(lambda server: predict(server, "builtin", picture(SAMPLES[0], "L")))
    assert (stock.status, ours.status) == (503, 200)
    stock, ours = pair.both(lambda server: predict(server, "builtin", b"no picture"))
    assert (stock.status, ours.status) == (503, 400)
    assert "not an image" in ours.text()


def test_differs_a_header_is_found_whatever_the_case_of_its_name(pair: Pair) -> None:
    stock, ours = pair.both(
        lambda server: run(server, "return [str(context.get_request_header(0, 'x-dO'))[:6]]").text()
    )
    assert (stock, ours) == ("None", "return")


@not_on_ray("its log is Ray's")
def test_differs_no_line_in_the_log_for_every_request(pair: Pair) -> None:
    pair.run("return [1]")
    assert "Backend received inference at" in model_log(pair.stock)
    assert "Backend received inference at" not in model_log(pair.ours)
