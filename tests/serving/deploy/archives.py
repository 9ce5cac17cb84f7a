"""Archives that are read, and not run."""

from __future__ import annotations

import json
from pathlib import Path


def unpacked(folder: Path, config: str | None = None, **model: str) -> Path:
    """Write an archive as a folder."""
    model = {"modelName": "m", "modelVersion": "1.0", "handler": "h.py", **model}
    if config is not None:
        model["configFile"] = "model-config.yaml"
        (folder / "model-config.yaml").write_text(config)
    (folder / "MAR-INF").mkdir()
    (folder / "MAR-INF" / "MANIFEST.json").write_text(json.dumps({"runtime": "python", "model": model}))
    return folder
