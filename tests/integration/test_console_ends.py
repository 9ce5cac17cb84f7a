"""What a page that is open says when its session ends, or its server: a real browser, and an engine that is played."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from serving.frontend.apps.console.shown import load_tests
from tests.serving.frontend.apps.console.conftest import Shown, shown

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = Path("/usr/bin/chromium")
BROWSER = pytest.mark.skipif(not CHROMIUM.exists(), reason="there is no /usr/bin/chromium")
pytestmark = [BROWSER, pytest.mark.slow]
PATIENCE_MS = 60_000


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        one = driver.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox", "--disable-gpu"])
        yield one
        one.close()


@pytest.fixture
def reader(browser: Any) -> Iterator[Any]:
    """Open windows of an English reader."""
    context = browser.new_context(locale="en-GB")
    context.set_default_timeout(PATIENCE_MS)
    yield context
    context.close()


def opened(reader: Any, console: Shown, path: str) -> Any:
    page = reader.new_page()
    page.goto(f"http://127.0.0.1:{console.port}/console{path}")
    return page


def serious(page: Any) -> list[Any]:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    found = axe.Axe().run(page).response["violations"]
    return [(one["id"], one["nodes"][0]["html"]) for one in found if one["impact"] in ("serious", "critical")]


def test_every_page_says_that_its_session_has_ended(reader: Any, tmp_path: Path) -> None:
    with shown(tmp_path, keyed=True) as console:
        assert console.keys is not None
        first = opened(reader, console, "")
        first.get_by_label("Key of the management API").fill(console.keys._keys["management"])
        first.get_by_role("button", name="Log in").click()
        first.locator("#charts canvas").first.wait_for()
        pages = [first, opened(reader, console, "/logs"), opened(reader, console, "/try/echo")]
        assert not [page for page in pages if page.locator("#out").is_visible()]
        console.keys.renew(f"Bearer {console.keys._keys['API']}", "management")
        pages[2].fill("#text", "x")
        pages[2].get_by_role("button", name="Send").click()
        for page in pages:
            page.locator("#out").wait_for()
            assert page.locator("#out").inner_text() == "Your session has ended. Log in"
            assert not page.locator("#lost").is_visible()
            assert not page.get_by_role("button", name="Log out").count()
            assert not serious(page), page.url
        assert pages[2].input_value("#text") == "x", "what was typed is still there"
        pages[2].get_by_role("link", name="Log in").click()
        assert pages[2].get_by_role("alert").inner_text() == "Your session has ended."
        assert not serious(pages[2])
        log_in(pages[2], console)
        assert pages[2].url.endswith("/console/try/echo")
        assert pages[2].input_value("#text") == "x", "and after the login, too"
        pages[2].reload()
        assert pages[2].input_value("#text") == "", "it is kept no longer than that"


def test_what_was_typed_outlives_the_session(reader: Any, tmp_path: Path) -> None:
    with shown(tmp_path, keyed=True) as console:
        assert console.keys is not None
        page = opened(reader, console, "")
        log_in(page, console)
        page.goto(f"http://127.0.0.1:{console.port}/console/load/echo")
        page.fill("#text", "mine")
        page.get_by_label("Requests a second", exact=True).fill("7")
        page.get_by_label("Seconds").fill("3")
        console.keys.renew(f"Bearer {console.keys._keys['API']}", "management")
        page.get_by_role("button", name="Start").click()
        log_in(page, console)
        assert page.url.endswith("/console/load/echo")
        assert typed(page) == ("mine", "7", "3", True)
        # Another tab logs out and in: the form is of a session that is over.
        other = opened(reader, console, "")
        other.get_by_role("button", name="Log out").click()
        log_in(other, console)
        page.get_by_role("button", name="Start").click()
        told = page.get_by_role("alert")
        told.wait_for()
        assert "of a session that has ended" in told.inner_text()
        assert typed(page) == ("mine", "7", "3", True)


def log_in(page: Any, console: Shown) -> None:
    assert console.keys is not None
    page.get_by_label("Key of the management API").fill(console.keys._keys["management"])
    page.get_by_role("button", name="Log in").click()
    page.get_by_role("button", name="Log out").wait_for()


def typed(page: Any) -> tuple[str, str, str, bool]:
    values = [page.input_value(one) for one in ("#text", "#rate", "#seconds")]
    return values[0], values[1], values[2], page.is_checked("#open")


def test_a_load_test_that_its_server_outlives_not(reader: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load_tests, "_WARM_UP_S", 0.0)
    with shown(tmp_path, asked=True) as console:
        page = opened(reader, console, "/load/echo")
        page.fill("#text", "x")
        page.get_by_label("Seconds").fill("60")
        page.get_by_role("button", name="Start").click()
        # The first second is a dot: there is something to see at once.
        page.locator("#charts canvas").first.wait_for()
        console.end()
        over = page.locator("#over p")
        over.wait_for()
        assert over.inner_text().startswith(
            "The load test has failed: the server, or its console, has ended before it."
        )
        assert "The load test is over." not in page.locator("main").inner_text()
        assert page.get_by_role("button", name="Run it again").is_visible()


def test_waiting_is_shown_and_can_be_ended(reader: Any, tmp_path: Path) -> None:
    with shown(tmp_path) as console:
        page = opened(reader, console, "/try/echo")
        page.route(re.compile("/console/try/"), lambda _: None)  # no answer comes
        page.fill("#text", "x")
        page.get_by_role("button", name="Send").click()
        playwright.expect(page.locator("#waited")).to_have_text("1 s", timeout=PATIENCE_MS)
        page.get_by_role("button", name="Cancel").click()
        assert page.locator("#answer").inner_text() == "Cancelled: the answer is not waited for."
        assert page.get_by_role("button", name="Send").is_enabled()
