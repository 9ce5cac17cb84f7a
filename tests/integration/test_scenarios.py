"""The work of TorchServe's users today, to the letter: with the stock commands, and with ours in their place."""

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

from serving.control.configuration.java import WORKER_SCRIPT, torchserve_home
from serving.control.configuration.ports import choose_free

from .conftest import BIN, ROOT, Sandbox
from .support import ask, wait_until

# Slow: the tutorial once more, with the commands of others.
pytestmark = pytest.mark.slow

MNIST = ROOT / "examples" / "mnist"
SAMPLES = sorted((MNIST / "samples").glob("*.png"))
FORMATS = {"default": ".mar", "zip-store": ".mar", "tgz": ".tar.gz", "no-archive": ""}
ARCHIVERS = ("torch-model-archiver", "torchmar build")


@pytest.fixture(scope="module")
def project(shared_sandbox: Sandbox, mnist_weights: Path) -> Sandbox:
    return project_in(shared_sandbox, mnist_weights)


def project_in(box: Sandbox, mnist_weights: Path) -> Sandbox:
    """Make a user's folder as the tutorial has it: model, weights, handlers, images, the repository's configuration."""
    for file in mnist_weights.iterdir():
        shutil.copy(file, box.root)
    shutil.copy(MNIST / "mnist_handler_ts.py", box.root / "mnist_handler.py")
    # Scenario A2: the tutorial's handler, and the same with only its import changed.
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
    """Run ``torchserve --start --ncs --model-store model_store --models ...`` with the repository's config.properties.

    Only the ports differ: a parallel test may have the usual ones. And it names no worker if it is to be TorchServe's.
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


def upload(addresses: dict[str, str], model: str, content: bytes) -> str:
    """Send a file as `curl -T` does."""
    return ask(addresses["inference"], f"/predictions/{model}", content, method="PUT").text()


def tutorial_command(archiver: str) -> list[str]:
    """Return scenario A1's command to the letter."""
    line = (
        f"{archiver} --model-name mnist --version 1.0 --model-file mnist_model.py --serialized-file mnist_sd.pt "
        "--export-path ./model_store --handler mnist_handler.py -f"
    )
    return line.split()


def build(project: Sandbox, archiver: str, name: str, archive_format: str, *, eager: bool) -> None:
    model = ("--model-file", "mnist_model.py", "--serialized-file", "mnist_sd.pt") if eager else (
        "--serialized-file", "mnist_script.pt")  # fmt: skip
    project.run(
        *archiver.split(), "--model-name", name, "-v", "1.0", *model, "--handler", "mnist_handler.py",
        "--extra-files", "extra,notes.txt", "-r", "requirements.txt", "-c", "model-config.yaml",
        "--export-path", "model_store", "--archive-format", archive_format, "-f",
    ).ok()  # fmt: skip


def files_of_a5(project: Sandbox) -> None:
    """Return what `build` needs beside the tutorial's."""
    project.file("extra/index_to_name.json", json.dumps({str(i): str(i) for i in range(10)}))
    project.file("extra/sub/more.txt", "more")
    project.file("notes.txt", "notes")
    project.file("requirements.txt", "numpy\n")
    project.file("model-config.yaml", "minWorkers: 1\nmaxWorkers: 1\nresponseTimeout: 60\n")


def members(path: Path) -> dict[str, int]:
    """Return names and sizes, except the manifest's size: it holds the version of its writer."""
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


# The formats in which scenario A5 builds an archive with both archivers, and its kind there.
KINDS = {"default": "eager", "zip-store": "script", "tgz": "eager", "no-archive": "script"}
# Which of those each worker serves, by archiver and format. The frontend unpacks them, and the worker is given a
# folder: so with A1's each is served by some worker, and each worker has both kinds and both archivers.
FORMATS_OF = {
    "torchserve": [("ours", "no-archive")],
    "torchmar": [
        *(("ours", archive_format) for archive_format in ("zip-store", "tgz")),
        *(("stock", archive_format) for archive_format in ("zip-store", "tgz", "no-archive")),
    ],
}
# Reads digits, too, and says where the SDK is that it uses.
WHERE = """
import handlers
import mnist_handler_ours


class Where(mnist_handler_ours.MNISTDigitClassifier):
    def handle(self, data, context):
        if bytes(data[0]["body"]) == b"where":
            return [handlers.__file__]
        return super().handle(data, context)
"""


def stock_or_ours(short: str, archive_format: str) -> str:
    """Return an archive's name."""
    return f"{short}_{archive_format.replace('-', '_')}"


@pytest.fixture(scope="module")
def archives(project: Sandbox) -> dict[str, dict[str, int]]:
    """Make the archives of all scenarios but A1's; return what is in those of A5, by their names."""
    files_of_a5(project)
    found = {}
    for archive_format, kind in KINDS.items():
        for short, archiver in zip(("stock", "ours"), ARCHIVERS, strict=True):
            name = stock_or_ours(short, archive_format)
            build(project, archiver, name, archive_format, eager=kind == "eager")
            found[name] = members(project.store / f"{name}{FORMATS[archive_format]}")
    project.file("where.py", WHERE)
    for name, *extra in (("mnist_handler_ours",), ("where", "--extra-files", "mnist_handler_ours.py")):
        project.torchmar(
            "build", "--model-name", name, "--model-file", "mnist_model.py", "--serialized-file", "mnist_sd.pt",
            "--handler", f"{name}.py", *extra, "--export-path", "model_store", "-f", "-q",
        ).ok()  # fmt: skip
    return found


