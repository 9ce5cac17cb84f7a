"""How the workers of a model that writes texts take requests: what the archive's config file says for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from archive_tool.errors import BuildError
from archive_tool.writing.plan import Member, Plan
from handlers.pretrained.tasks import ENGINES, TRANSFORMERS, VLLM

if TYPE_CHECKING:
    from archive_tool.metadata.record import Pretrained

_TASK: Final = "text-generation"
_NAME: Final = "model-config.yaml"
#: Requests join those that are written, between two tokens; each message is one step, so none waits for others.
_CONTINUOUS: Final = {"continuousBatching": True, "batchSize": 32, "maxBatchDelay": 1}
#: vLLM has a queue of its own.
_ASYNCHRONOUS: Final = {"asyncCommunication": True, "parallelType": "custom", "batchSize": 1}
#: Whoever says one of these has chosen.
_MODES: Final = ("continuousBatching", "asyncCommunication", "sequenceBatching", "useJobTicket")


def engine_of(text: str) -> str:
    """Return what runs the model, by the section `handler` of a config file.

    Raises:
        BuildError: it is none that there is.
    """
    return _engine(_document(text))


def _engine(document: Mapping[str, Any]) -> str:
    section = document.get("handler")
    engine = section.get("engine", TRANSFORMERS) if isinstance(section, Mapping) else TRANSFORMERS
    if engine not in ENGINES:
        raise BuildError(
            f"handler.engine is {engine!r:.80}", where="--config-file", hint=f"write {' or '.join(ENGINES)}"
        )
    return str(engine)


def applied(plan: Plan, text: str, record: Pretrained | None) -> Plan:
    """Return the plan of an archive with a config file that says how requests are taken, in place of `text`.

    A file that says it stays as it is, and so does a plan for any other task.
    """
    given = plan.manifest.model.config_file
    name = given or _NAME
    if record is None or record.task != _TASK or (given is None and any(one.name == name for one in plan.members)):
        return plan
    changed = _with_mode(text)
    if changed == text:
        return plan
    members = [one for one in plan.members if one.name != name]
    manifest = replace(plan.manifest, model=replace(plan.manifest.model, config_file=name))
    return Plan.of([*members, Member(name, changed.encode())], manifest, plan.seconds)


def _with_mode(text: str) -> str:
    document = _document(text)
    if any(name in document for name in _MODES):
        return text
    from archive_tool.config import yaml_edit

    for name, value in (_ASYNCHRONOUS if _engine(document) == VLLM else _CONTINUOUS).items():
        if name not in document:
            text = yaml_edit.with_section(text, name, value)
    return text


def _document(text: str) -> Mapping[str, Any]:
    # Here, because most builds need no YAML library.
    from archive_tool.config import safe_yaml

    try:
        found = safe_yaml.construct(safe_yaml.compose(text))
    except ValueError:  # the checks of the config file tell it
        return dict.fromkeys(_MODES)
    return found if isinstance(found, Mapping) else {}
