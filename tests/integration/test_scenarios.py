"""What TorchServe's users do today, to the letter: with the stock commands, and with ours in their place."""

from __future__ import annotations

import json
import shutil
import subprocess
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from serving.control.ports import choose_free

from .conftest import BIN, ROOT, Sandbox
from .support import ask, wait_until

MNIST = ROOT / "examples" / "mnist"
SAMPLES = sorted((MNIST / "samples").glob("*.png"))
FORMATS = {"default": ".mar", "zip-store": ".mar", "tgz": ".tar.gz", "no-archive": ""}
ARCHIVERS = ("torch-model-archiver", "torchmar build")


@pytest.fixture(scope="module")
def project(shared_sandbox: Sandbox, mnist_weights: Path) -> Sandbox:
    """A user's folder as the tutorial has it: model, weights, handlers, pictures, the repository's configuration."""
    box = shared_sandbox
    for file in mnist_weights.iterdir():
        shutil.copy(file, box.root)
    shutil.copy(MNIST / "mnist_handler_ts.py", box.root / "mnist_handler.py")
    # Scenario A2: the tutorial's handler, and the same with nothing but its import changed.
    tutorial = (MNIST / "mnist_handler_ts.py").read_text()
    ours = tutorial.replace("from ts.torch_handler.image_classifier import", "from handlers import")
    assert ours != tutorial
    box.file("mnist_handler_ours.py", ours)
    for sample in SAMPLES:
        shutil.copy(sample, box.root)
    # What the repository's configuration names in the folder that it lies in.
    for name in ("serving", "archive_tool"):
        shutil.copytree(ROOT / name, box.root / name, ignore=shutil.ignore_patterns("__pycache__"))
    return box


@contextmanager
def stock_torchserve(box: Sandbox, *models: str, worker: str = "torchserve") -> Iterator[dict[str, str]]:
    """``torchserve --start --ncs --model-store model_store --models ...`` with the repository's config.properties.

    Only the ports differ: a parallel test may have the usual ones. And it names no worker if it shall be TorchServe's.
    """
    ports = iter(choose_free("127.0.0.1", 5))
    text = (ROOT / "config.properties").read_text()
    for port in ("8080", "8081", "8082", "7070", "7071"):
        text = text.replace(port, str(next(ports)))
    if worker == "torchserve":
        text = text.replace("-Dmodel_server_home=serving/worker/home", "")
    box.file("config.properties", text)
    env = box.env | {"TEMP": str(box.temp), "LOG_LOCATION": str(box.root / "logs")}
    # As the README says: torchserve looks for Java in JAVA_HOME.
    env["JAVA_HOME"] = box.torchmar("env", env={"JAVA_HOME": ""}).ok().out.strip().partition("=")[2]
    command = (
        f"torchserve --start --ncs --ts-config config.properties --model-store model_store --models {' '.join(models)}"
    )
    log = (box.root / "torchserve.log").open("w")
    with log:
        subprocess.run(command, shell=True, cwd=box.root, env=env, stdout=log, stderr=log, check=True)
    addresses = {
        key.split("_")[0]: value
        for key, _, value in (line.partition("=") for line in text.splitlines())
        if key.endswith("_address") and value.startswith("http")
    }
    try:
        wait_ready(box, addresses["management"], [model.split("=")[0].removesuffix(".mar") for model in models])
        yield addresses
    finally:
        done = subprocess.run(
            "torchserve --stop --foreground", shell=True, cwd=box.root, env=env, capture_output=True, check=False
        )
        assert done.returncode == 0, done
        assert box.leftovers() == []


def wait_ready(box: Sandbox, management: str, models: list[str]) -> None:
    def is_ready(model: str) -> bool:
        (row,) = ask(management, f"/models/{model}").json()
        return any(worker["status"] == "READY" for worker in row["workers"])

    try:
        wait_until(lambda: all(map(is_ready, models)), f"{models}", 120.0)
    except AssertionError as error:
        states = {model: ask(management, f"/models/{model}").json()[0]["workers"] for model in models}
        logs = [path.read_text()[-9000:] for path in (box.root / "torchserve.log", *box.root.rglob("*_log.log"))]
        raise AssertionError("\n".join([str(error), str(states), *logs])) from None


