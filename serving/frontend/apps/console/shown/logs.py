"""The logs of a server for a page: their last part, what comes then, and why a model could not be loaded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from serving.control.following.diagnosis import LoadFailure, LogWatch
from serving.control.following.forms import visible
from serving.control.following.logs import Event, Following, newest

#: Bytes of a file that are read at once, events that are shown, seconds between two looks.
MOST_BYTES: Final = 1 << 20
MOST_EVENTS: Final = 500
EVERY_S: Final = 1.0
MOST_TEXT: Final = 8_000


@dataclass(frozen=True)
class Filter:
    """What is wanted of the logs.

    Attributes:
        model: whose workers printed it; empty for everything.
        marked: what is in it, such as a request's id; empty for everything.
    """

    model: str = ""
    marked: str = ""


def following(folder: Path, wanted: Filter) -> Following:
    """Return what follows the logs of a folder from their last part on."""
    return Following(folder, wanted.model or None, wanted.marked, MOST_BYTES)


def rows(followed: Following) -> list[dict[str, str]]:
    """Return the newest of what has come since the last time, and its levels; waits for the disk."""
    return [{"text": shown(one), "level": level_of(one)} for one in newest(followed.events(), MOST_EVENTS)]


def level_of(event: Event) -> str:
    """Return the level of an event, ``info``, ``warn`` or ``error``; empty where it says none."""
    words = event.text[:60].split("[", 1)
    level = words[1].partition("]")[0].strip().lower() if len(words) == 2 else ""
    return {"fatal": "error"}.get(level, level) if level in ("info", "warn", "error", "fatal", "debug") else ""


def shown(event: Event) -> str:
    """Return an event's text, without its end where it is long: as it may be copied into a terminal, too."""
    return visible(event.text if len(event.text) <= MOST_TEXT else f"{event.text[:MOST_TEXT]} ...")


def failure_of(folder: Path, model: str) -> LoadFailure | None:
    """Return why a model could not be loaded, as the logs have it; None where they say nothing. Waits for the disk."""
    watch = LogWatch(folder, from_begin=True, most=MOST_BYTES)
    watch.poll()
    return watch.failure(model)
