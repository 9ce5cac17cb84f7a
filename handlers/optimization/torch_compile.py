"""`torch.compile` as the `pt2` section of model-config.yaml asks for it; see `settings.compile_options`."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from handlers.optimization.settings import compile_options

if TYPE_CHECKING:
    from collections.abc import Mapping

logger = logging.getLogger(__name__)


def compile_model(model: Any, config: Mapping[str, Any] | None) -> Any:
    """Compile the model if its configuration asks for it; if that fails, warn and return the model as it was."""
    options = compile_options(config)
    if options is None:
        return model
    if not isinstance(model, nn.Module) or isinstance(model, torch.jit.ScriptModule):
        kind = "TorchScript" if isinstance(model, nn.Module) else getattr(model, "summary", type(model).__name__)
        logger.warning("pt2 in model-config.yaml has no effect on this model (%s): it is compiled already", kind)
        return model
    shown = ", ".join(f"{name}={value}" for name, value in options.items()) or "the default backend"
    try:
        compiled = torch.compile(model, **options)
    except Exception as error:  # each backend raises its own
        logger.warning("torch.compile with %s failed, serving the eager model: %s", shown, error)
        return model
    logger.info("Compiling with torch.compile at the first request: %s", shown)
    return compiled


class CompiledCodeError(RuntimeError):
    """Code that was compiled ahead of time failed on inputs that it should take."""


def is_compiler_error(error: BaseException) -> bool:
    """Return whether the compiler or its code failed, and not the model: it runs when it first meets an input."""
    if isinstance(error, CompiledCodeError):
        return True
    return any(kind.__module__.startswith(("torch._dynamo", "torch._inductor")) for kind in type(error).__mro__)
