"""The candidates that are tried, and the archive that is written; the trials stand in for models."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from archive_tool import TargetExistsError, build, open_archive
from archive_tool.errors import BuildError, InputError
from archive_tool.metadata.manifest import Manifest
from archive_tool.metadata.record import Compiled, Record
from archive_tool.verification.verify import verify
from serving.check import Input
from serving.local import contest
from serving.local.contest import Candidate
from serving.local.optimize import Options, candidates_for, optimize, with_one_thread

from .test_contest import gone

FACTS = {
    "sdk": True,
    "old": False,
    "kind": "Net",
    "module": True,
    "script": False,
    "folds": True,
    "unasked": False,
    "pictures": False,
    "device": "cpu",
    "capability": ["avx2"],
    "threads": 2,
}
STAND_IN = Path(__file__).with_name("stand_in.py")
Make = Callable[..., Path]


# ---- what is tried ---------------------------------------------------------------------------------------------------


def names(compiler: bool = True, **facts: Any) -> list[str]:
    return [one.name for one in candidates_for(FACTS | facts, compiler=compiler)[0]]


@pytest.mark.parametrize(("folds", "by_itself"), [(True, "channels last and freezing"), (False, "channels last")])
def test_what_is_done_unasked_is_told(folds: bool, by_itself: str) -> None:
    facts = {"pictures": True, "unasked": True, "folds": folds, "capability": ["amx_bf16"]}
    found, notes = candidates_for(FACTS | facts, compiler=True)
    assert notes == [f"the plain model runs with {by_itself} by itself: it has convolutions"]
    assert {"channels_last": True} not in [one.section for one in found]


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({}, ["float32, compile, freezing"]),
        (
            {"capability": ["avx512_bf16"]},
            ["bfloat16", "float32, compile, freezing", "bfloat16, compile, freezing"],
        ),
        ({"compiler": False}, []),
        (
            {"script": True, "folds": False, "capability": ["bf16", "asimdhp"]},
            ["bfloat16", "float16", "float32, freezing", "bfloat16, freezing", "float16, freezing"],
        ),
        (
            {"pictures": True},
            [
                "float32, channels last, freezing",
                "float32, compile, freezing",
                "float32, channels last, compile, freezing",
            ],
        ),
        (
            {"pictures": True, "unasked": True, "capability": ["amx_bf16"]},
            [
                *["bfloat16", "bfloat16, channels last, freezing"],
                *["float32, compile, freezing", "float32, channels last, compile, freezing"],
                *["bfloat16, compile, freezing", "bfloat16, channels last, compile, freezing"],
            ],
        ),
        (
            {"pictures": True, "folds": False},
            ["float32, channels last", "float32, compile, freezing", "float32, channels last, compile, freezing"],
        ),
        (
            {"device": "cuda", "capability": ["sm_90"]},
            [
                *["bfloat16", "float16"],
                *[f"{kind}, compile, freezing" for kind in ("float32", "bfloat16", "float16")],
                *[f"{kind}, compile, freezing, cuda graphs" for kind in ("float32", "bfloat16", "float16")],
            ],
        ),
    ],
)
def test_what_makes_sense_for_model_and_machine(facts: dict[str, Any], expected: list[str]) -> None:
    assert names(**facts) == expected


def test_what_is_left_out_is_told() -> None:
    _, notes = candidates_for(FACTS, compiler=False)
    assert ["16-bit" in notes[0], "C++ compiler" in notes[1]] == [True, True]
    assert candidates_for(FACTS | {"capability": ["amx_bf16"]}, compiler=True)[1] == []


def test_one_thread_is_tried_where_the_worker_does_not() -> None:
    row = contest.Row(Candidate("c", {"compile": True}))
    found = with_one_thread(row, FACTS)
    assert found == Candidate("c, 1 thread", {"compile": True}, 1)
    assert with_one_thread(None, FACTS) is None
    assert with_one_thread(contest.Row(Candidate("c", {"dtype": "bfloat16"})), FACTS) is None
    assert with_one_thread(row, FACTS | {"threads": 1}) is None
    assert with_one_thread(row, FACTS | {"device": "cuda"}) is None


# ---- archives --------------------------------------------------------------------------------------------------------


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    monkeypatch.setattr(contest, "_SCRIPT", STAND_IN)

    def make(config: str | None = None, **facts: Any) -> Path:
        (tmp_path / "h.py").write_text("def handle(data, context): return data\n")
        (tmp_path / "facts.json").write_text(json.dumps(FACTS | {"capability": ["avx512_bf16"]} | facts))
        (tmp_path / "large.dat").write_bytes(os.urandom(2 << 20))
        if config is not None:
            (tmp_path / "model-config.yaml").write_text(config)
        built = build(
            model_name="net",
            handler=tmp_path / "h.py",
            extra_files=[tmp_path / "facts.json", tmp_path / "large.dat"],
            config_file=tmp_path / "model-config.yaml" if config is not None else None,
            sample=[str(tmp_path / "facts.json")],
            export_path=tmp_path,
            description="a net",
            force=True,
        )
        return built.path

    return make


def options(archive: Path, **more: Any) -> Options:
    inputs = (Input("in0", b"1", "application/json"),)
    return Options(archive, **{"inputs": inputs, "rounds": 3, "seconds": 0.01, "timeout": 60, **more})


@pytest.fixture
def only(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Try these sections and no others."""

    def these(*sections: dict[str, Any]) -> None:
        found = [Candidate(", ".join(map(str, one.values())), one) for one in sections]
        monkeypatch.setattr("serving.local.optimize.candidates_for", lambda facts, compiler: (found, ["a note"]))

    return these


