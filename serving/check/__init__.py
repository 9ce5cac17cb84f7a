"""The check of an archive before it is shipped: load it in a real worker, send requests as the frontend does."""

from __future__ import annotations

from serving.check.result import InputResult, Result
from serving.check.run import CheckOptions, Input, check

__all__ = ["CheckOptions", "Input", "InputResult", "Result", "check"]
