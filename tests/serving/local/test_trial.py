"""One real model, measured plainly and in a way that it is faster in."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path

import pytest
import torch
import yaml

import archive_tool
from archive_tool import cli
from serving.local import trial
from serving.local.contest import Candidate

NET = """
    import time
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 4)

        def forward(self, x):
            if not torch.is_autocast_enabled("cpu"):
                time.sleep(0.02)  # what a slower way to compute would cost
            return self.layer(x)
"""


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    (tmp_path / "net_tried.py").write_text(textwrap.dedent(NET))
    (tmp_path / "h_tried.py").write_text(
        "from handlers import BaseHandler\n\n\nclass Handler(BaseHandler):\n    pass\n"
    )
    (tmp_path / "in.json").write_text("[1, 2, 3]")
    torch.manual_seed(0)
    torch.save({"layer.weight": torch.randn(4, 3), "layer.bias": torch.randn(4)}, tmp_path / "net.pt")
    return archive_tool.build(
        model_name="tried",
        handler=tmp_path / "h_tried.py",
        model_file=tmp_path / "net_tried.py",
        serialized_file=tmp_path / "net.pt",
        export_path=tmp_path,
    ).path


def test_a_faster_way_is_found_and_written(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    candidates = [Candidate("bfloat16", {"dtype": "bfloat16"})]
    monkeypatch.setattr("serving.local.optimize.candidates_for", lambda facts, compiler: (candidates, [str(facts)]))
    arguments = ["optimize", str(archive), "--input", str(tmp_path / "in.json"), "--rounds", "3", "--seconds", "0.1"]
    assert cli.main([*arguments, "--batch", "2", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    plain, other = document["rows"]
    assert plain["latencyMs"] > 20
    assert other["latencySpeedup"] > 1.05
    assert other["throughputSpeedup"] > 1.05
    assert 0 < other["difference"] < 0.05
    assert other["agreement"] == 1.0
    assert other["memory"] > 50e6
    assert other["problem"] is None
    assert document["recommended"] == "bfloat16"
    assert document["written"] == str(tmp_path / "tried-optimized.mar")
    (facts,) = document["notes"]
    assert "'sdk': True" in facts
    assert "'kind': 'Net'" in facts
    assert "'pictures': False" in facts
    with archive_tool.open_archive(tmp_path / "tried-optimized.mar") as opened:
        assert yaml.safe_load(opened.read("model-config.yaml", 1000)) == {"optimize": {"dtype": "bfloat16"}}


@pytest.mark.parametrize(
    ("expected", "found", "agreement"),
    [
        (torch.tensor([[1.0, 2.0], [3.0, 0.0]]), torch.tensor([[1.0, 2.0], [3.0, 4.0]]), 0.5),
        ([(torch.tensor([[1.0, 2.0]]),)], [(torch.tensor([[0.0, 2.0]]),)], 1.0),
        (torch.tensor([[1, 2]]), torch.tensor([[1, 2]]), None),
        (torch.tensor([[1.0]]), torch.tensor([[1.0]]), None),
        (torch.tensor([1.0, 2.0]), torch.tensor([1.0, 2.0]), None),
        (torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 2.0, 3.0]]), None),
        ("text", "text", None),
        ({"a": 1}, {"a": 1}, None),
    ],
)
def test_the_same_class(expected: object, found: object, agreement: float | None) -> None:
    assert trial._agreement(expected, found) == agreement
