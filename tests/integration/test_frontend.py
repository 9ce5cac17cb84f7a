"""What TorchServe's frontend was asked, and answered, asked of a real server with real workers.

tests/serving/frontend/apps/test_recorded.py asks the same of the applications alone, over an engine that is played.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.serving.frontend.apps.differences import ASKED, answer_of, assert_torchserves
from tests.serving.frontend.apps.questions import QUESTIONS, Question

from .conftest import OPEN, Sandbox, Server
from .support import pack, register

# That Java still answers as it is written down is worth half a minute only now and then.
BOTH = [pytest.param("java", marks=pytest.mark.slow), "python"]
pytestmark = [pytest.mark.hides("torch"), pytest.mark.parametrize("frontend", BOTH, scope="module")]

# As the handler was of which the answers were written down.
ECHO = """
import json


class Echo:
    def initialize(self, context):
        self.version = context.manifest["model"]["modelVersion"]

    def handle(self, data, context):
        headers = dict(context.get_all_request_header(0))
        if headers.get("describe") == "True":
            return [{"described": self.version}]
        mode = headers.get("x-mode", "")
        if mode.startswith("status:"):
            context.set_response_status(int(mode[7:]), "", 0)
        row = {}
        for name, value in data[0].items():
            text = bytes(value).decode("latin-1") if isinstance(value, (bytes, bytearray)) else str(value)
            row[name] = [type(value).__name__, text[:200]]
        answer = {"id": context.get_request_id(0), "version": self.version}
        return [{**answer, "headers": dict(sorted(headers.items())), "row": row}]
"""
STREAM = """
import sys
import types

# TorchServe's function wants to know what a tensor is; importing torch would take each worker seconds.
sys.modules["torch"] = types.ModuleType("torch")
sys.modules["torch"].Tensor = type("Tensor", (), {})
from ts.protocol.otf_message_handler import send_intermediate_predict_response


class Stream:
    def initialize(self, context):
        pass

    def handle(self, data, context):
        for number in range(3):
            send_intermediate_predict_response([f"part{number}"], context.request_ids, "", 200, context)
        return ["last"]
"""


@dataclass(frozen=True)
class Asked:
    """The servers that are asked, by what stands before their APIs: see `Question`."""

    by_kind: dict[str, Server]

    def answer(self, question: Question) -> dict[str, Any]:
        kind, _, api = question.api.rpartition("-")
        server = self.by_kind[kind]
        file = Path(server.record["log_folder"]).parent / "key_file.json"
        entries = json.loads(file.read_text()) if kind == "keys" else {}
        address = str(server.record[api])
        return answer_of(address, question, {name: entry["key"] for name, entry in entries.items()})


@pytest.fixture(scope="module")
def asked(shared_sandbox: Sandbox) -> Asked:
    box = shared_sandbox
    for version in ("1.0", "2.0"):
        file = pack(box, f"echo{version}", "echo.py", {"echo.py": ECHO}, modelName="echo", modelVersion=version)
        assert file == f"echo{version}.mar"
    pack(box, "stream", "stream.py", {"stream.py": STREAM})
    lines = "".join(f"{key}={value}\n" for key, value in ASKED.items())
    usual = box.file("usual.properties", lines)
    closed = box.file("closed.properties", lines + "ts_open_inference_protocol=true\n")
    started = {
        "": box.start(name="open", options=("--ts-config", usual, *OPEN)),
        "closed": box.start(
            "echo1.0.mar", name="closed", options=("--ts-config", closed, "--disable-token-auth", "--workers", "1")
        ),
        "keys": box.start(name="keys", options=("--ts-config", usual, "--enable-model-api")),
    }
    for archive, name, workers in (("echo1.0", "echo", 1), ("echo2.0", "echo", 1), ("stream", "stream", 1)):
        assert register(started[""], f"{archive}.mar", name, workers=workers).status == 200
    assert register(started[""], "stream.mar", "idle", workers=0).status == 200
    return Asked(started)


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda q: f"{q.api}: {q.name}")
def test_the_answer_is_torchserves(asked: Asked, frontend: str, question: Question) -> None:
    assert_torchserves(question, asked.answer(question), ours=frontend == "python")
