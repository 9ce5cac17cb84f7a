"""One real model, measured plainly and in a way that makes it faster."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from torch import nn

import archive_tool
from archive_tool.cli import entry
from handlers.loading.programs import ExportedModule
from handlers.optimization.settings import DTYPES
from serving.local import trial
from serving.local.contest import Candidate, Row

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
    assert entry.main([*arguments, "--batch", "2", "--json"]) == 0
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


SMALL = """
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm, self.head = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 5)

        def forward(self, x):
            return self.head(self.norm(self.conv(x)).relu().mean((2, 3)))
"""


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("form", ["eager", "exported", "scripted"])
def test_all_that_is_sensible_is_tried_and_the_new_archive_answers_alike(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Really compiled. Which one is the fastest is left open, so here any that works may be."""
    monkeypatch.setattr(Row, "is_faster", property(lambda row: row.problem is None and bool(row.rounds)))
    (tmp_path / "net_small.py").write_text(textwrap.dedent(SMALL))
    (tmp_path / "h_small.py").write_text(
        "from handlers import BaseHandler\n\n\nclass Handler(BaseHandler):\n    pass\n"
    )
    spaces: dict[str, Any] = {}
    exec(textwrap.dedent(SMALL), spaces)
    torch.manual_seed(0)
    net, picture = spaces["Net"]().eval(), torch.rand(3, 16, 16)
    (tmp_path / "in.json").write_text(json.dumps(picture.tolist()))
    weights = tmp_path / "net.pt"
    if form == "eager":
        torch.save(net.state_dict(), weights)
    elif form == "exported":
        free = ({0: torch.export.Dim("rows", min=1)},)
        torch.export.save(torch.export.export(net, (torch.rand(2, 3, 16, 16),), dynamic_shapes=free), weights)
    else:
        torch.jit.trace(net, torch.rand(2, 3, 16, 16)).save(str(weights))
    archive = archive_tool.build(
        model_name="small",
        handler=tmp_path / "h_small.py",
        model_file=tmp_path / "net_small.py" if form == "eager" else None,
        serialized_file=weights,
        export_path=tmp_path,
    ).path
    arguments = ["--input", str(tmp_path / "in.json"), "--rounds", "3", "--seconds", "0.02", "--batch", "2"]
    assert entry.main(["optimize", str(archive), *arguments, "--timeout", "1000", "--budget", "1000", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [row["problem"] for row in document["rows"]] == [None] * len(document["rows"])
    assert all(row["difference"] <= DTYPES[row["name"].partition(",")[0]] for row in document["rows"][1:])
    sections = [row["optimize"] for row in document["rows"]]
    # Only layers can be folded without a compiler, which goes together with their layout.
    assert ({"channels_last": True, "freezing": True} if form == "eager" else {"channels_last": True}) in sections
    assert ({"freezing": True} if form == "scripted" else {"compile": True, "freezing": True}) in sections
    with torch.no_grad():
        expected = net(picture[None])[0].tolist()
    assert entry.main(["run", document["written"], str(tmp_path / "in.json"), "-q"]) == 0
    assert json.loads(capsys.readouterr().out) == pytest.approx(expected, abs=0.05)


@pytest.mark.parametrize("kind", ["layers to fold", "none to fold", "saved"])
def test_whether_there_is_something_to_fold(kind: str) -> None:
    """A saved program has operators in place of layers."""
    net: nn.Module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU() if kind == "none to fold" else nn.BatchNorm2d(4))
    net.eval()
    model = ExportedModule(torch.export.export(net, (torch.rand(1, 3, 8, 8),))) if kind == "saved" else net
    asked: Any = SimpleNamespace(handler=SimpleNamespace(model=model, device=torch.device("cpu")))
    assert trial.Trial.facts(asked)["folds"] is (kind == "layers to fold")


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
