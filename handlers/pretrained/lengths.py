"""Texts that are far longer than a model reads: what is needed of them, found without reading them whole."""

from __future__ import annotations

from typing import Any, Final

#: Characters for each token that a model reads: a text of no more of them is taken as it is.
_CHARACTERS: Final = 16
#: Tokens beyond those that are read: what follows a place in a text, or comes before it, changes its tokens nearby. To
#: BERT's tokenizer a word of more than 100 characters is one unknown token, and what is left of a cut one up to 100.
_BEYOND: Final = 128


def enough(tokenizer: Any, text: str, longest: int | None, *, end: bool = False) -> str:
    """Return a text, or of one that is far too long the beginning: with more tokens than `longest`, however few more.

    Its tokens are those that the whole text begins with, and the time for them is that of a text that is not too long.
    Blanks and unknown words may be thousands of characters without being tokens, so what is enough is tried.

    Args:
        tokenizer: of transformers.
        text: of any length.
        longest: tokens that are read at the most; None for no limit.
        end: return the end of the text in place of the beginning.
    """
    if longest is None:
        return text
    size = _CHARACTERS * (longest + _BEYOND)
    while size < len(text):
        part = text[-size:] if end else text[:size]
        if len(tokenizer(part, add_special_tokens=False, verbose=False)["input_ids"]) > longest + _BEYOND:
            return part
        size *= 4
    return text
