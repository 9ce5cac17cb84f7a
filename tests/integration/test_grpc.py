"""What TorchServe's frontend answers over gRPC, asked of both frontends with real workers; Python's end and switch."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.serving.frontend.grpc.client import Client
from tests.serving.frontend.listening_app import wait_for

from .conftest import OPEN, Sandbox, Server
from .support import grpc_address, pack

# That Java still answers so is worth its seconds only now and then.
BOTH = [pytest.param("java", marks=pytest.mark.slow), "python"]
pytestmark = [pytest.mark.hides("torch")]

ECHO = """
import json
import time


def handle(data, context):
    if data is None:
        return None
    headers = dict(context.get_all_request_header(0))
    if headers.get("describe") == "True":
        return [{"about": "me"}]
    if "body" in data[0]:
        asked = json.loads(data[0]["body"]) if not isinstance(data[0]["body"], dict) else data[0]["body"]
        outputs = [{**one, "name": "y"} for one in asked["inputs"]]
        return [{"id": asked["id"], "model_name": asked["model_name"], "model_version": "1", "outputs": outputs}]
    if "file" in data[0]:
        with open(data[0]["file"].decode(), "a") as computed:
            computed.write("x")
    time.sleep(float(data[0].get("s", b"0")))
    return [json.dumps({key: repr(value) for key, value in row.items()}) for row in data]
