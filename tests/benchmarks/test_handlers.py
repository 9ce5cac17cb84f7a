from __future__ import annotations

import io
import json
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from PIL import Image

from benchmarks import handlers
from benchmarks.handlers_bench import assets, contenders, loop, report
from benchmarks.handlers_bench.contenders import BEST_16_BIT, CONTENDERS, DEFAULTS, STOCK
from benchmarks.handlers_bench.loop import STAGES, Loop
from benchmarks.handlers_bench.results import HandlerResults, LoopRun, bfloat16_hardware, targets
from benchmarks.serving_bench.driver import Figures
from benchmarks.serving_bench.results import Load
from examples import downloads


def test_quick_changes_only_what_was_not_said() -> None:
    options = handlers.parse(["--quick", "--seconds", "4", "--driver", "bundled", "--connections", "8"])
    assert (options.rounds, options.seconds, options.pictures, options.connections) == (1, 4.0, 24, (8,))
    usual = handlers.parse(["--driver", "bundled"])
    assert (usual.rounds, usual.pictures, usual.connections[:2]) == (3, 216, (1, 8))
    assert usual.workloads == ["resnet18", "lite0"]


@pytest.mark.parametrize(
    ("hardware", "gpu", "left_out"),
    [(True, None, set()), (None, None, set()), (False, "smi", set()), (False, None, {"bfloat16", BEST_16_BIT})],
)
def test_numbers_of_16_bits_are_left_out_where_they_are_slow(hardware, gpu, left_out, monkeypatch) -> None:
    monkeypatch.setattr(handlers, "bfloat16_hardware", lambda: hardware)
    monkeypatch.setattr(handlers.shutil, "which", lambda _: gpu)
    labels = {one.label for one in handlers.parse(["--driver", "bundled"]).contenders}
    assert labels == set(CONTENDERS) - left_out
    asked = handlers.parse(["--driver", "bundled", "--contenders", "bfloat16"]).contenders
    assert [one.label for one in asked] == [STOCK, "bfloat16"]


@pytest.mark.parametrize(
    "arguments", [["--contenders", "x"], ["--connections", "x"], ["--pictures", "0"], ["--parts", "life"]]
)
def test_a_wrong_option_is_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        handlers.parse(arguments)
    assert caught.value.code == 2
    assert "error:" in capsys.readouterr().err


def test_torchserve_is_always_measured_and_first() -> None:
    assert [one.label for one in contenders.parse("compiled,stock,defaults")] == [STOCK, "compiled", DEFAULTS]


def test_contenders_differ_in_their_configuration() -> None:
    configs = {name: yaml.safe_load(one.model_config(one.workers)) for name, one in CONTENDERS.items()}
    assert "backend" not in configs[STOCK] | configs[DEFAULTS]
    assert not any("optimize" in configs[name] for name in (STOCK, DEFAULTS, "shared"))
    assert configs["bfloat16"]["optimize"] == {"dtype": "bfloat16"}
    fastest = {"compile": True, "freezing": True, "channels_last": True}
    assert configs["compiled"]["optimize"] == fastest
    assert configs[BEST_16_BIT]["optimize"] == fastest | {"dtype": "bfloat16"}
    assert (configs["shared"]["backend"]["mode"], configs["shared"]["minWorkers"]) == ("shared", 16)
    assert [name for name, one in CONTENDERS.items() if one.is_16_bit] == ["bfloat16", BEST_16_BIT]


@pytest.fixture
def photograph(tmp_path: Path) -> Path:
    path = tmp_path / "photograph.png"
    Image.radial_gradient("L").resize((500, 400)).save(path)
    return path


def test_pictures_are_varied_and_the_same_every_time(photograph: Path, tmp_path: Path) -> None:
    first, again = (
        [path.read_bytes() for path in assets.pictures([photograph], tmp_path / name, 12)] for name in ("a", "b")
    )
    assert first == again
    assert len(set(first)) == 12
    opened = [Image.open(io.BytesIO(content)) for content in first]
    assert {(one.format, one.mode) for one in opened} == {("JPEG", "RGB")}
    assert len({one.size for one in opened}) == 12
    assert all(min(one.size) >= 240 and max(one.size) <= 1000 for one in opened)


