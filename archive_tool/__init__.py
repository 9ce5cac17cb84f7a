"""Build, open, verify, sign and extract model archives for TorchServe.

::

    import archive_tool

    result = archive_tool.build(model_name="mnist", handler="mnist_handler.py", serialized_file="mnist.pt")
    with archive_tool.open_archive(result.path) as archive:
        print(archive.manifest, [member.name for member in archive.members])

    published = archive_tool.publish(model, name="mnist", source=create_net, x_test=images, y_test=digits)
    print(published.curl)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from archive_tool.errors import (
    AlteredArchiveError,
    ArchiveError,
    BuildError,
    InputError,
    TargetExistsError,
    TorchmarError,
    UnreadableArchiveError,
    UnsafeArchiveError,
)
from archive_tool.version import __version__

if TYPE_CHECKING:
    from archive_tool.building.builder import BuildResult, build
    from archive_tool.metadata.manifest import Manifest, Model
    from archive_tool.publishing.publish import publish
    from archive_tool.publishing.result import Published
    from archive_tool.reading.archive import ArchiveMember
    from archive_tool.verification.extraction import Archive, open_archive
    from archive_tool.verification.signing import check_signature, sign

__all__ = [
    "AlteredArchiveError",
    "Archive",
    "ArchiveError",
    "ArchiveMember",
    "BuildError",
    "BuildResult",
    "InputError",
    "Manifest",
    "Model",
    "Published",
    "TargetExistsError",
    "TorchmarError",
    "UnreadableArchiveError",
    "UnsafeArchiveError",
    "__version__",
    "build",
    "check_signature",
    "open_archive",
    "publish",
    "sign",
]

# Loaded on first use, so that `import archive_tool` and `torchmar --help` take only milliseconds.
_LAZY = {
    "Archive": "archive_tool.verification.extraction",
    "ArchiveMember": "archive_tool.reading.archive",
    "BuildResult": "archive_tool.building.builder",
    "Manifest": "archive_tool.metadata.manifest",
    "Model": "archive_tool.metadata.manifest",
    "build": "archive_tool.building.builder",
    "Published": "archive_tool.publishing.result",
    "check_signature": "archive_tool.verification.signing",
    "sign": "archive_tool.verification.signing",
    "open_archive": "archive_tool.verification.extraction",
    "publish": "archive_tool.publishing.publish",  # the one that imports torch
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_LAZY[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
