"""The inference API at a real port, over an engine that plays models which write and which embed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from serving.frontend.engine import Answer, Call
from serving.frontend.errors import InternalError
from tests.later import Later
from tests.serving.frontend.apps.conftest import PLAIN, PlayedEngine, Served, model, served

openai = Later("openai")
WORDS = (" rain", " stops", " the", " f\u00efnal")
TOP = [{"id": 1, "text": " rain", "logprob": -0.5}, {"id": 2, "text": " snow", "logprob": float("-inf")}]


@dataclass
class WritingEngine(PlayedEngine):
    """Plays archives: `writer` speaks docs/pretrained.md's form of text generation, `vectors` that of embeddings.

    `own` has no record, and answers a text with a vector, as a handler of a user's own does. What `writer` does beside
    is the last word of its prompt: `fail`, `break`, `die`, `endless`, `once`, `odd`, `cut`.
    """

    bodies: list[Any] = field(default_factory=list)
    ended: int = 0

    async def predict(self, call: Call) -> Answer:
        if call.name not in ("writer", "vectors", "own"):
            return await super().predict(call)
        self.calls.append(call)
        (parameter,) = call.request.parameters
        assert call.request.headers["content-length"] == str(len(parameter.value))
        if call.name == "own":
            await asyncio.sleep(0)
            text = parameter.value.decode()
            return Answer(200, "", "", {}, json.dumps([float(len(text)), 0.5]).encode())
        body = json.loads(bytes(parameter.value))
        self.bodies.append(body)
        if call.name == "vectors":
            found = [{"embedding": [float(len(text)), -0.25], "tokens": len(text.split())} for text in body["inputs"]]
            return Answer(200, "", "application/json", {}, json.dumps(found).encode())
        return self._write(body)

    def _write(self, body: Any) -> Answer:
        prompt = body["inputs"] if "inputs" in body else body["messages"][-1]["content"]
        mode = prompt.split()[-1]
        if mode == "fail":
            return Answer(413, "", "", {}, b'{"code": 413, "type": "X", "message": "the text is too long"}')
        if mode == "odd":
            return Answer(200, "", "", {}, b'[{"label": "good"}]')
        wanted = body["parameters"]
        tokens = [{"id": n, "text": word, "logprob": -0.5, "special": False} for n, word in enumerate(WORDS)]
        tokens = tokens[: wanted.get("max_new_tokens", 10)]
        if "top_n_tokens" in wanted:
            tokens = [{**token, "top": TOP[: wanted["top_n_tokens"]]} for token in tokens]
        finish = "length" if len(tokens) < len(WORDS) else "eos_token"
        if finish == "eos_token":
            tokens.append({"id": 9, "text": "</s>", "logprob": -0.1, "special": True})
        text = "".join(token["text"] for token in tokens if not token["special"])
        details = {
            "finish_reason": finish,
            "prompt_tokens": len(prompt.split()),
            "generated_tokens": len(tokens),
            "seed": wanted.get("seed"),
        }
        if not body["stream"] or mode == "once":
            details |= {"tokens": tokens} if wanted.get("logprobs") else {}
            return Answer(200, "", "", {}, json.dumps([{"generated_text": text, "details": details}]).encode())
        events = [{"token": token, "generated_text": None, "details": None} for token in tokens]
        events[-1] |= {"generated_text": text, "details": details}
        data = b"".join(b"data: " + json.dumps(event, ensure_ascii=False).encode() + b"\n\n" for event in events)
        return Answer(200, "", "text/event-stream", {}, data[:7], self._rest_of(data[7:], mode))

    async def _rest_of(self, data: bytes, mode: str) -> AsyncIterator[bytes]:
        try:
            if mode in ("break", "die", "endless", "cut"):
                data = data[: data.index(b"\n\n") + 2]
            for begin in range(0, len(data), 50):  # events end anywhere
                await asyncio.sleep(0)
                yield data[begin : begin + 50]
            if mode == "break":
                yield b'data: {"error": "no place is left", "error_type": "TooLargeError"}\n\n'
            if mode == "die":
                raise InternalError("Worker died.")
            while mode == "endless":
                await asyncio.sleep(0.01)
                yield b'data: {"token": {"id": 1, "text": "x", "logprob": null, "special": false}}\n\n'
        finally:
            self.ended += 1


@dataclass
class Routes:
    """The server, and its client."""

    server: Served
    engine: WritingEngine
    client: Any
    http: httpx.Client


def writing_engine() -> WritingEngine:
    engine = WritingEngine()
    for name, task in (("writer", "text-generation"), ("vectors", "feature-extraction"), ("own", "")):
        engine.add(replace(model(name, "1.0", f"{name}.mar", 1, default=True), task=task))
    engine.add(replace(model("mood", "1.0", "mood.mar", 1, default=True), task="text-classification"))
    engine.add(model("idle", "1.0", "idle.mar", 0, default=True))
    engine.add(model("echo", "1.0", "echo.mar", 1, default=True))
    return engine


@pytest.fixture
def routes(tmp_path: Path) -> Iterator[Routes]:
    engine = writing_engine()
    with served(tmp_path, engine=engine) as found:
        url = f"http://127.0.0.1:{found.inference}"
        with (
            openai.OpenAI(
                base_url=f"{url}/v1", api_key="none", max_retries=0, http_client=httpx.Client(timeout=60, verify=PLAIN)
            ) as client,
            httpx.Client(base_url=url, timeout=60, verify=PLAIN) as http,
        ):
            yield Routes(found, engine, client, http)
