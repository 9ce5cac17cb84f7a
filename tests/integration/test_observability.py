"""A server that tells all it can of its requests: traces, logs by the client's ids, and what it captures."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import httpx
import pytest

from serving.protocol import PARTS
from tests.serving.frontend.observing.receiver import receiving

from .conftest import Sandbox
from .support import describe, pack, wait_until

HANDLER = """
import sys
import time
from handlers import BaseHandler
from ts.handler_utils.utils import send_intermediate_predict_response

class Slow(BaseHandler):
    def initialize(self, context):
        self.context = context
        self.model_yaml_config = {}

    def preprocess(self, data):
        return [row["body"] for row in data]

    def inference(self, data):
        time.sleep(0.02)
        if b"parts" in map(bytes, data):
            send_intermediate_predict_response(["first "], self.context.request_ids, "ok", 200, self.context)
            time.sleep(0.02)
        if b"bad" in map(bytes, data):
            raise RuntimeError("this request is bad")
        return data

    def postprocess(self, data):
        assert not [name for name in sys.modules if name.startswith("opentelemetry")]
        return [{"trace": self.context.get_trace(n), "body": bytes(one).decode()} for n, one in enumerate(data)]
"""
TRACE = "0af7651916cd43dd8448eb211c80319c"
STREAM = "1af7651916cd43dd8448eb211c80319c"


def lines(server: Any, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(server.record["log_folder"], name).read_text().splitlines()]


def predictions(server: Any) -> dict[str, dict[str, Any]]:
    """Return what the access log has of predictions, by their ids."""
    found = [line for line in lines(server, "access_log.log") if line["target"] == "/predictions/slow"]
    return {line["request_id"]: line for line in found}


@pytest.mark.parametrize("frontend", ["python"])
def test_one_request_in_traces_and_logs(sandbox: Sandbox) -> None:
    sandbox.build("slow", HANDLER)
    config = sandbox.file(
        "config.properties", "torchmar_log_format=json\ntorchmar_access_log=true\ntorchmar_capture_share=1\n"
    )
    with receiving() as receiver:
        # Sampled is what a client asks for.
        sandbox.env |= {
            "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.address,
            "OTEL_TRACES_SAMPLER": "parentbased_always_off",
            "OTEL_SERVICE_NAME": "digits",
            "OTEL_BSP_SCHEDULE_DELAY": "100",
        }
        server = sandbox.start("slow.mar", options=("--ts-config", config))
        with httpx.Client(base_url=server.inference, timeout=60) as client:
            traced = client.post(
                "/predictions/slow",
                content=b"good",
                headers={"traceparent": f"00-{TRACE}-b7ad6b7169203331-01", "x-request-id": "order-17"},
            )
            plain = client.post("/predictions/slow", content=b"plain", headers={"x-request-id": "order-18"})
            failed = client.post("/predictions/slow", content=b"bad", headers={"x-request-id": "order-19"})
        assert (traced.status_code, plain.status_code, failed.status_code) == (200, 200, 503)
        spans = wait_until(lambda: len(found := receiver.traces()[TRACE]) == 7 and found, "seven spans")
        assert spans.keys() == {"request", "queue", "batch", "worker", "preprocess", "inference", "postprocess"}
        assert spans["inference"].end_time_unix_nano - spans["inference"].start_time_unix_nano >= 20_000_000
        for name in ("preprocess", "inference", "postprocess"):
            assert spans[name].parent_span_id == spans["worker"].span_id
        # The handler saw the worker's span, the client its request's, and only the client that asked for it.
        assert traced.json() == {"trace": f"00-{TRACE}-{spans['worker'].span_id.hex()}-01", "body": "good"}
        assert traced.headers["traceparent"] == f"00-{TRACE}-{spans['request'].span_id.hex()}-01"
        assert "inference;dur=" in traced.headers["server-timing"]
        assert plain.json() == {"trace": None, "body": "plain"}
        assert not {"traceparent", PARTS} & set(plain.headers)
        assert PARTS not in traced.headers
        assert set(receiver.traces()) == {TRACE}
        # A stream has the same spans, until its last part.
        headers = {"traceparent": f"00-{STREAM}-b7ad6b7169203331-01", "x-request-id": "order-20"}
        answer = httpx.post(f"{server.inference}/predictions/slow", content=b"parts", headers=headers, timeout=60)
        assert answer.text.startswith("first {")
        of_stream = wait_until(lambda: len(found := receiver.traces().get(STREAM, {})) == 7 and found, "seven spans")
        assert of_stream.keys() == spans.keys()
        assert of_stream["batch"].end_time_unix_nano >= of_stream["worker"].end_time_unix_nano
        assert of_stream["inference"].end_time_unix_nano - of_stream["inference"].start_time_unix_nano >= 40_000_000
        assert receiver.services == {"digits"}
        told = wait_until(lambda: len(found := predictions(server)) == 4 and found, "four lines")
        assert {name: told[name]["status"] for name in ("order-17", "order-18", "order-19")} == {
            "order-17": 200,
            "order-18": 200,
            "order-19": 503,
        }
        assert (told["order-17"]["model"], told["order-17"]["version"]) == ("slow", "1.0")
        assert told["order-17"]["trace_id"] == TRACE
        assert told["order-17"]["worker_ms"] >= 20
        assert {line["level"] for line in lines(server, "model_log.log")} >= {"INFO"}
        shown = sandbox.torchmar("logs", "--id", "order-19").ok().out
        assert "RuntimeError: this request is bad" in shown
        assert "[INFO ] W-9000-slow_1.0-stdout MODEL_LOG - " in sandbox.torchmar("logs", "slow").ok().out
        sandbox.torchmar("stop").ok()
        (captured,) = sandbox.root.glob("state/**/captured.jsonl")
        kept = {line["request_id"]: line for line in map(json.loads, captured.read_text().splitlines())}
        assert set(kept) == {"order-17", "order-18", "order-20"}
        assert (kept["order-18"]["input"], kept["order-18"]["answer"]) == ("plain", {"trace": None, "body": "plain"})
        assert kept["order-18"]["version"] == "1.0"


BUSY = """
import time

