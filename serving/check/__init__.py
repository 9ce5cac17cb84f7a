"""Tries an archive before it is shipped: loads it in a real worker, and sends that requests as the frontend does."""

from __future__ import annotations

from serving.check.result import InputResult, Result
from serving.check.run import CheckOptions, Input, check

__all__ = ["CheckOptions", "Input", "InputResult", "Result", "check"]
