"""A module's weights in another form, and back: 16 bits, channels last, or a batch normalization folded in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import torch
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Sequence

    from handlers.optimization.folding import Folded, Pair

# Autocast computes these in 16 bits; they take an input, a weight and a bias.
_CAST_OPERATORS: Final = frozenset(
    {
        torch.ops.aten.linear.default,
        torch.ops.aten.conv1d.default,
        torch.ops.aten.conv2d.default,
        torch.ops.aten.conv3d.default,
        torch.ops.aten.conv_transpose1d.default,
        torch.ops.aten.conv_transpose2d.input,
        torch.ops.aten.conv_transpose3d.input,
    }
)


class ConvertedWeights:
    """The converted weights of a module, each in both forms: the plain one is kept as long as this object."""

    # What autocast computes in 16 bits with weights that nothing else uses.
    _CAST: Final = (
        nn.Linear,
        nn.Conv1d,
        nn.Conv2d,
        nn.Conv3d,
        nn.ConvTranspose1d,
        nn.ConvTranspose2d,
        nn.ConvTranspose3d,
    )

    def __init__(
        self, module: nn.Module, dtype: torch.dtype | None, *, channels_last: bool, pairs: Sequence[Pair]
    ) -> None:
        self._module = module
        self._dtype = dtype
        self._channels_last = channels_last
        self._pairs = pairs
        self._folded: list[Folded] = []
        self._forms: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []

    def use(self, *, converted: bool, folded: bool = False) -> None:
        """Give the module its weights in one of the forms. They are made anew, since this happens once or twice."""
        with torch.inference_mode(mode=False), torch.no_grad():
            for parameter, plain, _ in self._forms:
                parameter.data = plain
            for pair in self._folded:
                pair.use(folded=False)
            self._forms, self._folded = [], []
            if not converted:
                return
            if folded:
                self._folded = [pair.fold() for pair in self._pairs]
                for pair in self._folded:
                    pair.use(folded=True)
            self._forms = self._make()
            for parameter, _, other in self._forms:
                parameter.data = other

    def _make(self) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        to_cast = {id(one) for part in self._module.modules() for one in self._cast_of(part)}
        forms: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
        for parameter in self._module.parameters():
            plain = other = parameter.data
            if type(plain) is not torch.Tensor or plain.layout is not torch.strided:
                continue  # perhaps quantized
            if self._dtype is not None and id(parameter) in to_cast and plain.dtype is torch.float32:
                other = other.to(self._dtype)
            if self._channels_last and other.dim() == 4:
                other = other.contiguous(memory_format=torch.channels_last)
            if other is not plain:
                forms.append((parameter, plain, other))
        return forms

    def _cast_of(self, part: nn.Module) -> list[torch.Tensor]:
        if isinstance(part, torch.fx.GraphModule):  # a program of torch.export has operators in place of layers
            return _weights_of_operators(part)
        return _own(part) if self._is_cast(part) else []

    def _is_cast(self, part: nn.Module) -> bool:
        if isinstance(part, torch.jit.ScriptModule):
            return part.original_name in {kind.__name__ for kind in self._CAST}
        return isinstance(part, self._CAST)


def _own(part: nn.Module) -> list[torch.Tensor]:
    return [one for name, one in part.named_parameters(recurse=False) if name in ("weight", "bias")]


def _weights_of_operators(program: torch.fx.GraphModule) -> list[torch.Tensor]:
    """Find the parameters of a program that only serve as weights and biases of what autocast computes in 16 bits."""
    uses: dict[str, list[bool]] = {}
    for node in program.graph.nodes:
        if node.op == "get_attr":
            uses.setdefault(node.target, []).extend(_is_weight(node, user) for user in node.users)
    parameters = dict(program.named_parameters(remove_duplicate=False))
    other = {id(parameters[name]) for name, found in uses.items() if name in parameters and not (found and all(found))}
    return [parameters[name] for name in uses if name in parameters and id(parameters[name]) not in other]


def _is_weight(node: torch.fx.Node, user: torch.fx.Node) -> bool:
    return user.target in _CAST_OPERATORS and node in user.args[1:3] and user.args[0] is not node
