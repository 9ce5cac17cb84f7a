"""The problems of inputs or of an archive, one by one, so that all can be reported at once."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, Final

from archive_tool.errors import (
    AlteredArchiveError,
    ArchiveError,
    BuildError,
    UnreadableArchiveError,
    UnsafeArchiveError,
)

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path


class Kind(Enum):
    """The severity of an issue; the value is the word in JSON. Later members are worse."""

    NOTE = "note"  # worth knowing, but no reason to refuse
    UNREADABLE = "unreadable"
    ALTERED = "altered"
    UNSAFE = "unsafe"


@dataclass(frozen=True)
class Issue:
    """One problem of an archive.

    Attributes:
        message: a sentence that names the member if it is about one.
        member: its name in the archive; None if the issue is about the whole archive.
        is_pickle: whether the issue is that the member runs code when it is loaded, which a user may accept.
    """

    kind: Kind
    message: str
    member: str | None = None
    is_pickle: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Return the issue as JSON."""
        return {"kind": self.kind.value, "member": self.member, "message": self.message}


@dataclass(frozen=True)
class Problem:
    """One problem of a build, or of running an archive here: what is wrong, where, and what to do about it."""

    message: str
    where: str | None = None
    hint: str | None = None

    def __str__(self) -> str:
        text = f"{self.where}: {self.message}" if self.where else self.message
        return f"{text} ({self.hint})" if self.hint else text

    def to_dict(self) -> dict[str, str]:
        """Return what is set as a JSON-ready object."""
        known = {"message": self.message, "where": self.where, "hint": self.hint}
        return {key: value for key, value in known.items() if value is not None}


def refuse_build(problems: Iterable[Problem]) -> None:
    """Refuse a build whose inputs have problems, if there is any.

    Raises:
        BuildError: with the parts of the one problem, or with a list of all problems.
    """
    found = list(dict.fromkeys(problems))
    if len(found) == 1:
        raise BuildError(found[0].message, where=found[0].where, hint=found[0].hint)
    if found:
        lines = "".join(f"\n- {problem}" for problem in found)
        raise BuildError(f"{len(found)} problems with the inputs{lines}")


_ORDER: Final = list(Kind)
_ERRORS: Final[dict[Kind, type[ArchiveError]]] = {
    Kind.UNREADABLE: UnreadableArchiveError,
    Kind.ALTERED: AlteredArchiveError,
    Kind.UNSAFE: UnsafeArchiveError,
}
_WORDS: Final = {
    Kind.UNREADABLE: "cannot be read",
    Kind.ALTERED: "is not what was recorded",
    Kind.UNSAFE: "is not safe to unpack",
}
_HINTS: Final = {
    Kind.UNREADABLE: "build it again, or ask for a new one where it comes from",
    Kind.ALTERED: "do not use it; ask for a new one where it comes from",
    Kind.UNSAFE: "do not use it; ask for a new one where it comes from",
}


def worst(issues: Iterable[Issue]) -> Kind | None:
    """Return the worst kind among issues; None if there are none, or only notes."""
    kinds = {issue.kind for issue in issues} - {Kind.NOTE}
    return max(kinds, key=_ORDER.index, default=None)


def exit_code(kind: Kind | None) -> int:
    """Return the exit code for the worst kind that was found; 0 for none."""
    return 0 if kind is None else _ERRORS[kind].exit_code


def refuse(path: Path, issues: Iterable[Issue]) -> None:
    """Refuse an archive that has issues; notes do not count.

    Raises:
        ArchiveError: of the worst kind; its message names every issue.
    """
    issues = [issue for issue in issues if issue.kind is not Kind.NOTE]
    kind = worst(issues)
    if kind is not None:
        lines = "".join(f"\n- {issue.message}" for issue in issues)
        raise _ERRORS[kind](f"{path} {_WORDS[kind]}{lines}", hint=_pickle_hint(issues) or _HINTS[kind])


def _pickle_hint(issues: list[Issue]) -> str | None:
    """Name the option that accepts all of the issues; None if there is none."""
    if not all(issue.is_pickle for issue in issues):
        return None
    options = " ".join(f"--allow-pickle {name}" for name in dict.fromkeys(str(issue.member) for issue in issues))
    return (
        "do not use it, unless you know where it comes from: run, check, optimize, verify and extract accept it with "
        + options
    )
