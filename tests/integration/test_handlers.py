"""The handlers that need no code, each served by name; their answers are those of the models called directly.

One of each kind of input is served in every run, the others by the slow tests: a worker of each takes seconds.
"""

from __future__ import annotations

import importlib.util
import io
import json
import wave
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn

import archive_tool
from tests.later import Later

from .conftest import OPEN, PYTHON_FIRST, Sandbox, Server
from .support import ask as ask_for
from .support import at_once, model_log, predict

pytestmark = pytest.mark.parametrize("frontend", PYTHON_FIRST, scope="module")
transforms = Later("torchvision.transforms")
captum = Later("captum.attr")

NETS = {
    "classifier": """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.pool, self.layer = nn.AdaptiveAvgPool2d(4), nn.Linear(48, 10)
            def forward(self, pictures): return self.layer(self.pool(pictures).flatten(1))
    """,
    "detector": """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.layer = nn.Linear(3, 5)
            def forward(self, pictures):
                found = []
                for picture in pictures:
                    left, top, right, bottom, score = self.layer(picture.mean(dim=(1, 2))).sigmoid()
                    boxes = torch.stack([left, top, right, bottom])[None].repeat(2, 1) * picture.shape[2]
                    scores = torch.stack([score, score / 4])
                    found.append({"boxes": boxes, "labels": torch.tensor([1, 2]), "scores": scores})
                return found
    """,
    "segmenter": """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.layer = nn.Conv2d(3, 4, 3, padding=1)
            def forward(self, pictures): return {"out": self.layer(pictures)}
    """,
    "news": """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.embedding, self.layer = nn.EmbeddingBag(5, 8), nn.Linear(8, 4)
            def forward(self, words, offsets): return self.layer(self.embedding(words, offsets))
    """,
    "embedder": """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.table = nn.Embedding(8, 6)
            def forward(self, ids, mask): return {"last_hidden_state": self.table(ids)}
    """,
    "names": """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.table = nn.Embedding(8, 10)
            def forward(self, ids, mask): return self.table(ids)
    """,
    "listener": """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.layer = nn.Conv1d(1, 3, 5)
            def forward(self, sounds): return self.layer(sounds).mean(dim=2)
    """,
    "writer": """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.table = nn.Embedding(8, 8)
            def forward(self, ids, mask): return self.table(ids)
    """,
}
PICTURES = {"classifier": "image_classifier", "detector": "object_detector", "segmenter": "image_segmenter"}
TEXTS = {
    "news": "text_classifier",
    "embedder": "text_embedder",
    "names": "token_classifier",
    "writer": "text_generator",
}
HANDLERS = PICTURES | TEXTS | {"listener": "audio_handler"}
FEW = ("classifier", "news", "embedder", "listener")
WORDS = ["rain", "stops", "the", "final"]
LABELS = {str(index): f"kind {index}" for index in range(10)}
BATCHES = "backend: {mode: shared, max_batch_size: 8}\nminWorkers: 2\nmaxWorkers: 2\n"


@dataclass
class Served:
    """One server with the models that were asked for, and the same models in this process."""

    server: Server
    _nets: dict[str, Any] = field(default_factory=dict)

    def net(self, name: str) -> Any:
        """Return a model, which is served from now on."""
        if name not in self._nets:
            self._nets[name] = build(self.server.sandbox, name)
            self.server.sandbox.torchmar("register", f"{name}.mar").ok()
        return self._nets[name]


