"""From a live model to an archive that has answered as it does; all formats over HTTP are the integration test's."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

import archive_tool
from archive_tool import compare
from archive_tool.building.options import BuildOptions
from archive_tool.errors import BuildError, TargetExistsError
from archive_tool.publishing import live, proof
from archive_tool.publishing import publish as publishing

ROOT = Path(__file__).resolve().parents[3]
NETS = """
    import torch
    from torch import nn
    from layers_of_a_user import double

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 2)
            self.dropout = nn.Dropout(0.5)
            self.factor = 1.0

        def forward(self, x):
            return double(self.dropout(self.layer(x))) * self.factor

    def create_net():
        return Net()

    def create_other():
        return nn.Sequential(nn.Linear(3, 4))

    def create_broken():
        raise ValueError("no such thing")
"""
LAYERS = "def double(x):\n    return x * 2\n"


@pytest.fixture
def nets(project):
    torch.manual_seed(0)
    return project({"nets_to_publish.py": NETS, "layers_of_a_user.py": LAYERS}, "nets_to_publish")


def read(published):
    with archive_tool.open_archive(published.path) as archive:
        members = {member.name: archive.read(member.name, 1 << 24) for member in archive.members}
        return archive.manifest, members


def test_a_model_with_a_factory_and_a_test_set(nets, store):
    net = nets.create_net()
    x_test = torch.randn(10, 3)
    y_test = net.eval()(x_test).argmax(1)
    y_test[0] = 1 - y_test[0]
    net.train()
    published = archive_tool.publish(
        net,
        name="net",
        model_store=store,
        source=nets.create_net,
        x_test=x_test,
        y_test=y_test,
        description="two of three",
        licence="Apache-2.0",
    )
    assert (published.name, published.version, published.format) == ("net", "1.0", "eager")
    assert published.path == store / "net-1.0.mar"
    assert published.size == published.path.stat().st_size
    assert published.metrics == {"accuracy": 0.9}
    assert published.largest_difference < 1e-6
    assert not published.warnings
    assert net.training
    assert [path.name for path in store.iterdir()] == ["net-1.0.mar"]

    manifest, members = read(published)
    assert (manifest.model.model_name, manifest.model.model_version) == ("net", "1.0")
    assert {"nets_to_publish.py", "layers_of_a_user.py", "published_model.py", "tensor_handler.py"} < set(members)
    assert "handlers/tensors/handler.py" in members
    record = manifest.record
    assert (record.description, record.licence, record.metrics) == ("two of three", "Apache-2.0", {"accuracy": 0.9})
    assert [spec.to_dict() for spec in record.inputs] == [{"name": "x", "dtype": "float32", "shape": [None, 3]}]
    assert [spec.to_dict() for spec in record.outputs] == [{"name": "output", "dtype": "float32", "shape": [None, 2]}]

    (sample,) = record.samples
    assert (sample.input, sample.content_type) == (published.sample, "application/json")
    assert sample.tolerance == compare.RELATIVE
    assert json.loads(members[sample.input]) == {"tensor_input": x_test[:1].tolist()} == json.loads(published.request)
    found = torch.tensor(json.loads(members[sample.expected])["tensor_output"])
    torch.testing.assert_close(found, net.eval()(x_test[:1]))


def test_the_first_rows_of_the_test_set_are_the_example():
    class Sum(torch.nn.Module):
        def forward(self, *parts):
            return sum(parts)

    given = torch.arange(20.0).reshape(10, 2), torch.ones(10, 2)
    example = publishing._example(Sum(), None, given)
    assert [part.tolist() for part in example] == [part[:4].tolist() for part in given]
    assert live.study(Sum(), example).has_rows
    assert publishing._example(Sum(), "given", given) == "given"


def test_versions_count_up_also_for_those_who_publish_at_once(store, tmp_path):
    handler = tmp_path / "h.py"
    handler.write_text("def handle(data, context): return data\n")
    options = BuildOptions(model_name="net", handler=handler, export_path=store)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: publishing._build(store, None, options, lambda archive: None), range(4)))
    assert sorted(version for _, version in found) == ["1.0", "2.0", "3.0", "4.0"]
    assert sorted(path.name for path in store.iterdir()) == [f"net-{number}.0.mar" for number in (1, 2, 3, 4)]
    assert all(built.manifest.model.model_version == version for built, version in found)


def test_a_version_that_is_there(nets, store):
    (store / "net-2.0.mar").touch()
    with pytest.raises(TargetExistsError, match=r"net-2\.0\.mar exists already") as caught:
        archive_tool.publish(nets.Net(), name="net", model_store=store, example=torch.randn(2, 3), version="2.0")
    assert "another version" in caught.value.hint


def test_a_file_in_the_place_of_the_next_version(nets, store):
    (store / "net-1.0.mar").write_text("something else")
    with pytest.raises(TargetExistsError, match=r"net-1\.0\.mar exists already") as caught:
        archive_tool.publish(nets.Net(), name="net", model_store=store, example=torch.randn(2, 3))
    assert "another version" in caught.value.hint


def fails(nets, store, match, source=None, model=None, **options):
    options = {"example": torch.randn(2, 3)} | options
    with pytest.raises(BuildError, match=match) as caught:
        archive_tool.publish(model or nets.Net(), name="net", model_store=store, source=source, **options)
    assert list(store.iterdir()) == []
    return caught.value


@pytest.mark.slow
def test_a_source_that_creates_another_model_is_found_out(nets, store):
    error = fails(nets, store, r"cannot be loaded: CheckpointMismatchError: .*does not fit", nets.create_other)
    assert error.hint


@pytest.mark.slow
def test_a_source_that_fails_is_found_out(nets, store):
    fails(nets, store, r"cannot be loaded: ModelFileError: .*ValueError: no such thing", nets.create_broken)


def test_a_model_that_is_more_than_its_state_is_found_out(nets, store):
    net = nets.Net()
    net.factor = 3.0
    error = fails(nets, store, r"does not give what the live one gives: the largest difference is", model=net)
    assert "tolerance" in error.hint


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"format": "keras"}, "'keras' is no format"),
        ({"example": None}, "neither an example nor a test set"),
        ({"y_test": [1, 2]}, "y_test, and no x_test"),
        ({"metrics": {"one": len}}, "metrics need a test set"),
        ({"example": torch.full((2, 3), float("nan"))}, "NaN or infinity"),
        ({"source": lambda: None}, "a lambda cannot be taken along"),
        ({"model_store": "no/such/folder"}, "is no directory"),
        ({"name": "a/b"}, "model name"),
        ({"version": "1/0"}, "model name 'net-1/0'"),
        ({"config_file": "no_such.yaml"}, "does not exist"),
        ({"tolerance": -1.0}, "from 0 up"),
        ({"tolerance": float("nan")}, "from 0 up"),
    ],
)
def test_wrong_options_leave_nothing(nets, store, options, reason):
    given = {"name": "net", "model_store": store, "example": torch.randn(2, 3)} | options
    with pytest.raises(BuildError, match=reason):
        archive_tool.publish(nets.Net(), **given)
    assert list(store.iterdir()) == []


def test_config_requirements_extra_files_and_the_tolerance_go_along(nets, store, tmp_path, monkeypatch):
    """What is asked of the archive is not: the other tests here start the process that does it."""
    asked = []
    monkeypatch.setattr(proof, "prove", lambda *given, **options: asked.append(options["tolerance"]) or 0.0)
    (tmp_path / "model-config.yaml").write_text("minWorkers: 1\nmaxWorkers: 1\n")
    (tmp_path / "requirements.txt").write_text("pyyaml\n")
    (tmp_path / "labels.txt").write_text("a\nb\n")
    published = archive_tool.publish(
        nets.Net(),
        name="net",
        model_store=str(store),
        example=torch.randn(2, 3),
        format="torchscript",
        version="7.5",
        config_file=tmp_path / "model-config.yaml",
        requirements_file=tmp_path / "requirements.txt",
        extra_files=str(tmp_path / "labels.txt"),
        tolerance=float("inf"),
    )
    assert asked == [float("inf")]
    manifest, members = read(published)
    assert published.path.name == "net-7.5.mar"
    assert manifest.model.config_file == "model-config.yaml"
    assert manifest.model.requirements_file == "requirements.txt"
    assert {"labels.txt", "model.pt"} < set(members)
    assert manifest.model.model_file is None
    # JSON has no infinity, which is for models whose answers are random.
    assert manifest.record.samples[0].tolerance == sys.float_info.max


def test_importing_the_tool_imports_no_torch():
    code = (
        "import sys, archive_tool; from archive_tool import build, open_archive; dir(archive_tool)\n"
        "assert not {'torch', 'archive_tool.publishing'} & set(sys.modules)\n"
        "archive_tool.Published; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


WITHOUT_SOURCE = """
import sys
import archive_tool, torch
from torch import nn

