"""The JSON documents of a folder of Hugging Face's, and the head of its model card; all are foreign, and bounded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from archive_tool import files, json_text
from archive_tool.errors import BuildError

if TYPE_CHECKING:
    from pathlib import Path

CARD: Final = "README.md"
_FENCE: Final = "---"


def read_object(path: Path) -> Mapping[str, Any]:
    """Read a JSON object.

    Raises:
        BuildError: it cannot be read, or is something else.
    """
    found = read_json(path)
    if not isinstance(found, Mapping):
        raise BuildError(f"{path} holds no JSON object", hint="save the model again: model.save_pretrained(folder)")
    return found


def read_json(path: Path) -> Any:
    """Read a JSON document.

    Raises:
        BuildError: it cannot be read, is not JSON, or is longer or deeper than an honest one.
    """
    try:
        return json_text.loads(files.read_regular(path, json_text.MAX_BYTES))
    except OSError as error:
        raise BuildError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise BuildError(f"{path} is not JSON: {error}") from error


@dataclass(frozen=True)
class Card:
    """What a model card states; empty where it states nothing.

    Attributes:
        licence: its identifier on the Hub, such as "apache-2.0"; the name of one that the Hub does not know.
        base_models: the models that this one was made of.
        task: the task that the Hub shows the model under.
    """

    licence: str | None = None
    base_models: tuple[str, ...] = ()
    task: str | None = None


def read_card(folder: Path) -> tuple[Card, str | None]:
    """Read the model card of a folder; return also what is wrong with it, which is no reason to refuse the model."""
    try:
        text = files.read_text(folder / CARD)
    except FileNotFoundError:
        return Card(), None
    except (OSError, UnicodeDecodeError) as error:
        return Card(), f"the model card cannot be read: {getattr(error, 'strerror', None) or error}"
    first, newline, rest = text.partition("\n")
    head, fence, _ = rest.partition(f"\n{_FENCE}")
    if first.strip() != _FENCE or not newline or not fence:
        return Card(), None
    # Here, because most builds need no YAML library.
    from archive_tool.config import safe_yaml

    try:
        document = safe_yaml.construct(safe_yaml.compose(head))
    except ValueError as error:
        return Card(), f"the head of the model card is {error}"
    if not isinstance(document, Mapping):
        return Card(), None
    base = document.get("base_model")
    named = [base] if isinstance(base, str) else base if isinstance(base, list) else []
    licence = _text(document.get("license"))
    if licence == "other":
        licence = _text(document.get("license_name")) or licence
    return Card(licence, tuple(one for one in named if isinstance(one, str)), _text(document.get("pipeline_tag"))), None


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None
