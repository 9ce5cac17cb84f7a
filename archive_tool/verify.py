"""The documented name of `archive_tool.verification.verify`."""

from archive_tool.verification.verify import Verification, verify

__all__ = ["Verification", "verify"]
