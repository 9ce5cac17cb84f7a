"""The documented name of `archive_tool.inspection.diff`."""

from archive_tool.inspection.diff import Changes, MemberChange, diff

__all__ = ["Changes", "MemberChange", "diff"]
