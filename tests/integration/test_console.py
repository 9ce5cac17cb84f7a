"""The console of a real server in a real browser: Debian's chromium, driven by playwright."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from .conftest import ROOT, Sandbox, Server
from .support import register

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = Path("/usr/bin/chromium")
OPTIONS = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking")
OPTIONS += ("--disable-component-update", "--disable-sync")
# Where Debian has none, such as on a user's machine: CI installs it.
pytestmark = [
    pytest.mark.slow,  # test_console_follows.py has the scripts of the pages in a browser, too
    pytest.mark.skipif(not CHROMIUM.exists(), reason="there is no /usr/bin/chromium"),
    pytest.mark.parametrize("frontend", ["python"], scope="module"),
]
BROKEN = """
class Broken:
    def initialize(self, context):
        raise FileNotFoundError("no such file: labels.txt")

    def handle(self, data, context):
        return data
"""
WORDS = """
import time
from pathlib import Path

from ts.protocol.otf_message_handler import send_intermediate_predict_response


class Words:
    def initialize(self, context):
        pass

    def handle(self, data, context):
        send_intermediate_predict_response(["one "], context.request_ids, "ok", 200, context)
        while not Path(data[0]["body"]).exists():
            time.sleep(0.02)
        return ["two"]
"""
UNTRAINED = """
import sys
import torch
from model_defs.mnist import MNISTNet

torch.manual_seed(0)
torch.jit.script(MNISTNet().eval()).save(sys.argv[1])
"""
DIGIT = ROOT / "examples" / "mnist" / "samples" / "7_0.png"
PATIENCE_MS = 120_000
LOADS = ("/console/load", "/console/load/mnist")


@pytest.fixture(scope="module")
def server(shared_sandbox: Sandbox) -> Server:
    """Serve MNIST's network, untrained, a model that streams, and one that cannot be loaded, without a worker yet."""
    box = shared_sandbox
    box.build("words", WORDS)
    box.build("broken", BROKEN)
    weights, handler = box.root / "mnist_script.pt", ROOT / "examples" / "mnist" / "mnist_handler.py"
    subprocess.run([sys.executable, "-c", UNTRAINED, weights], cwd=ROOT, check=True)
    arguments = ("--serialized-file", weights, "--handler", handler, "--sample", DIGIT, "--export-path", box.store)
    box.torchmar("build", "--model-name", "mnist", *arguments, "-q").ok()
    models = ("--models", "mnist=mnist.mar", "words=words.mar", "--workers", "1")
    found = box.start(*models, options=("--enable-model-api", "--disable-token-auth"))
    register(found, "broken.mar", "broken", workers=0)
    return found


@pytest.fixture(scope="module")
def digit(server: Server) -> str:
    """Return what the model takes the picture for."""
    found: str = server.curl("/predictions/mnist", "-T", DIGIT)[1]
    assert found.isdigit()
    return found


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        one = driver.chromium.launch(executable_path=str(CHROMIUM), args=list(OPTIONS))
        yield one
        one.close()


@pytest.fixture
def page(browser: Any, server: Server) -> Iterator[Any]:
    """Open a page of an English reader; nothing in it may go wrong, and nothing be asked elsewhere."""
    wrong: list[str] = []
    context = browser.new_context(base_url=server.management, locale="en-GB")
    context.set_default_timeout(PATIENCE_MS)
    one = context.new_page()
    one.on("pageerror", lambda error: wrong.append(str(error)))
    # That a page is not there is no fault, where a test asks for such a one.
    bad = ("error", "warning")
    one.on("console", lambda said: wrong.append(said.text) if said.type in bad and "404" not in said.text else None)
    one.on("request", lambda asked: wrong.append(asked.url) if not is_ours(asked.url, server) else None)
    yield one
    context.close()
    assert not wrong


def is_ours(url: str, server: Server) -> bool:
    return url.startswith((f"{server.management}/", "blob:", "data:"))


def test_a_model_is_seen_with_live_numbers(page: Any) -> None:
    page.goto("/console")
    row = page.locator('tr[data-name="mnist"]')
    assert row.locator("[data-live=ready]").inner_text() == "1"
    # The numbers come by themselves.
    page.locator("#charts canvas").nth(4).wait_for()
    playwright.expect(row.locator("[data-live=requests]")).not_to_have_text("–", timeout=PATIENCE_MS)
    row.get_by_role("link", name="mnist", exact=True).click()
    assert page.locator("h1").inner_text() == "mnist 1.0"
    assert page.get_by_text("mnist_script.pt").first.is_visible()


def test_a_picture_is_tried_and_the_digit_read(
    page: Any, server: Server, digit: str, capsys: pytest.CaptureFixture[str]
) -> None:
    page.goto("/console/try/mnist")
    page.set_input_files("#file", DIGIT)
    page.get_by_role("button", name="Send").click()
    assert page.locator("#answer pre.body").inner_text() == digit
    assert page.locator("#answer").get_by_text("worker", exact=True).is_visible()
    # What is shown as the same call is the same call.
    curl, python, torchmar = (
        page.locator(f'#answer pre[aria-label="{name}"]').inner_text() for name in ("curl", "Python", "torchmar")
    )
    box = server.sandbox
    box.file(DIGIT.name, DIGIT.read_bytes())
    assert box.run("sh", "-c", f"{curl} -sS").ok().out == digit
    assert " 200 " in box.torchmar(*torchmar.split()[1:]).ok().out
    exec(python.replace(repr(DIGIT.name), repr(str(DIGIT))), {})
    assert capsys.readouterr().out == f"{digit}\n"


