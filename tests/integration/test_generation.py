"""Texts that are written on, many at once, over both frontends."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
import torch

from tests.handlers.pretrained.models import make_writer, save, transformers
from tests.serving.frontend.grpc.client import Client as GrpcClient

from .conftest import OPEN, Sandbox, Server
from .support import grpc_address

JSON = {"Content-Type": "application/json"}
ENDLESS = 50_000
TEXTS = ("the rain in spain", "a", "hello there, how are you doing today my friend?")


class Client:
    """A connection of its own, and a request on it."""

    def __init__(self, server: Server, request: dict[str, Any], **headers: str) -> None:
        self._connection = http.client.HTTPConnection(server.inference.partition("://")[2], timeout=300)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self._connection.request("POST", "/predictions/writer", json.dumps(request), {**JSON, **named})
        self.response = self._connection.getresponse()

    def read(self) -> str:
        body = self.response.read().decode()
        self.leave()
        return body

    def first_event(self) -> dict[str, Any]:
        return dict(json.loads(self.response.readline().decode().removeprefix("data: ")))

    def leave(self) -> None:
        self.response.close()
        self._connection.close()


def at_once(asked: list[Callable[[], None]]) -> None:
    threads = [threading.Thread(target=one) for one in asked]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def start(sandbox: Sandbox, folder: Path, *options: str, config: str = "") -> Server:
    given = ("--config-file", sandbox.file("settings.yaml", config)) if config else ()
    sandbox.torchmar("build", "--pretrained", folder, "--export-path", sandbox.store, "-q", *given).ok()
    return sandbox.start("writer.mar", options=options)


def ask_together(server: Server, folder: Path) -> None:
    """Ask for whole texts, a stream, and something wrong at the same time; each gets what it gets alone."""
    line = transformers.pipeline("text-generation", str(folder), device="cpu")
    found: dict[Any, Any] = {}
    drawn = {"max_new_tokens": 12, "temperature": 0.9, "seed": 5}

    def whole(text: str) -> None:
        client = Client(server, {"inputs": text, "parameters": {"max_new_tokens": 12}})
        found[text] = client.response.status, json.loads(client.read())

    def streamed() -> None:
        client = Client(server, {"inputs": TEXTS[0], "parameters": drawn, "stream": True})
        events = [json.loads(one.removeprefix("data: ")) for one in client.read().split("\n\n") if one]
        found["stream"] = client.response.getheader("content-type"), events

    def wrong() -> None:
        client = Client(server, {"inputs": TEXTS[0], "parameters": {"top_p": 7}, "stream": True})
        found["wrong"] = client.response.status, client.read()

    at_once([*(lambda text=text: whole(text) for text in TEXTS), streamed, wrong])
    for text in TEXTS:
        expected = line(text, max_new_tokens=12, do_sample=False)
        assert found[text] == (200, expected), text
    kind, events = found["stream"]
    torch.manual_seed(drawn["seed"])
    (expected,) = line(TEXTS[0], max_new_tokens=12, do_sample=True, temperature=0.9, top_k=50, return_full_text=False)
    assert kind.startswith("text/event-stream")
    assert [event["generated_text"] for event in events] == [None] * 11 + [expected["generated_text"]]
    assert "".join(event["token"]["text"] for event in events) == expected["generated_text"]
    assert events[-1]["details"]["generated_tokens"] == 12
    status, text = found["wrong"]
    assert status == 400
    assert "the parameter top_p is 7" in text


@pytest.mark.parametrize("frontend", ["python", pytest.param("java", marks=pytest.mark.slow)])
def test_texts_are_written_together_and_who_leaves_frees_the_place(sandbox: Sandbox) -> None:
    folder = save(sandbox.root / "writer", *make_writer("Llama", max_position_embeddings=ENDLESS, eos_token_id=None))
    config = f"handler: {{most_sequences: 1, most_new_tokens: {ENDLESS}}}\nbatchSize: 8\n"
    server = start(sandbox, folder, *OPEN, config=config)
    ask_together(server, folder)
    endless = Client(server, {"inputs": "a", "parameters": {"max_new_tokens": ENDLESS - 100}, "stream": True})
    assert endless.first_event()["token"]["text"] is not None
    endless.leave()
    # There is one place, so this waits until the other one has it no more.
    plain = Client(server, {"inputs": "b", "parameters": {"max_new_tokens": 3}, "stream": True}, accept="text/plain")
    text = plain.read()
    assert plain.response.getheader("content-type", "").startswith("text/plain")
    whole = Client(server, {"inputs": "b", "parameters": {"max_new_tokens": 3, "return_full_text": False}})
    assert json.loads(whole.read()) == [{"generated_text": text}]
    assert whole.response.getheader("content-length") is not None
    asked = json.dumps({"inputs": "b", "parameters": {"max_new_tokens": 3, "return_full_text": False}}).encode()
    with grpc.insecure_channel(grpc_address(server, "inference")) as channel:
        answer = GrpcClient(channel)("Predictions", model_name="writer", input={"body": asked})
    assert json.loads(answer.prediction) == [{"generated_text": text}]
    described = sandbox.run("curl", "-sS", "--fail", f"{server.management}/models/writer?customized=true").json()
    assert described[0]["customizedMetadata"]["task"] == "text-generation"


#: A module that stands for vLLM's: it writes "the rain" over and over, and each text alone.
VLLM = """
import asyncio
from types import SimpleNamespace


