"""Tiny models with seeded weights, and what their inputs are made with, as users save theirs."""

from __future__ import annotations

import io
import json
import math
import struct
import wave
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from PIL import Image

from tests.later import Later

if find_spec("transformers") is None:
    pytest.skip("transformers is not installed", allow_module_level=True)


def _quieten(library):
    library.utils.logging.set_verbosity_error()
    library.utils.logging.disable_progress_bar()


transformers = Later("transformers", _quieten)

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


def make_t5():
    """Return a tiny T5, and a tokenizer for it, as a list of parts to save."""
    torch.manual_seed(1)
    config = transformers.T5Config(
        vocab_size=len(WORDS),
        d_model=16,
        d_kv=8,
        d_ff=32,
        num_layers=2,
        num_heads=2,
        initializer_factor=5.0,
        tie_word_embeddings=False,
        pad_token_id=0,
        eos_token_id=3,
        decoder_start_token_id=0,
        task_specific_params={"summarization": {"prefix": "the news : "}},
    )
    tokenizer = make_tokenizer(eos_token="[SEP]", model_max_length=64)
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    return [transformers.T5ForConditionalGeneration(config), tokenizer]


def make_byte_tokenizer(**options):
    """Return a tokenizer of bytes and of a few words, as those of models that write; a chat is its lines."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("t", "h"), ("th", "e"), ("\u0120", "the"), ("i", "n"), ("r", "a"), ("ra", "in")]
    words = ["<pad>", "<end>", *letters, *(first + second for first, second in merges)]
    inner = Tokenizer(models.BPE({word: index for index, word in enumerate(words)}, merges))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner,
        model_input_names=["input_ids", "attention_mask"],
        **{"pad_token": "<pad>", "eos_token": "<end>", "model_max_length": 128, **options},
    )
    tokenizer.chat_template = (
        "{% for one in messages %}{% if one['role'] == 'tool' %}{{ raise_exception('no tools') }}{% endif %}"
        "{{ one['role'] }}: {{ one['content'] }}\n{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
    )
    return tokenizer


def make_writer(kind="GPT2", seed=0, **settings):
    """Return a tiny model that writes on, and its tokenizer, as a list of parts to save."""
    torch.manual_seed(seed)
    tokenizer = make_byte_tokenizer(model_max_length=settings.get("max_position_embeddings", 128))
    sizes = (
        {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128}
        if kind == "GPT2"
        else {**SIZES, "hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2}
        | {"max_position_embeddings": 128}
    )
    config = getattr(transformers, f"{kind}Config")(
        **{"vocab_size": len(tokenizer), **sizes, "initializer_range": 0.3, "bos_token_id": 1, "eos_token_id": 1}
        | {"pad_token_id": 0, **settings}
    )
    model = getattr(transformers, "GPT2LMHeadModel" if kind == "GPT2" else f"{kind}ForCausalLM")(config)
    return [model.eval(), tokenizer]


SMALL = {**SIZES, "image_size": 32, "patch_size": 8}


def make_vit():
    """Return a tiny ViT for three classes, and its processor."""
    torch.manual_seed(0)
    labels = {"id2label": {0: "cat", 1: "dog", 2: "bird"}, "label2id": {"cat": 0, "dog": 1, "bird": 2}}
    model = transformers.ViTForImageClassification(transformers.ViTConfig(**SMALL, **labels))
    return [model, transformers.ViTImageProcessor(size={"height": 32, "width": 32})]


def make_yolos():
    """Return a tiny detector, and its processor."""
    torch.manual_seed(0)
    config = transformers.YolosConfig(**{**SMALL, "image_size": [32, 32]}, num_detection_tokens=6, num_labels=3)
    processor = transformers.YolosImageProcessor(size={"shortest_edge": 32, "longest_edge": 64})
    return [transformers.YolosForObjectDetection(config), processor]


def make_segformer():
    """Return a tiny segmenter, and its processor."""
    torch.manual_seed(0)
    config = transformers.SegformerConfig(
        num_encoder_blocks=2,
        depths=[1, 1],
        sr_ratios=[2, 1],
        hidden_sizes=[8, 16],
        num_attention_heads=[1, 2],
        patch_sizes=[7, 3],
        strides=[4, 2],
        mlp_ratios=[2, 2],
        decoder_hidden_size=16,
        num_labels=3,
    )
    processor = transformers.SegformerImageProcessor(size={"height": 32, "width": 32})
    return [transformers.SegformerForSemanticSegmentation(config), processor]


LETTERS = ["<pad>", "<s>", "</s>", "<unk>", "|", *"ABCDEFGH"]


def make_wav2vec2(scratch):
    """Return a tiny model that spells what it hears, and its processor, whose vocabulary is written to a folder."""
    torch.manual_seed(4)
    config = transformers.Wav2Vec2Config(
        vocab_size=len(LETTERS),
        **SIZES,
        conv_dim=(8, 8),
        conv_kernel=(10, 3),
        conv_stride=(5, 2),
        num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2,
        num_feat_extract_layers=2,
        pad_token_id=0,
    )
    vocabulary = scratch / "vocab.json"
    vocabulary.write_text(json.dumps({letter: index for index, letter in enumerate(LETTERS)}))
    tokenizer = transformers.Wav2Vec2CTCTokenizer(str(vocabulary))
    extractor = transformers.Wav2Vec2FeatureExtractor(return_attention_mask=False)
    processor = transformers.Wav2Vec2Processor(feature_extractor=extractor, tokenizer=tokenizer)
    return [transformers.Wav2Vec2ForCTC(config), processor]


def make_moonshine():
    """Return a tiny model that writes what it hears, and its processor."""
    torch.manual_seed(1)
    config = transformers.MoonshineConfig(
        vocab_size=len(WORDS),
        hidden_size=16,
        intermediate_size=32,
        encoder_num_hidden_layers=1,
        decoder_num_hidden_layers=1,
        encoder_num_attention_heads=2,
        decoder_num_attention_heads=2,
        encoder_num_key_value_heads=2,
        decoder_num_key_value_heads=2,
        initializer_range=0.5,
        bos_token_id=2,
        eos_token_id=3,
        pad_token_id=0,
        decoder_start_token_id=2,
    )
    extractor = transformers.Wav2Vec2FeatureExtractor(return_attention_mask=True, do_normalize=False)
    processor = transformers.Wav2Vec2Processor(feature_extractor=extractor, tokenizer=make_tokenizer())
    return [transformers.MoonshineForConditionalGeneration(config), processor]


def picture(seed, size=(48, 40)):
    """Return an image of noise."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def png(image):
    """Return an image's file."""
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def wav(samples, rate=16_000):
    """Return a sound's file."""
    stream = io.BytesIO()
    with wave.open(stream, "wb") as file:
        file.setparams((1, 2, rate, 0, "NONE", ""))
        file.writeframes(struct.pack(f"<{len(samples)}h", *samples))
    return stream.getvalue()


def tone(hertz, count):
    """Return the samples of a tone."""
    return [int(12_000 * math.sin(hertz * 2 * math.pi * index / 16_000)) for index in range(count)]