"""
HTTP, MODEL = r"\norg\.pytorch\.serve\.http\.", r"\norg\.pytorch\.serve\.archive\.model\."
NO_MODEL, NO_VERSION = f"{MODEL}ModelNotFoundException", f"{MODEL}ModelVersionNotFoundException"
BAD, INTERNAL = f"{HTTP}BadRequestException", f"{HTTP}InternalServerException"
ANY = "(?s).*"
#: Method, fields, status, text; in their order, for some change the models. A fifth: what Java's differs in.
QUESTIONS: list[tuple[Any, ...]] = [
    ("Ping", {}, "OK", ""),
    ("Predictions", {}, "INTERNAL", r"Parameter model_name is required\.\nBadRequestException\.\(\)"),
    ("Predictions", {"model_name": "nobody"}, "INTERNAL", f"Model not found: nobody{NO_MODEL}"),
    (
        "Predictions",
        {"model_name": "echo", "model_version": "9"},
        "INTERNAL",
        f"Model version: 9 does not exist for model: echo{NO_VERSION}",
    ),
    ("StreamPredictions", {"model_name": "nobody"}, "INTERNAL", f"Model not found: nobody{NO_MODEL}"),
    ("DescribeModel", {"model_name": "nobody"}, "NOT_FOUND", f"Model not found: nobody{NO_MODEL}"),
    ("DescribeModel", {}, "NOT_FOUND", f"Model not found: {NO_MODEL}"),
    ("DescribeModel", {"model_name": "nobody", "customized": True}, "INTERNAL", f"Model not found: nobody{NO_MODEL}"),
    ("DescribeModel", {"model_name": "nobody", "model_version": "all"}, "NOT_FOUND", f".*: nobody{NO_MODEL}"),
    ("RegisterModel", {}, "INVALID_ARGUMENT", rf"Parameter url is required\.{BAD}"),
    ("RegisterModel", {"url": "no.mar"}, "NOT_FOUND", rf"Model not found at: no\.mar{NO_MODEL}"),
    ("RegisterModel", {"url": "../x.mar"}, "NOT_FOUND", rf"Relative path is not allowed in url: \.\./x\.mar{NO_MODEL}"),
    ("RegisterModel", {"url": "echo.mar", "runtime": "cobol"}, "INVALID_ARGUMENT", rf"Invalid .*: cobol{BAD}"),
    ("RegisterModel", {"url": "echo.mar"}, "ABORTED", f".* already registered .*{HTTP}.*", "UNKNOWN"),
    ("RegisterModel", {"url": "echo.mar", "model_name": "more", "initial_workers": 1, "synchronous": True}, "OK", ""),
    ("RegisterModel", {"url": "new.mar", "model_name": "more", "initial_workers": 1, "synchronous": True}, "OK", ""),
    (
        "ScaleWorker",
        {"model_name": "more", "min_worker": 3, "max_worker": 1},
        "INVALID_ARGUMENT",
        f"max_worker .*{BAD}",
    ),
    ("ScaleWorker", {"model_name": "nobody"}, "NOT_FOUND", f"Model not found: nobody{NO_MODEL}"),
    ("ScaleWorker", {}, "NOT_FOUND", f"Model not found: {NO_MODEL}", "UNKNOWN"),
    ("ScaleWorker", {"model_name": "more", "model_version": "9"}, "NOT_FOUND", f"Model version: 9 .*{NO_VERSION}"),
    ("SetDefault", {"model_name": "more", "model_version": "2.0"}, "OK", ""),
    ("SetDefault", {"model_name": "more"}, "NOT_FOUND", f"Model version  does not exist for model more{NO_VERSION}"),
    ("UnregisterModel", {"model_name": "more"}, "PERMISSION_DENIED", f"Cannot remove default .*{HTTP}.*", "UNKNOWN"),
    ("UnregisterModel", {"model_name": "more", "model_version": "9"}, "NOT_FOUND", f"Model version: 9 .*{NO_VERSION}"),
    ("UnregisterModel", {"model_name": "more", "model_version": "1.0"}, "OK", ""),
    ("UnregisterModel", {"model_name": "more"}, "OK", ""),
    ("UnregisterModel", {}, "INVALID_ARGUMENT", f"Parameter (model_name|url) is required.{BAD}"),
    ("ServerLive", {}, "OK", ""),
    ("ServerReady", {}, "OK", ""),
    ("ServerMetadata", {}, "OK", "", "UNIMPLEMENTED"),
    ("ModelReady", {}, "INTERNAL", r"Parameter name is required\.\nBadRequestException\.\(\)"),
    ("ModelReady", {"name": "nobody"}, "NOT_FOUND", f"Model not found: nobody{NO_MODEL}"),
    ("ModelMetadata", {}, "INTERNAL", r"Parameter model_name is required\.\nBadRequestException\.\(\)"),
    ("ModelMetadata", {"name": "echo", "version": "9"}, "NOT_FOUND", f"Model version: 9 .*{NO_VERSION}"),
    ("ModelInfer", {}, "INTERNAL", r"Parameter model_name is required\.\nBadRequestException\.\(\)"),
    ("ModelInfer", {"model_name": "nobody"}, "INTERNAL", f"Model not found: nobody{NO_MODEL}"),
    ("ModelInfer", {"model_name": "echo"}, "OK", ""),
]


class Both:
    """Calls each method where it is."""

    def __init__(self, server: Server) -> None:
        self.channels = [grpc.insecure_channel(grpc_address(server, api)) for api in ("inference", "management")]
        self.asked, self.managed = map(Client, self.channels)

    def of(self, method: str) -> Client:
        return self.managed if method.endswith(("Model", "Models", "Worker", "Default")) else self.asked

    def close(self) -> None:
        for channel in self.channels:
            channel.close()


@pytest.fixture(scope="module")
def served(shared_sandbox: Sandbox) -> Server:
    box = shared_sandbox
    for name, version in (("echo", "1.0"), ("new", "2.0")):
        pack(box, name, "echo.py", {"echo.py": ECHO}, modelName="echo", modelVersion=version)
    file = box.file("usual.properties", "ts_open_inference_protocol=true\ndefault_workers_per_model=1\n")
    return box.start("echo.mar", options=("--ts-config", file, *OPEN))


@pytest.fixture
def call(served: Server) -> Iterator[Both]:
    both = Both(served)
    yield both
    both.close()


@pytest.mark.parametrize("frontend", BOTH, scope="module")
class TestAsJavaAnswers:
    def test_statuses_and_texts(self, call: Both, frontend: str) -> None:
        for method, fields, code, text, *javas in QUESTIONS:
            found, told = call.of(method).outcome(method, **fields)
            asked = f"{method} {fields}: {found} {told}"
            if frontend == "java" and javas:
                assert found == javas[0], asked
                continue
            assert found == code, asked
            assert re.fullmatch(text, told), asked

    def test_predictions(self, call: Both) -> None:
        assert call.asked("Ping").health == '{\n  "status": "Healthy"\n}'
        answer = call.asked("Predictions", model_name="echo", input={"a": b"\xff"})
        assert json.loads(answer.prediction) == {"a": r"bytearray(b'\xff')"}
        (described,) = json.loads(call.managed("DescribeModel", model_name="echo", customized=True).msg)
        assert described["customizedMetadata"] == {"about": "me"}
        listed = json.loads(call.managed("ListModels", limit=1).msg)
        assert listed == {"nextPageToken": "1", "models": [{"modelName": "echo", "modelUrl": "echo.mar"}]}

    def test_a_conversation_without_a_sequence(self, call: Both) -> None:
        request = call.asked.request("StreamPredictions2", model_name="echo")
        (answer,) = call.asked.callable("StreamPredictions2")(iter([request]), timeout=60)
        assert (answer.status.code, answer.status.message) == (13, "Parameter sequenceId is required.")
        assert answer.status.details[0].value == b"\n\x16BadRequestException.()"

    @pytest.mark.parametrize(
        ("datatype", "field", "data"),
        [
            ("FP32", "fp32_contents", [0.5, -1e30]),
            ("FP64", "fp64_contents", [0.1]),
            ("INT8", "int_contents", [-5]),
            ("INT64", "int64_contents", [-(2**63)]),
            ("UINT32", "uint_contents", [2**32 - 1]),
            ("UINT64", "uint64_contents", [2**64 - 1]),
            ("BOOL", "bool_contents", [True, False]),
        ],
    )
    def test_tensors(self, call: Both, datatype: str, field: str, data: list[Any]) -> None:
        tensor = {"name": "x", "datatype": datatype, "shape": [len(data)], "contents": {field: data}}
        answer = call.asked("ModelInfer", model_name="echo", id="7", inputs=[tensor])
        assert (answer.id, answer.model_name, answer.model_version) == ("7", "echo", "1")
        (output,) = answer.outputs
        assert (output.name, output.datatype, list(output.shape)) == ("y", datatype, [len(data)])
        assert [f"{one:.6g}" for one in getattr(output.contents, field)] == [f"{one:.6g}" for one in data]


# ---- with Python's alone ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("frontend", ["python"])
def test_an_end_under_load_cuts_no_call(sandbox: Sandbox) -> None:
    """Whatever was computed is answered; who comes later is told that nobody is there, which is safe to ask again."""
    pack(sandbox, "echo", "echo.py", {"echo.py": ECHO})
    server = sandbox.start("echo.mar", options=("--workers", "2", *OPEN))
    file = sandbox.file("computed", "")
    target, outcomes = grpc_address(server), []

    def load() -> None:
        with grpc.insecure_channel(target) as channel:
            client, answer = Client(channel), ("OK", "")
            while answer[0] == "OK":
                answer = client.outcome("Predictions", model_name="echo", input={"file": str(file).encode()})
                outcomes.append(answer)

    threads = [threading.Thread(target=load) for _ in range(8)]
    with grpc.insecure_channel(target) as channel:
        client = Client(channel)
        inputs = {"file": str(file).encode(), "s": b"3"}
        for thread in threads:
            thread.start()
        assert wait_for(lambda: len(outcomes) > 50)
        slow = client.callable("Predictions").future(
            client.request("Predictions", model_name="echo", input=inputs), timeout=60
        )
        time.sleep(0.5)
        sandbox.torchmar("stop", "-q").ok()
        for thread in threads:
            thread.join()
        assert slow.result().prediction
    last = [one for one in outcomes if one[0] != "OK"]
    assert [code for code, _ in last] == ["UNAVAILABLE"] * 8, last
    assert len(file.read_text()) == len(outcomes) - 8 + 1


@pytest.mark.parametrize("frontend", ["python"])
def test_it_costs_nothing_when_it_is_off(sandbox: Sandbox) -> None:
    file = sandbox.file("off.properties", "torchmar_grpc=false\n")
    server = sandbox.start(options=("--ts-config", file))
    assert (server.record["grpc_inference"], server.record["grpc_management"]) == ("", "")
    assert "cygrpc" not in Path(f"/proc/{server.pid}/maps").read_text()
    assert "gRPC" not in (Path(server.record["log_folder"]) / "ts_log.log").read_text()
