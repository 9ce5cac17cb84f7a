from __future__ import annotations

import json
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from archive_tool.weights.formats import Format, sniff_file
from benchmarks import archive
from benchmarks.archive import Results, Turn

ROOT = Path(__file__).resolve().parents[2]


def results(**seconds: float) -> Results:
    names = list(archive.CONTENDERS)
    found = Results({"machine": "x"}, 1.0, names)
    for name, key in zip(names, ("cp", "ours", "packed", "stock", "store"), strict=True):
        found.turns += [
            Turn(number, name, seconds[key] * scale, 1.0, 50.0, 1000, "a") for number, scale in enumerate((1, 0.5, 9))
        ]
    return found


def test_quick_changes_only_what_was_not_said() -> None:
    options = archive.parse(["--quick", "--gib", "0.5"])
    assert (options.gib, options.rounds) == (0.5, 1)
    usual = archive.parse([])
    assert (usual.gib, usual.rounds, usual.contenders) == (1.0, 3, list(archive.CONTENDERS))


@pytest.mark.parametrize("arguments", [["--contenders", "tar"], ["--gib", "0"], ["--rounds", "0"]])
def test_a_wrong_option_is_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        archive.parse(arguments)
    assert caught.value.code == 2
    assert "error:" in capsys.readouterr().err


def test_weights_are_a_safetensors_file_and_always_the_same(tmp_path: Path) -> None:
    for name in ("a", "b"):
        archive.make_weights(tmp_path / name, 100_000)
    assert sniff_file(tmp_path / "a") is Format.SAFETENSORS
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    data = (tmp_path / "a").read_bytes()
    (length,) = struct.unpack_from("<Q", data)
    values = struct.unpack("<25000f", data[8 + length :])
    assert abs(sum(values) / len(values)) < 0.001
    assert max(values) < 0.2


def test_medians_and_targets() -> None:
    found = results(cp=0.5, ours=0.8, packed=20, stock=32, store=2.4)
    assert found.median("cp", "wall_s") == 0.5
    assert found.ratio("torch-model-archiver", "torchmar") == 40
    text = archive.markdown(found)
    assert "| times as fast as torch-model-archiver | >= 20 | 40.0 | yes |" in text
    assert "| times as fast as its zip-store | >= 2.5 | 3.00 | yes |" in text
    assert "| times as long as cp | <= 2 | 1.60 | yes |" in text
    assert "| peak memory, MB | <= 100 | 50.0 | yes |" in text
    assert "| times as long as cp | <= 2 | 3.20 | no |" in archive.markdown(
        results(cp=0.25, ours=0.8, packed=20, stock=32, store=2.4)
    )


def test_different_archives_are_a_problem() -> None:
    found = results(cp=1, ours=1, packed=1, stock=1, store=1)
    assert found.problems == []
    found.turns.append(Turn(3, "torchmar", 1.0, 1.0, 50.0, 1000, "b"))
    assert found.problems == ["torchmar: the rounds gave different archives"]
    assert "What went wrong" in archive.markdown(found)


def test_a_small_run(tmp_path: Path) -> None:
    """As its own process, which must stay small: the peak memory of what it starts begins with its own."""
    arguments = ["--gib", "0.005", "--rounds", "2", "--contenders", "cp,torchmar", "--folder", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks/archive.py", *arguments, "--output-dir", tmp_path / "results"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["results"]
    document = json.loads((tmp_path / "results/archive.json").read_text())
    turns = {(turn["round"], turn["contender"]): turn for turn in document["turns"]}
    assert set(turns) == {(number, name) for number in (0, 1) for name in ("cp", "torchmar")}
    assert turns[0, "torchmar"]["sha256"] == turns[1, "torchmar"]["sha256"]
    assert turns[0, "torchmar"]["size"] > turns[0, "cp"]["size"]
    assert turns[0, "cp"]["peak_mb"] < turns[0, "torchmar"]["peak_mb"] < 100
    assert all(turn["wall_s"] > 0 for turn in turns.values())
    text = (tmp_path / "results/archive.md").read_text()
    assert text in done.stdout
    assert "| times as fast as torch-model-archiver | >= 20 | - | - |" in text
