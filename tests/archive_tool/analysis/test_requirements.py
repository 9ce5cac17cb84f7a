"""Requirements files; test_checks has the rules of what is one."""

import pytest

from archive_tool.analysis.requirements import parse


def test_lines():
    text = "# a comment\ntorch>=2 # why\n\nnumpy \\\n  >=1\n-r other.txt\n./wheel.whl\nbad ==\n"
    found = list(parse(text))
    assert [(line.number, line.text) for line in found] == [(2, "torch>=2"), (4, "numpy   >=1"), (8, "bad ==")]
    assert found[0].requirement.name == "torch"
    assert found[1].requirement.specifier.contains("1.5")
    assert found[0].problem is None
    assert found[2].requirement is None
    assert "bad ==" not in found[2].problem
    assert "\n" not in found[2].problem


@pytest.mark.parametrize("text", ["", "\n\n", "# only a comment", "-i https://example.org", "\\"])
def test_nothing(text):
    assert list(parse(text)) == []
