"""The parts of a server, real ones, without its sockets."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import archive_tool
from serving.control.configuration.config import default_properties
from serving.frontend.assembly import Startup, assemble
from serving.frontend.engine import Registration
from serving.frontend.errors import ModelError
from serving.frontend.server import on_single_port
from serving.frontend.settings import Place, Settings, home_of, of


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Understand the defaults, for a model store with an archive."""
    (tmp_path / "handler.py").write_text("def handle(data, context):\n    return data\n")
    archive_tool.build(model_name="ping", handler=str(tmp_path / "handler.py"), export_path=tmp_path)
    return of(default_properties(), Place(tmp_path, home_of(None), tmp_path, tmp_path, tmp_path), {})


def registered(settings: Settings, name: str | None) -> list[str]:
    """Register the archive without a worker; returns the models that are there then."""

    async def work() -> list[str]:
        engine = assemble(settings, Startup()).engine
        try:
            await engine.register(Registration("ping.mar", model_name=name, initial_workers=0))
            return [name for name, _ in engine.names()]
        finally:
            await engine.drain(0.0)
            assert list((settings.place.runtime / "models").glob("*")) == []

    return asyncio.run(work())


def test_on_a_single_port_no_model_has_a_name_that_routes_begin_with(settings: Settings) -> None:
    single = on_single_port(settings)
    with pytest.raises(ModelError, match="no model can be named ping"):
        registered(single, None)  # the archive's own name
    with pytest.raises(ModelError, match="no model can be named token"):
        registered(single, "token")
    assert registered(single, "mine") == ["mine"]
    assert registered(settings, None) == ["ping"]


def test_nothing_of_the_console_is_imported_before_somebody_opens_it() -> None:
    looked = "print([name for name in sys.modules if name in ('starlette', 'jinja2', 'PIL')])"
    command = [sys.executable, "-c", f"import sys; import serving.frontend.__main__; {looked}"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "[]\n"


def test_a_server_without_the_console_has_nothing_of_it(settings: Settings) -> None:
    async def parts(*, console: bool) -> tuple[str, int]:
        made = assemble(replace(settings, console=console), Startup())
        return type(made.apps["management"]).__name__, len(made.ending)

    assert asyncio.run(parts(console=True)) == ("Beside", 1)
    assert asyncio.run(parts(console=False)) == ("ManagementApp", 0)
