"""An adapter of peft, merged into the weights of the model that it was trained for, before they go into an archive."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from archive_tool import child_process
from archive_tool.errors import BuildError
from archive_tool.issues import refuse_build
from archive_tool.pretrained import documents, folder, weights
from handlers.pretrained.tasks import MODULES, TASKS, task_of

_OPTION: Final = "--adapter"
_SCRIPT: Final = Path(__file__).with_name("merge_script.py")
_WEIGHTS: Final = ("adapter_model.safetensors", "adapter_model.bin")
_KIND: Final = "LORA"


@contextmanager
def merged(base: Path, adapter: Path, beside: Path, *, asked: str | None, trust_remote_code: bool) -> Iterator[Path]:
    """Yield a folder like the base's, in which the weights are merged with the adapter's.

    transformers and peft do it in a process of its own. The folder is gone afterwards.

    Args:
        base: the folder of the model.
        adapter: the folder of the adapter.
        beside: where the new folder may be made: weights are large.
        asked, trust_remote_code: as for `folder.read`.

    Raises:
        BuildError: one of the folders cannot be used, or they do not fit together.
    """
    _check(adapter)
    missing = [package for package in ("transformers", "peft") if find_spec(package) is None]
    if missing:
        raise BuildError(
            f"merging an adapter needs the package {missing[0]}", where=_OPTION, hint="pip install 'torchmar[adapters]'"
        )
    found = folder.read(base, asked=asked, trust_remote_code=trust_remote_code)
    refuse_build(found.problems)
    if (base / MODULES).is_file():
        raise BuildError(
            "an adapter is merged into a model of transformers, and not of sentence-transformers",
            where=_OPTION,
            hint="merge it there, and give the folder that it saves",
        )
    with tempfile.TemporaryDirectory(prefix=".torchmar-merge-", dir=beside.resolve()) as scratch:
        whole, new = Path(scratch, "whole"), Path(scratch, "new")
        new.mkdir()
        fits = task_of(found.architecture, "t5") == found.task and not found.remote_code
        task = {
            "base": str(base.resolve()),
            "adapter": str(adapter.resolve()),
            "out": str(new),
            "class": found.architecture if fits else TASKS[found.task].model,
            "trust": found.remote_code,
        }
        report = child_process.run(_SCRIPT, new, task, Path(scratch), does="merges the adapter", where=str(adapter))
        if (error := report.get("error")) is not None:
            raise BuildError(
                f"the adapter cannot be merged: {error}",
                where=str(adapter),
                hint="is it an adapter of this very model, with the same classes?",
            )
        _assemble(base, found, new, whole)
        yield whole


def _check(adapter: Path) -> None:
    """Refuse what is no adapter that can be merged."""
    if not adapter.exists():
        raise folder.absent(adapter, _OPTION, "give the folder that peft wrote")
    if not (adapter / weights.ADAPTER).is_file():
        raise BuildError(
            f"{weights.ADAPTER} is missing in {adapter}", where=_OPTION, hint="give the folder that peft wrote"
        )
    settings = documents.read_object(adapter / weights.ADAPTER)
    kind = settings.get("peft_type")
    if kind != _KIND:
        raise BuildError(
            f"the adapter is of the kind {str(kind)[:40]}, and only {_KIND} is merged",
            where=str(adapter),
            hint="merge it with peft, and give the folder that the model is saved to",
        )
    present = [name for name in _WEIGHTS if (adapter / name).is_file()]
    if not present:
        raise BuildError(f"the adapter's weights are missing: {' or '.join(_WEIGHTS)}", where=str(adapter))
    refuse_build(filter(None, [weights.problem_of(adapter / present[0])]))


def _assemble(base: Path, found: folder.Found, new: Path, whole: Path) -> None:
    """Make a folder of the base's files, and of the new weights in place of its own."""
    for name in found.files:
        if name not in found.weights:
            (whole / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(base / name, whole / name)
    for path in new.iterdir():
        if path.name.startswith("model") and path.suffix in (".safetensors", ".json"):
            path.rename(whole / path.name)
