"""The indices of a model's words: an archive's `source_vocab.pt`."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from handlers.errors import LoadError, UnsafeCheckpointError, is_out_of_memory

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

_UNKNOWN = ("<unk>", "[UNK]")
_FORMS = 'save a dict, torch.save({"word": 0, ...}, "source_vocab.pt"), or the list of the words in their order'


class Vocabulary:
    """Indices for words. An unknown word gets the index of `<unk>`, or is left out if there is none.

    `vocabulary["rain"]` and all methods of the object in the file are there for handlers written for TorchServe, which
    passes them that object.
    """

    def __init__(self, table: Any) -> None:
        if isinstance(table, list | tuple):
            table = {word: index for index, word in enumerate(table)}
        self._table = table
        self._unknown = next((found for name in _UNKNOWN if (found := self._find(name)) is not None), None)

    def _find(self, word: str) -> int | None:
        try:
            return int(self._table[word])
        except (LookupError, RuntimeError):  # the latter: torchtext's vocabularies
            return None

    def __getitem__(self, word: str) -> int:
        number = self._find(word)
        if number is None:
            number = self._unknown
        if number is None:
            raise KeyError(word)
        return number

    def __contains__(self, word: str) -> bool:
        return self._find(word) is not None

    def __len__(self) -> int:
        return len(self._table)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # a copy in progress has no table yet
            raise AttributeError(name)
        return getattr(self._table, name)

    def numbers(self, words: Iterable[str]) -> list[int]:
        """Return the indices of words, in their order."""
        found = [self._unknown if number is None else number for number in map(self._find, words)]
        return [number for number in found if number is not None]


def read_vocabulary(path: Path, *, weights_only: bool = True) -> Vocabulary:
    """Read a file in which `torch.save` has stored a dict of words to indices, or a list of words.

    With `weights_only=False` it may hold any object that maps words to indices, such as torchtext's, and may run code
    while it is read.

    Raises:
        LoadError: the file cannot be read, or holds something else.
    """
    try:
        table = torch.load(path, map_location="cpu", weights_only=weights_only)
    except FileNotFoundError as error:
        raise LoadError(f"there is no vocabulary at {path}", hint=f"{_FORMS}; add it with --extra-files") from error
    except Exception as error:  # torch may raise anything for a broken file
        if is_out_of_memory(error):
            raise
        if weights_only and isinstance(error, pickle.UnpicklingError) and "GLOBAL" in str(error):
            raise UnsafeCheckpointError(
                f"{path} is not only data: reading it could run code",
                hint=f"{_FORMS}; if you trust its origin, set handler: {{weights_only: false}} in model-config.yaml",
            ) from error
        raise LoadError(f"{path} cannot be read: {error}", hint=_FORMS) from error
    plain = isinstance(table, list | tuple) and all(isinstance(word, str) for word in table)
    numbered = isinstance(table, Mapping) and all(
        isinstance(word, str) and isinstance(number, int) for word, number in table.items()
    )
    other = not isinstance(table, list | tuple | Mapping) and hasattr(table, "__getitem__")
    if not (plain or numbered or (other and not weights_only)):
        raise LoadError(f"{path} holds {type(table).__name__} that gives no numbers for words", hint=_FORMS)
    return Vocabulary(table)
