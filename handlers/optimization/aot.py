"""The model that `torchmar build --aot` compiled into an archive: whether it fits this machine, and how it runs.

Compiled code works with one version of torch and one kind of processor. The archive's manifest records them under the
key `torchmar`, so that they are known before any of the code is loaded. The eager model stays, for other machines and
for inputs that the compiled one does not take.
"""

from __future__ import annotations

import logging
import platform
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from handlers.errors import LoadError
from handlers.loading.signature import Tensor, read_tensor
from handlers.optimization.machine import Machine, instruction_sets, other_dtype, this_machine
from handlers.optimization.settings import DTYPES, Optimization
from handlers.optimization.torch_compile import CompiledCodeError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from handlers.optimization.optimized_model import OptimizedModel

logger = logging.getLogger(__name__)

_ALIGNMENT = 16  # bytes; compiled kernels may count on it


@dataclass(frozen=True)
class Compiled:
    """The manifest's record of the compiled model.

    `path` is a folder or a file of the archive, `version` torch's, `platform` such as "linux-x86_64", `device` "cpu" or
    "cuda". `capability` lists the instruction sets, or the compute capability, that the code needs. `dtype` is the
    setting `optimize.dtype` that it was compiled with. `inputs` are the tensors that it takes: positional ones are
    called "0", "1" and so on, those passed by name as the model's argument.
    """

    path: str
    version: str
    platform: str
    device: str
    capability: tuple[str, ...]
    dtype: str
    inputs: tuple[Tensor, ...]

    def misfit(self, device: torch.device, dtype: str | None = None) -> str | None:
        """Say why the code is not for this process and device, or not for the `dtype` asked for; None if it is."""
        needed = Machine(self.version, self.platform, self.device, self.capability)
        return needed.misfit(_machine(device)) or other_dtype(self.dtype, dtype)


def machine(device: torch.device) -> dict[str, Any]:
    """Describe this process and a device in the terms of `Compiled`: torch, platform, device and capability."""
    here = _machine(device)
    return {**asdict(here), "capability": list(here.capability or ())}


def _machine(device: torch.device) -> Machine:
    return this_machine(torch.__version__, device.type, capability(device))


def capability(device: torch.device) -> list[str]:
    """List what code for this device may use: the instruction sets of the processor, or a GPU's compute capability."""
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        return [f"sm_{major}{minor}"]
    found = instruction_sets()
    if found is None:
        return [f"{torch.backends.cpu.get_cpu_capability()} {platform.processor()}".strip()]
    return found


def read_compiled(manifest: Mapping[str, Any] | None) -> Compiled | None:
    """Read the manifest's record of a compiled model; None if there is none.

    Raises:
        LoadError: the record is damaged.
    """
    found = ((manifest or {}).get("torchmar") or {}).get("compiled")
    if found is None:
        return None
    try:
        inputs = tuple(read_tensor(item) for item in found["inputs"])
        path, version, system, kind = (found[key] for key in ("path", "torch", "platform", "device"))
        needs, dtype = tuple(found["capability"]), found.get("dtype", "float32")
        texts = all(isinstance(one, str) for one in (path, version, system, kind, *needs))
        if not inputs or not texts or dtype not in DTYPES:
            raise ValueError("a value is not one that it may have")
        return Compiled(path, version, system, kind, needs, dtype, inputs)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise LoadError(
            f"what the manifest says of the compiled model cannot be used: {type(error).__name__}: {error}",
            hint="build the archive again",
        ) from error


def with_compiled(
    eager: Any,
    manifest: Mapping[str, Any] | None,
    folder: Path,
    device: torch.device | None,
    optimization: Optimization | None = None,
) -> OptimizedModel | None:
    """Load the compiled model of an archive if it has one that fits; log which model runs.

    `eager` is the model to fall back on, `folder` the archive's, `optimization` what model-config.yaml asks for. The
    first call compares the two models. Return None if there is no compiled model, if it is for another machine, or,
    with a warning, if it cannot be loaded.
    """
    try:
        found = read_compiled(manifest)
        if found is None or device is None or not isinstance(eager, nn.Module):
            return None
        if reason := found.misfit(device, optimization.dtype if optimization else None):
            logger.info("Not serving the model compiled ahead of time: %s", reason)
            return None
        from handlers.loading import programs
        from handlers.optimization.optimized_model import OptimizedModel, Way

        place = (folder / found.path).resolve()
        if not place.is_relative_to(folder.resolve()):
            raise LoadError(f"{found.path} is not in the archive")
        package = programs.load_compiled(place, device)
    except LoadError as error:
        logger.warning("Not serving the model compiled ahead of time: %s", error.message)
        return None
    name = f"the model compiled ahead of time for {found.device} in {found.dtype}"
    logger.info("Loaded %s; the first request tells whether it gives the same as the plain one", name)
    limit = (optimization or Optimization(dtype=found.dtype)).limit
    way = Way(name, lambda: CompiledModel(package, eager, found.inputs))
    return OptimizedModel(eager, [way], device=device, tolerance=limit)


class CompiledModel:
    """A compiled model for the inputs that it was compiled for, and the plain one for all others.

    Compiled code does not check its inputs: it takes the shapes, dtypes and strides for granted.
    """

    def __init__(self, package: Any, plain: Any, inputs: tuple[Tensor, ...]) -> None:
        self._package = package
        self._plain = plain
        self._positional = [one for one in inputs if one.name.isdigit()]
        self._named = {one.name: one for one in inputs if not one.name.isdigit()}
        self._told = False

    def __call__(self, *inputs: Any, **named: Any) -> Any:
        """Run the compiled model, or the plain one.

        Raises:
            CompiledCodeError: the compiled one failed.
        """
        if self._takes(inputs, named):
            try:
                return self._package(*map(_laid_out, inputs), **{key: _laid_out(one) for key, one in named.items()})
            except Exception as error:  # the library's own errors have no common class
                raise CompiledCodeError(f"{type(error).__name__}: {error}") from error
        if not self._told:
            self._told = True
            wanted = ", ".join(map(_shown, (*self._positional, *self._named.values())))
            logger.warning("The plain model answers inputs that the compiled one does not take; it takes %s", wanted)
        return self._plain(*inputs, **named)

    def _takes(self, inputs: tuple[Any, ...], named: dict[str, Any]) -> bool:
        if len(inputs) != len(self._positional) or named.keys() != self._named.keys():
            return False
        return all(map(_fits, self._positional, inputs)) and all(_fits(self._named[key], named[key]) for key in named)


def _fits(expected: Tensor, given: Any) -> bool:
    if not isinstance(given, torch.Tensor) or given.dtype != expected.dtype or expected.shape is None:
        return False
    if given.layout is not torch.strided or not given.numel() or len(given.shape) != len(expected.shape):
        return False
    return all(size in (None, actual) for size, actual in zip(expected.shape, given.shape, strict=True))


def _laid_out(given: torch.Tensor) -> torch.Tensor:
    """Return the tensor with the strides that the code was compiled for, aligned as it may expect."""
    dense = given.contiguous()
    return dense.clone() if dense.data_ptr() % _ALIGNMENT else dense


def _shown(expected: Tensor) -> str:
    sizes = ", ".join("any" if size is None else str(size) for size in expected.shape or ())
    return f"{str(expected.dtype).removeprefix('torch.')} [{sizes}]"
