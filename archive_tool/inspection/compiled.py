"""Whether this machine would run the model that an archive has compiled ahead of time. Works without torch.

The rule is the worker's own, `handlers.optimization.machine`. What only torch knows, a GPU's compute capability, stays
open.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from archive_tool.errors import ArchiveError
from archive_tool.inspection import obstacles
from handlers.optimization.settings import SECTION, Optimization

if TYPE_CHECKING:
    from archive_tool.config.effective import Effective
    from archive_tool.metadata.manifest import Manifest

# In torch's version.py. The package metadata lacks the build if the package comes from PyPI.
_VERSION: Final = re.compile(r"^__version__\s*=\s*['\"]([^'\"]+)['\"]", re.MULTILINE)
_FOR_GPUS: Final = re.compile(r"^(cuda|hip)\b.*=\s*['\"]", re.MULTILINE)


@dataclass(frozen=True)
class Fit:
    """Whether the compiled model would serve here.

    Attributes:
        path: the member that holds it, or the folder of its members.
        fits: whether a worker on this machine would serve it, and not the plain model; None if that is not known.
        reason: why not, or what is not known; None if it fits.
    """

    path: str
    fits: bool | None
    reason: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return it as a JSON-ready object."""
        return {"path": self.path, "fits": self.fits, "reason": self.reason}


@dataclass(frozen=True)
class Torch:
    """The installed torch: its version with the build, and whether it can use GPUs."""

    version: str
    for_gpus: bool


def check(manifest: Manifest, config: Effective) -> Fit | None:
    """Compare the needs of the archive's compiled model with this machine; None if the archive has none.

    Args:
        manifest: the archive's.
        config: the archive's; it may ask for another device, or for another dtype.
    """
    try:
        record = manifest.record
    except ArchiveError:
        return None  # `obstacles` reports it
    if record is None or record.compiled is None:
        return None
    compiled = record.compiled
    torch = installed_torch()
    if torch is None:
        return Fit(compiled.path, fits=False, reason="torch is not found here")
    from handlers.optimization.machine import Machine, instruction_sets, other_dtype, this_machine

    device = _device(config, torch)
    assumed = device or compiled.device
    here = this_machine(torch.version, assumed, instruction_sets() if assumed == "cpu" else None)
    needed = Machine(compiled.torch, compiled.platform, compiled.device, compiled.capability)
    if reason := needed.misfit(here) or other_dtype(compiled.dtype or Optimization.dtype, _asked_dtype(config)):
        return Fit(compiled.path, fits=False, reason=reason)
    if device is None:
        reason = f"it is for {compiled.device}, and whether there is a GPU here cannot be told"
        return Fit(compiled.path, fits=None, reason=reason)
    if here.capability is None:
        part = "processor" if device == "cpu" else "GPU"
        needs = ", ".join(compiled.capability)
        reason = f"it needs {needs}, and whether this {part} has it cannot be told"
        return Fit(compiled.path, fits=None, reason=reason)
    return Fit(compiled.path, fits=True)


def installed_torch() -> Torch | None:
    """Find the torch that would be imported, without importing it; None if there is none."""
    try:
        spec = importlib.util.find_spec("torch")
    except (ImportError, ValueError):
        return None
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        try:
            text = Path(folder, "version.py").read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        if found := _VERSION.search(text):
            return Torch(found[1], _FOR_GPUS.search(text) is not None)
    return None


def _device(config: Effective, torch: Torch) -> str | None:
    """Return the device that a worker would get from TorchServe and from torch; None if it is not known."""
    if config.value("deviceType") == "cpu" or not torch.for_gpus:
        return "cpu"
    count = obstacles.gpus()
    return None if count is None else "cuda" if count else "cpu"


def _asked_dtype(config: Effective) -> str | None:
    section = config.document.get(SECTION)
    if not isinstance(section, Mapping) or not section:
        return None
    return str(section.get("dtype", Optimization.dtype))
