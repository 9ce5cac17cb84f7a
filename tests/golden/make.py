"""The maker of the archives in this folder, at 32163c8: the last tree whose SDK was flat. They are not made anew.

Each carries its copy of that SDK, and a sample with the answer of its time: what is built today must go on working.

::

    python tests/golden/make.py FOLDER
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tempfile
import wave
from pathlib import Path
from typing import Any

import torch
from PIL import Image

import archive_tool

_FILES = {
    "image_net.py": """
from torch import nn


class ImageNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(),
            nn.Linear(64, 3),
        )

    def forward(self, images):
        return self.layers(images)
""",
    "rgb_net.py": """
from torch import nn


class RgbNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(),
            nn.Linear(64, 3),
        )

    def forward(self, images):
        return self.layers(images)
""",
    "image_handler.py": """
from torchvision import transforms

from handlers import ImageClassifier


class Images(ImageClassifier):
    image_processing = transforms.Compose([transforms.Grayscale(), transforms.Resize((12, 12)), transforms.ToTensor()])
    topk = 3
""",
    "text_net.py": """
from torch import nn


class TextNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.words = nn.EmbeddingBag(8, 4)
        self.classes = nn.Linear(4, 2)

    def forward(self, numbers, offsets):
        return self.classes(self.words(numbers, offsets))
""",
    "text_handler.py": """
from handlers import TextClassifier


class Texts(TextClassifier):
    ngrams = 1
""",
    "script_handler.py": """
import torch

from handlers import BadInputError, BaseHandler


class Doubled(BaseHandler):
    def preprocess_one(self, data, context):
        try:
            return torch.tensor([float(data)])
        except ValueError:
            raise BadInputError("send a number") from None

    def postprocess_one(self, output, context):
        return {"doubled": output.item()}
""",
    "audio_handler.py": """
from handlers import AudioHandler


class Loudness(AudioHandler):
    sample_rate = 8_000

    def postprocess_one(self, output, context):
        return {"loudness": round(output.item(), 4)}
""",
}


class _Doubled(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * x


class _Loudness(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.abs().mean(dim=(1, 2))


def _image() -> bytes:
    image = Image.new("L", (20, 16))
    image.putdata([(7 * i * i) % 256 for i in range(320)])
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def _sound() -> bytes:
    stream = io.BytesIO()
    with wave.open(stream, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8_000)
        file.writeframes(b"".join((1000 * (i % 9)).to_bytes(2, "little", signed=True) for i in range(800)))
    return stream.getvalue()


def _net(source: str, name: str) -> torch.nn.Module:
    namespace: dict[str, Any] = {}
    exec(source, namespace)
    net: torch.nn.Module = namespace[name]().eval()
    return net


def make(store: Path) -> None:
    """Write the archives into a folder."""
    for name, text in _FILES.items():
        Path(name).write_text(text.lstrip(), encoding="utf-8")
    torch.manual_seed(4)
    torch.save(_net(_FILES["image_net.py"], "ImageNet").state_dict(), "image.pt")
    torch.save(_net(_FILES["rgb_net.py"], "RgbNet").state_dict(), "rgb.pt")
    torch.save(_net(_FILES["text_net.py"], "TextNet").state_dict(), "text.pt")
    words = ("<unk>", "<pad>", "what", "a", "good", "bad", "film", "day")
    torch.save({word: number for number, word in enumerate(words)}, "source_vocab.pt")
    Path("index_to_name.json").write_text(json.dumps({"0": "bad", "1": "good"}), encoding="utf-8")
    torch.jit.script(_Doubled()).save("doubled.pt")
    torch.jit.script(_Loudness()).save("loudness.pt")
    torch.jit.script(torch.nn.Linear(3, 2)).save("linear.pt")
    Path("image.png").write_bytes(_image())
    Path("text.txt").write_text("what a good day", encoding="utf-8")
    Path("number.txt").write_text("21", encoding="utf-8")
    Path("sound.wav").write_bytes(_sound())
    Path("rows.json").write_text(json.dumps([1, 2, 3]), encoding="utf-8")
    image = {"model_file": "image_net.py", "serialized_file": "image.pt", "sample": ["image.png"]}
    rgb = {"model_file": "rgb_net.py", "serialized_file": "rgb.pt"}
    parts: dict[str, dict[str, Any]] = {
        "eager": {"handler": "image_handler.py", **image},
        "builtin": {**rgb, "handler": "image_classifier", "sample": ["image.png"]},
        "script": {"handler": "script_handler.py", "serialized_file": "doubled.pt", "sample": ["number.txt"]},
        "text": {
            "handler": "text_handler.py",
            "model_file": "text_net.py",
            "serialized_file": "text.pt",
            "extra_files": ["source_vocab.pt", "index_to_name.json"],
            "sample": ["text.txt"],
        },
        "audio": {"handler": "audio_handler.py", "serialized_file": "loudness.pt", "sample": ["sound.wav"]},
        "tensor": {"handler": "tensor_handler", "serialized_file": "linear.pt", "sample": ["rows.json"]},
    }
    for name, given in parts.items():
        if "sample" in given:
            given["sample"] = [_with_answer(name, given)]
        archive_tool.build(model_name=name, export_path=store, force=True, **given)


def _with_answer(name: str, given: dict[str, Any]) -> str:
    """Return the sample and today's answer to it, as `build` takes both."""
    (sample,) = given["sample"]
    first = archive_tool.build(model_name=name, export_path="first", force=True, **given).path
    command = ("torchmar", "run", "--quiet", str(first), sample)
    answer = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    Path(f"{name}_answer.json").write_text(json.dumps(answer), encoding="utf-8")
    return f"{sample}={name}_answer.json"


if __name__ == "__main__":
    target = Path(sys.argv[1]).resolve()
    target.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as work:
        os.chdir(work)
        Path("first").mkdir()
        make(target)
