"""Pages that are open follow what is done to the server: a real browser, and an engine that is played."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from serving.frontend.apps.console.shown import figures
from tests.serving.frontend.apps.conftest import model
from tests.serving.frontend.apps.console.conftest import Shown, shown

from .test_console_ends import BROWSER, browser, opened, playwright, reader

__all__ = ["browser", "reader"]
pytestmark = BROWSER


@pytest.fixture
def console(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shown]:
    monkeypatch.setattr(figures.Watch.__init__, "__defaults__", (0.2,))
    with shown(tmp_path, enable_model_api="true") as found:
        yield found
        found.end()


def test_the_overview_has_the_models_that_there_are(reader: Any, console: Shown) -> None:
    page, engine = opened(reader, console, ""), console.engine
    rows = page.locator("tbody tr")
    playwright.expect(rows).to_have_count(4)
    engine.add(model("new", "1.0", "new.mar", 0, default=True))
    row = page.locator("tr[data-name=new]")
    row.wait_for()
    playwright.expect(page.locator("caption")).to_have_text("Models (4)")
    # It wants two workers, and gets them.
    wanted = model("new", "1.0", "new.mar", 2, default=True)
    engine.add(replace(wanted, workers=tuple(replace(one, ready=False) for one in wanted.workers)))
    playwright.expect(row.locator("td").nth(1)).to_have_text("0 / 2")
    playwright.expect(row.locator("[data-live=ready]")).to_have_class("bad")
    engine.add(wanted)
    playwright.expect(row.locator("td").nth(1)).to_have_text("2 / 2")
    playwright.expect(row.locator("[data-live=ready]")).to_have_class("good")
    row.get_by_role("link", name="Try").focus()
    for version in ("1.0", "2.0"):
        engine.add(replace(engine.models["echo", version], default=version == "2.0"))
    playwright.expect(page.locator("tr[data-name=echo][data-version='2.0'] .tag")).to_have_text("default")
    playwright.expect(page.locator("tr[data-name=echo][data-version='1.0'] .tag")).to_have_count(0)
    assert page.evaluate("document.activeElement.href").endswith("/console/try/new/1.0"), "the keyboard is where it was"
    del engine.models["echo", "1.0"]
    playwright.expect(rows).to_have_count(4)


def write_failure(console: Shown) -> None:
    text = "2026-01-01T00:00:00,000 [INFO ] W-9000-echo_1.0-stdout MODEL_LOG - "
    lines = (
        "Traceback (most recent call last):",
        "    1 / 0",
        "OSError: no",
        "Failed to load model echo: OSError: no",
        "",
    )
    (console.folder / "model_log.log").write_text("".join(f"{text}{line}\n" for line in lines))


@pytest.mark.parametrize("early", [True, False])
def test_the_page_of_a_model_follows_it(reader: Any, console: Shown, early: bool) -> None:
    engine = console.engine
    page = opened(reader, console, "/models/echo")
    least = page.locator("form[action$='/echo/1.0/scale'] input[name=least]")
    page.evaluate("window.same = true")
    least.fill("7")
    state = engine.models["echo", "2.0"]
    engine.add(replace(state, workers=(*state.workers, replace(state.workers[0], id="9001"))))
    playwright.expect(page.locator("tbody tr").nth(1).locator("td").nth(1)).to_have_text("2 / 1")
    (worker,) = engine.models["echo", "1.0"].workers
    # The reason may be in the log before the worker is not ready, or after it.
    if early:
        write_failure(console)
    engine.add(replace(engine.models["echo", "1.0"], workers=(replace(worker, ready=False),)))
    page.get_by_text("not ready").wait_for()
    if not early:
        write_failure(console)
    page.get_by_role("heading", name="It cannot be loaded").wait_for()
    assert page.get_by_text("not ready").count() == 1
    assert least.input_value() == "7", "what somebody types stays"
    assert page.evaluate("document.activeElement.name") == "least"
    engine.add(replace(engine.models["echo", "1.0"], workers=(worker,)))
    playwright.expect(page.get_by_role("heading", name="It cannot be loaded")).to_have_count(0)
    del engine.models["echo", "1.0"], engine.models["echo", "2.0"]
    playwright.expect(page.locator("#live")).to_have_text("Model not found: echo")
    assert page.evaluate("window.same"), "it was not loaded anew"
