"""Names for classes: the archive's `index_to_name.json`."""

from __future__ import annotations

import itertools
import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from handlers.errors import BadInputError, LabelMapError

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Mapping, Sequence

logger = logging.getLogger(__name__)

_FORMS = 'expected {"0": "label", ...}, {"0": ["id", "label"], ...} or {"object_type_names": ["label", ...]}'


def load_label_mapping(mapping_file_path: str | os.PathLike[str]) -> dict[str, str] | None:
    """Read the label of each class index; return None, with a warning, if there is no such file.

    Of a list of names the last counts. `object_type_names` numbers its list from 0.

    Raises:
        LabelMapError: the file is not a map of labels.
    """
    path = Path(mapping_file_path)
    if not path.is_file():
        logger.warning("%s is missing: answers name classes by their index", path)
        return None
    try:
        mapping = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # broken JSON or UTF-8
        raise LabelMapError(f"{path} is not JSON: {error}", hint=_FORMS) from error
    if not isinstance(mapping, dict):
        raise LabelMapError(f"{path} holds {_kind(mapping)}", hint=_FORMS)
    if isinstance(mapping.get("object_type_names"), list):
        return {str(index): str(name) for index, name in enumerate(mapping["object_type_names"])}
    return {key: _label(path, key, value) for key, value in mapping.items()}


def _label(path: Path, key: str, value: Any) -> str:
    label = value[-1] if isinstance(value, list) and value else value
    if not isinstance(label, str):
        raise LabelMapError(f"{path}: the label of {key!r} is {_kind(label)}, not a text", hint=_FORMS)
    return label


def _kind(value: Any) -> str:
    kinds = {list: "a list", str: "a text", bool: "a boolean", type(None): "null", dict: "an object"}
    return kinds.get(type(value), "a number")


def map_class_to_label(
    probs: Sequence[Iterable[float]],
    mapping: Mapping[str, str] | None = None,
    lbl_classes: Iterable[Iterable[int]] | None = None,
) -> list[dict[str, float]]:
    """Pair probabilities with labels: a dict of label to probability for each row.

    `probs` is `[batch, k]`; `lbl_classes`, also `[batch, k]`, holds the class index of each probability, by
    default 0 to k-1. A class that `mapping` does not name goes by its index.
    """
    if lbl_classes is None:
        lbl_classes = itertools.repeat(range(len(list(probs[0]))), len(probs)) if probs else []
    names = mapping or {}
    return [
        {names.get(str(index), str(index)): probability for index, probability in zip(classes, row, strict=False)}
        for classes, row in zip(lbl_classes, probs, strict=False)
    ]


def class_index(target: Any) -> int:
    """Read the class that a request wants explained, `target`.

    Raises:
        BadInputError: it is not the index of a class.
    """
    try:
        return int(target.decode() if isinstance(target, bytes | bytearray) else target)
    except (TypeError, ValueError, OverflowError) as error:
        raise BadInputError(f"the target {target!r} is not the index of a class") from error
