"""Texts that vLLM writes. Its module is played here: it has what is called of it, over a tiny model of transformers."""

import asyncio
import json
import sys
from functools import cache
from types import ModuleType, SimpleNamespace

import pytest
import torch

from handlers.errors import LoadError
from tests.handlers.pretrained.models import make_writer, save

tiny = cache(lambda: make_writer("Llama")[0])


class SamplingParams(SimpleNamespace):
    """What is asked of an engine."""


class PlayedEngine:
    """An engine that takes the likeliest token each time, and two in some steps, as a real one may."""

    def __init__(self, arguments):
        self.arguments = arguments
        self.model_config = SimpleNamespace(max_model_len=128)
        self.asked = []
        self.closed = 0

    @classmethod
    def from_engine_args(cls, arguments):
        return cls(arguments)

    async def generate(self, prompt, settings, request_id):
        self.asked.append((settings, request_id))
        ids = list(prompt["prompt_token_ids"])
        found = SimpleNamespace(token_ids=[], logprobs=[], finish_reason=None)
        try:
            while len(found.token_ids) < settings.max_tokens:
                with torch.inference_mode():
                    logs = tiny()(torch.tensor([ids]))["logits"][0, -1].log_softmax(dim=-1)
                token = int(logs.argmax())
                ids.append(token)
                found.token_ids.append(token)
                if settings.logprobs:
                    values, numbers = logs.topk(settings.logprobs)
                    pairs = zip(numbers.tolist(), values.tolist(), strict=True)
                    found.logprobs.append({one: SimpleNamespace(logprob=value) for one, value in pairs})
                await asyncio.sleep(0)
                if len(found.token_ids) % 3 and len(found.token_ids) < settings.max_tokens:
                    continue
                last = len(found.token_ids) >= settings.max_tokens
                found.finish_reason = "length" if last else None
                yield SimpleNamespace(outputs=[found], finished=last)
        finally:
            self.closed += 1


@pytest.fixture
def played(monkeypatch):
    module = ModuleType("vllm")
    module.AsyncLLMEngine = PlayedEngine
    module.AsyncEngineArgs = lambda **arguments: arguments
    module.SamplingParams = SamplingParams
    monkeypatch.setitem(sys.modules, "vllm", module)


@pytest.fixture
def saved(tmp_path):
    return save(tmp_path / "writer", *make_writer("Llama"))


CONFIG = {"handler": {"engine": "vllm", "vllm_engine_config": {"max_num_seqs": 4}}}


@pytest.fixture
def vllm(serve, saved, played, tmp_path):
    config = tmp_path / "settings.yaml"
    config.write_text("handler: {engine: vllm}\n")
    return serve(saved, CONFIG, config_file=config)


def ask(served, request):
    rows = served.context.show([request])
    (reply,) = asyncio.run(served.handler.handle(rows, served.context))
    return served.context.get_response_status(0)[0], reply


def test_the_same_requests_get_the_same_replies(vllm, serve, saved):
    usual = serve(saved)
    given = {"max_new_tokens": 7, "details": True, "top_n_tokens": 2}
    for request in (
        {"inputs": "the rain", "parameters": given},
        {"inputs": ["the rain", "a"], "parameters": {"max_new_tokens": 4}},
        {"messages": [{"role": "user", "content": "hi"}], "parameters": {"max_new_tokens": 4}},
        {"inputs": "the rain", "parameters": {"max_new_tokens": 7}, "stream": True},
    ):
        status, reply = ask(vllm, request)
        assert status == 200, reply
        expected = usual.one(request)
        if isinstance(reply, str):
            reply, expected = ([json.loads(one[6:]) for one in text.split("\n\n") if one] for text in (reply, expected))
            for found, wanted in zip(reply, expected, strict=True):
                assert found["token"].pop("logprob") == pytest.approx(wanted["token"].pop("logprob"), abs=1e-4)
        elif request.get("parameters") is given:
            assert [one["id"] for one in reply[0]["details"].pop("tokens")] == [
                one["id"] for one in expected[0]["details"].pop("tokens")
            ]
        assert reply == expected


def test_what_is_asked_of_it(vllm):
    engine = vllm.handler.model
    assert engine.arguments["max_num_seqs"] == 4
    assert engine.arguments["trust_remote_code"] is False
    ask(vllm, {"inputs": "a", "parameters": {"temperature": 0.5, "top_p": 0.9, "min_new_tokens": 2, "seed": 3}})
    ((settings, _),) = engine.asked
    assert vars(settings) == {
        "max_tokens": 127,
        "seed": 3,
        "logprobs": None,
        "detokenize": False,
        "temperature": 0.5,
        "top_p": 0.9,
        "min_tokens": 2,
    }


def test_a_stop_text_has_it_forget_the_request(vllm, serve, saved):
    text = serve(saved).one({"inputs": "the", "parameters": {"max_new_tokens": 9, "return_full_text": False}})
    stop = text[0]["generated_text"][1:3]
    request = {"inputs": "the", "parameters": {"stop": stop, "details": True, "return_full_text": False}}
    status, reply = ask(vllm, request)
    assert status == 200
    assert reply[0]["details"]["finish_reason"] == "stop_sequence"
    assert reply[0]["generated_text"] == text[0]["generated_text"][:1]
    assert vllm.handler.model.closed == 1


def test_what_it_does_not_have(vllm):
    status, reply = ask(vllm, {"inputs": "a", "parameters": {"num_beams": 3}})
    assert status == 400
    assert "'num_beams' is no parameter" in reply["message"]


def test_requests_run_side_by_side(vllm):
    async def both():
        async def one(text):
            from handlers.testing import FakeContext

            context = FakeContext(config=CONFIG)
            rows = context.show([{"inputs": text, "parameters": {"max_new_tokens": 6}}])
            return (await vllm.handler.handle(rows, context))[0]

        return await asyncio.gather(one("the rain"), one("a"))

    first, second = asyncio.run(both())
    assert first[0]["generated_text"].startswith("the rain")
    assert second[0]["generated_text"].startswith("a")


def test_without_it(serve, saved, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "vllm", None)
    config = tmp_path / "settings.yaml"
    config.write_text("handler: {engine: vllm}\n")
    with pytest.raises(LoadError, match="which cannot be imported") as caught:
        serve(saved, CONFIG, config_file=config)
    assert "install vllm where the workers run" in caught.value.hint
