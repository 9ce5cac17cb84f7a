"""Archives in a model store, and settings; nothing here needs Ray."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import archive_tool
from serving.control.configuration import config
from serving.frontend import settings
from serving.frontend.ray import nodes
from serving.frontend.settings import Place, Settings

HANDLER = "def handle(data, context):\n    return [b'yes'] * len(data or [])\n"


class Store:
    """A model store in a folder of its own."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.path = root / "store"
        self.path.mkdir()
        (root / "runtime").mkdir()

    def build(self, name: str = "echo", model_config: str = "", **options: Any) -> Path:
        (self.root / "h.py").write_text(options.pop("source", HANDLER))
        if model_config:
            (self.root / "model-config.yaml").write_text(model_config)
            options["config_file"] = self.root / "model-config.yaml"
        handler = str(self.root / "h.py")
        archive_tool.build(model_name=name, handler=handler, export_path=self.path, force=True, **options)
        return self.path / f"{name}.mar"

    def settings(self, **properties: str) -> Settings:
        runtime = self.root / "runtime"
        place = Place(self.path, settings.home_of(None), runtime, runtime, runtime)
        return settings.of(config.effective(properties, port=None, workers=None), place, {})


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv(nodes.VARIABLE, str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return Store(tmp_path)
