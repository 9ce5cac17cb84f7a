"""Loading a finished archive in a separate process, and comparing its answers with the live model's."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
import yaml

from archive_tool import child_process, compare
from archive_tool.errors import BuildError
from archive_tool.publishing import live
from archive_tool.reading.archive import open_archive
from archive_tool.verification.extraction import extract

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from archive_tool.metadata.record import TensorSpec

_SCRIPT: Final = Path(__file__).with_name("replay.py")
_SHOWN: Final = 2000
_COARSE: Final = ("float16", "bfloat16")


def tolerance_for(outputs: Sequence[TensorSpec]) -> float:
    """Return the largest difference allowed to an archive's answers, by the dtypes of the model's outputs."""
    return compare.COARSE if any(one.dtype in _COARSE for one in outputs) else compare.RELATIVE


def prove(
    archive: Path,
    handler: str,
    trials: Sequence[tuple[str, Mapping[str, torch.Tensor]]],
    *,
    tolerance: float,
    gpu: int | None = None,
) -> float:
    """Answer requests with the archive; return the largest difference from the live model's outputs.

    Args:
        archive: the file.
        handler: the archive's module with the handler.
        trials: requests as JSON, and the live model's outputs for each.
        tolerance: the largest allowed difference, relative above 1 and absolute below.
        gpu: the index of the GPU to run on; None for the CPU.

    Raises:
        BuildError: the archive does not load, fails, or answers otherwise.
    """
    answered = replies(archive, handler, [request for request, _ in trials], gpu=gpu)
    largest = 0.0
    for (_, expected), (status, reply) in zip(trials, answered, strict=True):
        if status != 200:
            raise BuildError(f"the archive answers its own example with {status}: {_message(reply)}")
        largest = max(largest, _difference(reply, expected))
    if not largest <= tolerance:
        raise BuildError(
            f"the archived model does not give what the live one gives: the largest difference is {largest:.3g}, "
            f"and {tolerance:.3g} is allowed",
            hint="does the source create this model, does anything of it escape its state dict, is it random? "
            "If the format is less exact by nature, give tolerance=...",
        )
    return largest


def replies(archive: Path, handler: str, requests: Sequence[str], *, gpu: int | None = None) -> list[tuple[int, Any]]:
    """Answer requests with an archive in a process of its own; return status and reply of each.

    Args:
        archive, handler, gpu: as for `prove`.
        requests: each as JSON.

    Raises:
        BuildError: the archive does not load.
    """
    with tempfile.TemporaryDirectory(prefix="torchmar-") as scratch:
        folder = Path(scratch, "model")
        with open_archive(archive) as opened:
            extract(opened, folder)
            manifest = opened.manifest
        config_name = manifest.model.config_file if manifest else None
        task = {
            "handler": handler,
            "manifest": manifest.to_dict() if manifest else None,
            "config": yaml.safe_load((folder / config_name).read_bytes()) if config_name else {},
            "gpu": gpu,
            "requests": list(requests),
        }
        report = child_process.run(_SCRIPT, folder, task, Path(scratch), does="loads the archive")
    if (error := report.get("error")) is not None:
        raise BuildError(
            f"the archive cannot be loaded: {error['type']}: {error['message']}",
            hint="what was published needs something that is not in the archive; give files that it reads with "
            "extra_files, and a source that creates the model without the rest of this session",
        )
    return [(status, reply) for status, reply in report["replies"]]


def _difference(reply: Any, expected: Mapping[str, torch.Tensor]) -> float:
    """Compare a reply's tensors with the live model's."""
    values = reply["tensor_output"]
    if len(expected) == 1 and not isinstance(values, dict):
        values = {next(iter(expected)): values}
    if list(values) != list(expected):
        raise BuildError(f"the archived model gives {', '.join(values)}, and the live one {', '.join(expected)}")
    largest = 0.0
    for name, tensor in expected.items():
        found = torch.as_tensor(values[name], dtype=torch.float64)
        if tensor.numel() and found.shape != tensor.shape:
            raise BuildError(
                f"the archived model gives {name!r} in the shape {list(found.shape)}, and the live one gives it in "
                f"{list(tensor.shape)}"
            )
        largest = max(largest, live.difference(found, tensor))
    return largest


def _message(reply: Any) -> str:
    return str(reply.get("message")) if isinstance(reply, dict) else str(reply)[:_SHOWN]
