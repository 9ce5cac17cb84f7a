"""The examples with real models: built by their own commands, served by one server, and their answers checked."""

from __future__ import annotations

import io
import json
import shutil
import sys
import wave
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file

from archive_tool.verification.verify import verify
from examples import demos, downloads
from examples.efficientnet_lite0 import demo as lite0
from examples.fizbuz import demo as fizbuz
from examples.gpt import demo as gpt
from examples.huggingface_handler import demo as huggingface
from examples.minilm import demo as minilm
from examples.sentence_embedder import demo as sentence_embedder
from examples.sentiment import demo as sentiment
from examples.sentiment import train
from examples.sentiment.sentiment_model import SentimentNet
from examples.silero_vad import demo as silero_vad

from .conftest import ROOT, Sandbox, Server, close, make_sandbox
from .support import Answer, at_once, predict

# Most of it is for packages that are not in the cache yet.
# Slow: the handlers are those of other tests; these are real models behind them.
pytestmark = [pytest.mark.timeout(600), pytest.mark.slow]

DEMOS = {
    one.name: one
    for one in (
        *(fizbuz.DEMO, lite0.DEMO, huggingface.DEMO, minilm.DEMO, sentence_embedder.DEMO, sentiment.DEMO),
        silero_vad.DEMO,
    )
}
# Those that need a server with options of its own are run by themselves alone.
BY_THEMSELVES = (gpt.DEMO,)
JSON = {"Content_Type": "application/json"}


@dataclass
class Served:
    """One server with the models of all examples."""

    server: Server
    addresses: demos.Server
    root: Path

    def work(self, name: str) -> Path:
        """Return the folder that an example works in."""
        return self.root / name

    def ask(self, name: str) -> None:
        DEMOS[name].ask(self.addresses, self.work(name))

    def json(self, model: str, body: bytes | str, **headers: str) -> Any:
        answer = predict(self.server, model, body, **headers)
        assert answer.status == 200, answer.text()
        return answer.json()

    def together(self, model: str, *bodies: bytes | str, **headers: str) -> list[Answer]:
        return at_once([lambda body=body: predict(self.server, model, body, **headers) for body in bodies])  # type: ignore[misc]


@pytest.fixture(scope="module")
def served(request: pytest.FixtureRequest, java_options: str) -> Iterator[Served]:
    pytest.importorskip("onnxruntime")
    box = make_sandbox(java_options)
    before = request.session.testsfailed
    try:
        at_once([lambda one=one: downloads.fetch(one) for one in downloads.PACKAGES])  # type: ignore[misc]
        for demo in DEMOS.values():
            demo.build(made(box.root / demo.name), box.store)
        server = box.start(*(f"{model}.mar" for demo in DEMOS.values() for model in demo.archives))
        yield Served(server, demos.Server(server.inference, server.management), box.root)
    finally:
        close(box, failed=request.session.testsfailed > before)


def made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def test_what_the_examples_ask(served: Served) -> None:
    for name in DEMOS:
        if name != "fizbuz":  # below
            served.ask(name)


def test_verify_finds_nothing(served: Served) -> None:
    """In the archives of all examples and of all formats: torch.save, TorchScript, export, safetensors, ONNX."""
    archives = {path.name: verify(path).issues for path in served.server.sandbox.store.glob("*.mar")}
    assert archives == dict.fromkeys((f"{model}.mar" for demo in DEMOS.values() for model in demo.archives), ())


# ---- silero_vad --------------------------------------------------------------------------------------------------


ALL = {"X_Probabilities": "true"}


def recording(served: Served, begin_s: float, end_s: float) -> bytes:
    """Return a part of the recording as a file."""
    stream = io.BytesIO()
    with wave.open(str(served.work("silero_vad") / "speech.wav")) as whole, wave.open(stream, "wb") as part:
        whole.setpos(int(begin_s * whole.getframerate()))
        part.setparams(whole.getparams())
        part.writeframes(whole.readframes(int((end_s - begin_s) * whole.getframerate())))
    return stream.getvalue()


@pytest.mark.parametrize("model", silero_vad.FORMATS)
def test_speech_of_several_streams_at_once(served: Served, model: str) -> None:
    """Each is heard as if it were alone: the streams share no state."""
    sounds = [recording(served, begin, begin + 5) for begin in (0, 11, 23, 37)]
    sounds.append(recording(served, 3, 9.5))
    alone = [served.json(model, sound, **ALL) for sound in sounds]
    assert len({json.dumps(one["speech"]) for one in alone}) == len(sounds)
    for _ in range(2):
        for answer, expected in zip(served.together(model, *sounds, **ALL), alone, strict=True):
            assert answer.json()["probabilities"] == pytest.approx(expected["probabilities"], abs=1e-4)


