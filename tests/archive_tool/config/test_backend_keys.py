"""The settings of the section `backend:`."""

from pathlib import Path

import pytest

from archive_tool.config.backend_keys import KEYS
from serving.worker.loading.settings import Backend, backend_of

DOCUMENT = Path(__file__).resolve().parents[3] / "docs" / "archives.md"


@pytest.mark.parametrize(
    ("name", "good", "bad", "expected"),
    [
        ("mode", ["dedicated", "shared"], ["Shared", 1, None, True, []], "dedicated or shared"),
        ("max_batch_size", [1, 4096], [0, 4097, 1.0, True, "1", "auto", None], "an integer from 1 to 4096"),
        ("max_batch_delay_ms", [0, 0.5, 60000], [-1, 60001, float("nan"), "0", False], "a number from 0 to 60000"),
        ("processes", [1, 256], [0, 257, 1.0], "an integer from 1 to 256"),
        ("threads", ["auto", 1, 2**31 - 1], [0, 2**31, "2", True, 1.5], "auto or an integer from 1"),
        ("isolate_errors", [True, False], [0, 1, "true", None], "true or false"),
        ("pipeline", [True, False], ["by handler", 1], "true or false"),
        ("warm_up", [True, False], ["yes", {}], "true or false"),
    ],
)
def test_values(name, good, bad, expected):
    row = KEYS[name]
    assert [value for value in [*good, *bad] if row.fits(value)] == good
    assert row.expected == expected


def test_the_worker_has_the_defaults():
    assert backend_of({}) == Backend()


def test_the_documentation_has_the_table():
    rows = [line.split(" | ") for line in DOCUMENT.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    found = {row[0].strip("| `"): row[2].strip("`") for row in rows if len(row) == 4}
    shown = {name: str(row.default).lower() if row.kind == "bool" else str(row.default) for name, row in KEYS.items()}
    assert shown.items() <= found.items()