BFLOAT16 = {"dtype": "bfloat16"}


def test_the_best_becomes_a_new_archive(archive: Make, only: Callable[..., None], tmp_path: Path) -> None:
    only({"dtype": "float16"}, BFLOAT16)
    old = archive("# mine\nbatchSize: 4  # four\n")
    before = old.read_bytes()
    told: list[str] = []
    found = optimize(options(old), told.append)
    assert told[0].startswith("loading the plain model; ")
    assert [line.split("; ")[0] for line in told[2:]] == ["1 of 2: float16", "2 of 2: bfloat16"]
    assert [row.problem for row in found.rows] == [None, "it does not load", None]
    assert found.best is found.rows[2]
    assert found.notes == ["a note"]
    new = tmp_path / "net-optimized.mar"
    assert found.written == new
    assert old.read_bytes() == before
    with zipfile.ZipFile(new) as one, zipfile.ZipFile(old) as other:
        assert sorted(one.namelist()) == sorted(other.namelist())
        text = one.read("model-config.yaml").decode()
        assert text == "# mine\nbatchSize: 4  # four\noptimize:\n  dtype: bfloat16\n"
        for name in {*one.namelist()} - {"model-config.yaml", "MAR-INF/MANIFEST.json"}:
            assert one.read(name) == other.read(name)
    assert verify(new).kind is None
    with open_archive(new) as opened, open_archive(old) as before_it:
        assert opened.manifest.model == before_it.manifest.model
        assert opened.manifest.record.samples == before_it.manifest.record.samples
        assert opened.manifest.record.description == "a net"
    # The one that was optimized already starts from the plain model again.
    again = optimize(options(new, output=tmp_path / "again.tar.gz"))
    assert again.best is not None
    assert yaml.safe_load(open_archive_member(tmp_path / "again.tar.gz", "model-config.yaml"))["optimize"] == BFLOAT16


def open_archive_member(path: Path, name: str) -> bytes:
    with open_archive(path) as opened:
        return opened.read(name, 1 << 20)


def test_an_archive_without_settings_gets_a_config_file(archive: Make, only: Callable[..., None]) -> None:
    only(BFLOAT16)
    found = optimize(options(archive(), tolerance=0.02))
    assert found.written is not None
    manifest = Manifest.from_json(open_archive_member(found.written, "MAR-INF/MANIFEST.json"))
    assert manifest.model.config_file == "model-config.yaml"
    text = open_archive_member(found.written, "model-config.yaml")
    assert yaml.safe_load(text) == {"optimize": {"dtype": "bfloat16", "tolerance": 0.02}}


