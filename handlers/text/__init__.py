"""Handlers for text, and the tokens of a text."""

from handlers.text.normalization import ngrams, words

__all__ = ["ngrams", "words"]
