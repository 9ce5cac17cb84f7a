"""Documents as YAML that every reader understands alike."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final, TypeAlias

import yaml

from archive_tool.errors import InputError, TargetExistsError

Document: TypeAlias = Mapping[str, Any]

# What some reader takes for a number (1e3, 0o7, 1_000, 12:30, .iNF) or a truth where Python's sees a text.
_DOUBTFUL: Final = re.compile(r"[-+.0-9][-+.0-9a-fxo_:]*|[-+]?\.(inf|nan)|[yn]", re.IGNORECASE | re.ASCII)
_WIDTH: Final = 120


class _Dumper(yaml.SafeDumper):
    """Writes each value where it stands, and quotes each text that some reader takes for another thing."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:  # noqa: ARG002
        super().increase_indent(flow, False)  # lists stand below what they belong to


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, "'" if _DOUBTFUL.fullmatch(text) else None)


_Dumper.add_representer(str, _text)


def as_yaml(documents: Iterable[Document]) -> str:
    """Return documents as one text."""
    return yaml.dump_all(
        documents, Dumper=_Dumper, sort_keys=False, explicit_start=True, width=_WIDTH, default_flow_style=False
    )


def write(text: str, target: Path, *, force: bool) -> None:
    """Write a text into a file, whole or not at all.

    Args:
        text: what to write.
        target: the file.
        force: replace one that is there.

    Raises:
        TargetExistsError: there is one.
        InputError: it cannot be written.
    """
    if target.exists() and not force:
        raise TargetExistsError(f"{target} exists already", hint="give --force (-f) to replace it")
    temporary = target.with_name(f".torchmar-{secrets.token_hex(8)}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(target)
    except OSError as error:
        raise InputError(f"cannot write {target}: {error.strerror or error}", where=str(target)) from error
    finally:
        temporary.unlink(missing_ok=True)
