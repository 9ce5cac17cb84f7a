"""Archives as folders, and the machinery of the installed torchserve package to run them on."""

from __future__ import annotations

import io
import json
import struct
import sys
import textwrap
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # the package leaves a file open and uses what Python deprecates
    import ts.model_loader
    from ts.context import Context, RequestProcessor
    from ts.metrics.metric_cache_yaml_impl import MetricsCacheYamlImpl


@dataclass
class Item:
    """The reply to one request."""

    request_id: str
    content_type: str
    status: int
    phrase: str
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Reply:
    """The reply to one batch, as the frontend decodes it."""

    code: int
    message: str
    items: list[Item]


def parse_reply(data: bytes) -> Reply:
    """Decode what a worker sends: every length counts bytes, -1 ends the list."""
    stream = io.BytesIO(bytes(data))

    def integer() -> int:
        return struct.unpack("!i", stream.read(4))[0]

    def text() -> str:
        return stream.read(integer()).decode()

    code, message, items = integer(), text(), []
    while (length := integer()) != -1:
        request_id = stream.read(length).decode()
        content_type, status, phrase = text(), integer(), text()
        headers = {text(): text() for _ in range(integer())}
        items.append(Item(request_id, content_type, status, phrase, headers, stream.read(integer())))
    assert stream.read() == b""
    return Reply(code, message, items)


def request(
    number: int, body: Any = None, headers: dict[str, str] | None = None, parameters: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Make a request as the worker's codec hands it to the service."""
    values = parameters if parameters is not None else {"body": body}
    kind = next((value for name, value in (headers or {}).items() if name.lower() == "content-type"), "")
    return {
        "requestId": f"request-{number}".encode(),
        "headers": [{"name": k.encode(), "value": v.encode()} for k, v in (headers or {}).items()],
        "parameters": [{"name": k, "contentType": kind.split(";")[0], "value": v} for k, v in values.items()],
    }


class StockWorker:
    """A model loaded by TorchServe's own loader, in this process."""

    def __init__(self, model_dir: Path, handler: str, *, gpu: int | None = None, envelope: str | None = None) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)  # it leaves the file open
            metrics = MetricsCacheYamlImpl(str(Path(ts.__file__).parent / "configs" / "metrics.yaml"))
        metrics.initialize_cache()
        loader = ts.model_loader.ModelLoaderFactory.get_model_loader()
        self.service = loader.load("model", str(model_dir), handler, gpu, 8, envelope, True, metrics)
        self.service.set_cl_socket(None)

    @property
    def handler(self) -> Any:
        return self.service._entry_point.__self__

    def predict(self, *requests: Any) -> Reply:
        """Answer a batch of requests, or of bodies."""
        batch = [
            item if isinstance(item, dict) and "requestId" in item else request(number, item)
            for number, item in enumerate(requests)
        ]
        return self.answer(batch)

    def answer(self, batch: list[dict[str, Any]]) -> Reply:
        """Answer a batch as the worker's codec gives it."""
        return parse_reply(self.service.predict(batch))


@dataclass
class Archives:
    """A maker of folders as archives are when extracted."""

    root: Path

    def make(
        self,
        *,
        model_file: str | None = None,
        weights: Any = None,
        handler: str | None = None,
        config: dict[str, Any] | None = None,
        labels: Any = None,
        vocabulary: Any = None,
        serialized: str = "weights.pt",
    ) -> Path:
        """Write the given parts; `weights` is a state dict, a ScriptModule or None. The handler is `h_<folder>`."""
        folder = self.root / f"archive{len(list(self.root.iterdir()))}"
        (folder / "MAR-INF").mkdir(parents=True)
        entry: dict[str, str] = {"modelName": "model", "modelVersion": "1.0", "handler": "unused"}
        if model_file is not None:
            entry["modelFile"] = f"net_{folder.name}.py"
            (folder / entry["modelFile"]).write_text(textwrap.dedent(model_file))
        if weights is not None:
            entry["serializedFile"] = serialized
            if isinstance(weights, torch.jit.ScriptModule):
                weights.save(str(folder / serialized))
            else:
                torch.save(weights, folder / serialized)
        if handler is not None:
            (folder / f"h_{folder.name}.py").write_text(textwrap.dedent(handler))
        if config is not None:
            entry["configFile"] = "model-config.yaml"
            (folder / "model-config.yaml").write_text(yaml.safe_dump(config))
        if labels is not None:
            (folder / "index_to_name.json").write_text(json.dumps(labels))
        if vocabulary is not None:
            torch.save(vocabulary, folder / "source_vocab.pt")
        (folder / "MAR-INF" / "MANIFEST.json").write_text(json.dumps({"model": entry}))
        return folder

    def serve(self, *, envelope: str | None = None, **parts: Any) -> StockWorker:
        """Make an archive and load it as TorchServe's worker does."""
        return self.load(self.make(**parts), envelope=envelope)

    def load(self, folder: Path, handler: str | None = None, *, envelope: str | None = None) -> StockWorker:
        """Load an extracted archive as TorchServe's worker does; `handler`: its file, if of another name."""
        sys.path.insert(0, str(folder))
        return StockWorker(folder, handler or f"h_{folder.name}.py", envelope=envelope)