@dataclass(frozen=True)
class Served:
    """A server that the stock command started, with A1's archive and others.

    Attributes:
        worker: whose runs.
        addresses: of its APIs, by their first word.
        digits: how it reads `DIGITS`, by the names of the models that have the tutorial's handler.
    """

    worker: str
    addresses: dict[str, str]
    digits: dict[str, list[str]]


DIGITS = SAMPLES[:: len(SAMPLES) // 10]


@pytest.fixture(
    scope="module", params=[("torch-model-archiver", "torchserve"), ("torchmar build", "torchmar")], ids=lambda x: x[1]
)
def served(request: pytest.FixtureRequest, project: Sandbox, archives: dict[str, dict[str, int]]) -> Iterator[Served]:
    archiver, worker = request.param
    project.run(*tutorial_command(archiver)).ok()
    names = {stock_or_ours(*one): FORMATS[one[1]] for one in FORMATS_OF[worker]}
    own = "where" if worker == "torchserve" else "mnist_handler_ours"
    models = ["mnist.mar", f"{own}.mar", *(f"{name}={name}{end}" for name, end in names.items())]
    with stock_torchserve(project, *models, worker=worker) as addresses:
        digits = {
            name: [upload(addresses, name, sample.read_bytes()) for sample in DIGITS] for name in ("mnist", own, *names)
        }
        yield Served(worker, addresses, digits)


@pytest.fixture(scope="module")
def seen() -> list[list[str]]:
    """Return all answers of the servers until now."""
    return []


def test_a1_a3_the_tutorial_with_the_stock_server(project: Sandbox, served: Served) -> None:
    assert "Healthy" in curl(project, f"{served.addresses['inference']}/ping")
    answer = curl(project, f"{served.addresses['inference']}/predictions/mnist", "-T", SAMPLES[0].name)
    assert answer in set("0123456789")
    if served.worker == "torchmar":  # A4, the stock way
        curl(project, f"{served.addresses['management']}/models/mnist?min_worker=2&synchronous=true", "-X", "PUT")
        described = json.loads(curl(project, f"{served.addresses['management']}/models/mnist"))
        assert [worker["status"] for worker in described[0]["workers"]] == ["READY", "READY"]
    else:  # our handler runs with only the copy of ours in its archive
        where = upload(served.addresses, "where", b"where")
        assert where.startswith(str(project.temp))
        assert where.endswith("/handlers/__init__.py")
    lines = [argument for process in project.processes() for argument in process.cmdline()]
    home = torchserve_home() if served.worker == "torchserve" else project.root / "serving" / "worker" / "home"
    assert {line for line in lines if line.endswith(WORKER_SCRIPT.name)} == {str(home / WORKER_SCRIPT)}
    logged = (project.root / "logs" / "model_log.log").read_text()
    assert "Torch worker started." in logged
    assert not (project.root / "logs" / "access_log.log").exists()


def test_a2_only_the_import_differs(project: Sandbox, served: Served) -> None:
    """`ts.torch_handler` in the tutorial's, `handlers` in the other: both read the digits alike, and rightly."""
    (digits,) = {tuple(found) for found in served.digits.values()}
    right = sum(answer == sample.name[0] for answer, sample in zip(digits, DIGITS, strict=True))
    assert right >= 0.8 * len(DIGITS)


def test_a5_every_format_of_both_archivers_serves_the_same_answers(served: Served, seen: list[list[str]]) -> None:
    """TorchServe's worker runs what we build, and ours what its archiver builds."""
    assert {stock_or_ours(*one) for one in FORMATS_OF[served.worker]} < set(served.digits)
    seen += served.digits.values()
    assert all(found == seen[0] for found in seen)
    assert set("".join(seen[0])) <= set("0123456789")


@pytest.mark.parametrize("archive_format", FORMATS)
def test_a5_both_archivers_put_the_same_into_an_archive(
    archives: dict[str, dict[str, int]], archive_format: str
) -> None:
    stock, ours = (stock_or_ours(short, archive_format) for short in ("stock", "ours"))
    assert {name.replace(ours, stock): size for name, size in archives[ours].items()} == archives[stock]


def test_a5_every_kind_in_every_format(sandbox: Sandbox, mnist_weights: Path) -> None:
    """In a sandbox of its own: a server of the others may still run, and `torchserve` starts no second one there."""
    project = project_in(sandbox, mnist_weights)
    files_of_a5(project)
    served: dict[str, dict[str, str]] = {"torchserve": {}, "torchmar": {}}
    for short, archiver, worker in zip(("ours", "stock"), reversed(ARCHIVERS), served, strict=True):
        for archive_format, suffix in FORMATS.items():
            for kind in ("eager", "script"):
                name = f"{kind}_{stock_or_ours(short, archive_format)}"
                build(project, archiver, name, archive_format, eager=kind == "eager")
                served[worker][name] = f"{name}{suffix}"
    answers = set()
    for worker, files in served.items():
        models = (f"{name}={file}" for name, file in files.items())
        with stock_torchserve(project, *models, worker=worker) as addresses:
            for name in files:
                answers.add(tuple(upload(addresses, name, sample.read_bytes()) for sample in DIGITS))
    assert len(answers) == 1


def test_the_tests_use_the_environments_own_programs() -> None:
    for name in ("torchserve", "torch-model-archiver", "torchmar"):
        assert (BIN / name).exists()