class Busy:
    def initialize(self, context):
        self.kept = bytes(range(256)) * 240_000

    def handle(self, data, context):
        until = time.process_time() + 0.1
        while time.process_time() < until:
            pass
        return [b"done"] * len(data)
"""


def of_workers(server: Any, metric: str) -> dict[tuple[str, str], float]:
    """Return a metric's values by model and number of the worker."""
    text = httpx.get(f"{server.record['metrics']}/metrics", timeout=60).text
    found = re.findall(rf'^{metric}{{model_name="(\w+)",.*worker="(\d+)"}} (\S+)$', text, re.MULTILINE)
    return {(model, number): float(value) for model, number, value in found}


@pytest.mark.hides("torch")
@pytest.mark.parametrize("frontend", ["python"])
def test_what_workers_take_is_what_their_processes_take(sandbox: Sandbox) -> None:
    """The one that has a worker's pid is thin: its model is in a fork, which two may share."""
    for name, backend in (("alone", "dedicated"), ("shared", "shared")):
        yaml = f"minWorkers: 2\nmaxWorkers: 2\nbackend: {{mode: {backend}, warm_up: false}}\n"
        pack(sandbox, name, "handler.py", {"handler.py": BUSY}, yaml)
    config = sandbox.file("config.properties", "metric_time_interval=1\n")
    server = sandbox.start("alone.mar", "shared.mar", options=("--ts-config", config))
    before = of_workers(server, "torchmar_worker_cpu_seconds_total")
    assert len(before) == 4
    with httpx.Client(base_url=server.inference, timeout=60) as client:
        for model in ("alone", "shared"):
            for _ in range(5):
                assert client.post(f"/predictions/{model}", content=b"x").status_code == 200
    taken = of_workers(server, "torchmar_worker_cpu_seconds_total")
    for model in ("alone", "shared"):
        grown = [taken[key] - before[key] for key in taken if key[0] == model]
        assert 0.45 < sum(grown) < 1.2, (before, taken)
        if model == "shared":
            assert grown[0] == pytest.approx(grown[1], abs=0.1)
    memory = of_workers(server, "torchmar_worker_memory_bytes")
    assert min(memory.values()) > 20_000_000
    listed = {
        (version["name"], worker["id"]): worker["memory_bytes"]
        for version in sandbox.torchmar("models", "--json").json()
        for worker in version["workers"]
    }
    assert memory == pytest.approx(listed, rel=0.1)

    def described() -> dict[tuple[str, str], int]:
        found = ((model, worker) for model in ("alone", "shared") for worker in describe(server, model)["workers"])
        return {(model, worker["id"]): worker["memoryUsage"] for model, worker in found}

    wait_until(lambda: described() == pytest.approx(memory, rel=0.1), "the same memory")


VOWELS = """
def handle(data, context):
    texts = [row["body"] for row in data or ()]
    return [sum(one in "aeiou" for one in (t if isinstance(t, str) else bytes(t).decode())) for t in texts]
"""


@pytest.mark.slow
@pytest.mark.hides("torch")
@pytest.mark.parametrize("frontend", ["python"])
def test_a_new_version_is_compared_with_what_was_captured(sandbox: Sandbox) -> None:
    """A job takes the file as it is: what was asked, and as labels what was answered."""
    sandbox.build("vowels", VOWELS)
    folder = sandbox.root / "kept"
    config = sandbox.file("config.properties", f"torchmar_capture_share=1\ntorchmar_capture_folder={folder}\n")
    server = sandbox.start("vowels.mar", options=("--ts-config", config))
    for text in ("one", "two", "you", "sky"):
        assert httpx.post(f"{server.inference}/predictions/vowels", content=text, timeout=60).status_code == 200
    sandbox.torchmar("stop").ok()
    sandbox.build("vowels", VOWELS.replace("aeiou", "aeiouy"), "--version", "2.0")
    options = ("--column", "input", "--labels", "answer", "--output", sandbox.root / "out.csv", "--json")
    done = sandbox.torchmar("batch", sandbox.store / "vowels.mar", folder / "captured.jsonl", *options).json()
    assert (done["rows"], done["failed"]) == (4, 0)
    told = json.dumps(done)
    assert '"compared": 4' in told
    assert '"accuracy": 0.5' in told, told
