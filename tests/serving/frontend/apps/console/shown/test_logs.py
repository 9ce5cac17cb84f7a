from __future__ import annotations

from pathlib import Path

import pytest

from serving.control.following.logs import Event
from serving.frontend.apps.console.shown.logs import MOST_TEXT, Filter, following, level_of, shown
from tests.serving.control.following.test_logs import printed


def test_what_is_shown_moves_reorders_and_hides_nothing() -> None:
    assert shown(Event("a\x1b[2J\u202eb\u200b\x00\r")) == "a\\x1b[2J\\u202eb\\u200b\\x00\\r"
    # What texts need stands as it is.
    assert shown(Event("Traceback:\n\tat 你好\u3000 é\u00a0!")) == "Traceback:\n\tat 你好\u3000 é\u00a0!"
    assert shown(Event("x" * 10_000)) == "x" * MOST_TEXT + " ..."


@pytest.mark.parametrize(
    ("text", "level"), [("t [INFO ] a - b", "info"), ("t [FATAL] a", "error"), ("t [x] a", ""), ("a", "")]
)
def test_levels(text: str, level: str) -> None:
    assert level_of(Event(text)) == level


def test_what_comes_is_followed_by_model_and_mark(tmp_path: Path) -> None:
    log = tmp_path / "model_log.log"
    log.write_text(printed(1, "one") + printed(2, "two", worker="W-9001-other_1.0"))
    net = following(tmp_path, Filter("net", ""))
    assert [event.printed for event in net.events()] == ["one"]
    with log.open("a") as file:
        file.write(printed(3, "three order-17") + printed(4, "four"))
    assert [event.printed for event in net.events()] == ["three order-17", "four"]
    assert [event.printed for event in following(tmp_path, Filter("", "order-17")).events()] == ["three order-17"]
