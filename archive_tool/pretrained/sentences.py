"""Folders of sentence-transformers: a model, and what is done with its token vectors, as modules.json lists it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, NamedTuple

from archive_tool.errors import BuildError
from archive_tool.metadata.names import name_problem
from archive_tool.pretrained.documents import read_json, read_object
from handlers.pretrained.tasks import MODULES, SENTENCE_INPUT, SENTENCE_MODULES

if TYPE_CHECKING:
    from pathlib import Path

_MAX_MODULES: Final = 100
_HINT: Final = f"served are {', '.join(SENTENCE_MODULES)}, the first one first"


class Modules(NamedTuple):
    """The folder of the model below the one with modules.json, "" for that itself, and those of the other modules."""

    model: str
    others: tuple[str, ...]


def read(folder: Path) -> Modules | None:
    """Read the modules of a folder; None if it is none of sentence-transformers.

    Raises:
        BuildError: modules.json cannot be used, or names modules that the handler does not have.
    """
    path = folder / MODULES
    if not path.is_file():
        return None
    listed = read_json(path)
    if not isinstance(listed, list) or not 0 < len(listed) <= _MAX_MODULES:
        raise BuildError(f"{path} lists no modules", hint=_HINT)
    kinds, places = [], []
    for entry in listed:
        kind, place = (entry.get("type"), entry.get("path")) if isinstance(entry, Mapping) else (None, None)
        if not isinstance(kind, str) or not isinstance(place, str) or (place and name_problem(place)):
            raise BuildError(f"{path} has an entry without a type, or with a path out of the folder", hint=_HINT)
        kinds.append(kind.rpartition(".")[2])
        places.append(place)
    unknown = [kind for kind in kinds if kind not in SENTENCE_MODULES]
    if unknown or kinds[0] != SENTENCE_MODULES[0] or SENTENCE_MODULES[0] in kinds[1:]:
        raise BuildError(
            f"the modules {', '.join(kinds)} of sentence-transformers are not served", where=str(path), hint=_HINT
        )
    for kind, place in zip(kinds[1:], places[1:], strict=True):
        settings = folder / place / "config.json"
        reads = read_object(settings).get("module_input_name", SENTENCE_INPUT) if settings.is_file() else SENTENCE_INPUT
        if place and reads != SENTENCE_INPUT:
            raise BuildError(
                f"the module {kind} of sentence-transformers reads {reads!r:.80}, and not the {SENTENCE_INPUT}",
                where=str(settings),
                hint="models that compare token by token, such as ColBERT, are not served",
            )
    return Modules(places[0], tuple(place for place in places[1:] if place))
