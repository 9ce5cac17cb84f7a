"""OpenAI's routes, asked by OpenAI's own client, over played archives."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from tests.later import Later
from tests.serving.frontend.apps.conftest import served

from .conftest import Routes, writing_engine

openai = Later("openai")
HELLO = [{"role": "user", "content": "who plays"}]
REFUSED = ("unsupported_parameter", "is not supported here")
MISSPELT = ("unknown_parameter", "did you mean max_tokens")
TEXT = " rain stops the f\u00efnal"


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


# ---- chats -----------------------------------------------------------------------------------------------------------


def test_played_engine_a_chat(routes: Routes) -> None:
    answer = routes.client.chat.completions.create(
        model="writer",
        messages=[{"role": "developer", "content": "Be short."}, *HELLO],
        temperature=0.5,
        top_p=0.9,
        max_completion_tokens=2,
        stop="x",
        seed=-1,
        user="somebody",
        store=True,
        metadata={"a": "b"},
    )
    assert answer.object == "chat.completion"
    assert answer.id.startswith("chatcmpl-")
    assert abs(answer.created - time.time()) < 120
    assert answer.model == "writer"
    (choice,) = answer.choices
    assert (choice.message.role, choice.message.content, choice.finish_reason) == ("assistant", " rain stops", "length")
    assert choice.logprobs is None
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (2, 2, 4)
    (body,) = routes.engine.bodies
    assert body == {
        "messages": [{"role": "system", "content": "Be short."}, *HELLO],
        "parameters": {
            "do_sample": True,
            "temperature": 0.5,
            "top_p": 0.9,
            "seed": 2**63 - 1,
            "stop": ["x"],
            "max_new_tokens": 2,
            "details": True,
            "return_full_text": False,
        },
        "stream": False,
    }


def test_played_engine_a_chat_with_little_said_leaves_all_to_the_archive(routes: Routes) -> None:
    answer = routes.client.chat.completions.create(model="writer/1.0", messages=HELLO)
    assert answer.choices[0].message.content == TEXT
    assert answer.choices[0].finish_reason == "stop"
    assert routes.engine.bodies[0]["parameters"] == {"details": True, "return_full_text": False}
    assert routes.engine.calls[0].version == "1.0"


def test_played_engine_several_answers_each_have_a_seed(routes: Routes) -> None:
    answer = routes.client.chat.completions.create(model="writer", messages=HELLO, n=3, seed=7)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert [body["parameters"]["seed"] for body in routes.engine.bodies] == [7, 8, 9]
    assert all(body["parameters"]["do_sample"] for body in routes.engine.bodies)
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (2, 15)


def test_played_engine_a_chat_with_probabilities(routes: Routes) -> None:
    answer = routes.client.chat.completions.create(model="writer", messages=HELLO, logprobs=True, top_logprobs=2)
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert "".join(one.token for one in logprobs.content) == TEXT
    assert bytes(logprobs.content[-1].bytes or ()).decode() == " f\u00efnal"
    assert [(one.token, one.logprob) for one in logprobs.content[0].top_logprobs] == [(" rain", -0.5), (" snow", -9999)]
    assert routes.engine.bodies[0]["parameters"]["top_n_tokens"] == 2


@pytest.mark.parametrize("last", ["plays", "once"])
def test_played_engine_a_streamed_chat(routes: Routes, last: str) -> None:
    """Also of an archive that answers in one piece."""
    stream = routes.client.chat.completions.create(
        model="writer",
        messages=[{"role": "user", "content": f"who {last}"}],
        stream=True,
        stream_options={"include_usage": True},
        logprobs=True,
    )
    *chunks, end = stream
    assert {chunk.object for chunk in [*chunks, end]} == {"chat.completion.chunk"}
    assert len({chunk.id for chunk in [*chunks, end]}) == 1
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == TEXT
    assert [chunk.choices[0].finish_reason for chunk in chunks][-2:] == [None, "stop"]
    tokens = [one.token for chunk in chunks if chunk.choices[0].logprobs for one in chunk.choices[0].logprobs.content]  # type: ignore[union-attr]
    assert "".join(tokens) == TEXT
    assert all(chunk.usage is None for chunk in chunks)
    assert end.choices == []
    assert end.usage is not None
    assert (end.usage.prompt_tokens, end.usage.completion_tokens) == (2, 5)


def test_played_engine_several_streams_in_one(routes: Routes) -> None:
    texts = {0: "", 1: "", 2: ""}
    for chunk in routes.client.chat.completions.create(model="writer", messages=HELLO, n=3, stream=True):
        texts[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert texts == dict.fromkeys(range(3), TEXT)
    assert routes.engine.ended == 3


def test_played_engine_a_stream_is_of_server_sent_events(routes: Routes) -> None:
    body = {"model": "writer", "messages": HELLO, "stream": True}
    answer = routes.http.post("/v1/chat/completions", json=body)
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert answer.text.isascii()
    *events, last, nothing = answer.text.split("\n\n")
    assert (last, nothing) == ("data: [DONE]", "")
    assert all("usage" not in json.loads(event.removeprefix("data: ")) for event in events)


def test_played_engine_a_client_that_leaves_ends_the_stream_upstream(routes: Routes) -> None:
    for count in (1, 2):
        stream = routes.client.chat.completions.create(
            model="writer", messages=[{"role": "user", "content": "endless"}], stream=True, n=count
        )
        for _, chunk in zip(range(3), stream, strict=False):
            assert chunk.choices
        stream.close()
        until(lambda: routes.engine.ended == (1 if count == 1 else 3))  # noqa: B023


def test_played_engine_what_fails_before_a_stream_has_a_status(routes: Routes) -> None:
    for stream in (False, True):
        for count in (1, 2):
            with pytest.raises(openai.APIStatusError) as raised:
                routes.client.chat.completions.create(
                    model="writer", messages=[{"role": "user", "content": "fail"}], stream=stream, n=count
                )
            assert raised.value.status_code == 413
            assert raised.value.body == {
                "message": "the text is too long",
                "type": "invalid_request_error",
                "param": None,
                "code": None,
            }


@pytest.mark.parametrize(
    ("last", "message"),
    [("break", "no place is left"), ("die", "Worker died."), ("cut", "answers no chats: its answer is not ended by")],
)
def test_played_engine_what_fails_within_a_stream_is_told_there(routes: Routes, last: str, message: str) -> None:
    stream = routes.client.chat.completions.create(
        model="writer", messages=[{"role": "user", "content": last}], stream=True
    )
    seen = []
    with pytest.raises(openai.APIError, match=message):
        seen.extend(chunk.choices[0].delta.content for chunk in stream)
    assert seen == ["", " rain"]
    assert routes.engine.ended == 1


# ---- completions -----------------------------------------------------------------------------------------------------


def test_played_engine_completions_of_several_prompts(routes: Routes) -> None:
    answer = routes.client.completions.create(model="writer", prompt=["a b c", "d"], n=2, logprobs=1, temperature=0)
    assert (answer.object, answer.id[:5]) == ("text_completion", "cmpl-")
    assert [(choice.index, choice.text, choice.finish_reason) for choice in answer.choices] == [
        (index, TEXT, "stop") for index in range(4)
    ]
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.tokens == [" rain", " stops", " the", " f\u00efnal"]
    assert logprobs.text_offset == [0, 5, 11, 15]
    assert logprobs.token_logprobs == [-0.5] * 4
    assert logprobs.top_logprobs == [{" rain": -0.5}] * 4
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (4, 20)
    assert [body["inputs"] for body in routes.engine.bodies] == ["a b c", "a b c", "d", "d"]
    parameters = routes.engine.bodies[0]["parameters"]
    assert (parameters["do_sample"], parameters["max_new_tokens"]) == (False, 16)


def test_played_engine_a_streamed_completion(routes: Routes) -> None:
    chunks = list(routes.client.completions.create(model="writer", prompt="a", stream=True, max_tokens=3, logprobs=0))
    assert "".join(chunk.choices[0].text for chunk in chunks) == " rain stops the"
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None, None, None, "length"]
    offsets = [chunk.choices[0].logprobs.text_offset for chunk in chunks[:-1] if chunk.choices[0].logprobs]
    assert offsets == [[0], [5], [11]]


# ---- embeddings ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", [{}, {"encoding_format": "float"}])
def test_played_engine_embeddings(routes: Routes, form: dict[str, str]) -> None:
    """The client asks for base64 where nothing is said."""
    answer = routes.client.embeddings.create(model="vectors", input=["a b", "c"], **form)  # type: ignore[arg-type]
    assert [one.embedding for one in answer.data] == [[3.0, -0.25], [1.0, -0.25]]
    assert [(one.index, one.object) for one in answer.data] == [(0, "embedding"), (1, "embedding")]
    assert (answer.usage.prompt_tokens, answer.usage.total_tokens) == (3, 3)
    assert routes.engine.bodies == [{"inputs": ["a b", "c"], "parameters": {"details": True}}]


def test_played_engine_embeddings_of_an_archive_of_a_users_own(routes: Routes) -> None:
    texts = ["x" * (n + 1) for n in range(100)]
    answer = routes.client.embeddings.create(model="own", input=texts)
    assert [one.embedding for one in answer.data] == [[n + 1.0, 0.5] for n in range(100)]
    assert len({call.request.request_id for call in routes.engine.calls}) == 100
    assert routes.client.embeddings.create(model="own", input="abc").data[0].embedding == [3.0, 0.5]


# ---- models, errors, keys --------------------------------------------------------------------------------------------


def test_played_engine_lists_models_with_both_sets_of_keys(routes: Routes) -> None:
    names = ["echo", "idle", "mood", "own", "vectors", "writer"]
    assert [one.id for one in routes.client.models.list()] == names
    answer = routes.http.get("/v1/models").json()
    assert answer["models"] == names  # KServe's
    assert answer["data"][-1] == {
        "id": "writer",
        "object": "model",
        "created": 1500000000,
        "owned_by": "torchmar",
        "task": "text-generation",
    }
    assert routes.client.models.retrieve("writer").owned_by == "torchmar"
    assert routes.http.get("/v1/models/writer").json() == answer["data"][-1] | {"name": "writer", "ready": True}
    with pytest.raises(openai.InternalServerError, match="not ready"):
        routes.client.models.retrieve("idle")
    with pytest.raises(openai.NotFoundError):
        routes.client.models.retrieve("none")


@pytest.mark.parametrize(
    ("path", "body", "status", "param", "code", "message"),
    [
        ("completions", {"model": "none", "prompt": "a"}, 404, "model", "model_not_found", "Model not found: none"),
        ("completions", {"model": "writer/9", "prompt": "a"}, 404, "model", "model_not_found", "version: 9"),
        ("completions", {"model": "idle", "prompt": "a"}, 503, None, None, "has no worker"),
        ("completions", {"model": "mood", "prompt": "a"}, 400, "model", "model_not_supported", "text-classification"),
        ("completions", {"model": "vectors", "prompt": "a"}, 400, "model", "model_not_supported", "no completions"),
        ("completions", {"model": "writer", "prompt": "odd"}, 400, "model", "model_not_supported", "generated_text"),
        ("completions", {"model": "echo", "prompt": "a"}, 400, "model", "model_not_supported", "answers no completion"),
        ("completions", {"prompt": "a"}, 400, "model", None, "model is missing"),
        ("completions", {"model": "writer", "prompt": [1, 2]}, 400, "prompt", "unsupported_parameter", "send texts"),
        ("embeddings", {"model": "writer", "input": "a"}, 400, "model", "model_not_supported", "text-generation"),
        ("embeddings", {"model": "echo", "input": "a"}, 400, "model", "model_not_supported", "a list of numbers"),
        ("embeddings", {"model": "vectors", "input": [[1]]}, 400, "input", "unsupported_parameter", "send texts"),
        ("embeddings", {"model": "vectors", "input": "a", "dimensions": 4}, 400, "dimensions", *REFUSED),
        ("chat/completions", {"model": "writer", "messages": HELLO, "max_token": 1}, 400, "max_token", *MISSPELT),
        ("chat/completions", [], 400, None, None, "JSON object"),
        ("responses", {"model": "writer"}, 404, None, None, "/v1/responses is not served here; there are /v1/chat"),
        ("audio/speech", {}, 404, None, None, "not served"),
    ],
)  # fmt: skip
def test_played_engine_errors_have_openais_form(
    routes: Routes, path: str, body: object, status: int, param: str | None, code: str | None, message: str
) -> None:
    answer = routes.http.post(f"/v1/{path}", json=body)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"], error["code"]) == (status, param, code)
    assert message in error["message"]
    assert error["type"] == ("server_error" if status >= 500 else "invalid_request_error")


def test_played_engine_bodies_and_methods(routes: Routes) -> None:
    cut = routes.http.post("/v1/completions", content=b'{"model": "writer"')
    assert (cut.status_code, "is not JSON" in cut.json()["error"]["message"]) == (400, True)
    twice = routes.http.post("/v1/completions", content=b'{"model": "writer", "model": "other"}')
    assert "twice" in twice.json()["error"]["message"]
    assert routes.http.get("/v1/completions").status_code == 405
    assert "/v1/completions" in routes.http.options("/v1/completions").json()["paths"]
    large = json.dumps({"model": "own", "input": "x" * 100_000}).encode()
    assert routes.http.post("/v1/embeddings", content=large).json()["data"][0]["embedding"][0] == 100_000


def test_played_engine_hears_the_clients_deadline_and_its_own_headers(routes: Routes) -> None:
    routes.client.completions.create(
        model="writer", prompt="a", extra_headers={"x-request-timeout-seconds": "9", "x-tenant": "t"}
    )
    (call,) = routes.engine.calls
    assert call.deadline is not None
    assert call.request.headers["x-tenant"] == "t"
    assert call.request.headers["content-type"] == "application/json"
    assert not {name for name in call.request.headers if name.lower() in ("accept", "expect")}


def test_played_engine_is_asked_with_torchserves_key(tmp_path: Path) -> None:
    with served(tmp_path, keyed=True, engine=writing_engine()) as server:
        key = json.loads((tmp_path / "key_file.json").read_text())["inference"]["key"]
        url = f"http://127.0.0.1:{server.inference}"
        with openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0) as client:
            assert client.completions.create(model="writer", prompt="a").choices[0].text == TEXT
            assert len(client.models.list().data) == 6
        with openai.OpenAI(base_url=f"{url}/v1", api_key="wrong", max_retries=0) as client:
            with pytest.raises(openai.AuthenticationError) as raised:
                client.completions.create(model="writer", prompt="a")
            assert raised.value.code == "invalid_api_key"
            with pytest.raises(openai.AuthenticationError):
                client.models.list()
        # TorchServe's own calls keep TorchServe's status.
        assert httpx.post(f"{url}/predictions/echo").status_code == 400


def test_played_engine_torchserves_calls_of_a_model_named_v1_are_its_own(routes: Routes) -> None:
    for path in ("/v1/predict", "/v1/audio/predict", "/v1/other"):
        assert set(routes.http.post(path).json()) == {"code", "type", "message"}


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"n": 64, "prompt": "x" * 200_000}, "max_request_size"),  # 13 MB in 64 requests
        ({"prompt": "x", "stop": ["y" * 1001]}, "1000 characters"),  # which would go with each of 64 prompts
    ],
)
def test_played_engine_a_request_does_not_grow(routes: Routes, more: dict[str, object], said: str) -> None:
    with pytest.raises(openai.BadRequestError, match=said):
        routes.client.completions.create(model="writer", **more)  # type: ignore[call-overload]
    assert not routes.engine.bodies
