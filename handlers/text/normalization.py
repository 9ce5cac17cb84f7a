"""Texts from requests, and the words that TorchServe's text classifier makes of them."""

from __future__ import annotations

import re
import string
import unicodedata
from typing import TYPE_CHECKING, Any

from handlers.batch.inputs import is_empty
from handlers.errors import BadInputError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

WANTED = 'a text, or {"text": "..."} as JSON'

# Tags, and entities such as &nbsp; and &#39;.
_MARKUP = re.compile(r"<[^>\n]*>|&(?:[a-z0-9]+|#[0-9]{1,6}|#x[0-9a-f]{1,6});")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_SPACED = str.maketrans({mark: f" {mark} " for mark in "'.,()!?"} | dict.fromkeys(";:", " "))

# Contractions by their ending. The models of TorchServe's users were trained on just these.
_ENDINGS = {
    ("n't", " not"): "are could did does do had has have is may might must need ought should was were would",
    ("'ve", " have"): "could i might must should so to they we what when where who why will would you",
    ("'d", " would"): "he i it she that there they we you",
    ("'d", " did"): "how where",
    ("'ll", " will"): "he how i it she they we what who you",
    ("'s", " is"): "he how it she that there what when where who why",
    ("'re", " are"): "they we what you",
}
_CONTRACTIONS = {
    f"{word}{end}": f"{word}{full}" for (end, full), words in _ENDINGS.items() for word in words.split()
} | {
    # TorchServe keeps the first letter of the contraction, whatever the word's own is.
    "ain't": "as not",
    "'cause": "'ecause",
    "can't": "cannot",
    "i'm": "i am",
    "let's": "let us",
    "ma'am": "madam",
    "o'clock": "of the clock",
    "sha'n't": "shall not",
    "shan't": "shall not",
    "so's": "so as",
    "won't": "will not",
    "y'all": "you all",
}
_CONTRACTED = re.compile("|".join(map(re.escape, _CONTRACTIONS)), re.ASCII | re.IGNORECASE)


def read_text(value: Any) -> str:
    """Return the text of a request: bytes in UTF-8, a str, or an object with the key `text`.

    Raises:
        BadInputError: it is none of these.
    """
    if isinstance(value, dict) and isinstance(value.get("text"), str):
        value = value["text"]
    if is_empty(value):
        raise BadInputError(f"the request has no text: send {WANTED}")
    if isinstance(value, bytes | bytearray | memoryview):
        try:
            return bytes(value).decode()
        except UnicodeDecodeError as error:
            raise BadInputError(f"the text is not UTF-8: byte {error.start} is {value[error.start]:#04x}") from error
    if not isinstance(value, str):
        raise BadInputError(f"the body is {type(value).__name__} and no text: send {WANTED}")
    return value


def without_markup(text: str) -> str:
    """Remove tags and entities."""
    return _MARKUP.sub("", text)


def without_contractions(text: str) -> str:
    """Write contractions out, with the first letter as it is, and remove all other apostrophes."""
    return _CONTRACTED.sub(lambda found: found[0][0] + _CONTRACTIONS[found[0].lower()][1:], text).replace("'", "")


def without_accents(text: str) -> str:
    """Replace accented letters by plain ones, and remove everything else that is not ASCII."""
    return unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode("ascii")


def without_punctuation(text: str) -> str:
    """Remove punctuation."""
    return text.translate(_PUNCTUATION)


def words(text: str) -> list[str]:
    """Split a text into plain words, as TorchServe's text classifier does.

    Without markup, accents and punctuation, in lower case, contractions written out: `<b>Isn't it caf\u00e9?</b>` is
    `is`, `not`, `it`, `cafe`.
    """
    return without_punctuation(without_accents(without_contractions(without_markup(text).lower()))).split()


def split(text: str) -> list[str]:
    """Split a text in lower case at blanks and at punctuation, which counts as words: torchtext's `basic_english`."""
    text = text.lower().replace('"', "").replace("<br />", " ")
    return text.translate(_SPACED).split()


def ngrams(tokens: Sequence[str], longest: int) -> Iterator[str]:
    """Yield the tokens, then the n-grams joined by blanks: pairs first, up to `longest` tokens."""
    for count in range(1, longest + 1):
        for begin in range(len(tokens) - count + 1):
            yield " ".join(tokens[begin : begin + count])