def curl(box: Sandbox, url: str, *options: str) -> str:
    return box.run("curl", "-sS", *options, url, timeout=60.0).ok().out


def tutorial_command(archiver: str) -> list[str]:
    """Scenario A1 to the letter."""
    line = (
        f"{archiver} --model-name mnist --version 1.0 --model-file mnist_model.py --serialized-file mnist_sd.pt "
        "--export-path ./model_store --handler mnist_handler.py -f"
    )
    return line.split()


# The other pairs of archiver and worker are below, in every format.
@pytest.mark.parametrize(
    ("archiver", "worker"), [("torch-model-archiver", "torchserve"), ("torchmar build", "torchmar")]
)
def test_a1_a3_the_tutorial_with_the_stock_server(project: Sandbox, archiver: str, worker: str) -> None:
    project.run(*tutorial_command(archiver)).ok()
    with stock_torchserve(project, "mnist.mar", worker=worker) as addresses:
        assert "Healthy" in curl(project, f"{addresses['inference']}/ping")
        digit = SAMPLES[0]
        answer = curl(project, f"{addresses['inference']}/predictions/mnist", "-T", digit.name)
        assert answer in set("0123456789")
        # A4, the stock way.
        curl(project, f"{addresses['management']}/models/mnist?min_worker=2&synchronous=true", "-X", "PUT")
        described = json.loads(curl(project, f"{addresses['management']}/models/mnist"))
        assert [worker["status"] for worker in described[0]["workers"]] == ["READY", "READY"]
    logged = (project.root / "logs" / "model_log.log").read_text()
    assert "Torch worker started." in logged
    assert not (project.root / "logs" / "access_log.log").exists()


def test_a2_only_the_import_differs(project: Sandbox) -> None:
    stems = ("mnist_handler", "mnist_handler_ours")
    for stem in stems:
        project.torchmar(
            "build", "--model-name", stem, "--model-file", "mnist_model.py", "--serialized-file", "mnist_sd.pt",
            "--handler", f"{stem}.py", "--export-path", "model_store", "-f", "-q",
        ).ok()  # fmt: skip
    project.start(*(f"{stem}.mar" for stem in stems), name="a2")
    answers = []
    for stem in stems:
        rows = project.torchmar("predict", stem, *[s.name for s in SAMPLES], "--json", "--name", "a2").json()
        answers.append({row["file"]: row["answer"] for row in rows})
    project.torchmar("stop", "--name", "a2").ok()
    right = sum(answer == int(name.split("_")[0]) for name, answer in answers[0].items())
    assert right >= 0.8 * len(SAMPLES)
    assert answers[0] == answers[1]


def build(project: Sandbox, archiver: str, name: str, archive_format: str, *, eager: bool) -> None:
    model = ("--model-file", "mnist_model.py", "--serialized-file", "mnist_sd.pt") if eager else (
        "--serialized-file", "mnist_script.pt")  # fmt: skip
    project.run(
        *archiver.split(), "--model-name", name, "-v", "1.0", *model, "--handler", "mnist_handler.py",
        "--extra-files", "extra,notes.txt", "-r", "requirements.txt", "-c", "model-config.yaml",
        "--export-path", "model_store", "--archive-format", archive_format, "-f",
    ).ok()  # fmt: skip


def members(path: Path) -> dict[str, int]:
    """Names and sizes, except the manifest's size: it holds the version of its writer."""
    if path.is_dir():
        found = {str(p.relative_to(path)): p.stat().st_size for p in path.rglob("*") if p.is_file()}
    elif path.suffix == ".mar":
        with zipfile.ZipFile(path) as archive:
            found = {info.filename: info.file_size for info in archive.infolist() if not info.is_dir()}
    else:
        import tarfile

        with tarfile.open(path) as archive:
            found = {info.name: info.size for info in archive.getmembers() if info.isfile()}
    return {name: -1 if name.endswith("MANIFEST.json") else size for name, size in found.items()}


@dataclass(frozen=True)
class Plan:
    """Which archives scenario A5 builds with both archivers, and which of them each worker serves.

    Attributes:
        kinds: of the archives, by their format.
        served: by the worker's name, the archives' archiver, kind and format.
    """

    kinds: dict[str, tuple[str, ...]]
    served: dict[str, list[tuple[str, str, str]]]


