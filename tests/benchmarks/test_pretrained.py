from __future__ import annotations

import json
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import pretrained
from benchmarks.serving_bench import turns

TINY = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}


def test_it_has_what_was_asked_for() -> None:
    usual = turns.parse(pretrained.COMPARISON, ["--driver", "bundled"])
    assert usual.connections == (1, 8, 32)
    assert usual.contenders[0] == "torchserve"  # ratios are to the first
    assert usual.workloads == ["minilm", "bert"]


def test_torchserve_gets_the_handler_and_we_the_folder(tmp_path: Path) -> None:
    saved = tmp_path / "saved"
    saved.mkdir()
    for name in ("config.json", "tokenizer.json", pretrained.WEIGHTS):
        (saved / name).write_text("{}")
    by_hand = pretrained._by_hand(saved, pretrained.HANDLER / "classifier_handler.py")
    assert by_hand["extra_files"] == [saved / "config.json", saved / "tokenizer.json"]
    workload = pretrained.Pretrained("m", "", {"handler": pretrained.ARCHIVES / "noop_handler.py"}, (), str, by_hand)
    manifests = {}
    for name, contender in pretrained.COMPARISON.contenders.items():
        archive = tmp_path / name / workload.build(tmp_path / name, contender, contender.workers)
        with zipfile.ZipFile(archive) as opened:
            manifests[name] = json.loads(opened.read("MAR-INF/MANIFEST.json"))["model"]["handler"]
    stock, ours = ("classifier_handler.py",) * 2, ("noop_handler.py",) * 2
    assert tuple(manifests.values()) == stock + ours


@pytest.mark.slow  # a server for each of two contenders
@pytest.mark.integration
def test_a_run_with_a_tiny_model(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("transformers")
    monkeypatch.setattr(turns.command_line, "take_cores", lambda _: True)  # the other tests keep theirs
    tiny = replace(pretrained.COMPARISON, workloads={"bert": lambda folder: pretrained.bert(folder, **TINY)})
    chosen = ["--quick", "--driver", "bundled", "--contenders", "torchserve,python"]
    assert turns.measure(tiny, turns.parse(tiny, chosen)) == 0
    assert "| bert, 8 |" in capfd.readouterr().out