def test_what_was_compiled_goes_along_and_threads_are_set(archive: Make, only: Callable[..., None]) -> None:
    only({"dtype": "bfloat16", "compile": True})
    old = archive("backend: {mode: shared}\npt2: inductor\n", falls_back=False)
    found = optimize(options(old))
    assert [row.candidate.threads for row in found.rows] == [None, None, 1]
    assert found.written is not None
    manifest = Manifest.from_json(open_archive_member(found.written, "MAR-INF/MANIFEST.json"))
    assert manifest.record is not None
    assert manifest.record.extra["compileCache"] == {"file": "compile-cache.bin", "madeFor": {"torch": "2"}}
    assert open_archive_member(found.written, "compile-cache.bin") == b"compiled"
    settings = yaml.safe_load(open_archive_member(found.written, "model-config.yaml"))
    assert settings["optimize"] == {"dtype": "bfloat16", "compile": True}
    assert settings["backend"]["mode"] == "shared"
    assert settings["startupTimeout"] == 600
    assert "pt2" not in settings
    assert verify(found.written).kind is None


def test_what_was_compiled_ahead_of_time_is_left_out(archive: Make, only: Callable[..., None], tmp_path: Path) -> None:
    only(BFLOAT16)
    old = archive()
    folder = tmp_path / "folder"
    with open_archive(old) as opened:
        opened.extract(folder)
    (folder / "MAR-INF" / "compiled" / "model").mkdir(parents=True)
    (folder / "MAR-INF" / "compiled" / "model" / "code.so").write_bytes(b"code")
    place = folder / "MAR-INF" / "MANIFEST.json"
    compiled = Compiled("MAR-INF/compiled/model", "2", "linux", "cpu")
    place.write_bytes(Manifest.from_json(place.read_bytes()).with_record(Record(compiled=compiled)).to_json())
    found = optimize(options(folder, output=tmp_path / "new.mar"))
    assert "compiled ahead of time is left out" in found.notes[0]
    with open_archive(tmp_path / "new.mar") as opened:
        assert not any("compiled" in member.name for member in opened.members)
        assert opened.manifest.record.compiled is None


def test_a_built_in_name_is_another_class_on_torchserves_worker(
    archive: Make, only: Callable[..., None], tmp_path: Path
) -> None:
    only(BFLOAT16)
    folder = tmp_path / "folder"
    with open_archive(archive()) as opened:
        opened.extract(folder)
    place = folder / "MAR-INF" / "MANIFEST.json"
    manifest = json.loads(place.read_text())
    manifest["model"]["handler"] = "image_classifier"
    del manifest["torchmar"]["members"]  # else the user's own file, below, would be one too many
    place.write_text(json.dumps(manifest))
    told = "TorchServe's own worker has a class of its own for image_classifier, and serves the plain model with it"
    assert told in optimize(options(folder, dry_run=True)).notes
    (folder / "image_classifier.py").write_text("")  # the user's own
    assert optimize(options(folder, dry_run=True)).notes == ["a note"]


def test_nothing_is_written_where_nothing_is_faster(archive: Make, only: Callable[..., None], tmp_path: Path) -> None:
    only({"dtype": "float32", "tolerance": 0.1})
    found = optimize(options(archive()))
    assert (found.best, found.written) == (None, None)
    assert not (tmp_path / "net-optimized.mar").exists()


def test_a_dry_run_writes_nothing(archive: Make, only: Callable[..., None], tmp_path: Path) -> None:
    only(BFLOAT16)
    (tmp_path / "net-optimized.mar").write_text("mine")
    found = optimize(options(archive(), dry_run=True))
    assert found.best is not None
    assert found.written is None
    assert (tmp_path / "net-optimized.mar").read_text() == "mine"


