"""Settings of a server, as `torchmar start` would make them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from serving.control.configuration.config import default_properties
from serving.frontend.settings import Place, Settings, home_of, of


@pytest.fixture
def settings_of(tmp_path: Path) -> Callable[..., Settings]:
    """Return what makes settings: the defaults, and what a test says otherwise."""

    def make(home: Path | None = None, **properties: str) -> Settings:
        place = Place(tmp_path, home or home_of(None), tmp_path, tmp_path, tmp_path)
        return of(default_properties() | properties, place, {})

    return make