@contextmanager
def _archives(root: Path) -> Iterator[Archives]:
    """Yield a maker of archives; what their files add to the interpreter goes with it."""
    root.mkdir()
    path, known = list(sys.path), set(sys.modules)
    try:
        yield Archives(root)
    finally:
        sys.path[:] = path
        for name in set(sys.modules) - known:
            if str(getattr(sys.modules[name], "__file__", None) or "").startswith(str(root)):
                del sys.modules[name]


@pytest.fixture(scope="module", autouse=True)
def _one_thread(one_thread):
    """Use one thread: all models here are tiny."""


@pytest.fixture
def archives(tmp_path):
    """Yield a maker of archives, for a test."""
    with _archives(tmp_path / "archives") as made:
        yield made


@pytest.fixture(scope="class")
def class_archives(tmp_path_factory):
    """Yield a maker of archives, for all tests of a class."""
    with _archives(tmp_path_factory.mktemp("class") / "archives") as made:
        yield made


@pytest.fixture
def make_context():
    """Make TorchServe's own context, with as many requests as asked for."""

    def make(folder: Path | None = None, *, requests: int = 0, headers: Any = None, **values: Any) -> Any:
        manifest_file = folder / "MAR-INF" / "MANIFEST.json" if folder else None
        manifest = json.loads(manifest_file.read_text()) if manifest_file and manifest_file.exists() else None
        config = values.pop("config", {})
        gpu = values.pop("gpu", None)
        context = Context("model", str(folder or ""), manifest, 8, gpu, "0.12.0", True, None, config)
        if requests:
            context.request_processor = [RequestProcessor((headers or {}).get(i, {})) for i in range(requests)]
            context.request_ids = {i: f"request-{i}" for i in range(requests)}
        for name, value in values.items():
            setattr(context, name, value)
        return context

    return make


@pytest.fixture
def read_reply():
    """Decode a frame that a worker sends."""
    return parse_reply


@pytest.fixture
def ask():
    """Make a request with headers or parameters, for `StockWorker.predict`."""
    return request


@pytest.fixture
def picture():
    """Make the bytes of an image."""

    def make(mode: str = "RGB", size: tuple[int, int] = (40, 30), form: str = "PNG", seed: int = 0) -> bytearray:
        from PIL import Image

        generator = torch.Generator().manual_seed(seed)
        channels = {"RGB": 3, "RGBA": 4, "L": 1, "CMYK": 4, "LA": 2, "P": 3, "1": 1}[mode]
        pixels = torch.randint(0, 256, (size[1], size[0], channels), generator=generator, dtype=torch.uint8)
        if mode == "P":
            image = Image.fromarray(pixels.numpy()).quantize(16)
        elif mode == "1":
            image = Image.fromarray(pixels.squeeze(-1).numpy()).convert("1")
        else:
            image = Image.frombytes(mode, size, pixels.numpy().tobytes())
        stream = io.BytesIO()
        image.save(stream, form)
        return bytearray(stream.getvalue())

    return make


@pytest.fixture(scope="session")
def make_tokenizer():
    """Write a tokenizer.json of whole words, with [CLS] before and [SEP] after a text as BERT has them."""

    def make(path: Path, words: str, *, padding: dict[str, Any] | None = None, truncation: int | None = None) -> Path:
        from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

        names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *words.split()]
        tokenizer = Tokenizer(models.WordLevel({name: index for index, name in enumerate(names)}, unk_token="[UNK]"))
        tokenizer.normalizer = normalizers.Lowercase()
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        tokenizer.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", None, [("[CLS]", 2), ("[SEP]", 3)])
        if padding is not None:
            tokenizer.enable_padding(**padding)
        if truncation is not None:
            tokenizer.enable_truncation(truncation)
        tokenizer.save(str(path))
        return path

    return make
