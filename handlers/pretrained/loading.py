"""Loading a folder of `save_pretrained` with transformers. Nothing is fetched, and no code runs that is not trusted."""

from __future__ import annotations

import json
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from handlers.errors import CheckpointMismatchError, LoadError
from handlers.pretrained.tasks import FOLDER, TASKS, task_of
from handlers.wording import first_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

logger = logging.getLogger(__name__)

_SHOWN = 5
#: Parts of the names of weights that only a training uses.
_UNUSED = ("masked_spec_embed", "embeddings.mask_token", "num_batches_tracked")
#: And of those that transformers' own models compute from config.json: which of them are saved differs by its version.
_COMPUTED = ("inv_freq", "relative_position_index")
_INSTALL = "pip install 'torchmar[transformers]', or name transformers in the archive's requirements file"


@dataclass(frozen=True)
class Saved:
    """Where the model is, and what the archive's record says of it.

    `remote_code` allows code of the folder's own to run.
    """

    folder: Path
    task: str
    architecture: str | None = None
    remote_code: bool = False


def find(manifest: Mapping[str, Any] | None, model_dir: Path, task: str) -> Saved:
    """Find the folder by the manifest's record.

    Without one, as in an archive of torch-model-archiver, it is `pretrained` in the archive or the archive itself.

    Raises:
        LoadError: the folder that is recorded is not in the archive.
    """
    torchmar = (manifest or {}).get("torchmar")
    record = torchmar.get("pretrained") if isinstance(torchmar, dict) else None
    if not isinstance(record, dict):
        below = model_dir / FOLDER
        return Saved(below if below.is_dir() else model_dir, task)
    folder = (model_dir / str(record.get("path"))).resolve()
    if not folder.is_dir() or not folder.is_relative_to(model_dir.resolve()):
        raise LoadError(f"the folder {record.get('path')!r} that the manifest names is not in the archive")
    architecture = record.get("architecture")
    return Saved(
        folder,
        str(record.get("task") or task),
        architecture if isinstance(architecture, str) else None,
        record.get("remoteCode") is True,
    )


def transformers() -> Any:
    """Import transformers, without its progress bars, and so that it fetches nothing.

    Raises:
        LoadError: it is not installed.
    """
    # A worker serves what the archive holds. What a hostile config.json names elsewhere is neither fetched nor run.
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    try:
        import transformers as found
    except ImportError as error:
        raise LoadError(f"the model needs the package transformers: {error}", hint=_INSTALL) from error
    found.utils.logging.disable_progress_bar()
    return found


def load_model(saved: Saved, auto: str, dtype: Any) -> Any:
    """Load the model, on the CPU: by its own class if that is of the task, else by the `auto` class of transformers.

    Raises:
        LoadError: it cannot be loaded.
        CheckpointMismatchError: the weights lack some of the model's.
    """
    library = transformers()
    own = saved.architecture or ""
    if not saved.remote_code and hasattr(library, own) and _is_of(own, auto):
        auto = own
    model, info = _load(
        "the model",
        getattr(library, auto),
        saved,
        dtype=dtype,
        output_loading_info=True,
        weights_only=True,
        ignore_mismatched_sizes=True,  # refused below, where each is named
    )
    if mismatched := [_mismatch(one) for one in info["mismatched_keys"]]:
        raise CheckpointMismatchError(
            f"the weights do not fit the model's config.json: {first_of(sorted(mismatched), _SHOWN)}",
            hint="take both from one model: save it again with save_pretrained, and build the archive of that folder",
        )
    spared = [*_UNUSED, *(() if saved.remote_code else _COMPUTED)]
    if saved.task == "feature-extraction":
        spared.append("pooler")
    missing = [name for name in info["missing_keys"] if not any(part in name for part in spared)]
    if missing:
        raise CheckpointMismatchError(
            f"the weights lack what {type(model).__name__} needs: {first_of(sorted(missing), _SHOWN)}",
            hint="the model was saved for another task: use --task; or config.json is of another model",
        )
    return model


def _mismatch(found: Any) -> str:
    """Say which weight has other sizes than the model; older versions of the library do not tell the sizes."""
    if isinstance(found, str):
        return found
    name, has, needs = found
    return f"{name} is {list(has)}, and the model needs {list(needs)}"


def _is_of(architecture: str, auto: str) -> bool:
    """Return whether a class is one that an auto class would choose."""
    found = task_of(architecture, "t5")
    return found is not None and TASKS[found].model == auto


def load_tokenizer(saved: Saved) -> Any:
    """Load the tokenizer.

    Raises:
        LoadError: it cannot be loaded.
    """
    return _load("the tokenizer", transformers().AutoTokenizer, saved)


def load_image_processor(saved: Saved) -> Any:
    """Load the image processor.

    Raises:
        LoadError: it cannot be loaded.
    """
    return _load("the image processor", transformers().AutoImageProcessor, saved)


def load_processor(saved: Saved) -> Any:
    """Load the processor: feature extractor and tokenizer in one.

    Raises:
        LoadError: it cannot be loaded.
    """
    return _load("the processor", transformers().AutoProcessor, saved)


def _load(what: str, kind: Any, saved: Saved, **options: Any) -> Any:
    load: Callable[..., Any] = kind.from_pretrained
    try:
        return load(str(saved.folder), local_files_only=True, trust_remote_code=saved.remote_code, **options)
    except MemoryError:
        raise
    except Exception as error:  # of the library, of the packages that it needs, or of the folder's own code
        text = " ".join(str(error).split())
        raise LoadError(
            f"{what} in {saved.folder} cannot be loaded: {type(error).__name__}: {text[:1000]}",
            hint="try from_pretrained on the folder that the archive was built from, with transformers "
            f"{transformers().__version__}, which is here{_saved_with(saved.folder)}",
        ) from error


def _saved_with(folder: Path) -> str:
    """Say which version of the library saved a folder, if it tells."""
    try:
        version = json.loads((folder / "config.json").read_bytes())["transformers_version"]
    except (OSError, ValueError, KeyError, TypeError):
        return ""
    return f"; the folder was saved with {version!s:.40}"
