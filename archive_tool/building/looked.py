"""The contents of a build's files, for all checks: each file is opened once, and each source parsed once."""

from __future__ import annotations

import ast
import contextlib
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Final, NamedTuple

from archive_tool import files
from archive_tool.analysis import python_source
from archive_tool.weights.formats import Format, sniff

if TYPE_CHECKING:
    from pathlib import Path

    from archive_tool.building.inputs import Inputs
    from archive_tool.config.effective import Effective
    from archive_tool.weights.tensors import Weights
    from archive_tool.writing.plan import Plan

#: Built-in handlers that get their weights from elsewhere than the serialized file.
NO_WEIGHTS: Final = frozenset({"vllm_handler", "trt_llm_handler"})
#: Bytes of the files that are cached. The syntax tree of a source takes twenty times as much, and extra files may be a
#: whole large library, of which few are read twice.
_KEPT: Final = 4 << 20


class Contents:
    """A cache of small files and sources, and of their syntax trees."""

    def __init__(self) -> None:
        self._left = _KEPT
        self._read: dict[Path, bytes] = {}
        self._trees: dict[Path | bytes, ast.Module | python_source.SourceError] = {}
        self._packages: dict[Path | bytes, frozenset[str]] = {}

    def read(self, path: Path) -> bytes:
        """Read a whole file.

        Raises:
            OSError: it cannot be read.
        """
        if path not in self._read:
            data = files.read_regular(path)
            if len(data) > self._left:
                return data
            self._left -= len(data)
            self._read[path] = data
        return self._read[path]

    def text(self, path: Path | None) -> str:
        """Read a text file; return nothing if there is none that can be read, which the checks tell."""
        try:
            return self.read(path).decode() if path is not None else ""
        except (OSError, UnicodeDecodeError):
            return ""

    def tree(self, source: Path | bytes) -> ast.Module:
        """Parse a Python file, or the bytes of one.

        Raises:
            SourceError: it is not Python of this interpreter's version.
            OSError: it cannot be read.
        """
        found = self._trees.get(source)
        if found is None:
            data = source if isinstance(source, bytes) else self.read(source)
            try:
                found = python_source.parse_bytes(data, "<bytes>" if isinstance(source, bytes) else str(source))
            except python_source.SourceError as error:
                found = error
            if isinstance(source, bytes) or source in self._read:
                self._trees[source] = found
        if isinstance(found, python_source.SourceError):
            raise found
        return found

    def tree_or_none(self, source: Path | bytes | None) -> ast.Module | None:
        """Parse as `tree` does; return None where there is no tree."""
        try:
            return None if source is None else self.tree(source)
        except (python_source.SourceError, OSError):
            return None

    def packages(self, source: Path | bytes | None) -> frozenset[str]:
        """Return the top-level packages that a source imports anywhere; empty if it has no tree."""
        if source is None:
            return frozenset()
        if source not in self._packages:
            tree = self.tree_or_none(source)
            self._packages[source] = frozenset() if tree is None else python_source.imported_packages(tree)
        return self._packages[source]


class LookedWeights(NamedTuple):
    """The format of a serialized file, and its tensors if the handler loads it as a state dict."""

    kind: Format
    tensors: Weights | None


@dataclass(frozen=True)
class Looked:
    """The inputs of a build, its plan, and the contents of their files.

    Each property is computed on first use. An unreadable file counts as missing: the check of that file reports it.
    """

    inputs: Inputs
    plan: Plan
    contents: Contents = field(default_factory=Contents, compare=False)

    @cached_property
    def found(self) -> frozenset[Path | bytes]:
        """The sources in the plan. An input that is missing here cannot be read, which is already reported."""
        return frozenset(member.source for member in self.plan.members)

    @cached_property
    def weights(self) -> LookedWeights | None:
        """The format of the serialized file, and its tensors; None if there is no such file.

        Raises:
            OSError: it cannot be read.
        """
        path = self.inputs.serialized_file
        if path is None or path not in self.found:
            return None
        with files.open_regular(path) as stream:
            kind = sniff(stream)
            eager = self.inputs.uses_python and self.inputs.model_file in self.found and self.model_tree is not None
            if eager and self.loads_state_dicts:
                from archive_tool.weights import tensors

                with contextlib.suppress(OSError):
                    return LookedWeights(kind, tensors.read(stream, kind))
            return LookedWeights(kind, None)

    @property
    def weights_format(self) -> Format:
        """The format of the serialized file; unknown if there is none."""
        try:
            return Format.UNKNOWN if self.weights is None else self.weights.kind
        except OSError:
            return Format.UNKNOWN

    @property
    def handler_tree(self) -> ast.Module | None:
        """The syntax tree of the handler's file."""
        return self.contents.tree_or_none(self.inputs.handler_file)

    @property
    def model_tree(self) -> ast.Module | None:
        """The syntax tree of the model file."""
        return self.contents.tree_or_none(self.inputs.model_file)

    @cached_property
    def loads_state_dicts(self) -> bool:
        """Whether the handler is a stock one or one of our SDK, or extends one without its own loading."""
        if self.inputs.built_in_handler:
            return self.inputs.handler not in NO_WEIGHTS
        tree = self.handler_tree
        if tree is None or not self.contents.packages(self.inputs.handler_file) & {"handlers", "ts"}:
            return False
        classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
        own = {getattr(part, "name", None) for node in classes for part in node.body}
        return not own & {"initialize", "_load_pickled_model", "_load_model"}

    @property
    def uses_sdk(self) -> bool:
        """Whether the handler's file imports our SDK and leaves the loading to it."""
        return "handlers" in self.contents.packages(self.inputs.handler_file) and self.loads_state_dicts

    @cached_property
    def sdk_importer(self) -> str | None:
        """The first member whose source imports our SDK."""
        sources = (member for member in self.plan.members if member.name.endswith(".py"))
        return next((one.name for one in sources if "handlers" in self.contents.packages(one.source)), None)

    @cached_property
    def config(self) -> Effective | None:
        """The meaning of the config file."""
        if self.inputs.config_file is None:
            return None
        # Here, because most builds have no config file and need no YAML library.
        from archive_tool.config import effective

        try:
            return effective.understand(self.contents.read(self.inputs.config_file))
        except OSError:
            return None
