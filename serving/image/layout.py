"""Where a container finds its models: SageMaker's folder, KServe's, or its image's own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from archive_tool.errors import InputError
from archive_tool.metadata.names import check_model_name
from serving.control.configuration import settings
from serving.control.configuration.config import read_properties
from serving.control.models.store import LOAD_ALL, archives_in, default_name

#: Folders below the root: where each platform puts a model.
SAGEMAKER: Final = Path("opt/ml/model")
KSERVE: Final = Path("mnt/models")
#: Of the archives that `torchmar image` has put into the image, and of its configuration.
IMAGE: Final = Path("srv/model_store")
IMAGE_CONFIG: Final = Path("srv/config.properties")
#: Below which SageMaker puts models that it asks to be loaded.
MULTI_MODEL: Final = Path("opt/ml/models")
#: The variable by which SageMaker says that it will.
MULTI_MODEL_VARIABLE: Final = "SAGEMAKER_MULTI_MODEL"
#: The variable of the images for SageMaker and KServe, whose network is theirs to guard.
TRUSTED_VARIABLE: Final = "TORCHMAR_TRUSTED_NETWORK"

# TorchServe's own layout in a folder of KServe's.
_CONFIG: Final = Path("config/config.properties")
_STORE: Final = "model-store"
_SAGEMAKERS: Final = "SageMaker"
# What in a configuration says which models there are.
_MODELS: Final = ("model_snapshot", "load_models")


@dataclass(frozen=True)
class Layout:
    """What a container has to serve.

    Attributes:
        folder: that holds it, for messages.
        store: the model store; None where models come later.
        models: as `torchmar start` takes them; empty leaves it to the configuration.
        config: config.properties; None where there is none.
        multi_model: folder below which SageMaker may load models; None where it does not.
        platform: whose folder it is; empty for the image's own and for others.
    """

    folder: Path
    store: Path | None
    models: tuple[str, ...] = ()
    config: Path | None = None
    multi_model: Path | None = None
    platform: str = ""


def find(
    root: Path, environ: Mapping[str, str], *, model_dir: Path | None = None, model_name: str | None = None
) -> Layout:
    """Find what is to be served: of the folder that is named, else of the first of the usual ones that holds anything.

    Args:
        root: the folder that is ``/`` in a container.
        environ: the container's environment.
        model_dir: the folder, as KServe names it.
        model_name: what the model is to be called; of several archives one must have that name.

    Raises:
        InputError: there is no model, or none of that name.
        archive_tool.errors.BuildError: no model can have that name.
        archive_tool.errors.ArchiveError: an archive cannot be read.
    """
    config = root / IMAGE_CONFIG
    own = config if config.is_file() else None
    if environ.get(MULTI_MODEL_VARIABLE, "").strip().lower() == "true":
        return Layout(root / MULTI_MODEL, None, ("none",), own, root / MULTI_MODEL, _SAGEMAKERS)
    usual = {root / SAGEMAKER: _SAGEMAKERS, root / KSERVE: "KServe", root / IMAGE: ""}
    folder = model_dir or next((one for one in usual if _holds_something(one)), None)
    if folder is None:
        raise InputError(
            f"there is no model: {', '.join(map(str, usual))} hold nothing",
            hint="put archives (.mar) into one of them, or name archives to torchmar image",
        )
    return replace(_layout_of(folder, own, model_name, environ), platform=usual.get(folder, ""))


def configuration(file: Path | None, environ: Mapping[str, str]) -> dict[str, str]:
    """Return what a config.properties says, with what it takes from the environment (``enable_envvars_config``).

    Nothing is left that the environment could change: what a container puts into its place stays.

    Raises:
        InputError: it cannot be read, or names a variable that is not set.
    """
    told = read_properties(file) if file else {}
    taken = settings.from_environment(settings.expanded(told, environ), environ)
    return {**told, **taken, "enable_envvars_config": "false"}


def is_trusted(environ: Mapping[str, str]) -> bool:
    """Return whether the image says that its network is trusted.

    Raises:
        InputError: it says neither yes nor no.
    """
    text = environ.get(TRUSTED_VARIABLE, "").strip()
    if text not in ("", "0", "1"):
        raise InputError(f"{TRUSTED_VARIABLE}={text} is neither 0 nor 1", hint=f"set {TRUSTED_VARIABLE}=1, or unset it")
    return text == "1"


def _holds_something(folder: Path) -> bool:
    return folder.is_dir() and any(not path.name.startswith(".") for path in folder.iterdir())


def _layout_of(folder: Path, config: Path | None, model_name: str | None, environ: Mapping[str, str]) -> Layout:
    if not folder.is_dir():
        raise InputError(f"no such folder: {folder}", hint="name the folder that holds the archives")
    if (folder / _STORE).is_dir():
        own = folder / _CONFIG
        config = own if own.is_file() else config
        told = configuration(config, environ)
        models = () if any(told.get(key, "").strip() for key in _MODELS) else (LOAD_ALL,)
        return Layout(folder, folder / _STORE, models, config)
    found = [path.absolute() for path in archives_in(folder)]
    if not found:
        names = sorted(path.name for path in folder.iterdir())
        raise InputError(
            f"{folder} holds no archive: neither a .mar nor an unpacked one, nor TorchServe's {_STORE}",
            hint=f"it holds {', '.join(names[:12]) or 'nothing'}; torchmar build makes an archive",
        )
    names = [default_name(path) for path in found]
    if model_name:
        check_model_name(model_name)  # before a list of models is made of it, which has signs of its own
    if model_name and len(found) == 1:
        names = [model_name]
    if model_name and model_name not in names:
        raise InputError(
            f"{folder} holds no model {model_name}: it holds {', '.join(names)}",
            hint="name one of them, or put one archive alone there, which can have any name",
        )
    named = tuple(f"{name}={path}" for name, path in zip(names, found, strict=True))
    return Layout(folder, found[0].parent, named, config)
