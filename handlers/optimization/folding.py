"""Batch normalizations folded into the convolution before them: both are linear, and the statistics are constants.

A convolution and a batch normalization are a pair if a symbolic run of the module (torch.fx) shows that each is called
once, and that nothing else gets the output of the convolution. A module that cannot run symbolically, because its
control flow depends on numbers, has no pairs.
"""

from __future__ import annotations

import copy
import inspect
import logging
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from torch import fx, nn

logger = logging.getLogger(__name__)

_CONVOLUTIONS: Final = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_NORMALISATIONS: Final = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


@dataclass(frozen=True)
class Pair:
    """A convolution and the batch normalization of its output; modules in eval mode, with float32 weights."""

    convolution: nn.Module
    normalisation: nn.Module

    def fold(self) -> Folded:
        """Compute what the convolution needs to do both. The modules stay as they are."""
        weight, bias = (_double(self.convolution, name) for name in ("weight", "bias"))
        names = ("running_mean", "running_var", "weight", "bias")
        mean, variance, scale, shift = (_double(self.normalisation, name) for name in names)
        factor = torch.rsqrt(variance + self.normalisation.eps)
        factor = factor if scale is None else factor * scale
        offset = (-mean if bias is None else bias - mean) * factor
        offset = offset if shift is None else offset + shift
        weight = weight * factor.reshape(-1, *[1] * (weight.dim() - 1))
        return Folded(self, weight.float(), offset.float())


@dataclass
class Folded:
    """A pair's new weight `[out, in / groups, *kernel]` and bias `[out]`, float32, and what they replace."""

    pair: Pair
    weight: torch.Tensor
    bias: torch.Tensor
    _plain_weight: torch.Tensor = field(init=False)
    _plain_bias: nn.Parameter | None = field(init=False)

    def __post_init__(self) -> None:
        own: dict[str, Any] = self.pair.convolution._parameters
        self._plain_weight, self._plain_bias = own["weight"].data, own["bias"]

    def use(self, *, folded: bool) -> None:
        """Let the convolution do both and the normalization nothing; or let each do its own."""
        convolution, normalisation = self.pair.convolution, self.pair.normalisation
        own: dict[str, Any] = convolution._parameters
        if folded:
            own["weight"].data = self.weight
            own["bias"] = nn.Parameter(self.bias, requires_grad=False)
            normalisation.forward = _pass_on
        else:
            own["weight"].data = self._plain_weight
            own["bias"] = self._plain_bias
            normalisation.__dict__.pop("forward", None)


def _double(module: nn.Module, name: str) -> Any:
    value = getattr(module, name)
    return None if value is None else value.detach().double()


def _pass_on(given: torch.Tensor) -> torch.Tensor:
    return given


class _Tracer(fx.Tracer):
    """A tracer that treats the modules in question as leaves, and also those derived from torch's."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, _CONVOLUTIONS + _NORMALISATIONS) or super().is_leaf_module(m, module_qualified_name)


def pairs(module: nn.Module) -> list[Pair]:
    """Find the pairs in a module that is in eval mode.

    The symbolic run replaces `nn.Module.__call__` for its time, so no other thread may run a module meanwhile. It runs
    a copy that shares the weights, with the defaults of arguments that have one.
    """
    if not any(_can_fold(one) for one in module.modules()):
        return []
    shared = {id(one): one for one in (*module.parameters(), *module.buffers())}
    try:
        graph = _Tracer().trace(copy.deepcopy(module, shared), _defaults(module))
    except Exception as error:  # whatever a model's code raises on a symbol in place of a tensor
        logger.debug("no batch normalization is folded: %s", error)
        return []
    calls = Counter(node.target for node in graph.nodes if node.op == "call_module")
    owners = Counter(id(one) for _, one in module.named_parameters(remove_duplicate=False))
    found = []
    for node in graph.nodes:
        before = node.args[0] if node.op == "call_module" and node.args else None
        if not isinstance(before, fx.Node) or before.op != "call_module" or len(before.users) != 1:
            continue
        if calls[node.target] != 1 or calls[before.target] != 1 or node.kwargs or len(node.args) != 1:
            continue
        first, second = module.get_submodule(str(before.target)), module.get_submodule(str(node.target))
        if not (isinstance(first, _CONVOLUTIONS) and _is_plain(first, ("weight", "bias")) and _can_fold(second)):
            continue
        if owners[id(first.weight)] == 1:  # else another layer has the same weight
            found.append(Pair(first, second))
    return found


def _can_fold(module: nn.Module) -> bool:
    return (
        type(module) in _NORMALISATIONS
        and not module.training
        and module.running_mean is not None
        and _is_plain(module, ("weight", "bias"))
    )


def _is_plain(module: nn.Module, names: tuple[str, ...]) -> bool:
    """Return whether a module has no hooks, and float32 parameters of its own that are not computed."""
    if module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module):
        return False
    own: dict[str, Any] = module._parameters
    return all(name in own and (own[name] is None or own[name].dtype is torch.float32) for name in names)


def _defaults(module: nn.Module) -> dict[str, Any]:
    parameters = inspect.signature(module.forward).parameters.values()
    return {one.name: one.default for one in parameters if one.default is not one.empty}