# The frontend unpacks the formats, and the worker is given a folder: so each format of each archiver is served by some
# worker, and each worker has both kinds and, with test_a1_a3, both archivers.
PAIRS = Plan(
    kinds={"default": ("eager",), "zip-store": ("script",), "tgz": ("eager",), "no-archive": ("script",)},
    served={
        "torchserve": [("ours", "eager", "default"), ("ours", "script", "no-archive")],
        "torchmar": [
            *(("ours", kind, name) for kind, name in (("script", "zip-store"), ("eager", "tgz"))),
            *(("stock", "eager", name) for name in ("default", "tgz")),
            *(("stock", "script", name) for name in ("zip-store", "no-archive")),
        ],
    },
)
EVERYTHING = Plan(
    kinds=dict.fromkeys(FORMATS, ("eager", "script")),
    served={
        "torchserve": [*(("ours", "eager", name) for name in FORMATS), ("ours", "script", "default")],
        "torchmar": [("stock", kind, name) for kind in ("eager", "script") for name in FORMATS],
    },
)


@pytest.mark.parametrize(
    "plan", [PAIRS, pytest.param(EVERYTHING, marks=pytest.mark.slow)], ids=["each with some other", "everything"]
)
def test_a5_every_format_of_both_archivers_serves_the_same_answers(project: Sandbox, plan: Plan) -> None:
    project.file("extra/index_to_name.json", json.dumps({str(i): str(i) for i in range(10)}))
    project.file("extra/sub/more.txt", "more")
    project.file("notes.txt", "notes")
    project.file("requirements.txt", "numpy\n")
    project.file("model-config.yaml", "minWorkers: 1\nmaxWorkers: 1\nresponseTimeout: 60\n")
    files: dict[tuple[str, str, str], str] = {}
    for archive_format, suffix in FORMATS.items():
        for kind in plan.kinds[archive_format]:
            names = {short: f"{kind}_{short}_{archive_format.replace('-', '_')}" for short in ("stock", "ours")}
            for short, archiver in zip(("stock", "ours"), ARCHIVERS, strict=True):
                build(project, archiver, names[short], archive_format, eager=kind == "eager")
                files[short, kind, archive_format] = names[short]
            ours, stock = (members(project.store / f"{names[short]}{suffix}") for short in ("ours", "stock"))
            assert {n.replace("_ours_", "_stock_"): size for n, size in ours.items()} == stock
    # TorchServe's worker runs what we build, and ours what its archiver builds.
    answers = {}
    for worker, chosen in plan.served.items():
        served = {files[one]: files[one] + FORMATS[one[2]] for one in chosen}
        models = (f"{name}={file}" for name, file in served.items())
        with stock_torchserve(project, *models, worker=worker) as addresses:
            for name in served:
                answers[name] = [
                    curl(project, f"{addresses['inference']}/predictions/{name}", "-T", sample.name)
                    for sample in SAMPLES[:10]
                ]
    assert len(answers) == sum(map(len, plan.served.values()))
    assert len({tuple(found) for found in answers.values()}) == 1
    assert set("".join(next(iter(answers.values())))) <= set("0123456789")


def test_our_handler_runs_on_a_stock_server_from_the_copy_in_its_archive(project: Sandbox) -> None:
    project.file(
        "where.py",
        "import handlers\nfrom handlers import ImageClassifier\n"
        "class Where(ImageClassifier):\n"
        "    def handle(self, data, context):\n        return [handlers.__file__] * len(data)\n",
    )
    project.torchmar(
        "build", "--model-name", "where", "--model-file", "mnist_model.py", "--serialized-file", "mnist_sd.pt",
        "--handler", "where.py", "--export-path", "model_store", "-f",
    ).ok()  # fmt: skip
    with stock_torchserve(project, "where.mar") as addresses:
        where = curl(project, f"{addresses['inference']}/predictions/where", "-T", "where.py")
    assert where.startswith(str(project.temp))
    assert where.endswith("/handlers/__init__.py")


def test_the_tests_use_the_environments_own_programs() -> None:
    for name in ("torchserve", "torch-model-archiver", "torchmar"):
        assert (BIN / name).exists()
