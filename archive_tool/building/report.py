"""Collects what is wrong with the inputs of a build, so that all of it is told at once."""

from __future__ import annotations

from dataclasses import dataclass, field

from archive_tool.errors import BuildError
from archive_tool.issues import Problem


@dataclass
class Report:
    """The errors and warnings of one build, in the order in which they were found."""

    errors: list[Problem] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)

    def error(self, message: str, *, where: str | None = None, hint: str | None = None) -> None:
        """Note something that makes the build impossible."""
        self.errors.append(Problem(message, where, hint))

    def warning(self, message: str, *, where: str | None = None, hint: str | None = None) -> None:
        """Note something that is probably not meant."""
        self.warnings.append(Problem(message, where, hint))

    def told(self) -> tuple[str, ...]:
        """Each warning once, as a sentence."""
        return tuple(dict.fromkeys(map(str, self.warnings)))

    def raise_errors(self) -> None:
        """End the build if there is any error.

        Raises:
            BuildError: with the one problem's own parts, or with a list of all of them.
        """
        problems = list(dict.fromkeys(self.errors))
        if len(problems) == 1:
            raise BuildError(problems[0].message, where=problems[0].where, hint=problems[0].hint)
        if problems:
            lines = "".join(f"\n- {problem}" for problem in problems)
            raise BuildError(f"{len(problems)} problems with the inputs{lines}")
