"""TorchServe's answers, as they were written down, beside ours over a played engine; what differs has its reason."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import Served, model, served
from .differences import ASKED, answer_of, assert_torchserves
from .questions import QUESTIONS, Question


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Served]]:
    folders = [tmp_path_factory.mktemp(name) for name in ("open", "closed", "keys")]
    with (
        served(folders[0], **ASKED) as opened,
        served(folders[1], **ASKED, enable_model_api="false", ts_open_inference_protocol="true") as closed,
        served(folders[2], **ASKED, keyed=True) as keyed,
    ):
        closed.engine.models = {}
        closed.engine.add(model("echo", "1.0", "echo1.0.mar", 1, default=True, startup=True))
        keyed.engine.models = {}
        yield {"": opened, "closed-": closed, "keys-": keyed}


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda q: f"{q.api}: {q.name}")
def test_played_engine_is_asked_and_the_answer_is_torchserves(servers: dict[str, Served], question: Question) -> None:
    prefix, _, api = question.api.rpartition("-")
    chosen = servers[f"{prefix}-" if prefix else ""]
    keys = {}
    if chosen.keys is not None:
        entries = json.loads(Path(chosen.settings.place.keys, "key_file.json").read_text())
        keys = {kind: entry["key"] for kind, entry in entries.items()}
    assert_torchserves(question, answer_of(f"http://127.0.0.1:{getattr(chosen, api)}", question, keys))