class AsyncEngineArgs(SimpleNamespace):
    pass


class SamplingParams(SimpleNamespace):
    pass


class AsyncLLMEngine:
    def __init__(self, arguments):
        self.model_config = SimpleNamespace(max_model_len=arguments.max_model_len)

    @classmethod
    def from_engine_args(cls, arguments):
        return cls(arguments)

    async def generate(self, prompt, settings, request_id):
        words = prompt["prompt_token_ids"]
        written = SimpleNamespace(token_ids=[], logprobs=[], finish_reason="length")
        for number in range(settings.max_tokens):
            await asyncio.sleep(0.01)
            token = words[number % len(words)]
            written.token_ids.append(token)
            written.logprobs.append({token: SimpleNamespace(logprob=-1.0)})
            yield SimpleNamespace(outputs=[written], finished=number + 1 == settings.max_tokens)
"""


@pytest.mark.slow
@pytest.mark.parametrize("frontend", ["python", "java"])
def test_vllm_played_engine(sandbox: Sandbox) -> None:
    """Requests run side by side in asynchronous mode, as the archive wants it."""
    folder = save(sandbox.root / "writer", *make_writer("Llama"))
    config = sandbox.file("settings.yaml", "handler: {engine: vllm, vllm_engine_config: {max_model_len: 64}}\n")
    options = ("--config-file", config, "--extra-files", sandbox.file("vllm.py", VLLM))
    sandbox.torchmar("build", "--pretrained", folder, "--export-path", sandbox.store, "-q", *options).ok()
    server = sandbox.start("writer.mar")
    found: dict[bool, str] = {}

    def ask(stream: bool) -> None:
        request = {"inputs": "the rain", "parameters": {"max_new_tokens": 6}, "stream": stream}
        found[stream] = Client(server, request).read()

    at_once([lambda: ask(True), lambda: ask(False)])
    events = [json.loads(one.removeprefix("data: ")) for one in found[True].split("\n\n") if one]
    assert len(events) == 6
    (whole,) = json.loads(found[False])
    assert whole["generated_text"] == "the rain" + events[-1]["generated_text"] == "the rain" + "the rain" * 2
    refused = Client(server, {"inputs": "a", "parameters": {"num_beams": 2}})
    assert refused.response.status == 400
    assert "'num_beams' is no parameter" in refused.read()


@pytest.mark.slow
@pytest.mark.parametrize("frontend", ["java"])
def test_torchserves_own_worker_writes(sandbox: Sandbox) -> None:
    folder = save(sandbox.root / "writer", *make_writer("Llama"))
    ask_together(start(sandbox, folder, "--stock-worker"), folder)
