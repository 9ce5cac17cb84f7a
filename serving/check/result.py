"""The result of a check."""

from __future__ import annotations

import base64
import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from archive_tool.errors import TorchmarError
from serving.answers import decode, strict


@dataclass
class InputResult:
    """The result of one input.

    Attributes:
        name: file, or member of the archive.
        status: as a client of the REST API would get it; 0 if there was no answer.
        body: of the answer.
        content_type: of the answer; empty if the handler names none, as most do.
        seconds: until the answer, for the first time and for the further ones.
        expected: whether there is an answer to compare with.
        difference: how the answer differs from the expected one; None if it does not, or nothing was expected.
    """

    name: str
    status: int = 0
    body: bytes = b""
    content_type: str = ""
    seconds: list[float] = field(default_factory=list)
    expected: bool = False
    difference: str | None = None

    @property
    def ok(self) -> bool:
        """Whether the model answered as expected."""
        return 200 <= self.status < 400 and self.difference is None

    @property
    def output(self) -> Any:
        """The answer: parsed JSON, else text, else bytes."""
        return decode(self.body)

    def to_dict(self) -> dict[str, Any]:
        """Return one JSON-ready object; times in milliseconds, binary answers in base64."""
        output = self.output
        shown = {"outputBase64": base64.b64encode(output).decode()} if isinstance(output, bytes) else None
        return {
            "input": self.name,
            "ok": self.ok,
            "status": self.status,
            "firstMs": _ms(self.seconds[0]) if self.seconds else None,
            "medianMs": _ms(statistics.median(self.seconds[1:])) if len(self.seconds) > 1 else None,
            "contentType": self.content_type,
            **(shown or {"output": strict(output)}),
            "expected": self.expected,
            "difference": self.difference,
        }


@dataclass
class Result:
    """The result of a check.

    Attributes:
        archive: that was checked.
        model: its name; version: its version.
        device: "cpu" or "cuda:N".
        load_seconds: from the start of the worker's loading to its answer; None if it did not load.
        inputs: in order; one that failed is the last.
        memory: bytes of the worker at the end, shared pages counted in part (PSS); 0 if that is unknown.
        peak: most bytes that it had at once (resident); 0 if that is unknown.
        stdout, stderr: what the worker printed.
        error: why the check failed; None if it did not.
    """

    archive: Path
    model: str = ""
    version: str | None = None
    device: str = "cpu"
    load_seconds: float | None = None
    inputs: list[InputResult] = field(default_factory=list)
    memory: int = 0
    peak: int = 0
    stdout: str = ""
    stderr: str = ""
    error: TorchmarError | None = None

    @property
    def ok(self) -> bool:
        """Whether the model was loaded and every input answered as expected."""
        return self.error is None

    def to_dict(self) -> dict[str, Any]:
        """Return one JSON-ready object."""
        return {
            "archive": str(self.archive),
            "model": self.model,
            "version": self.version,
            "device": self.device,
            "ok": self.ok,
            "loadMs": _ms(self.load_seconds) if self.load_seconds is not None else None,
            "inputs": [one.to_dict() for one in self.inputs],
            "memory": self.memory or None,
            "peakMemory": self.peak or None,
            "stdout": self.stdout,
            "stderr": self.stderr,
            "error": _error(self.error),
        }


def _error(error: TorchmarError | None) -> dict[str, Any] | None:
    if error is None:
        return None
    return {
        "message": error.message,
        "where": error.where,
        "hint": error.hint,
        "traceback": getattr(error, "traceback", "") or None,
        "exitCode": error.exit_code,
    }


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 2)