def test_speech_as_the_model_hears_it(served: Served) -> None:
    """The answers are those of the model called directly, chunk after chunk."""
    samples = torch.frombuffer(bytearray(recording(served, 0, 4.01)[44:]), dtype=torch.int16).float() / (1 << 15)
    model = torch.jit.load(str(served.work("silero_vad") / "silero_vad.jit"))
    with torch.no_grad():
        expected = [float(model(chunk, 16_000)) for chunk in samples.split(512) if len(chunk) == 512]
    for name in silero_vad.FORMATS:
        found = served.json(name, recording(served, 0, 4.01), **ALL)
        assert found["probabilities"][: len(expected)] == pytest.approx(expected, abs=1e-4)
        assert len(found["probabilities"]) == len(expected) + 1  # the last one is not full


def test_what_is_no_speech(served: Served) -> None:
    generator = np.random.default_rng(0)
    noise = (generator.normal(0, 200, 32_000)).astype(np.int16)
    stream = io.BytesIO()
    with wave.open(stream, "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", ""))
        file.writeframes(noise.tobytes())
    assert served.json("silero_vad", stream.getvalue()) == {"seconds": 2.0, "speech": []}
    assert predict(served.server, "silero_vad", b"no sound").status == 400


# ---- efficientnet_lite0 --------------------------------------------------------------------------------------------


def test_a_photograph_in_any_form(served: Served) -> None:
    """As JPEG, turned into grey, or with a hole: the cat stays a cat, and a file that is not an image fails alone."""
    stream = io.BytesIO()
    with Image.open(served.work("efficientnet_lite0") / "chelsea.png") as picture:
        picture.convert("RGBA").save(stream, "PNG")
        transparent = stream.getvalue()
        grey = io.BytesIO()
        picture.convert("L").save(grey, "JPEG")
    answers = served.together("lite0_traced", transparent, b"no picture", grey.getvalue())
    assert [answer.status for answer in answers] == [200, 400, 200]
    for answer in (answers[0], answers[2]):
        assert next(iter(answer.json())) in lite0.SEEN["chelsea.png"]


