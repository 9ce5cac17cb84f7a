"""The documented name of `archive_tool.metadata.record`."""

from archive_tool.metadata.record import Compiled, MemberRecord, Record, Sample, TensorSpec

__all__ = ["Compiled", "MemberRecord", "Record", "Sample", "TensorSpec"]
