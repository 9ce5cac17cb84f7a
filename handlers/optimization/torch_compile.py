"""`torch.compile` as the `pt2` section of model-config.yaml asks for it.

pt2: inductor                                             a backend
pt2: {compile: {enable: true, backend: inductor, mode: reduce-overhead}}
pt2: {backend: inductor, mode: reduce-overhead}           arguments of torch.compile, TorchServe's older form
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from handlers.errors import LoadError

if TYPE_CHECKING:
    from collections.abc import Mapping

logger = logging.getLogger(__name__)


def compile_options(config: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Read the arguments for `torch.compile` from model-config.yaml; None if it does not ask for it."""
    section = (config or {}).get("pt2")
    if section is None or section is False:
        return None
    if isinstance(section, dict) and "compile" in section:
        return _standard_form(section["compile"])
    if isinstance(section, dict) and "export" in section:
        return None  # export: {aot_compile: true} says of a library that it is compiled, and its content says so, too
    if isinstance(section, str):
        return {"backend": section}
    if isinstance(section, dict):
        return dict(section)
    raise LoadError(f"pt2 in model-config.yaml is {section!r}", hint="give the name of a backend or a compile section")


def _standard_form(options: Any) -> dict[str, Any] | None:
    if isinstance(options, bool):
        return {} if options else None
    if not isinstance(options, dict):
        raise LoadError(
            f"pt2.compile in model-config.yaml is {options!r}", hint="write compile: {enable: true, backend: inductor}"
        )
    given = dict(options)  # the configuration is the user's: never change it
    return given if given.pop("enable", True) else None


def is_inductors(options: Mapping[str, Any]) -> bool:
    """Tell whether the compiler of these arguments for `torch.compile` is inductor, torch's own."""
    return bool(options.get("backend", "inductor") == "inductor")


def compile_model(model: Any, config: Mapping[str, Any] | None) -> Any:
    """Compile the model if its configuration asks for it; if that fails, warn and give the model as it was."""
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
    """Tell whether the compiler or its code failed, and not the model: it works when it first meets an input."""
    if isinstance(error, CompiledCodeError):
        return True
    return any(kind.__module__.startswith(("torch._dynamo", "torch._inductor")) for kind in type(error).__mro__)