def test_the_net_is_no_torchscript(
    served: Served, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from examples.efficientnet_lite0 import export

    monkeypatch.setattr(sys, "path", list(sys.path))  # where it puts the network's package
    folder = served.work("efficientnet_lite0")
    assert export.main(["--formats", "scripted", "--output-dir", str(folder)]) == 1
    err = capsys.readouterr().err
    assert "error: torch.jit.script cannot compile Lite0: " in err
    assert "hint: trace it" in err
    assert not (folder / export.FILES["scripted"]).exists()


# ---- sentiment -----------------------------------------------------------------------------------------------------


def test_sentences_that_nobody_trained_with(served: Served) -> None:
    """The server says what the network says when called directly, and is right as often as the training found."""
    work = served.work("sentiment")
    _, held_out = train.read_sentences(downloads.fetch(downloads.VADER_SENTENCES) / "sentences.tar.gz")
    known = torch.load(work / "source_vocab.pt")
    net = SentimentNet().eval()
    net.load_state_dict(torch.load(work / "sentiment.pt"))
    assert train.accuracy(net, held_out, known) >= train.NEEDED
    chosen = held_out[::20]
    right = 0
    for text, label in chosen:
        answer = served.json("sentiment", text.encode())
        with torch.no_grad():
            (expected,) = net(*train.bags([train.numbers(text, known)])).softmax(dim=1).tolist()
        assert list(answer) == list(train.LABELS)
        assert list(answer.values()) == pytest.approx(expected, abs=1e-5)
        right += answer[train.LABELS[label]] > 0.5
    assert right / len(chosen) >= 0.7


# ---- sentence_embedder ---------------------------------------------------------------------------------------------


def test_vectors_are_the_means_of_their_words(served: Served) -> None:
    from tokenizers import Tokenizer

    work = served.work("sentence_embedder")
    table = load_file(work / "vectors.safetensors")["embedding.weight"].astype(np.float32)
    tokenizer = Tokenizer.from_file(str(work / "tokenizer.json"))
    texts = ["Rain stops the final", "a", "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich 🦊"]
    for answer, text in zip(served.together("sentence_embedder", *(one.encode() for one in texts)), texts, strict=True):
        mean = table[tokenizer.encode(text, add_special_tokens=False).ids].mean(axis=0)
        assert answer.json() == pytest.approx((mean / np.linalg.norm(mean)).tolist(), abs=1e-5)


# ---- minilm ----------------------------------------------------------------------------------------------------------


def test_vectors_are_those_of_the_model_called_directly(served: Served) -> None:
    """The mean over a text's tokens, of length 1, each text alone; cut at 256 tokens, as the folder says."""
    transformers = pytest.importorskip("transformers")
    folder = served.work("minilm") / "minilm"
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(folder).eval()
    texts = [*minilm.SENTENCES, "a", "Zwölf Boxkämpfer jagen Viktor 🦊", "many words " * 200]
    found = served.json("minilm", json.dumps({"inputs": texts}), **JSON)
    for text, vector in zip(texts, found, strict=True):
        with torch.no_grad():
            tokens = model(**tokenizer(text, truncation=True, max_length=256, return_tensors="pt")).last_hidden_state
        expected = torch.nn.functional.normalize(tokens[0].mean(dim=0), dim=0)
        assert vector == pytest.approx(expected.tolist(), abs=1e-5)


# ---- huggingface_handler -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stock(served: Served) -> Server:
    """Return a second server, with TorchServe's own worker."""
    archives = [f"{model}.mar" for model in huggingface.DEMO.archives]
    return served.server.sandbox.start(*archives, name="stock", options=("--stock-worker",))


@pytest.mark.parametrize("worker", ["torchmar", "torchserve"])
def test_a_handler_says_what_the_folder_says_without_one(
    served: Served, worker: str, request: pytest.FixtureRequest
) -> None:
    """By each worker: classes, scores and explanations, of texts of several lengths that run together, too."""
    server: Server = request.getfixturevalue("stock") if worker == "torchserve" else served.server
    huggingface.ask(demos.Server(server.inference, server.management), served.root)
    texts = ["what a day", "the worst soup of the day and the worst film", "kind", "unknown words alone"]
    calls = [
        lambda name=name, text=text: predict(server, name, text) for name in ("mood_handler", "mood") for text in texts
    ]  # type: ignore[misc]
    answers = at_once(calls)
    assert [answer.status for answer in answers] == [200] * 2 * len(texts)
    for one, other in zip(answers[: len(texts)], answers[len(texts) :], strict=True):
        huggingface.require_same(one.json(), other.json())
    wrong = '{"txet": "what a day"}'
    refused = predict(server, "mood_handler", wrong, **JSON)
    assert refused.status == 400
    assert "send a text" in refused.text()
    if worker == "torchmar":  # TorchServe's refuses all that came together
        together = served.together("mood_handler", texts[0], wrong, texts[1])
        assert [answer.status for answer in together] == [200, 400, 200]


# ---- fizbuz ----------------------------------------------------------------------------------------------------------


def test_fizz_buzz_in_every_format(
    served: Served, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(fizbuz, "compile_program", lambda _: None)  # below
    served.ask("fizbuz")
    out = capfd.readouterr().out
    assert out.count("14 -> fizzbuzz") == 4
    assert out.count(f"{fizbuz.LARGE} -> buzz") == 2
    assert "1 worker" in out


@pytest.mark.slow  # its compiler takes as long as all else here
def test_fizz_buzz_in_cpp(served: Served, capfd: pytest.CaptureFixture[str]) -> None:
    lacking = [tool for tool in ("cmake", "c++") if shutil.which(tool) is None]
    if lacking:
        pytest.skip(f"{' and '.join(lacking)} is not installed here")
    served.ask("fizbuz")
    assert f"{fizbuz.LARGE + 1} buzz" in capfd.readouterr().out


def test_fizz_buzz_by_onnx_is_that_of_the_net(served: Served) -> None:
    from examples.fizbuz.fizbuz_net import FizbuzNet

    net = FizbuzNet().eval()
    net.load_state_dict(torch.load(served.work("fizbuz") / "fizbuz_sd.pt"))
    for count in (1, 3, 100):
        numbers = torch.arange(count) * 7
        bits = (numbers[:, None] >> torch.arange(10)) & 1
        body = json.dumps({"tensor_input": bits.tolist()})
        found = served.json("fizbuz_onnx", body, **JSON)["tensor_output"]
        with torch.no_grad():
            assert torch.allclose(torch.tensor(found), net(numbers), atol=1e-4)


@pytest.mark.parametrize("body", ['{"input.1": -1}', '{"input.1": "x"}', "[]", "{", '{"input.1": 1.5}', "true"])
def test_fizz_buzz_says_in_json_what_is_wrong(served: Served, body: str) -> None:
    for model in ("fizbuz_eager", "fizbuz_scripted"):
        answer = predict(served.server, model, body)
        assert answer.status == 400
        assert "a whole number from 0 to 2^62" in answer.json()["message"]


# ---- each by itself ------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", [*DEMOS, *(one.name for one in BY_THEMSELVES)])
def test_a_demo_passes_and_leaves_nothing_running(sandbox: Sandbox, name: str) -> None:
    options: tuple[str | Path, ...] = (
        "--port",
        "auto",
        "--work",
        sandbox.root / "build",
        "--model-store",
        sandbox.store,
    )
    if name == "efficientnet_lite0" and shutil.which("c++"):
        options += ("--aot",)
    cache = {downloads.CACHE_VARIABLE: str(downloads.cache_folder())}  # what is there already
    demo = ROOT / "examples" / name / "demo.py"
    done = sandbox.run("python", demo, *options, env=cache, timeout=580).ok()
    assert "demo passed: nothing is left running" in done.out
    assert sandbox.leftovers() == []
