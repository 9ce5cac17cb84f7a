"""Product code stands in rooms: folders that one takes in at a glance, each with a sentence that says what is in it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("archive_tool", "handlers", "model_defs", "serving")
MOST = 14
FOLDERS = sorted({path.parent for package in PACKAGES for path in (ROOT / package).rglob("*.py")})
ROOMS = [folder for folder in FOLDERS if (folder / "__init__.py").is_file()]
# Packages whose __init__ has names for users.
FACES = [
    ROOT / name
    for name in (
        "archive_tool",
        "handlers",
        "handlers/text",
        *(f"serving/{n}" for n in ("check", "client", "control", "protocol")),
    )
]


def name(folder: Path) -> str:
    return folder.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("folder", FOLDERS, ids=name)
def test_no_folder_has_too_many_modules(folder: Path) -> None:
    assert len(list(folder.glob("*.py"))) <= MOST


@pytest.mark.parametrize("folder", ROOMS, ids=name)
def test_a_room_says_what_is_in_it(folder: Path) -> None:
    tree = ast.parse((folder / "__init__.py").read_text(encoding="utf-8"))
    first = (ast.get_docstring(tree) or "").splitlines()[0]
    assert first.endswith(".")
    if folder not in FACES:
        assert len(tree.body) == 1, (
            "a room's __init__ holds its sentence and nothing else, so importing it costs nothing"
        )
