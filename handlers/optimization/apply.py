"""Making a model faster, as the section `optimize:` says or by default; see `settings`."""

from __future__ import annotations

import logging
import warnings
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import nn

from handlers.optimization.machine import lacks_instructions
from handlers.optimization.settings import UNASKED, Compile, Optimization

if TYPE_CHECKING:
    from handlers.optimization.folding import Pair

logger = logging.getLogger(__name__)

# With so many convolutions, a model on a CPU spends most of its time in them. With fewer, as in networks for digits,
# there is little to gain.
_CONVOLUTIONS: Final = 8


def unasked(model: Any, device: torch.device | None) -> Optimization | None:
    """Return what to do for a model that model-config.yaml says nothing about; None for nothing.

    Convolutional networks are a fifth to a half faster on a CPU with channels last and folded batch normalizations, and
    their outputs differ by rounding only.
    """
    if (device is not None and device.type != "cpu") or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return None
    if not isinstance(model, nn.Module) or isinstance(model, torch.jit.ScriptModule | torch.fx.GraphModule):
        return None
    if sum(isinstance(part, nn.Conv2d) for part in model.modules()) < _CONVOLUTIONS:
        return None
    if any(one.is_floating_point() and one.dtype is not torch.float32 for one in model.parameters()):
        return None
    return UNASKED


def cast_to(optimization: Optimization) -> torch.dtype | None:
    """Return the 16-bit dtype to compute in; None for float32."""
    return None if optimization.dtype == "float32" else getattr(torch, optimization.dtype)


def optimize_model(
    model: Any, optimization: Optimization, device: torch.device | None, *, pt2: dict[str, Any] | None = None
) -> Any:
    """Return a model that is called as `model` is, and is faster; `model` itself where nothing can be done.

    `model` is in eval mode, on `device`. The result decides at its first call whether it is correct; see
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
    if cast_to(optimization) is not None or optimization.channels_last:
        ways.append(Way(replace(optimization, compile=None, freezing=False, cuda_graphs=False).describe()))
    if optimization.unasked:
        log = "A convolutional network: running it with %s if the first request shows that it gives the same"
    else:
        log = "Optimizing with %s; the first request tells whether it gives the same"
    logger.info(log, ways[0].name)
    return OptimizedModel(
        model,
        ways,
        device=device,
        dtype=cast_to(optimization),
        channels_last=optimization.channels_last,
        tolerance=optimization.limit,
        pairs=pairs,
        unasked=optimization.unasked,
    )


def _folding(model: nn.Module, optimization: Optimization) -> tuple[Optimization, list[Pair]]:
    """Find what freezing without a compiler can do; if that is nothing, leave it out and say so."""
    from handlers.optimization.folding import pairs

    if found := pairs(model):
        return optimization, found
    if not optimization.unasked:
        logger.warning(
            "optimize: freezing without compile has no effect on this model: no convolution has a batch normalization "
            "after it that it could do, too"
        )
    return replace(optimization, freezing=False), []


def _possible(
    model: nn.Module, asked: Optimization, device: torch.device, pt2: dict[str, Any] | None
) -> tuple[Optimization, dict[str, Any] | None]:
    """Leave out what this model or this device cannot use, and say so."""
    possible, without = asked, []
    script = isinstance(model, torch.jit.ScriptModule)
    if script and (asked.compile is not None or pt2 is not None):
        without.append("compile" if pt2 is None else "pt2")
        possible, pt2 = replace(possible, compile=None, cuda_graphs=False), None
    if device.type == "cpu" and lacks_instructions(asked.dtype):
        logger.warning("This processor has no instructions for %s: float32 is likely faster", asked.dtype)
    if possible.cuda_graphs and device.type != "cuda":
        possible = replace(possible, cuda_graphs=False)
        logger.info("optimize.cuda_graphs has no effect on %s", device)
    if without:
        logger.warning("optimize: %s has no effect on TorchScript", " and ".join(without))
    return possible, pt2


def _compile_arguments(optimization: Optimization) -> dict[str, Any]:
    """Return the arguments of torch.compile. It takes CUDA graphs as a part of its modes."""
    asked = optimization.compile or Compile()
    mode = asked.mode
    if optimization.cuda_graphs:
        mode = "max-autotune" if mode in ("max-autotune", "max-autotune-no-cudagraphs") else "reduce-overhead"
    given = {"backend": asked.backend, "mode": mode, "dynamic": asked.dynamic}
    return {name: value for name, value in given.items() if value is not None}


def _freeze(model: torch.jit.ScriptModule) -> Any:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r".*torch\.jit")  # torch deprecates it; we still serve it
        return torch.jit.optimize_for_inference(torch.jit.freeze(model))
