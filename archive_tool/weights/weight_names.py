"""The one table of suffixes by which files are taken for weights."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Final

#: Files that some loader unpickles, whatever they begin with: pickles of protocol 0 have no magic number. A file with
#: such a name that cannot be read to its end as a known format is refused.
WEIGHTS: Final = frozenset(
    {".bin", ".ckpt", ".joblib", ".npy", ".npz", ".p", ".pickle", ".pk", ".pkl", ".pt", ".pt2", ".pth", ".ptl"}
    | {".sav", ".tar"}
)
#: Files that may be such, or something else: the numbers of an ONNX model, or the pieces of a tokenizer.
PERHAPS: Final = frozenset(
    {".dat", ".data", ".dump", ".h5", ".model", ".msgpack", ".obj", ".onnx", ".params", ".pdparams", ".safetensors"}
    | {".state", ".weight", ".weights", ".z"}
)
#: Text, some of which may look like a pickle of protocol 0.
_TEXT: Final = frozenset(
    {".cfg", ".conf", ".css", ".csv", ".htm", ".html", ".ini", ".js", ".json", ".jsonl", ".labels", ".log", ".md"}
    | {".names", ".properties", ".proto", ".py", ".pyi", ".rst", ".sh", ".svg", ".toml", ".tsv", ".txt", ".vocab"}
    | {".xml", ".yaml", ".yml"}
)
#: Added to an archive by `torchmar optimize`: machine code for one machine, which no loader of weights reads.
_CACHE: Final = "compile-cache.bin"
#: Follows the suffix of the file that was packed.
_PACKED: Final = frozenset({".bz2", ".gz", ".lz4", ".lzma", ".xz", ".z", ".zip", ".zst"})


def _suffix(name: str) -> str:
    path = PurePosixPath(name.lower())
    if path.suffix in _PACKED and PurePosixPath(path.stem).suffix:
        path = PurePosixPath(path.stem)
    return ".tar" if path.suffix == ".tgz" else path.suffix


def are_weights(name: str) -> bool:
    """Return whether a file with this name must be readable as weights; packed ones count."""
    return _suffix(name) in WEIGHTS and PurePosixPath(name).name != _CACHE


def may_be_weights(name: str) -> bool:
    """Return whether a file with this name must be checked from end to end."""
    return _suffix(name) in WEIGHTS or _suffix(name) in PERHAPS


def is_text(name: str) -> bool:
    """Return whether no loader unpickles a file with this name."""
    return _suffix(name) in _TEXT