def test_photographs_and_weights_are_kept_beside_those_of_the_examples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(downloads.CACHE_VARIABLE, str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    for package in (downloads.PHOTOGRAPHS, downloads.LITE0_WEIGHTS, downloads.LITE0_CODE):
        for name in {**package.files, **dict.fromkeys(assets.PHOTOGRAPHS)}:
            path = tmp_path / package.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    assert [path.name for path in assets.photographs()] == list(assets.PHOTOGRAPHS)
    weights, code = assets.lite0()
    assert weights.is_file()
    assert sorted(path.name for path in code.glob("*.py")) == ["__init__.py", "model.py", "utils.py"]
    (tmp_path / downloads.PHOTOGRAPHS.folder / "horse.png").unlink()
    with pytest.raises(downloads.DownloadError, match="scikit-image"):
        assets.photographs()


@pytest.mark.parametrize(
    ("text", "known"),
    [
        ("flags\t\t: fpu avx2 avx512_bf16\nflags : fpu", True),
        ("Features : fp asimd bf16", True),
        ("flags : fpu avx2", False),
    ],
)
def test_the_processor_tells_whether_it_knows_bfloat16(text: str, known: bool, tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text(f"processor : 0\n{text}\n")
    assert bfloat16_hardware(tmp_path / "cpuinfo") is known
    assert bfloat16_hardware(tmp_path / "none") is None


MODEL = """
import torch
from torch import nn

class Net(nn.Module):
    def forward(self, x):
        return x.mean(dim=(2, 3)).repeat(1, 3)
"""


@pytest.mark.filterwarnings("ignore")  # TorchServe's package leaves files open
@pytest.mark.parametrize("kind", ["stock", "ours"])
def test_the_loop_measures_handler_model_and_stages(
    kind: str, photograph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "model"
    (folder / "MAR-INF").mkdir(parents=True)
    name = f"loop_net_{kind}"
    manifest = {"model": {"modelName": "m", "modelFile": f"{name}.py", "handler": "image_classifier"}}
    (folder / "MAR-INF" / "MANIFEST.json").write_text(json.dumps(manifest))
    (folder / f"{name}.py").write_text(MODEL)
    monkeypatch.syspath_prepend(str(folder))
    bodies = [path.read_bytes() for path in assets.pictures([photograph], tmp_path / "pictures", 3)]
    handler, context = loop.load(folder, kind)
    found = loop.run(handler, context, bodies, [1, 2], 0.01)
    assert set(found.handler) == set(found.model) == {1, 2}
    assert min(*found.handler.values(), *found.model.values()) > 0
    assert tuple(found.stages) == STAGES
    assert found.stages["decode"] > 0
    assert Loop.read(json.dumps({**vars(found)})) == found


class HandlerWithState:
    """A handler with code that is made anew for whatever is not as in its own calls, as torch.compile's is."""

    device = torch.device("cpu")

    def __init__(self) -> None:
        self.serving = False
        self.strange = 0

    def handle(self, data: list[dict[str, bytearray]], context: SimpleNamespace) -> list[int]:
        self.serving = True
        try:
            return self.inference(self.preprocess(data))
        finally:
            self.serving = False

    def preprocess(self, data: list[dict[str, bytearray]]) -> list[int]:
        time.sleep(0.001)
        return [len(row["body"]) for row in data]

    def inference(self, data: list[int]) -> list[int]:
        self.strange += not self.serving
        time.sleep(0.001 if self.serving else 0.05)
        return data


@pytest.mark.filterwarnings("ignore")  # TorchServe's package leaves files open
def test_the_model_alone_is_measured_in_the_calls_that_are_served(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "stages", lambda *_: {})
    handler = HandlerWithState()
    found = loop.run(handler, SimpleNamespace(), [b"a", b"bc"], [1, 8], 0.05)
    assert handler.strange == 0
    for batch in (1, 8):
        assert found.model[batch] > found.handler[batch]
    assert "inference" not in vars(handler)  # as it was


def figures(rps: float, p50: float) -> Figures:
    return Figures(100, 1.0, rps, p50, 2 * p50, 3 * p50, 0)


@pytest.fixture
def results() -> HandlerResults:
    chosen = tuple(CONTENDERS[name] for name in (STOCK, DEFAULTS, "shared", BEST_16_BIT))
    found = HandlerResults({"machine": "m"}, chosen, {"lite0": "a net"}, (1, 8, 64), 1, bfloat16=True, pictures=200)
    for contender, rate in zip(chosen, (10.0, 14.0, 16.0, 35.0), strict=True):
        found.loads += [
            Load(0, "lite0", contender, count, figures(rate * gain, 1e3 / rate))
            for count, gain in ((1, 1.0), (8, 1.0), (64, 2.0))
        ]
        stages = dict(zip(STAGES, (5.0, 2.0, 1.0, 50.0, 0.5), strict=True))
        one = Loop({1: rate, 8: 2 * rate}, {1: 2 * rate, 8: 3 * rate}, stages, "cpu")
        found.loops.append(LoopRun(0, "lite0", contender.label, one))
    found.agreements["lite0"] = {STOCK: 1.0, DEFAULTS: 1.0, BEST_16_BIT: 0.985}
    return found


def test_targets_are_ratios_to_torchserve_in_the_same_run(results: HandlerResults) -> None:
    found = {target.text: (target.measured, target.met) for target in targets(results)}
    assert found == {
        "lite0, 8 connections, defaults: requests/s against stock": (pytest.approx(1.4), True),
        "lite0, 8 connections, bfloat16 compiled: requests/s against stock": (pytest.approx(3.5), True),
        "lite0, bfloat16 compiled: share of TorchServe's best classes": (0.985, False),
    }
    results.bfloat16 = False
    assert not any("bfloat16 compiled: requests" in target.text for target in targets(results))


def test_the_best_classes_of_random_weights_are_told_and_not_aimed_at(results: HandlerResults) -> None:
    results.titles["resnet18"] = "random weights"
    results.agreements["resnet18"] = {STOCK: 1.0, BEST_16_BIT: 0.95}
    aimed = {target.text for target in targets(results) if "best classes" in target.text}
    assert aimed == {"lite0, bfloat16 compiled: share of TorchServe's best classes"}
    text = report.markdown(results)
    assert "| bfloat16 compiled | 95.0% |" in text
    assert text.count("No target: of random weights") == 1


def test_on_a_gpu_the_loop_without_a_server_is_the_limit(results: HandlerResults) -> None:
    results.bfloat16 = False
    results.loops = [
        LoopRun(
            run.round, run.workload, run.contender, Loop(run.loop.handler, run.loop.model, run.loop.stages, "cuda:0")
        )
        for run in results.loops
    ]
    found = {target.text: target.measured for target in targets(results)}
    assert found["lite0, 64 connections, shared: images/s against its own loop"] == pytest.approx(1.0)
    assert found["lite0, 8 connections, bfloat16 compiled: requests/s against stock"] == pytest.approx(3.5)


def test_the_report_has_every_table(results: HandlerResults) -> None:
    text = report.markdown(results)
    assert "| bfloat16 compiled | 35.0 (3.50) | 35.0 (3.50) | 70.0 (3.50) | 0 |" in text
    assert "| defaults | 14.0 (1.40) / 28.0 (1.40) | 28.0 (1.40) / 42.0 (1.40) |" in text
    assert "| defaults | 5.00 | 2.00 | 1.00 | 50.0 | 0.50 | 12.9 | 71.4 |" in text
    assert "| bfloat16 compiled | 98.5% |" in text
    assert "| shared | - |" in text
    assert "no instructions" not in text
    results.bfloat16 = False
    assert "no instructions for bfloat16" in report.markdown(results)


def test_the_document_is_json_with_every_measurement(results: HandlerResults, tmp_path: Path) -> None:
    handlers.write(results, tmp_path)
    document = json.loads((tmp_path / "handlers.json").read_text())
    assert len(document["loads"]) == 12
    assert document["loops"][0]["loop"]["handler"] == {"1": 10.0, "8": 20.0}
    assert document["agreements"]["lite0"][BEST_16_BIT] == 0.985
    assert (tmp_path / "handlers.md").read_text().startswith("# Image classifiers")


def test_a_report_of_nothing_is_still_a_report() -> None:
    empty = HandlerResults({}, tuple(CONTENDERS.values()), {"lite0": "a net"}, (1,), 1)
    assert "not measured" in report.markdown(empty)
