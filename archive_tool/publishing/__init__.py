"""From a live PyTorch model to an archive that serves it; `publish.publish` is the entry point.

These modules, unlike the rest of `archive_tool`, use torch. Nothing imports them before `archive_tool.publish` is used.
"""