def test_an_archive_that_is_there_is_replaced_only_with_force(
    archive: Make, only: Callable[..., None], tmp_path: Path
) -> None:
    only(BFLOAT16)
    old = archive()
    (tmp_path / "net-optimized.mar").write_text("mine")
    with pytest.raises(TargetExistsError):
        optimize(options(old), lambda name: pytest.fail(f"{name} was measured"))
    assert optimize(options(old, force=True)).written == tmp_path / "net-optimized.mar"
    assert verify(tmp_path / "net-optimized.mar").kind is None


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"old": True, "sdk": False}, "does not know the section optimize"),
        ({"sdk": False}, "is not one of torchmar's SDK"),
        ({"module": False, "kind": "OnnxModel"}, "is OnnxModel, which is compiled already"),
    ],
)
def test_what_has_nothing_to_optimize(archive: Make, facts: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        optimize(options(archive(**facts)))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("continuousBatching: true\nminWorkers: 1\nmaxWorkers: 1\n", "cannot be measured so"),
        ("asyncCommunication: true\n", "cannot be measured so"),
    ],
)
def test_models_that_answer_otherwise(archive: Make, config: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        optimize(options(archive(config)))


@pytest.mark.parametrize(
    ("output", "message"), [("new.zip", "no name of an archive"), ("none/new.mar", "does not exist")]
)
def test_names_of_new_archives(archive: Make, tmp_path: Path, output: str, message: str) -> None:
    with pytest.raises(BuildError, match=message):
        optimize(options(archive(), output=tmp_path / output))


def test_candidates_that_come_after_the_budget_are_named(
    archive: Make, only: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    only(BFLOAT16, {"dtype": "float16"})
    budgets: list[contest.Budget] = []

    class Watched(contest.Budget):
        def __init__(self, seconds: float) -> None:
            super().__init__(seconds)
            budgets.append(self)

    def tell(line: str) -> None:
        if line.startswith("1 of 2: "):
            budgets[0]._end = time.monotonic()  # as if all before it had taken so long

    monkeypatch.setattr("serving.local.optimize.Budget", Watched)
    found = optimize(options(archive(), budget=60.0), tell)
    assert [row.problem for row in found.rows[1:]] == ["not measured: the budget of 60 s was over"]
    assert found.notes[-1] == "the budget of 60 s was over before these were tried: float16"
    assert found.written is None


@pytest.mark.slow  # waits
def test_what_there_was_no_time_for_is_named(archive: Make, only: Callable[..., None], tmp_path: Path) -> None:
    only({"dtype": "bfloat16"}, {"dtype": "bfloat16", "compile": True}, {"dtype": "float16"})
    told: list[str] = []
    # The measuring of the first takes all there is; what was found is kept.
    found = optimize(options(archive(takes=8.0), budget=30.0), told.append)
    assert [row.problem for row in found.rows[1:]] == ["not measured: the budget of 30 s was over"]
    assert any("was over before these were tried: " in note for note in found.notes)
    assert found.written is None
    assert "0:" in told[0]
    assert told[1].startswith("a request takes 0.001 s; 3 candidates, ")
    assert told[2].startswith("1 of 3: ")


def test_an_interrupt_leaves_neither_processes_nor_files(archive: Make, tmp_path: Path) -> None:
    """A candidate that hangs (see the stand-in) while Ctrl-C comes."""
    old = archive()
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    program = f"""
import sys
from pathlib import Path
sys.path.insert(0, {str(Path(contest.__file__).parents[2])!r})
from archive_tool.cli import entry as cli
from serving.local import contest
contest._SCRIPT = Path({str(STAND_IN)!r})
sys.exit(cli.main(["optimize", {str(old)!r}, "--input", {str(tmp_path / "h.py")!r}, "--seconds", "0.01"]))
"""
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        env={**os.environ, "TMPDIR": str(temporary)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stderr is not None
    assert process.stdout is not None
    try:
        deadline = time.monotonic() + 120
        while not (found := list(temporary.glob("*/pids.txt"))):
            assert time.monotonic() < deadline
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.02)
        time.sleep(0.1)
        pids = [int(pid) for pid in found[0].read_text().split()]
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
        shown = process.stdout.read().decode()
        assert "plain float32" in shown  # what was found so far
        assert "interrupted: nothing is written" in shown
    finally:
        process.kill()
        process.wait()
        process.stderr.close()
        process.stdout.close()
    assert list(temporary.iterdir()) == []
    assert gone(*pids)
