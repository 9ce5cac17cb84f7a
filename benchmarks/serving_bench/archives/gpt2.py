"""transformers' GPT-2 of the sizes in the config.json beside this file, as a model file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import GPT2Config, GPT2LMHeadModel


class Gpt2(GPT2LMHeadModel):
    """A text's tokens in, `[batch, tokens, words]` out, as `logits`."""

    def __init__(self) -> None:
        super().__init__(GPT2Config.from_pretrained(Path(__file__).parent))

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Any:
        """Score the token that follows each token."""
        return super().forward(input_ids=input_ids, attention_mask=attention_mask, use_cache=False)
