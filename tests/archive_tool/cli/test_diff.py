"""diff on the command line."""

import json
import math

import pytest
import torch

from tests.archive_tool.hostile import Member, archive
from tests.archive_tool.inspection.test_diff import saved


def test_diff(tmp_path, torchmar):
    def run(*arguments):
        done = torchmar(*arguments)
        return done.returncode, done.stdout

    first, second = tmp_path / "a.mar", tmp_path / "b.mar"
    state = {"w": torch.zeros(2), "inf": torch.tensor([math.nan]), "old": torch.ones(1), "t": torch.ones(1)}
    after = {"w": torch.ones(2), "inf": torch.ones(1), "new": torch.ones(1), "t": torch.ones(1).double()}
    first.write_bytes(archive(Member(b"w.pt", saved(state)), Member(b"h.py", b"x\n"), Member(b"old", b"1")))
    second.write_bytes(archive(Member(b"w.pt", saved(after)), Member(b"h.py", b"\x1b[2J\n"), Member(b"new", b"1")))
    code, out = run("diff", first, second)
    assert code == 1
    assert "~ w  float32 [2]  largest difference 1\n" in out
    assert "~ t  float32 [1] -> float64 [1]  largest difference 0\n" in out
    assert "+ new  float32 [1]\n" in out
    assert "- old  float32 [1]\n" in out
    assert "+ new  added  1 B\n" in out
    assert "- old  removed  1 B\n" in out
    assert "~ h.py  changed  2 B -> 5 B\n" in out
    assert "\x1b" not in out
    code, out = run("diff", first, second, "--json")
    assert code == 1
    document = json.loads(out, parse_constant=lambda text: pytest.fail(f"{text} is no JSON"))
    weights = next(member for member in document["members"] if member["name"] == "w.pt")
    assert {tensor["name"]: tensor["largest"] for tensor in weights["tensors"]}["inf"] == "infinity"
    assert run("diff", first, first) == (0, "")
    assert run("diff", first, tmp_path / "no.mar") == (3, "")
