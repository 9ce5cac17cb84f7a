"""Tokenization by a Hugging Face `tokenizer.json`; needs the package tokenizers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from handlers.errors import LoadError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

#: The inputs that a tokenizer can make, by their usual names, and the attribute of an encoding that holds each.
INPUTS = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}
_PADS = ("[PAD]", "<pad>", "<|endoftext|>", "</s>")


class TextTokenizer:
    """A tokenizer from its file. Texts are truncated at `max_length` tokens, or where the file says.

    Without `special_tokens` there are only tokens of the text, whatever the file adds to them.
    """

    def __init__(self, path: Path, max_length: int | None = None, *, special_tokens: bool = True) -> None:
        try:
            from tokenizers import Tokenizer
        except ImportError as error:
            raise LoadError(
                f"{path} needs the package tokenizers, which the server lacks",
                hint="pip install 'torchmar[text]', or name tokenizers in the archive's requirements file",
            ) from error
        try:
            self.tokenizer: Any = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises nothing narrower
            raise LoadError(f"{path} is no tokenizer: {error}", hint="save it with tokenizer.save(...)") from error
        padding = self.tokenizer.padding or {}
        known = (self.tokenizer.token_to_id(name) for name in _PADS)
        self.pad: int = padding["pad_id"] if padding else next((pad for pad in known if pad is not None), 0)
        self.length: int | None = padding.get("length")  # a model that was exported for one length
        self.tokenizer.no_padding()  # each text is encoded alone, and padded with those of its batch
        self.special_tokens = special_tokens
        if max_length is not None:
            self.tokenizer.enable_truncation(max_length)

    def encode(self, text: str) -> Any:
        """Return the `tokenizers.Encoding` of one text."""
        return self.tokenizer.encode(text, add_special_tokens=self.special_tokens)

    def tensors(self, encodings: Sequence[Any], names: Sequence[str]) -> list[torch.Tensor]:
        """Return the named inputs for a batch, each int64 `[batch, tokens]`, padded on the right to the longest."""
        longest = max(self.length or 0, *(len(encoding.ids) for encoding in encodings))
        return [
            padded(
                [getattr(encoding, INPUTS[name]) for encoding in encodings],
                longest,
                self.pad if name == "input_ids" else 0,
            )
            for name in names
        ]


def padded(rows: Sequence[Sequence[int]], length: int, value: int) -> torch.Tensor:
    """Return rows of numbers as a tensor, int64 `[rows, length]`, padded on the right with `value`."""
    return torch.tensor([[*row, *[value] * (length - len(row))] for row in rows], dtype=torch.int64)
