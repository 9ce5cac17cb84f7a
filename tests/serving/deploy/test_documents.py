"""YAML that every reader understands alike."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from archive_tool.errors import InputError, TargetExistsError
from serving.deploy.documents import as_yaml, write

# As YAML 1.1 and 1.2, and the libraries of Go in both, read a text without quotes as something else.
NUMBER = re.compile(r"[-+]?(\.?[0-9][0-9a-fxo_.:]*(e[-+]?[0-9]+)?|\.inf|\.nan)", re.IGNORECASE)
WORDS = {"y", "n", "yes", "no", "on", "off", "true", "false", "null", "~", ""}


@given(st.text() | st.from_regex(NUMBER, fullmatch=True) | st.sampled_from(sorted(WORDS)))
@example("1e3")
@example("0o17")
@example("1_000")
@example("12:30")
@example("Y")
@example("- a")
@example("a: b #c")
@example("{{.Name}}")
@example("\u2028\x85\n")
def test_a_text_stays_a_text(text: str) -> None:
    written = as_yaml([{"key": text}])
    assert yaml.safe_load(written) == {"key": text}
    value = written.removeprefix("---\nkey:").strip()
    if value[:1] not in ("'", '"', "|", ">"):
        assert value.lower() not in WORDS
        assert not NUMBER.fullmatch(value)


def test_nothing_is_written_by_reference() -> None:
    shared = {"app": "x"}
    assert as_yaml([{"a": shared, "b": [shared]}, {"c": "1"}]) == ("---\na:\n  app: x\nb:\n  - app: x\n---\nc: '1'\n")


def test_amounts_need_no_quotes() -> None:
    assert as_yaml([{"a": "1Gi", "b": "800m", "c": "--timeout=600"}]) == "---\na: 1Gi\nb: 800m\nc: --timeout=600\n"


def test_a_file_is_replaced_when_that_is_asked_for(tmp_path: Path) -> None:
    target = tmp_path / "x.yaml"
    write("a\n", target, force=False)
    with pytest.raises(TargetExistsError, match="exists already"):
        write("b\n", target, force=False)
    write("b\n", target, force=True)
    assert target.read_text() == "b\n"
    assert list(tmp_path.iterdir()) == [target]


def test_what_cannot_be_written_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot write"):
        write("a\n", tmp_path / "gone" / "x.yaml", force=False)
