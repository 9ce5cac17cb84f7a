"""All problems of a build are reported together."""

import pytest

from archive_tool.building.report import Report
from archive_tool.errors import BuildError


def test_no_error_no_exception():
    report = Report()
    report.warning("odd", where="there", hint="look")
    report.raise_errors()
    assert str(report.warnings[0]) == "there: odd (look)"


def test_one_error_keeps_its_parts():
    report = Report()
    report.error("wrong", where="there", hint="do")
    report.error("wrong", where="there", hint="do")
    with pytest.raises(BuildError) as caught:
        report.raise_errors()
    assert (caught.value.message, caught.value.where, caught.value.hint) == ("wrong", "there", "do")


def test_several_errors_become_a_list():
    report = Report()
    report.error("one")
    report.error("two", where="f:3", hint="do")
    with pytest.raises(BuildError, match=r"^2 problems with the inputs\n- one\n- f:3: two \(do\)$"):
        report.raise_errors()
