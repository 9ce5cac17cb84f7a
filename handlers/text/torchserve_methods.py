"""The methods of TorchServe's text handler that handlers derived from it call, under their names there."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

from handlers.errors import NotSupportedError
from handlers.text import normalization

if TYPE_CHECKING:
    from collections.abc import Sequence


class StockTextMethods:
    """The helpers that a `preprocess` or `get_insights` written for TorchServe calls on `self`."""

    model: Any
    input_text: Any = None

    def _remove_html_tags(self, content: str) -> str:
        return normalization.without_markup(content)

    def _expand_contractions(self, content: str) -> str:
        return normalization.without_contractions(content)

    def _remove_accented_characters(self, content: str) -> str:
        return normalization.without_accents(content)

    def _remove_punctuation(self, content: str) -> str:
        return normalization.without_punctuation(content)

    _remove_puncutation = _remove_punctuation  # TorchServe has both spellings

    def _tokenize(self, content: str) -> list[str]:
        return normalization.split(content)

    def get_word_token(self, input_tokens: Sequence[str]) -> list[str]:
        """Remove the mark for a blank from the tokens of a byte-pair tokenizer."""
        return [token.replace("\u0120", "") for token in input_tokens]

    def summarize_attributions(self, attributions: torch.Tensor) -> torch.Tensor:
        """Scale attributions: their softmax, divided by the norm of their sums."""
        shares = functional.softmax(attributions, dim=0 if attributions.ndim in (0, 1, 3) else 1)
        summarized: torch.Tensor = shares / torch.norm(shares.sum(dim=-1))
        return summarized

    @cached_property
    def lig(self) -> Any:
        """Captum's integrated gradients for the model's layer `embedding`.

        Raises:
            NotSupportedError: the package captum is missing.
        """
        try:
            from captum.attr import LayerIntegratedGradients
        except ImportError as error:
            raise NotSupportedError("explanations need the package captum, which the server lacks") from error
        return LayerIntegratedGradients(self.model, self.model.embedding)
