"""Write an archive as MXNet Model Server's archiver did: `python examples/fizbuz/old_archive.py FOLDER OLD.mar`."""

from __future__ import annotations

import json
import sys
import zipfile
from pathlib import Path

MANIFEST = {
    "runtime": "python",
    "model": {"modelName": "fizbuz_package", "handler": "fizbuz_service"},
    "modelServerVersion": "1.0",
    "implementationVersion": "1.0",
    "specificationVersion": "1.0",
}


def write(folder: Path, archive: Path) -> None:
    """Zip the folder's files, and the manifest that the archiver made of its options."""
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as target:
        for path in sorted(folder.rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                target.write(path, path.relative_to(folder))
        target.writestr("MAR-INF/MANIFEST.json", json.dumps(MANIFEST))


if __name__ == "__main__":
    write(Path(sys.argv[1]), Path(sys.argv[2]))
