"""Puts a copy of the handler SDK into an archive whose code imports it.

So the archive runs on any TorchServe 0.12, where nothing of torchmar is installed. The package `handlers` is built for
this: it imports the standard library and torch only.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from archive_tool.errors import BuildError
from archive_tool.metadata.names import fold
from archive_tool.writing.plan import Member, with_members

if TYPE_CHECKING:
    from archive_tool.building.looked import Looked
    from archive_tool.building.report import Report
    from archive_tool.writing.plan import Plan

PACKAGE: Final = "handlers"
_HINT: Final = "install torchmar anew, or leave the copy out with --no-vendor-sdk"


def vendor(looked: Looked, report: Report, *, sdk_root: Path | None = None) -> Plan:
    """Return the plan with the SDK's files in it, if some Python file of the plan imports `handlers`.

    Args:
        looked: inputs, and the archive so far; only a Python runtime needs the SDK.
        report: told if the SDK is needed and cannot be found, or if the user's own files take the package's name.
        sdk_root: the package's folder; None to look for the installed one.
    """
    plan = looked.plan
    importer = looked.sdk_importer if looked.inputs.uses_python else None
    if importer is None:
        return plan
    own = next((member for member in plan.members if _takes_name(member.name)), None)
    if own is not None:
        report.warning(
            f"the archive holds your own {own.name}, so no copy of the handler SDK is added; "
            f"{importer} will import yours",
            hint="rename it if the SDK is meant; give --no-vendor-sdk if it is not",
        )
        return plan
    try:
        root = sdk_root if sdk_root is not None else find_sdk()
    except BuildError as error:
        report.error(error.message, where=importer, hint=error.hint)
        return plan
    return with_members(plan, sdk_members(root))


def _takes_name(name: str) -> bool:
    key = fold(name)
    return key == f"{PACKAGE}.py" or key.startswith(f"{PACKAGE}/")


def find_sdk() -> Path:
    """Find the folder of the installed package `handlers` without importing it, for that would import torch.

    Raises:
        BuildError: there is none, or another package of this name hides it.
    """
    # Ours is typed and lies beside this package; a folder `handlers` of the user may come first on sys.path.
    beside = Path(__file__).resolve().parents[2] / PACKAGE
    if (beside / "py.typed").is_file():
        return beside
    from importlib.util import find_spec

    spec = find_spec(PACKAGE)
    locations = spec.submodule_search_locations if spec else None
    if not locations:
        raise BuildError("the handler SDK (package `handlers`) is imported but not installed here", hint=_HINT)
    root = Path(next(iter(locations)))
    if not (root / "py.typed").is_file():
        raise BuildError(f"the package `handlers` in {root} is not the handler SDK of torchmar", hint=_HINT)
    return root


def sdk_members(root: Path) -> list[Member]:
    """List the SDK's files as members below ``handlers/``."""
    paths = [path for path in root.rglob("*") if path.suffix == ".py" or path.name == "py.typed"]
    return [
        Member(f"{PACKAGE}/{path.relative_to(root).as_posix()}", path)
        for path in sorted(paths)
        if "__pycache__" not in path.parts and path.is_file()
    ]
