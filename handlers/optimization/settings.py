"""The section `optimize:` of model-config.yaml: a faster model without code.

optimize:
  dtype: bfloat16         float32, bfloat16 or float16: what convolutions and products of matrices are computed in
  channels_last: true     pictures, and weights of convolutions, with the channels side by side in memory
  compile: true           torch.compile; or the name of a backend, or {backend, mode, dynamic}
  freezing: true          weights are constants: for the compiler, for TorchScript (torch.jit.freeze), and for an eager
                          model without compiler, whose convolutions then do the batch normalisation after them, too
  cuda_graphs: true       the kernels of a batch are started as one; with compile, on CUDA
  tolerance: 0.05         how far the answers may be from those of the plain model; see `output_difference`
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import nn

from handlers.device import lacks_instructions
from handlers.errors import LoadError
from handlers.optimization.torch_compile import compile_options

if TYPE_CHECKING:
    from handlers.optimization.folding import Pair

logger = logging.getLogger(__name__)

SECTION: Final = "optimize"
KEYS: Final = ("dtype", "channels_last", "compile", "freezing", "cuda_graphs", "tolerance")
COMPILE_KEYS: Final = ("backend", "mode", "dynamic")
#: What numbers are computed in, and how far from those of float32 the results may be without a `tolerance`.
DTYPES: Final = {"float32": 1e-3, "float16": 0.01, "bfloat16": 0.05}
MODES: Final = ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")
INDUCTOR: Final = "inductor"
_LEAST_TOLERANCE: Final = 1e-7
# Of so many convolutions on a processor, most of the time is spent in them. With fewer, as in nets for digits, there is
# little to win.
_CONVOLUTIONS: Final = 8
_ROUNDING: Final = 1e-4


@dataclass(frozen=True)
class Compile:
    """What torch.compile is called with; `mode` and `dynamic` None leave it to torch."""

    backend: str = INDUCTOR
    mode: str | None = None
    dynamic: bool | None = None


@dataclass(frozen=True)
class Optimization:
    """The section, as it was read.

    `tolerance` None stands for that of the `dtype`; see `limit`. `unasked` tells that there is no section: what is done
    for a net of convolutions by itself; see `unasked`.
    """

    dtype: str = "float32"
    channels_last: bool = False
    compile: Compile | None = None
    freezing: bool = False
    cuda_graphs: bool = False
    tolerance: float | None = None
    unasked: bool = False

    @property
    def limit(self) -> float:
        """How far the answers may be from the plain model's, as a part of the largest number of its answer."""
        return DTYPES[self.dtype] if self.tolerance is None else self.tolerance

    @property
    def cast_to(self) -> torch.dtype | None:
        """The dtype of 16 bits to compute in; None for float32."""
        return None if self.dtype == "float32" else getattr(torch, self.dtype)

    def describe(self) -> str:
        """Say in a few words what it is, for the log."""
        parts = [] if self.dtype == "float32" else [self.dtype]
        parts += ["channels_last"] if self.channels_last else []
        if self.compile is not None:
            given = {"mode": self.compile.mode, "dynamic": self.compile.dynamic}
            options = ", ".join(f"{name}={value}" for name, value in given.items() if value is not None)
            parts.append(self.compile.backend + (f" ({options})" if options else ""))
        parts += ["freezing"] if self.freezing else []
        parts += ["CUDA graphs"] if self.cuda_graphs else []
        return ", ".join(parts) or "nothing"


def read(config: Mapping[str, Any] | None) -> Optimization | None:
    """Read the section; None if there is none, or nothing in it.

    Raises a `LoadError` for what is wrong in it, also for a `pt2` section that asks for torch.compile beside it.
    """
    section = (config or {}).get(SECTION)
    if section is None or section is False or section == {}:
        return None
    if not isinstance(section, Mapping):
        raise _error("", section, f"write lines such as dtype: bfloat16; the settings are {', '.join(KEYS)}")
    for key in section:
        if key not in KEYS:
            raise LoadError(
                f"{SECTION}.{key} in model-config.yaml is no setting", hint=f"the settings are {', '.join(KEYS)}"
            )
    dtype = section.get("dtype", "float32")
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise _error("dtype", dtype, f"write one of {', '.join(DTYPES)}")
    found = Optimization(
        dtype=dtype,
        channels_last=_flag(section, "channels_last"),
        compile=_compile(section.get("compile", False)),
        freezing=_flag(section, "freezing"),
        cuda_graphs=_flag(section, "cuda_graphs"),
        tolerance=_tolerance(section.get("tolerance")),
    )
    _check_together(found, config or {})
    return found


