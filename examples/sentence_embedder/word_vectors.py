"""Vectors of tokens: token ids `[batch, tokens]` in, their vectors `[batch, tokens, 256]` out."""

from __future__ import annotations

import torch
from torch import nn


class WordVectors(nn.Module):
    """A table in its published 16-bit type, so that it is mapped from the file as it is."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(32_000, 256, dtype=torch.float16)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        """Look up the tokens; the handler takes the mean of those that are not padding."""
        return self.embedding(input_ids)
