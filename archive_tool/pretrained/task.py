"""The task of a pretrained model: the one that is asked for, or the one that its files show."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from archive_tool.errors import BuildError
from handlers.pretrained.tasks import ALIASES, TASKS, task_of

if TYPE_CHECKING:
    from archive_tool.pretrained.documents import Card

_ASK: Final = "say what the model is for: --task, one of "
_TRANSLATORS: Final = frozenset({"fsmt", "m2m_100", "marian", "nllb-moe"})
_SUMMARIZERS: Final = frozenset({"bigbird_pegasus", "pegasus", "pegasus_x"})


def given(name: str) -> str:
    """Return the task of a name that a user gives.

    Raises:
        BuildError: there is none of that name.
    """
    found = ALIASES.get(name, name)
    if found not in TASKS:
        raise BuildError(f"{name!r} is no task", where="--task", hint=f"choose one of {', '.join(TASKS)}")
    return found


def find(config: Mapping[str, Any], architecture: str, card: Card, where: str) -> str:
    """Find the task of a model by its architecture, labels, type and card.

    Args:
        config: its config.json.
        architecture: the class of transformers that it was saved from.
        card: its model card.
        where: the path of the configuration, for errors.

    Raises:
        BuildError: the files do not show it.
    """
    model_type = str(config.get("model_type") or "")
    # A model without a head, and of two kinds of inputs, is asked in ways of its own.
    found = task_of(architecture, model_type)
    if found == "feature-extraction" and "vision_config" in config:
        found = None
    if found is None:
        raise BuildError(f"no handler is known for {architecture}", where=where, hint=_ASK + ", ".join(TASKS))
    if found == "text-classification" and judges_hypotheses(config):
        return "zero-shot-classification"
    if found == "text2text-generation":
        return _rewriting(config, model_type, card)
    return found


def judges_hypotheses(config: Mapping[str, Any]) -> bool:
    """Return whether the labels are those of natural language inference, with which any label can be asked for."""
    labels = [label.lower() for label in labels_of(config)]
    return all(any(label.startswith(word) for label in labels) for word in ("entail", "contradict"))


def labels_of(config: Mapping[str, Any]) -> list[str]:
    """Return the names of a model's classes; empty if it has none."""
    found = config.get("id2label")
    return [str(label) for label in found.values()] if isinstance(found, Mapping) else []


def _rewriting(config: Mapping[str, Any], model_type: str, card: Card) -> str:
    """Choose what a model rewrites texts to; the general task where nothing says so."""
    if card.task in ("summarization", "translation"):
        return card.task
    if model_type in _TRANSLATORS:
        return "translation"
    if model_type in _SUMMARIZERS:
        return "summarization"
    tasks = config.get("task_specific_params")
    return "summarization" if isinstance(tasks, Mapping) and set(tasks) == {"summarization"} else "text2text-generation"
