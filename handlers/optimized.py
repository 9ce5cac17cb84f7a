"""A model that is called as the plain one is, and runs in the way that the section `optimize:` asks for.

At its first call it runs both ways, and keeps the optimized one only if that gives what the plain one does.

16 bits are autocast's: convolutions and products of matrices compute in them, and what loses by them stays in float32.
Autocast would cast the weights of those at every call, so they are cast once, which changes no answer.
"""

from __future__ import annotations

import logging
import threading
from contextlib import nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import nn

from handlers.compile import is_compiler_error
from handlers.errors import LoadError
from handlers.numeric_guard import Difference, compare, has_gradient, map_tensors, widened

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from handlers.optimize import Optimization

logger = logging.getLogger(__name__)

explaining: ContextVar[bool] = ContextVar("explaining", default=False)
"""Whether this thread is at an explanation: then calls of the model that may record gradients do."""

# What autocast computes in 16 bits, and whose weights are used for nothing else. By name: TorchScript keeps no classes.
_CAST: Final = frozenset(
    {"Linear", "Conv1d", "Conv2d", "Conv3d", "ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d"}
)
_SHOWN: Final = 300


@dataclass(frozen=True)
class _Way:
    """A way to run the model. `call` is None for the module itself; `built` makes it, once the weights are converted."""

    name: str
    build: Callable[[], Callable[..., Any]] | None = None


class OptimizedModel(nn.Module):
    """Run a model as an `Optimization` says, or plainly if that turns out wrong.

    The first call decides, under a lock: the plain model runs, then the optimized one, and their outputs are compared.
    If they differ by more than the tolerance, or the optimized model raises, the log has a warning and the plain model
    serves from then on, this call included. Until then the plain weights are kept, and no longer.

    Calls that record gradients, as explanations do, run without compiled code, which has none.

    Attributes and methods are the model's own.
    """

    def __init__(self, model: nn.Module, optimization: Optimization, device: torch.device) -> None:
        super().__init__()
        self.module = model
        self.optimization = optimization
        self._device = device
        self._weights = _Weights(model, optimization.cast_to, channels_last=optimization.channels_last)
        self._lock = threading.Lock()
        self._decided = False
        self._plain = False
        self._compiled: Callable[..., Any] | None = None

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("module"), name)