class Net(nn.Module):
    def forward(self, x):
        return x * 2

def publish(**more):
    return archive_tool.publish(Net(), name="net", model_store=sys.argv[1], example=torch.ones(2, 3), **more)

told = []
published = publish(progress=told.append)
print(repr(published), *published.warnings, *told, sep="\\n")
for more in ({"format": "eager"}, {"source": Net}):
    try:
        publish(**more)
    except archive_tool.BuildError as error:
        print(error)
"""


def test_a_class_without_source_becomes_a_program_or_both_reasons_are_told(tmp_path, monkeypatch):
    """Of its writing alone; the next test has all of it."""
    spaces = {"__name__": "a_session"}  # of which no module is known
    exec("from torch import nn\nclass Net(nn.Module):\n    def forward(self, x):\n        return x * 2\n", spaces)
    model = spaces["Net"]()
    example = live.study(model, torch.ones(2, 3))
    chosen, files = publishing._write(None, model, example, tmp_path, None)
    assert (chosen, files.serialized.name) == ("export", "model.pt2")
    assert "the archive holds a program of torch.export" in files.warnings[0]
    with pytest.raises(BuildError, match="Net was defined in"):
        publishing._write("eager", model, example, tmp_path, None)

    def fails(*_):
        raise BuildError("it cannot be exported")

    monkeypatch.setattr(publishing.exports, "write_exported", fails)
    with pytest.raises(BuildError, match=r"Net was defined in .*; it cannot be exported") as both:
        publishing._write(None, model, example, tmp_path, None)
    assert "write it to a file of its own" in both.value.hint


@pytest.mark.slow  # exports a model more, in a process of its own
def test_a_class_without_source_is_exported(store):
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_SOURCE, store], capture_output=True, text=True, check=True, cwd=ROOT
    )
    reason = "Net was defined in a notebook or an interactive session that keeps no source to take along"
    assert done.stdout.splitlines() == [
        f"<Published net 1.0 (export): {store}/net-1.0.mar>",
        f"{reason}; the archive holds a program of torch.export (write it to a file of its own, import it from there, "
        "and give that: source=module.create_net)",
        "net: running the model on its example",
        "net: writing the weights and their source",
        "net: building the archive",
        "net: loading the archive in another process, and comparing its answers with the model's",
        *[
            reason,
            "  hint: write it to a file of its own, import it from there, and give that: source=module.create_net",
        ]
        * 2,
    ]
    assert done.stderr == ""  # nothing watches a pipe


def test_steps_are_shown_where_somebody_watches(nets, store, monkeypatch, capsys):
    def publish(**more):
        archive_tool.publish(nets.create_net(), name="net", model_store=store, example=torch.ones(2, 3), **more)
        return capsys.readouterr().err.splitlines()

    monkeypatch.setattr(proof, "prove", lambda *_, **__: 0.0)
    assert publish() == []
    monkeypatch.setattr("builtins.__IPYTHON__", True, raising=False)
    assert publish()[:2] == ["net: running the model on its example", "net: writing the weights and their source"]
    assert publish(quiet=True) == []
    told = []
    assert publish(progress=told.append) == []
    assert len(told) == 4


def test_tolerances_follow_the_types():
    spec = archive_tool.metadata.record.TensorSpec
    assert proof.tolerance_for([spec("x", "float32"), spec("y", "int64")]) == compare.RELATIVE
    assert proof.tolerance_for([spec("x", "float32"), spec("y", "bfloat16")]) == compare.COARSE
