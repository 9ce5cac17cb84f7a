"""The sentiment of a text: bags of words in, scores of two classes out."""

from __future__ import annotations

import torch
from torch import nn

WORDS = 20_000  # and pairs of words, that the network knows
SIZE = 32


class SentimentNet(nn.Module):
    """The mean of the words' vectors, and one layer. Takes what `nn.EmbeddingBag` takes, and returns `[batch, 2]`."""

    def __init__(self) -> None:
        super().__init__()
        self.vectors = nn.EmbeddingBag(WORDS, SIZE)
        nn.init.normal_(self.vectors.weight, std=0.1)
        self.layer = nn.Linear(SIZE, 2)

    def forward(self, words: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
        """Return the scores of the classes before softmax."""
        return self.layer(self.vectors(words, offsets))
