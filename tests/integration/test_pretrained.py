"""Models of transformers, each served from the folder that was saved, by a command and no code."""

from __future__ import annotations

import base64
import json

import pytest

from tests.handlers.pretrained.conftest import near
from tests.handlers.pretrained.models import (
    make_bert,
    make_segformer,
    make_t5,
    make_tokenizer,
    make_vit,
    make_wav2vec2,
    make_yolos,
    picture,
    png,
    save,
    tone,
    transformers,
    wav,
)

from .conftest import Sandbox

TEXT = "ada lives in rome"
LABELS = ("contradiction", "neutral", "entailment")
NLI = {"id2label": dict(enumerate(LABELS)), "label2id": {label: index for index, label in enumerate(LABELS)}}
QUESTION = {"question": "who lives", "context": "ada lives in rome ."}
IMAGE = {"inputs": base64.b64encode(png(picture(1, (64, 30)))).decode()}
SOUND = {"inputs": base64.b64encode(wav(tone(300, 3000))).decode()}
#: The parts to save, and a request, by task.
KINDS = {
    "text-classification": (lambda _: [make_bert("ForSequenceClassification"), make_tokenizer()], {"inputs": TEXT}),
    "feature-extraction": (lambda _: [make_bert("Model"), make_tokenizer()], {"inputs": [TEXT, "rain"]}),
}
OTHERS = {
    "zero-shot-classification": (
        lambda _: [make_bert("ForSequenceClassification", **NLI), make_tokenizer()],
        {"inputs": TEXT, "parameters": {"candidate_labels": ["sport", "politics"]}},
    ),
    "token-classification": (
        lambda _: [make_bert("ForTokenClassification", num_labels=3), make_tokenizer()],
        {"inputs": TEXT},
    ),
    "question-answering": (lambda _: [make_bert("ForQuestionAnswering"), make_tokenizer()], {"inputs": QUESTION}),
    "fill-mask": (lambda _: [make_bert("ForMaskedLM"), make_tokenizer()], {"inputs": "ada lives in [MASK]"}),
    "summarization": (lambda _: make_t5(), {"inputs": TEXT, "parameters": {"max_new_tokens": 4}}),
    "image-classification": (lambda _: make_vit(), IMAGE),
    "object-detection": (lambda _: make_yolos(), {**IMAGE, "parameters": {"threshold": 0.1}}),
    "image-segmentation": (lambda _: make_segformer(), IMAGE),
    "automatic-speech-recognition": (make_wav2vec2, SOUND),
}
#: Where answers that come as a list for several inputs are compared with `pipeline`'s.
PIPED = ("text-classification", "zero-shot-classification", "fill-mask")


def serve(sandbox: Sandbox, kinds: dict, *options: str) -> None:
    """Build, start, ask, and compare with what the archive's own handler gives here, and with the pipeline."""
    for task, (make, _) in kinds.items():
        folder = save(sandbox.root / task, *make(sandbox.root))
        sandbox.torchmar("build", "--pretrained", folder, "--export-path", sandbox.store, "-q").ok()
    server = sandbox.start(*(f"{task}.mar" for task in kinds), options=options)
    for task, (_, request) in kinds.items():
        body = sandbox.file("request.json", json.dumps(request))
        json_type = ("-H", "Content-Type: application/json", "--data-binary", f"@{body}")
        status, reply = server.curl(f"/predictions/{task}", *json_type)
        assert status == 200, (task, reply)
        assert json.loads(reply), task
        if task in PIPED:
            given = {"top_k": None} if task == "text-classification" else {}
            line = transformers.pipeline(task, str(sandbox.root / task), device="cpu")
            expected = line(request["inputs"], **request.get("parameters", {}), **given)
            assert json.loads(reply) == near(expected), task
        status, reply = server.curl(
            f"/predictions/{task}", "-H", "Content-Type: application/json", "-d", '{"inputs": 7}'
        )
        assert status == 400, (task, reply)
    if "text-classification" in kinds:
        status, reply = server.curl("/predictions/text-classification", "-T", sandbox.file("text.txt", TEXT))
        assert status == 200, reply


@pytest.mark.slow  # test_openai.py has two such folders
@pytest.mark.parametrize("frontend", ["python"])
def test_a_folder(sandbox: Sandbox) -> None:
    serve(sandbox, {"text-classification": KINDS["text-classification"]})


@pytest.mark.slow
@pytest.mark.parametrize("frontend", ["python", "java"])
def test_two_folders(sandbox: Sandbox) -> None:
    serve(sandbox, KINDS)


@pytest.mark.slow
@pytest.mark.parametrize("task", OTHERS)
@pytest.mark.parametrize("frontend", ["python", "java"])
def test_every_task(sandbox: Sandbox, task: str) -> None:
    serve(sandbox, {task: OTHERS[task]})


@pytest.mark.slow
@pytest.mark.parametrize("frontend", ["java"])
def test_torchserves_own_worker(sandbox: Sandbox) -> None:
    """It runs the copies of the handlers that the archives hold."""
    serve(sandbox, KINDS, "--stock-worker")
