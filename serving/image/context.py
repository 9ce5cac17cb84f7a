"""The context of an image: a folder with all that its Dockerfile names, written whole or not at all."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Sequence
from pathlib import Path

from archive_tool import files
from archive_tool.errors import InputError, TargetExistsError, UnreadableArchiveError
from archive_tool.metadata.manifest import Model
from archive_tool.reading.archive import open_archive
from serving.control.configuration.config import read_properties
from serving.control.models.store import ARCHIVE_SUFFIXES
from serving.image import dockerfile
from serving.image.dockerfile import Device, Platform, Wanted
from serving.image.layout import IMAGE, IMAGE_CONFIG
from serving.image.wheel import write_wheel

DOCKERFILE = "Dockerfile"


def write_context(
    archives: Sequence[Path],
    target: Path,
    *,
    platform: Platform = "plain",
    device: Device = "cpu",
    base: str | None = None,
    config: Path | None = None,
    force: bool = False,
) -> Path:
    """Write a Dockerfile and what it copies into a new folder; return the folder.

    Args:
        archives: packed ones or folders; their contents are the image's.
        target: the folder.
        platform: whose layout and network it is for.
        device: which torch it gets.
        base: image to begin with; None for the usual one.
        config: config.properties of the server; a container's addresses win over those in it.
        force: replace a context that was written before.

    Raises:
        TargetExistsError: the folder exists, and is not one of ours or not to be replaced.
        InputError: the folder cannot be written or is in an archive, two archives have one name or are one model, or
            the base cannot be one.
        archive_tool.errors.ArchiveError: an archive cannot be read, or is not safe to unpack.
    """
    _check_target(target, force=force)
    _check_archives(archives, target)
    temporary = target.absolute().parent / f".torchmar-{secrets.token_hex(8)}.tmp"
    try:
        temporary.mkdir(parents=True)
        _copy_archives(archives, temporary / IMAGE.name)
        requirements = _requirements(archives, temporary / dockerfile.REQUIREMENTS)
        if config is not None:
            read_properties(config)  # refused here, and not in the container
            shutil.copyfile(config, temporary / IMAGE_CONFIG.name)
        wheel = write_wheel(temporary).name
        wanted = Wanted(platform, device, base, wheel, requirements, bool(archives), config is not None)
        (temporary / dockerfile.CONSTRAINTS).write_text(dockerfile.constraints(wanted), encoding="utf-8")
        (temporary / DOCKERFILE).write_text(dockerfile.dockerfile(wanted), encoding="utf-8")
        _open_to_all(temporary)
        if target.exists():
            shutil.rmtree(target)
        temporary.rename(target)
    except OSError as error:
        raise InputError(f"cannot write {target}: {error.strerror or error}", where=str(target)) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target


def _open_to_all(context: Path) -> None:
    """Let everybody read what an image copies with its modes: its user is another one than who writes it."""
    for path in (context, *context.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)


def _check_target(target: Path, *, force: bool) -> None:
    if not target.exists():
        return
    try:
        ours = (target / DOCKERFILE).read_text(encoding="utf-8").startswith(dockerfile.MARK)
    except (OSError, ValueError):
        ours = False
    if not ours:
        raise TargetExistsError(
            f"{target} exists, and torchmar image has not written it", hint="choose a folder that does not exist yet"
        )
    if not force:
        raise TargetExistsError(f"{target} exists already", hint="give --force (-f) to replace it")


def check_archive(path: Path) -> Model:
    """Make sure that an archive can be one of an image; return what its manifest says of the model.

    Raises:
        InputError: there is none of that name.
        archive_tool.errors.ArchiveError: it cannot be read, is not safe to unpack, or has no manifest.
    """
    if not path.exists():
        raise InputError(f"no such archive: {path}", hint="torchmar build makes one")
    if path.is_file() and not path.name.endswith(ARCHIVE_SUFFIXES):
        raise InputError(f"{path} is no archive by its name", hint=f"they end in {', '.join(ARCHIVE_SUFFIXES)}")
    with open_archive(path) as archive:
        manifest = archive.manifest
    if manifest is None:
        raise UnreadableArchiveError(
            f"{path} has no manifest", where=str(path), hint="torchmar convert makes an archive of an older one"
        )
    return manifest.model


def _check_archives(archives: Sequence[Path], target: Path) -> None:
    names: set[str] = set()
    models: dict[tuple[str, str], Path] = {}
    for path in archives:
        model = check_archive(path)
        if _name_in_store(path) in names:
            raise InputError(f"two archives are called {_name_in_store(path)}", hint="rename one of them")
        names.add(_name_in_store(path))
        key = model.model_name, model.version
        other = models.setdefault(key, path)
        if other != path:
            raise InputError(
                f"{other} and {path} are both {' '.join(key)}: a server has a version of a model once",
                hint="build one of them with another --model-name or --version",
            )
        if path.is_dir() and target.resolve().is_relative_to(path.resolve()):
            raise InputError(f"{target} is in the archive {path}", hint="write it elsewhere")


def _name_in_store(path: Path) -> str:
    return path.resolve().name


def _copy_archives(archives: Sequence[Path], store: Path) -> None:
    for path in archives:
        target = store / _name_in_store(path)
        store.mkdir(exist_ok=True)
        if path.is_dir():
            shutil.copytree(path, target)
        else:
            shutil.copyfile(path, target)


def _requirements(archives: Sequence[Path], folder: Path) -> list[str]:
    """Write the requirements of each archive that has some; return the names of the files."""
    names: list[str] = []
    for path in archives:
        with open_archive(path) as archive:
            manifest = archive.manifest
            if manifest is None or manifest.model.requirements_file is None:
                continue
            text = archive.read(manifest.model.requirements_file, files.MAX_TEXT)
        folder.mkdir(exist_ok=True)
        names.append(f"{len(names) + 1}.txt")
        (folder / names[-1]).write_bytes(text)
    return names
