"""``python -m serving.image.bill [FOLDER]``: the bill of materials of an image, as it is built: CycloneDX 1.5 in JSON.

What is installed, as pip has resolved it, and the archives of a folder with their SHA-256.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from archive_tool.files import open_regular
from archive_tool.metadata.manifest import FIRST_VERSION
from archive_tool.reading.archive import open_archive
from archive_tool.version import __version__
from serving.control.models.store import all_archives

_CHUNK: Final = 1 << 20


def bill(installed: Iterable[Distribution], archives: Iterable[Path]) -> dict[str, Any]:
    """Return the document.

    Raises:
        OSError: an archive cannot be read.
        archive_tool.errors.ArchiveError: one is none.
    """
    packages = {entry["purl"]: entry for entry in map(_package, installed)}  # of one that is there twice the first
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"tools": {"components": [{"type": "application", "name": "torchmar", "version": __version__}]}},
        "components": [*(packages[purl] for purl in sorted(packages)), *_models(archives)],
    }


def _package(one: Distribution) -> dict[str, Any]:
    name = re.sub(r"[-_.]+", "-", one.metadata["Name"]).lower()
    purl = f"pkg:pypi/{quote(name)}@{quote(one.version)}"
    entry: dict[str, Any] = {"type": "library", "bom-ref": purl, "name": name, "version": one.version, "purl": purl}
    if "License-Expression" not in one.metadata:
        return entry
    return {**entry, "licenses": [{"expression": one.metadata["License-Expression"]}]}


def _models(archives: Iterable[Path]) -> Iterator[dict[str, Any]]:
    for path in archives:
        with open_archive(path) as archive:
            manifest = archive.manifest
        entry: dict[str, Any] = {
            "type": "machine-learning-model",
            "bom-ref": f"model/{path.name}",
            "name": manifest.model.model_name if manifest else path.name,
            "version": manifest.model.version if manifest else FIRST_VERSION,
        }
        if path.is_file():
            entry["hashes"] = [{"alg": "SHA-256", "content": _sha256(path)}]
        yield entry


def _sha256(path: Path) -> str:
    found = hashlib.sha256()
    with open_regular(path) as file:
        while part := file.read(_CHUNK):
            found.update(part)
    return found.hexdigest()


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the bill of this environment and of the archives in a folder, if one is named."""
    named = sys.argv[1:] if arguments is None else arguments
    archives = [path for folder in named for path in all_archives(Path(folder))]
    sys.stdout.write(json.dumps(bill(distributions(), archives), indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
