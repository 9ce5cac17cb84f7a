"""Takes the pictures of docs/console.md, of a server that serves MNIST as `examples/mnist/README.md` builds it.

::

    torchmar start --frontend python --models mnist=mnist.mar --model-store model_store --workers 2
    sleep 60                                         # once a minute the server looks at its workers' memory
    python docs/console/take.py $(torchmar console)

With a font for Chinese, such as Debian's fonts-noto-cjk.
"""

from __future__ import annotations

import sys
import threading
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

from serving.cli.options import address_of
from serving.client import InferenceClient

HERE = Path(__file__).resolve().parent
SAMPLES = sorted((HERE.parents[1] / "examples" / "mnist" / "samples").glob("*.png"))
OPTIONS = ("--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking")
SIZE = {"width": 1180, "height": 560}
CHART_S = 40.0


def ask_meanwhile(ended: threading.Event) -> None:
    """Ask the model, so that the charts have something to show: more, and less, and some requests that fail."""
    address, token = address_of("default", "inference", None)
    with InferenceClient.at(address, token=token) as client:
        for number in range(10**9):
            bodies = [SAMPLES[number % len(SAMPLES)].read_bytes()] * (1 + number // 20 % 3)
            for body in [*bodies, *([b"no picture"] if number % 15 == 0 else [])]:
                client.predict("mnist", body, content_type="image/png")
            if ended.wait(0.1):
                return


def page_of(browser: Browser, scheme: str = "light", language: str = "en") -> Page:
    """Open a page of a reader."""
    return browser.new_context(viewport=SIZE, color_scheme=scheme, locale=language).new_page()


def main() -> None:
    """Take them."""
    address = sys.argv[1]
    ended = threading.Event()
    asking = threading.Thread(target=ask_meanwhile, args=(ended,))
    asking.start()
    try:
        with sync_playwright() as driver:
            browser = driver.chromium.launch(executable_path="/usr/bin/chromium", args=list(OPTIONS))
            overview = page_of(browser)
            overview.goto(address)
            overview.wait_for_timeout(1000 * CHART_S)
            overview.screenshot(path=HERE / "overview.png")
            dark = page_of(browser, "dark", "zh")
            dark.goto(address)
            dark.wait_for_selector("#charts canvas")
            dark.wait_for_timeout(1000)
            dark.screenshot(path=HERE / "overview-zh-dark.png")
            trying = page_of(browser)
            trying.goto(f"{address}/try/mnist")
            trying.set_input_files("#file", next(one for one in SAMPLES if one.name == "7_0.png"))
            trying.get_by_role("button", name="Send").click()
            trying.wait_for_selector("#answer h2")
            trying.screenshot(path=HERE / "try.png", full_page=True)
            browser.close()
    finally:
        ended.set()
        asking.join()


if __name__ == "__main__":
    main()