def unasked(model: Any, device: torch.device | None) -> Optimization | None:
    """Tell what to do for a model that model-config.yaml says nothing of; None for nothing.

    Nets of convolutions are a fifth to a half faster on a processor with channels last and folded normalisations, and
    their numbers differ by rounding only.
    """
    if (device is not None and device.type != "cpu") or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return None
    if not isinstance(model, nn.Module) or isinstance(model, torch.jit.ScriptModule | torch.fx.GraphModule):
        return None
    if sum(isinstance(part, nn.Conv2d) for part in model.modules()) < _CONVOLUTIONS:
        return None
    if any(one.is_floating_point() and one.dtype is not torch.float32 for one in model.parameters()):
        return None
    return Optimization(channels_last=True, freezing=True, tolerance=_ROUNDING, unasked=True)


def _flag(section: Mapping[str, Any], key: str) -> bool:
    value = section.get(key, False)
    if not isinstance(value, bool):
        raise _error(key, value, "write true or false")
    return value


def _compile(value: Any) -> Compile | None:
    if isinstance(value, bool):
        return Compile() if value else None
    if isinstance(value, str) and value:
        return Compile(value)
    if not isinstance(value, Mapping):
        raise _error("compile", value, "write true, the name of a backend, or {backend: inductor, mode: max-autotune}")
    for key in value:
        if key not in COMPILE_KEYS:
            hint = f"the settings are {', '.join(COMPILE_KEYS)}"
            raise LoadError(f"{SECTION}.compile.{key} in model-config.yaml is no setting", hint=hint)
    backend, mode, dynamic = (value.get(key) for key in COMPILE_KEYS)
    if backend is not None and (not isinstance(backend, str) or not backend):
        raise _error("compile.backend", backend, "write the name of a backend, such as inductor")
    if mode is not None and mode not in MODES:
        raise _error("compile.mode", mode, f"write one of {', '.join(MODES)}")
    if dynamic is not None and not isinstance(dynamic, bool):
        raise _error("compile.dynamic", dynamic, "write true or false, or leave it to torch")
    return Compile(backend or INDUCTOR, mode, dynamic)


