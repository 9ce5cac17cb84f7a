"""Train a classifier of moods for a few seconds, and save it as `save_pretrained` does: a folder to build from.

python examples/pretrained/train.py FOLDER
"""

from __future__ import annotations

import sys

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

SENTENCES = {
    "good": [
        "what a lovely day",
        "i love this song",
        "the film was great",
        "we had a wonderful time",
        "this is the best soup",
        "she was very kind to us",
    ],
    "bad": [
        "what a horrible day",
        "i hate this song",
        "the film was boring",
        "we had an awful time",
        "this is the worst soup",
        "she was very rude to us",
    ],
}
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
STEPS = 60


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer that knows the words of the sentences."""
    words = sorted({word for sentences in SENTENCES.values() for one in sentences for word in one.split()})
    numbers = {word: index for index, word in enumerate([*SPECIAL, *words])}
    tokenizer = Tokenizer(models.WordPiece(numbers, unk_token=SPECIAL[1]))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[(name, numbers[name]) for name in ("[CLS]", "[SEP]")]
    )
    names = dict(zip(("pad", "unk", "cls", "sep", "mask"), SPECIAL, strict=True))
    special = {f"{name}_token": token for name, token in names.items()}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=32, **special)


def train(folder: str) -> None:
    """Train the classifier and save it."""
    torch.manual_seed(0)
    tokenizer = make_tokenizer()
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=32,
        id2label=dict(enumerate(SENTENCES)),
        label2id={label: index for index, label in enumerate(SENTENCES)},
    )
    model = BertForSequenceClassification(config)
    rows = [(text, index) for index, texts in enumerate(SENTENCES.values()) for text in texts]
    batch = tokenizer([text for text, _ in rows], padding=True, return_tensors="pt")
    labels = torch.tensor([index for _, index in rows])
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(STEPS):
        loss = model(**batch, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    print(f"loss {loss.item():.3f}")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


if __name__ == "__main__":
    train(sys.argv[1])