def net(folder: Path, name: str) -> nn.Module:
    """Make a model with seeded weights, and its files in the folder."""
    body = "\n".join(line[8:] for line in NETS[name].splitlines())
    file = folder / f"{name}_net.py"
    file.write_text(f"import torch\nfrom torch import nn\n{body}")
    spec = importlib.util.spec_from_file_location(f"{name}_net", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    torch.manual_seed(0)
    made: nn.Module = module.Net().eval()
    torch.save(made.state_dict(), folder / f"{name}.pt")
    return made


@pytest.fixture(scope="module")
def served(shared_sandbox: Sandbox) -> Served:
    box = shared_sandbox
    (box.root / "index_to_name.json").write_text(json.dumps(LABELS))
    (box.root / "model-config.yaml").write_text(BATCHES)
    torch.save(["<unk>", *WORDS], box.root / "source_vocab.pt")
    save_tokenizer(box.root / "tokenizer.json")
    return Served(box.start(options=OPEN))


def build(box: Sandbox, name: str) -> nn.Module:
    """Build the archive of a model; return the model."""
    made = net(box.root, name)
    more = ["index_to_name.json"]
    if name in TEXTS:
        more.append("source_vocab.pt" if name == "news" else "tokenizer.json")
    archive_tool.build(
        model_name=name,
        handler=HANDLERS[name],
        model_file=box.root / f"{name}_net.py",
        serialized_file=box.root / f"{name}.pt",
        extra_files=[box.root / one for one in more],
        config_file=box.root / "model-config.yaml",
        export_path=box.store,
    )
    return made


def save_tokenizer(path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS]
    tokenizer = Tokenizer(models.WordLevel({name: index for index, name in enumerate(names)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", None, [("[CLS]", 2), ("[SEP]", 3)])
    tokenizer.save(str(path))


def picture(seed: int, size: tuple[int, int] = (300, 260)) -> bytes:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (size[1], size[0], 3), generator=generator, dtype=torch.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels.numpy()).save(stream, "PNG")
    return stream.getvalue()


def wav(seed: int, count: int = 800) -> tuple[bytes, torch.Tensor]:
    """Return a file, and its samples as a model takes them."""
    samples = torch.randint(-(1 << 15), 1 << 15, (count,), generator=torch.Generator().manual_seed(seed))
    stream = io.BytesIO()
    with wave.open(stream, "wb") as file:
        file.setparams((1, 2, 16000, 0, "NONE", ""))
        file.writeframes(samples.to(torch.int16).numpy().tobytes())
    return stream.getvalue(), samples.float()[None, None] / (1 << 15)


def for_imagenet(content: bytes) -> torch.Tensor:
    processing = transforms.Compose(
        [
            transforms.Resize(256),
            transforms.CenterCrop(224),
            transforms.ToTensor(),
            transforms.Normalize(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225]),
        ]
    )
    tensor: torch.Tensor = processing(Image.open(io.BytesIO(content)))
    return tensor[None]


def ask(served: Served, name: str, *bodies: bytes) -> list[Any]:
    """Return answers to requests that are sent at once, so that they run in batches."""
    served.net(name)
    answers = at_once([lambda body=body: predict(served.server, name, body) for body in bodies])  # type: ignore[misc]
    assert [answer.status for answer in answers] == [200] * len(bodies), model_log(served.server)[-4000:]
    return [answer.json() for answer in answers]


def test_image_classifier(served: Served) -> None:
    bodies = [picture(seed) for seed in range(4)]
    for reply, body in zip(ask(served, "classifier", *bodies), bodies, strict=True):
        with torch.inference_mode():
            values, classes = served.net("classifier")(for_imagenet(body)).softmax(dim=1)[0].topk(5)
        expected = {LABELS[str(index)]: value for index, value in zip(classes.tolist(), values.tolist(), strict=True)}
        assert reply == pytest.approx(expected, abs=1e-5)
        assert list(reply) == list(expected)


@pytest.mark.slow
def test_object_detector(served: Served) -> None:
    bodies = [picture(seed, (60 + 20 * (seed % 2), 40)) for seed in range(6)]
    for reply, body in zip(ask(served, "detector", *bodies), bodies, strict=True):
        with torch.inference_mode():
            (found,) = served.net("detector")(transforms.ToTensor()(Image.open(io.BytesIO(body)))[None])
        pairs = zip(found["boxes"].tolist(), found["labels"].tolist(), found["scores"].tolist(), strict=True)
        expected = [(LABELS[str(label)], box, score) for box, label, score in pairs if score >= 0.5]
        assert len(reply) == len(expected)
        for item, (label, box, score) in zip(reply, expected, strict=True):
            assert item[label] == pytest.approx(box, abs=1e-3)
            assert item["score"] == pytest.approx(score, abs=1e-5)


@pytest.mark.slow
def test_image_segmenter(served: Served) -> None:
    bodies = [picture(seed) for seed in range(2)]
    for reply, body in zip(ask(served, "segmenter", *bodies), bodies, strict=True):
        with torch.inference_mode():
            values, classes = served.net("segmenter")(for_imagenet(body))["out"].softmax(dim=1)[0].max(dim=0)
        assert torch.allclose(torch.tensor(reply), torch.stack([classes.float(), values], dim=2), atol=1e-4)


def test_text_classifier(served: Served) -> None:
    texts = {"the rain": [3, 1, 0], "final": [4], "rain stops the final, truly": [1, 2, 3, 4, 0, 0, 0, 0, 0]}
    for reply, numbers in zip(ask(served, "news", *map(str.encode, texts)), texts.values(), strict=True):
        with torch.inference_mode():
            (values,) = served.net("news")(torch.tensor(numbers), torch.tensor([0])).softmax(dim=1).tolist()
        assert reply == pytest.approx({LABELS[str(index)]: value for index, value in enumerate(values)}, abs=1e-5)


def test_each_request_of_a_mixed_batch_is_explained_or_not(served: Served) -> None:
    """Predictions and explanations are sent at once, those with a target of their own, in a form's field or in JSON."""
    server, image = served.server, picture(0)
    for name in ("classifier", "news", "embedder"):
        served.net(name)
    as_json = {"Content-Type": "application/json"}
    file = server.sandbox.file("explained.png", image)
    news = [json.dumps({"text": "rain final", "target": target}) for target in (0, 3)]
    answers = at_once(
        [
            lambda: predict(server, "classifier", image).json(),
            lambda: json.loads(server.curl("/explanations/classifier", "-F", f"data=@{file}", "-F", "target=7")[1]),
            lambda: ask_for(server.inference, "/explanations/classifier", image).json(),
            lambda: predict(server, "classifier", b"no picture").status,
            lambda: ask_for(server.inference, "/explanations/classifier", b"no picture").status,
            lambda: ask_for(server.inference, "/explanations/news", news[0], as_json).json(),
            lambda: predict(server, "news", "rain final").json(),
            lambda: ask_for(server.inference, "/explanations/news", news[1], as_json).json(),
            lambda: ask_for(server.inference, "/explanations/embedder", "rain").status,
        ]
    )
    assert answers[0] == ask(served, "classifier", image)[0]
    gradients = captum.IntegratedGradients(served.net("classifier"))
    for found, target in ((answers[1], 7), (answers[2], 0)):
        expected = gradients.attribute(for_imagenet(image), target=target, n_steps=15)[0]
        torch.testing.assert_close(torch.tensor(found), expected.float(), rtol=1e-3, atol=1e-5)
    assert answers[3:5] == [400, 400]

    def chances(*numbers: int) -> torch.Tensor:
        with torch.inference_mode():
            return served.net("news")(torch.tensor(numbers), torch.tensor([0])).softmax(dim=1)[0]  # type: ignore[no-any-return]

    for found, target in ((answers[5], 0), (answers[7], 3)):
        falls = [(chances(1, 4, 0) - chances(left))[target].item() for left in (4, 1)]
        assert found["words"] == ["rain", "final"]
        assert found["importances"] == pytest.approx(falls, abs=1e-5)
    assert list(answers[6]) == [LABELS[str(index)] for index in range(4)]
    assert answers[8] == 501


# Texts, and their tokens' numbers.
TOKENS = {"rain": [2, 4, 3], "the final stops": [2, 6, 7, 5, 3], "rain rain": [2, 4, 4, 3]}


def test_text_embedder(served: Served) -> None:
    for reply, numbers in zip(ask(served, "embedder", *map(str.encode, TOKENS)), TOKENS.values(), strict=True):
        with torch.inference_mode():
            vector = served.net("embedder").table(torch.tensor(numbers)).mean(dim=0)
        assert reply == pytest.approx((vector / vector.norm()).tolist(), abs=1e-5)


@pytest.mark.slow
def test_token_classifier(served: Served) -> None:
    for (text, numbers), reply in zip(TOKENS.items(), ask(served, "names", *map(str.encode, TOKENS)), strict=True):
        with torch.inference_mode():
            values, classes = served.net("names")(torch.tensor([numbers]), None).softmax(dim=2)[0].max(dim=1)
        assert [one["entity"] for one in reply] == [LABELS[str(index)] for index in classes[1:-1].tolist()]
        assert [one["score"] for one in reply] == pytest.approx(values[1:-1].tolist(), abs=1e-5)
        assert [text[one["start"] : one["end"]] for one in reply] == text.split()


@pytest.mark.slow
def test_text_generator(served: Served) -> None:
    """As many tokens as asked for, each the most probable one; the stream has the same text."""
    as_json = {"Content-Type": "application/json"}
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS]
    table = served.net("writer").table.weight
    token, expected = 6, []
    while len(expected) < 5 and (token := int(table[token].argmax())) != 3:
        expected.append(names[token])
    whole = {"text": "the", "max_new_tokens": 5}
    bodies = [json.dumps(whole | {"stream": streamed}) for streamed in (False, True, False, True)]
    answers = at_once([lambda body=body: predict(served.server, "writer", body, **as_json) for body in bodies])  # type: ignore[misc]
    text = "".join(f" {name}" for name in expected)
    for answer in answers[::2]:
        assert answer.json()["text"] == text
        assert answer.json()["tokens"] == len(expected)
    for answer in answers[1::2]:
        assert answer.text() == text
        assert answer.header("content-type") == "text/plain; charset=utf-8"
        assert answer.header("transfer-encoding") == "chunked"


def test_audio_handler(served: Served) -> None:
    sounds = [wav(seed, 800 + 400 * (seed % 2)) for seed in range(4)]
    for reply, (_, sound) in zip(ask(served, "listener", *(content for content, _ in sounds)), sounds, strict=True):
        with torch.inference_mode():
            expected = served.net("listener")(sound)[0].tolist()
        assert reply == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    "name", [name if name in FEW else pytest.param(name, marks=pytest.mark.slow) for name in HANDLERS]
)
def test_a_bad_request_among_good_ones_fails_alone(served: Served, name: str) -> None:
    good = (b"rain", b"final") if name in TEXTS else (wav(1)[0], wav(2)[0]) if name == "listener" else ()
    first, second = good or (picture(1), picture(2))
    bodies = [first, b"\xff of no use", second, b""]
    served.net(name)
    answers = at_once([lambda body=body: predict(served.server, name, body) for body in bodies])  # type: ignore[misc]
    assert [answer.status for answer in answers] == [200, 400, 200, 400]
    assert [answer.json()["type"] for answer in (answers[1], answers[3])] == ["BadInputError"] * 2