def _tolerance(value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not _LEAST_TOLERANCE <= value <= 1:
        raise _error("tolerance", value, "write a part of the largest output, from 0.0000001 to 1, such as 0.02")
    return float(value)


def _check_together(found: Optimization, config: Mapping[str, Any]) -> None:
    compiled = found.compile
    if compiled is not None and compile_options(config) is not None:
        raise LoadError(
            f"torch.compile is asked for twice in model-config.yaml, in {SECTION}.compile and in pt2",
            hint="remove one of them",
        )
    if found.cuda_graphs and compiled is None:
        raise LoadError(
            f"{SECTION}.cuda_graphs in model-config.yaml needs compile", hint=f"write compile: true below {SECTION}"
        )
    if compiled is None or compiled.backend == INDUCTOR:
        return
    for name, given in (
        ("freezing", found.freezing),
        ("cuda_graphs", found.cuda_graphs),
        ("compile.mode", compiled.mode is not None),
    ):
        if given:
            raise LoadError(
                f"{SECTION}.{name} in model-config.yaml is for the backend inductor, and the backend is "
                f"{compiled.backend}",
                hint=f"remove it, or write compile: {INDUCTOR}",
            )


def _error(key: str, value: Any, hint: str) -> LoadError:
    name = f"{SECTION}.{key}" if key else SECTION
    return LoadError(f"{name} in model-config.yaml is {value!r:.80}", hint=hint)


def optimize_model(
    model: Any, optimization: Optimization, device: torch.device | None, *, pt2: dict[str, Any] | None = None
) -> Any:
    """Give a model that is called as `model` is, and faster; `model` itself where nothing can be done.

    `model` is in eval mode, on `device`. What is given decides at its first call whether it is right; see
    `OptimizedModel`. `pt2` are arguments for torch.compile in place of the optimization's own.
    """
    device = device or torch.device("cpu")
    if not isinstance(model, nn.Module):
        kind = getattr(model, "summary", type(model).__name__)
        logger.warning("optimize in model-config.yaml has no effect on this model (%s): it is compiled already", kind)
        return model
    optimization, pt2 = _possible(model, optimization, device, pt2)
    compiled = optimization.compile is not None or pt2 is not None
    pairs: list[Pair] = []
    if optimization.freezing and not compiled and not isinstance(model, torch.jit.ScriptModule):
        optimization, pairs = _folding(model, optimization)
    if optimization == Optimization(tolerance=optimization.tolerance) and pt2 is None:
        return model
    from handlers.optimization.optimized_model import OptimizedModel, Way

    ways = []
    if isinstance(model, torch.jit.ScriptModule) and optimization.freezing:
        ways.append(Way(optimization.describe(), lambda: _freeze(model)))
    elif compiled:
        arguments = _compile_arguments(optimization) if pt2 is None else pt2
        config = (("freezing", True),) if optimization.freezing else ()
        graphs = device.type == "cuda" and arguments.get("mode") in ("reduce-overhead", "max-autotune")
        name = optimization.describe() if pt2 is None else f"{optimization.describe()} and pt2"
        ways.append(Way(name, lambda: torch.compile(model, **arguments), config, clones=graphs))
    elif pairs:
        ways.append(Way(optimization.describe(), folds=True))
    if optimization.cast_to is not None or optimization.channels_last:
        ways.append(Way(replace(optimization, compile=None, freezing=False, cuda_graphs=False).describe()))
    if optimization.unasked:
        log = "A net of convolutions: running it with %s if the first request shows that it gives the same"
    else:
        log = "Optimizing with %s; the first request tells whether it gives the same"
    logger.info(log, ways[0].name)
    return OptimizedModel(
        model,
        ways,
        device=device,
        dtype=optimization.cast_to,
        channels_last=optimization.channels_last,
        tolerance=optimization.limit,
        pairs=pairs,
        unasked=optimization.unasked,
    )


def _folding(model: nn.Module, optimization: Optimization) -> tuple[Optimization, list[Pair]]:
    """Find what freezing without a compiler can do; leave it out, and say so, where that is nothing."""
    from handlers.optimization.folding import pairs

    if found := pairs(model):
        return optimization, found
    if not optimization.unasked:
        logger.warning(
            "optimize: freezing without compile has no effect on this model: no convolution has a batch normalisation "
            "after it that it could do, too"
        )
    return replace(optimization, freezing=False), []


def _possible(
    model: nn.Module, asked: Optimization, device: torch.device, pt2: dict[str, Any] | None
) -> tuple[Optimization, dict[str, Any] | None]:
    """Leave out what this model or this device has no use for, and say so."""
    possible, without = asked, []
    script = isinstance(model, torch.jit.ScriptModule)
    if script and (asked.compile is not None or pt2 is not None):
        without.append("compile" if pt2 is None else "pt2")
        possible, pt2 = replace(possible, compile=None, cuda_graphs=False), None
    if device.type == "cpu" and asked.cast_to is not None and lacks_instructions(asked.cast_to):
        logger.warning("This processor has no instructions for %s: float32 is likely faster", asked.dtype)
    if possible.cuda_graphs and device.type != "cuda":
        possible = replace(possible, cuda_graphs=False)
        logger.info("optimize.cuda_graphs has no effect on %s", device)
    if without:
        logger.warning("optimize: %s has no effect on TorchScript", " and ".join(without))
    return possible, pt2


def _compile_arguments(optimization: Optimization) -> dict[str, Any]:
    """Give what torch.compile is called with. It takes CUDA graphs as a part of its modes."""
    asked = optimization.compile or Compile()
    mode = asked.mode
    if optimization.cuda_graphs:
        mode = "max-autotune" if mode in ("max-autotune", "max-autotune-no-cudagraphs") else "reduce-overhead"
    given = {"backend": asked.backend, "mode": mode, "dynamic": asked.dynamic}
    return {name: value for name, value in given.items() if value is not None}


def _freeze(model: torch.jit.ScriptModule) -> Any:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r".*torch\.jit")  # torch announces its end; we serve it on
        return torch.jit.optimize_for_inference(torch.jit.freeze(model))
