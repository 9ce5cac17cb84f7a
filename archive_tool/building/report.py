"""A collection of the problems of a build's inputs, so that all are reported at once."""

from __future__ import annotations

from dataclasses import dataclass, field

from archive_tool.issues import Problem, refuse_build


@dataclass
class Report:
    """The errors and warnings of one build, in the order in which they were found."""

    errors: list[Problem] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)

    def error(self, message: str, *, where: str | None = None, hint: str | None = None) -> None:
        """Note a problem that makes the build impossible."""
        self.errors.append(Problem(message, where, hint))

    def warning(self, message: str, *, where: str | None = None, hint: str | None = None) -> None:
        """Note a probable mistake."""
        self.warnings.append(Problem(message, where, hint))

    def told(self) -> tuple[str, ...]:
        """Return each warning once, as a sentence."""
        return tuple(dict.fromkeys(map(str, self.warnings)))

    def raise_errors(self) -> None:
        """End the build if there is any error.

        Raises:
            BuildError: with the parts of the one problem, or with a list of all problems.
        """
        refuse_build(self.errors)
