"""The inputs and outputs of a pretrained model, as far as its documents tell them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from archive_tool.metadata.record import TensorSpec
from archive_tool.pretrained.documents import read_object
from archive_tool.pretrained.task import labels_of
from handlers.pretrained.tasks import IMAGE_PROCESSOR, TASKS, TOKENIZER

if TYPE_CHECKING:
    from pathlib import Path

_TOKENIZER: Final = "tokenizer_config.json"
_INPUTS: Final = ("input_ids", "token_type_ids", "attention_mask")
#: For each task the outputs: a name, and the sizes, of which "labels" is the number of classes and others are settings
#: of config.json; None is any size.
_OUTPUTS: Final[dict[str, tuple[tuple[str, tuple[str | None, ...]], ...]]] = {
    "text-classification": (("logits", (None, "labels")),),
    "zero-shot-classification": (("logits", (None, "labels")),),
    "token-classification": (("logits", (None, None, "labels")),),
    "question-answering": (("start_logits", (None, None)), ("end_logits", (None, None))),
    "fill-mask": (("logits", (None, None, "vocab_size")),),
    "feature-extraction": (("last_hidden_state", (None, None, "hidden_size")),),
    "image-classification": (("logits", (None, "labels")),),
    "object-detection": (("logits", (None, None, None)), ("pred_boxes", (None, None, "4"))),
}


def find(folder: Path, config: Mapping[str, Any], task: str) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Return inputs and outputs; empty where the documents do not tell them."""
    needs = TASKS[task].needs
    if needs == TOKENIZER:
        inputs = tuple(TensorSpec(name, "int64", (None, None)) for name in _text_inputs(folder))
    elif needs == IMAGE_PROCESSOR:
        channels = _number(config.get("num_channels")) or 3
        inputs = (TensorSpec("pixel_values", "float32", (None, channels, None, None)),)
    else:
        inputs = ()
    outputs = tuple(
        TensorSpec(name, "float32", tuple(_size(config, size) for size in sizes))
        for name, sizes in _OUTPUTS.get(task, ())
    )
    return inputs, outputs


def _text_inputs(folder: Path) -> list[str]:
    """Return what the tokenizer makes, in the order of a tokenizer's own."""
    settings = read_object(folder / _TOKENIZER) if (folder / _TOKENIZER).is_file() else {}
    named = settings.get("model_input_names")
    wanted = named if isinstance(named, list) else ["input_ids", "attention_mask"]
    return [name for name in _INPUTS if name in wanted]


def _size(config: Mapping[str, Any], size: str | None) -> int | None:
    if size is None:
        return None
    if size == "labels":
        return len(labels_of(config)) or _number(config.get("num_labels"))
    return int(size) if size.isdigit() else _number(config.get(size))


def _number(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None