def test_a_sample_of_the_archive_is_tried(page: Any, digit: str) -> None:
    page.goto("/console/models/mnist")
    page.locator(".samples a").first.click()
    assert page.locator("input[name=sample]").is_checked()
    page.get_by_role("button", name="Send").press("Enter")
    assert page.locator("#answer pre.body").inner_text() == digit


def test_words_appear_as_they_come(page: Any, tmp_path: Path) -> None:
    page.goto("/console/try/words")
    page.fill("#text", str(tmp_path / "go on"))
    page.get_by_role("button", name="Send").click()
    playwright.expect(page.locator("#answer pre")).to_have_text("one", timeout=PATIENCE_MS)
    (tmp_path / "go on").touch()
    page.wait_for_selector("#answer h2")
    assert page.locator("#answer pre.body").inner_text() == "one two"


def test_a_load_is_watched_and_its_table_read(page: Any) -> None:
    page.goto("/console/models/mnist")
    page.get_by_role("link", name="Load test").last.click()
    assert page.locator("input[name=sample]").is_checked()
    page.get_by_label("Requests a second", exact=True).fill("10")
    page.get_by_label("Seconds").fill("3")
    page.get_by_role("button", name="Start").press("Enter")
    page.get_by_role("button", name="Stop").wait_for()
    page.locator("#charts canvas").nth(2).wait_for()
    playwright.expect(page.locator("#over")).to_have_text("The load test is over.", timeout=PATIENCE_MS)
    row = page.locator("#outcome tbody tr")
    assert row.locator("th").inner_text() == "10/s", "the number has chosen the kind of load"
    assert float(row.locator("td").first.inner_text()) > 0
    assert "torchmar bench mnist --input" in page.locator("#outcome pre").inner_text()
    assert not page.locator("#running").count()


def test_workers_are_scaled_by_a_click(page: Any, server: Server) -> None:
    page.goto("/console/models/words")
    page.get_by_label("At the least").fill("2")
    page.get_by_label("At the most").fill("2")
    page.get_by_role("button", name="Scale").click()
    assert page.get_by_role("status").inner_text() == "Processing worker updates..."
    deadline = time.monotonic() + PATIENCE_MS / 1000
    while server.ready_workers("words") < 2:
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_a_broken_model_shows_its_error(page: Any) -> None:
    page.goto("/console/models/broken")
    page.get_by_label("At the least").fill("1")
    page.get_by_label("At the most").fill("1")
    page.get_by_role("button", name="Scale").click()
    failure = page.locator(".failure pre")
    failure.wait_for()  # it comes by itself
    text = failure.inner_text()
    assert "FileNotFoundError: no such file: labels.txt\n  in broken_handler.py:4" in text
    assert "Traceback" in text


def test_it_speaks_chinese(page: Any) -> None:
    page.goto("/console")
    page.get_by_role("link", name="中文").click()
    assert page.locator("h1").inner_text() == "概览"
    page.get_by_role("link", name="日志").click()
    assert page.locator("h1").inner_text() == "日志"


def test_it_is_read_on_narrow_screens_and_by_the_keyboard(page: Any) -> None:
    page.set_viewport_size({"width": 360, "height": 640})
    for path in ("/console", "/console/models/mnist", "/console/try/mnist", *LOADS, "/console/logs", "/console/docs"):
        page.goto(path)
        assert page.evaluate("document.documentElement.scrollWidth") <= 360, path
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "content"


@pytest.mark.parametrize("scheme", ["light", pytest.param("dark", marks=pytest.mark.slow)])
def test_axe_finds_no_serious_fault(page: Any, scheme: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    page.emulate_media(color_scheme=scheme)
    paths = [
        "",
        "/models/mnist",
        "/models/broken",
        "/models/words/1.0/unregister",
        "/logs",
        "/docs",
        "/none",
        "/load",
        "/load/mnist",
        "/try/mnist",
    ]
    for path in paths:
        page.goto(f"/console{path}")
        if path == "":
            page.wait_for_selector("#charts canvas")
        if path == "/try/mnist":
            page.set_input_files("#file", DIGIT)
            page.get_by_role("button", name="Send").click()
            page.wait_for_selector("#answer h2")
        found = axe.Axe().run(page).response["violations"]
        serious = [(one["id"], one["nodes"][0]["html"]) for one in found if one["impact"] in ("serious", "critical")]
        assert not serious, path


@pytest.mark.slow
def test_an_open_console_costs_little(page: Any, server: Server) -> None:
    page.goto("/console")
    page.wait_for_selector("#charts canvas")
    frontend = psutil.Process(server.pid)
    seconds = 30.0

    def spent() -> float:
        times = frontend.cpu_times()
        return times.user + times.system

    before = spent()
    page.wait_for_timeout(1000 * seconds)
    with_console = spent() - before
    page.goto("about:blank")
    page.wait_for_timeout(2000)
    before = spent()
    time.sleep(seconds)
    without = spent() - before
    assert (with_console - without) / seconds <= 0.010
