"""Folders as `save_pretrained` writes them, without transformers: settings, and weights of a few bytes."""

from __future__ import annotations

import json
import struct

import pytest

CARD = """\
---
license: apache-2.0
base_model: some/base
tags:
- test
---
# A model
"""


def safetensors(names=("weight",)):
    """Return a file of weights, each one number."""
    header = {
        name: {"dtype": "F32", "shape": [1], "data_offsets": [4 * index, 4 * index + 4]}
        for index, name in enumerate(names)
    }
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(4 * len(names))


def write(folder, files):
    """Write files by their names: bytes, texts, or what becomes JSON."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            path.write_text(content if isinstance(content, str) else json.dumps(content))
    return folder


@pytest.fixture
def saved(work):
    """Write a classifier's folder; `settings` are added to its config.json, `files` to the folder."""

    def make(name="net", /, files=None, **settings):
        config = {
            "architectures": ["BertForSequenceClassification"],
            "model_type": "bert",
            "id2label": {"0": "bad", "1": "good"},
        }
        return write(
            work / name,
            {
                "config.json": config | settings,
                "model.safetensors": safetensors(),
                "tokenizer.json": {"version": "1.0"},
                "tokenizer_config.json": {"model_input_names": ["input_ids", "token_type_ids", "attention_mask"]},
                "README.md": CARD,
                **(files or {}),
            },
        )

    return make
