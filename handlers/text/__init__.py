"""Handlers for text, and how text becomes tokens."""

from handlers.text.normalization import ngrams, words

__all__ = ["ngrams", "words"]
