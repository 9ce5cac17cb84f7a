"""Tiny models with seeded weights, saved as users save theirs, and archives of them."""

from __future__ import annotations

import json
import logging
import warnings
from types import SimpleNamespace

import pytest
import torch

import archive_tool
import handlers
from handlers.builtin import SDK_HANDLERS
from handlers.testing import FakeContext

transformers = pytest.importorskip("transformers")
transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()

WORDS = [
    *(
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        ".",
        ",",
        "a",
        "ada",
        "love",
        "##lace",
        "lives",
        "in",
        "rome",
        "the",
    ),
    *("rain", "stops", "##ped", "final", "who", "where", "does", "is", "news", "of", "sport", "politics", "this"),
    *("example", "premise", "stop"),
]
SIZES = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    # Outputs that differ, although nothing was learned.
    "initializer_range": 0.5,
}


def make_tokenizer(**options):
    """Return a tokenizer of whole words and a few parts of words, with BERT's special tokens."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    numbers = {word: index for index, word in enumerate(WORDS)}
    inner = Tokenizer(models.WordPiece(numbers, unk_token="[UNK]"))
    inner.normalizer = normalizers.BertNormalizer(lowercase=True)
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    inner.decoder = decoders.WordPiece()
    inner.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(name, numbers[name]) for name in ("[CLS]", "[SEP]")],
    )
    special = {"unk": "[UNK]", "pad": "[PAD]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        **{"model_max_length": 64, **{f"{name}_token": token for name, token in special.items()}, **options},
    )


def make_bert(kind, **settings):
    """Return a tiny BERT with a head."""
    torch.manual_seed(3)
    config = transformers.BertConfig(vocab_size=len(WORDS), max_position_embeddings=64, **SIZES, **settings)
    return getattr(transformers, f"Bert{kind}")(config).eval()


def save(folder, *parts):
    """Save a model, a tokenizer and whatever else into one folder."""
    for part in parts:
        part.save_pretrained(folder)
    return folder


class Served:
    """An archive as a folder, and the handler in it."""

    def __init__(self, folder, manifest, config=None):
        self.folder = folder
        self.context = FakeContext(folder, manifest=manifest, config=config, batch_size=8)
        self.handler = getattr(handlers, SDK_HANDLERS[manifest["model"]["handler"]])()
        self.handler.initialize(self.context)

    def ask(self, *requests):
        """Answer a batch; return the replies as JSON has them, and the statuses."""
        rows = self.context.show(requests)
        replies = self.handler.handle(rows, self.context)
        statuses = [self.context.get_response_status(index)[0] for index in range(len(requests))]
        return SimpleNamespace(replies=json.loads(json.dumps(replies)), statuses=statuses)

    def one(self, request):
        """Answer one request."""
        answered = self.ask(request)
        assert answered.statuses == [200], answered.replies
        return answered.replies[0]


@pytest.fixture(scope="module")
def serve(tmp_path_factory):
    """Build an archive from a saved folder, and load its handler; `config` is model-config.yaml's."""

    def run(saved, config=None, **options):
        built = archive_tool.build(
            model_name="m",
            pretrained=saved,
            export_path=tmp_path_factory.mktemp("store"),
            archive_format="no-archive",
            vendor_sdk=False,
            **options,
        )
        manifest = json.loads((built.path / "MAR-INF" / "MANIFEST.json").read_text())
        return Served(built.path, manifest, config)

    return run


@pytest.fixture(scope="module")
def pipe():
    """Make a pipeline of transformers from a saved folder; None if this version has none for the task."""

    def run(task, folder, **options):
        from transformers.pipelines import PIPELINE_REGISTRY

        if task not in PIPELINE_REGISTRY.supported_tasks:
            return None
        return transformers.pipeline(task, model=str(folder), device="cpu", **options)

    return run


@pytest.fixture(autouse=True)
def _calm():
    """Let the library deprecate what it likes: its own calls do that, too."""
    logging.getLogger("transformers").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"transformers\..*")
        yield


def near(expected, tolerance=1e-4):
    """Return what compares equal to an answer whose numbers are about these."""
    if isinstance(expected, dict):
        return {key: near(value, tolerance) for key, value in expected.items()}
    if isinstance(expected, list | tuple):
        return [near(value, tolerance) for value in expected]
    if hasattr(expected, "item"):
        expected = expected.item()
    return pytest.approx(expected, rel=tolerance, abs=tolerance) if isinstance(expected, float) else expected
