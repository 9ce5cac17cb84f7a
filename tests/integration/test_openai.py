"""OpenAI's routes of the Python frontend, asked by OpenAI's own client, over real archives of saved models."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.handlers.pretrained.models import make_bert, make_tokenizer, make_writer, save, transformers
from tests.later import Later

from .conftest import Sandbox, Server

openai = Later("openai")
pytestmark = pytest.mark.parametrize("frontend", ["python"], scope="module")

OWN = """
def handle(data, context):
    return data and [[float(len(row["body"])), 1.0] for row in data]
"""
CHAT = [{"role": "system", "content": "be kind"}, {"role": "user", "content": "the rain"}]


@pytest.fixture(scope="module")
def server(shared_sandbox: Sandbox) -> Server:
    box = shared_sandbox
    save(box.root / "writer", *make_writer())
    save(box.root / "vectors", make_bert("Model"), make_tokenizer())
    for name in ("writer", "vectors"):
        box.torchmar("build", "--pretrained", box.root / name, "--export-path", box.store, "-q").ok()
    box.build("own", OWN)
    return box.start("writer.mar", "vectors.mar", "own.mar")


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[Any]:
    with openai.OpenAI(base_url=f"{server.inference}/v1", api_key="none", max_retries=0, timeout=120) as found:
        yield found


def greedy(server: Server, prompt: str, count: int) -> str:
    """Return what the model writes without a server."""
    folder = server.sandbox.root / "writer"
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    given = tokenizer(prompt, return_tensors="pt")
    (found,) = model.generate(**given, max_new_tokens=count, do_sample=False)
    return str(tokenizer.decode(found[given["input_ids"].shape[1] :], skip_special_tokens=True))


def test_a_chat_is_what_the_model_writes_at_once_and_in_parts(server: Server, client: Any) -> None:
    asked = {"model": "writer", "messages": CHAT, "max_tokens": 12, "temperature": 0, "logprobs": True}
    answer = client.chat.completions.create(**asked, top_logprobs=2)  # type: ignore[call-overload]
    text = answer.choices[0].message.content
    assert text == greedy(server, "system: be kind\nuser: the rain\nassistant: ", 12)
    assert answer.choices[0].finish_reason in ("length", "stop")
    tokens = answer.choices[0].logprobs.content
    assert all(one.logprob <= 0 and len(one.top_logprobs) == 2 for one in tokens)
    assert tokens[0].top_logprobs[0].logprob == pytest.approx(tokens[0].logprob)
    assert answer.usage.completion_tokens == 12
    *chunks, last = client.chat.completions.create(  # type: ignore[call-overload]
        **asked, stream=True, stream_options={"include_usage": True}
    )
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == text
    assert last.usage == answer.usage


def test_completions_with_seeds_are_repeated(client: Any) -> None:
    asked = {"model": "writer", "prompt": ["the rain", "in"], "n": 2, "seed": 5, "temperature": 1.5, "max_tokens": 8}
    first, second = (client.completions.create(**asked) for _ in range(2))  # type: ignore[call-overload]
    texts = [choice.text for choice in first.choices]
    assert len(set(texts)) == 4
    assert texts == [choice.text for choice in second.choices]
    merged = ["", ""]
    for chunk in client.completions.create(**{**asked, "prompt": "the rain"}, stream=True):  # type: ignore[call-overload]
        merged[chunk.choices[0].index] += chunk.choices[0].text
    assert merged == texts[:2]


def test_the_handlers_own_refusals_come_through(client: Any) -> None:
    with pytest.raises(openai.BadRequestError, match="max_new_tokens is 5000"):
        client.completions.create(model="writer", prompt="a", max_tokens=5000)
    with pytest.raises(openai.APIStatusError) as raised:
        client.completions.create(model="writer", prompt="the rain " * 100, stream=True)
    assert raised.value.status_code == 413


def test_embeddings_are_those_of_the_archive(server: Server, client: Any) -> None:
    texts = ["ada lives in rome", "rain"]
    body = server.sandbox.file("request.json", json.dumps({"inputs": texts}))
    status, reply = server.curl(
        "/predictions/vectors", "-H", "Content-Type: application/json", "--data-binary", f"@{body}"
    )
    assert status == 200, reply
    answer = client.embeddings.create(model="vectors", input=texts)
    assert [one.embedding for one in answer.data] == [pytest.approx(row, rel=1e-6) for row in json.loads(reply)]
    assert answer.usage.prompt_tokens == 6 + 3  # [CLS] and [SEP] among them
    own = client.embeddings.create(model="own", input=["abc", "de"], encoding_format="float")
    assert [one.embedding for one in own.data] == [[3.0, 1.0], [2.0, 1.0]]


def test_what_a_model_is_for_is_known(client: Any) -> None:
    found = {one.id: getattr(one, "task", None) for one in client.models.list()}
    assert found == {"own": None, "vectors": "feature-extraction", "writer": "text-generation"}
    with pytest.raises(openai.BadRequestError, match="is for feature-extraction and answers no chats"):
        client.chat.completions.create(model="vectors", messages=CHAT)  # type: ignore[arg-type]
    with pytest.raises(openai.BadRequestError, match="answers no completions"):
        client.completions.create(model="own", prompt="a")
