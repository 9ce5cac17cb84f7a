"""The pages in both languages, and what is kept of others beside them."""

from __future__ import annotations

import hashlib
import re
from string import Formatter

from serving.frontend.apps.console import words
from serving.frontend.apps.console.pages import HERE

_SAID = re.compile(r"""\b_\(\s*(["'])(.+?)\1""")


def test_everything_is_said_in_both_languages() -> None:
    pages = [path.read_text(encoding="utf-8") for path in (HERE / "templates").glob("*.html")]
    said = {text for page in pages for _, text in _SAID.findall(page)}
    assert said == set(words._CHINESE)
    for english, chinese in words._CHINESE.items():
        fields = [{name for _, name, _, _ in Formatter().parse(text) if name} for text in (english, chinese)]
        assert fields[0] == fields[1], english
        assert words.say("zh", english) == chinese
        assert words.say("en", english) == english


def test_nothing_in_the_pages_is_inline() -> None:
    for path in (HERE / "templates").glob("*.html"):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]* src=)|javascript:|\|\s*safe\b", text), path


def test_the_chart_library_is_the_one_of_npm() -> None:
    """uPlot 1.6.32, as ``npm pack uplot`` gives it."""
    kept = {
        "LICENSE": "8f989229699b4fe2f1a0432d0e9edc338a8a911e250e2d1b01ecd770a5f5b1bd",
        "uPlot.iife.min.js": "19c8d4c6ad88929a79f4ae49d6f7161566dfd0ba3d15cc495e974f787eb78f1f",
        "uPlot.min.css": "df630c6a8d6f8eeaff264b50f73ce5b114f646ffd9a0bb74f049b0a00135fa04",
    }
    found = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (HERE / "static" / "uplot").iterdir()}
    assert found == kept
