"""The one tree of errors that the command line turns into a message and an exit code.

::

    TorchmarError                    1   anything that we can explain
    ├── InputError                   1   the user's input cannot be used (as torch-model-archiver: exit 1)
    │   ├── BuildError               1   an archive cannot be built from these inputs
    │   └── TargetExistsError        1   the result exists already and --force was not given
    ├── ArchiveError                 3   an archive cannot be used
    │   ├── UnreadableArchiveError   3   not an archive, broken, or without a usable manifest
    │   ├── AlteredArchiveError      4   not what was recorded, or not what was signed
    │   └── UnsafeArchiveError       5   it would write outside its folder, or run code that no one sees
    └── (serving.errors)             6-10 servers; see there

Exit code 2 is click's: a command line that cannot be parsed.

An error keeps its parts as attributes for programs, and its text has all of them. Only the command line prints.
"""

from __future__ import annotations

from typing import ClassVar


class TorchmarError(Exception):
    """Something that we can explain.

    Args:
        message: what is wrong, naming the thing; one sentence, no trailing newline.
        where: the file, file:line, archive member or address, if the message does not say.
        hint: what to do about it.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, where: str | None = None, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.where = where
        self.hint = hint

    def __str__(self) -> str:
        # For callers in Python: a traceback ends with this text, and shows nothing else.
        return "\n".join([self.message, *(f"  {name}: {text}" for name, text in self.details())])

    def details(self) -> list[tuple[str, str]]:
        """Return what follows the message, each by its name: where it is, unless the message says so, and the hint."""
        where = self.where if self.where and self.where not in self.message else None
        return [(name, text) for name, text in (("at", where), ("hint", self.hint)) if text]


class InputError(TorchmarError):
    """The user's input cannot be used."""


class BuildError(InputError):
    """An archive cannot be built from these inputs; nothing was written."""


class TargetExistsError(InputError):
    """The result exists already, and overwriting was not requested."""


class ArchiveError(TorchmarError):
    """An archive cannot be used."""

    exit_code = 3


class UnreadableArchiveError(ArchiveError):
    """Not an archive, a broken one, or one without a usable manifest."""


class AlteredArchiveError(ArchiveError):
    """The archive is not what its manifest recorded, or not what was signed."""

    exit_code = 4


class UnsafeArchiveError(ArchiveError):
    """The archive would write outside its folder, exhaust the machine, or run code that no one sees."""

    exit_code = 5
