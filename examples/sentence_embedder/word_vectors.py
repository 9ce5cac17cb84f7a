"""Vectors of tokens: numbers of tokens `[batch, tokens]` in, their vectors `[batch, tokens, 256]` out."""

from __future__ import annotations

import torch
from torch import nn


class WordVectors(nn.Module):
    """A table, in the 16 bits that it was published in, so that it is mapped from the file as it is."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(32_000, 256, dtype=torch.float16)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        """Look the tokens up; the handler takes the mean of those that are no padding."""
        return self.embedding(input_ids)
