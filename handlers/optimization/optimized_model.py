"""A model that is called as the plain one is, and runs as the section `optimize:` asks for.

At its first call it runs both ways, and keeps the optimized one only if its output agrees with the plain one's.

16-bit work is left to autocast: convolutions and matmuls run in 16 bits, operators that would lose precision stay in
float32. Autocast casts the weights at every call, so here they are cast once, to the same values.
"""

from __future__ import annotations

import inspect
import logging
import threading
from collections import deque
from contextlib import ExitStack
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import nn

from handlers.optimization.converted_weights import ConvertedWeights
from handlers.optimization.output_difference import Difference, compare, has_gradient, map_tensors, widened
from handlers.optimization.torch_compile import is_compiler_error

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from handlers.optimization.folding import Pair

logger = logging.getLogger(__name__)

explaining: ContextVar[bool] = ContextVar("explaining", default=False)
"""Whether this thread runs an explanation: calls of the model then record gradients if torch's mode says so."""

_SHOWN: Final = 300  # characters of an error


@dataclass(frozen=True)
class Way:
    """A way to run a module with its weights converted.

    `build` makes what is called in place of the module; None calls the module. `config` are settings of inductor for
    every call: it reads them whenever it compiles. `clones` says that the next call overwrites the outputs of this one.
    `folds` says that convolutions also do the batch normalization after them; see `folding`.
    """

    name: str
    build: Callable[[], Callable[..., Any]] | None = None
    config: tuple[tuple[str, Any], ...] = ()
    clones: bool = False
    folds: bool = False


class OptimizedModel(nn.Module):
    """A model that runs in the first of several ways that proves correct, or plainly if none does.

    The first call decides, under a lock: the plain model runs, then the optimized one, and their outputs are compared.
    If they differ by more than the tolerance, or the optimized model raises, a warning is logged. Then the next way is
    tried; after the last one the plain model serves, this call included. The plain weights are kept until then.

    Calls that record gradients run without compiled code, which has none. Attributes and methods are the model's own.

    `unasked` is for an optimization that was not asked for: a model that keeps a state between calls is left alone,
    nothing serves that could not be compared, and nothing is logged as a warning. `pairs` are those of `folding`, for
    ways that fold.
    """

    def __init__(
        self,
        model: nn.Module,
        ways: Sequence[Way],
        *,
        device: torch.device,
        dtype: torch.dtype | None = None,
        channels_last: bool = False,
        tolerance: float,
        pairs: Sequence[Pair] = (),
        unasked: bool = False,
    ) -> None:
        super().__init__()
        self._original = model
        weights = ConvertedWeights(model, dtype, channels_last=channels_last, pairs=pairs)
        # Not a module itself: the compiled one would be registered as a part of this one.
        self._runner = _Runner(
            model, ways, device, dtype, weights, channels_last=channels_last, tolerance=tolerance, unasked=unasked
        )

    def forward(self, *inputs: Any, **named: Any) -> Any:
        """Run the model."""
        return self._runner.run(inputs, named)

    @property
    def serving(self) -> str | None:
        """The name of the way that was chosen; "plain" for none of them, None before the first call."""
        return self._runner.serving

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            value = getattr(super().__getattr__("_original"), name)
        is_method = inspect.ismethod(value) or isinstance(value, torch.ScriptMethod)
        return self._runner.method(value) if is_method else value


def original(model: Any) -> Any:
    """Return the model itself, without what was wrapped around it."""
    return model._original if isinstance(model, OptimizedModel) else model


class _Runner:
    def __init__(
        self,
        module: nn.Module,
        ways: Sequence[Way],
        device: torch.device,
        dtype: torch.dtype | None,
        weights: ConvertedWeights,
        *,
        channels_last: bool,
        tolerance: float,
        unasked: bool,
    ) -> None:
        self.serving: str | None = None
        self._module = module
        self._ways = ways
        self._device = device
        self._dtype = dtype
        self._channels_last = channels_last
        self._tolerance = tolerance
        self._unasked = unasked
        self._weights: ConvertedWeights | None = weights
        self._lock = threading.Lock()
        self._decided = False
        # The way that serves, None for the plain model, and what it calls; one object, for other threads.
        self._now: tuple[Way | None, Callable[..., Any]] = (None, module)

    def run(self, inputs: tuple[Any, ...], named: dict[str, Any]) -> Any:
        if torch.is_grad_enabled() and (explaining.get() or has_gradient((inputs, named))):
            return self._run_with_gradient(inputs, named)
        if not self._decided:
            with self._lock:
                if not self._decided:
                    return self._decide(inputs, named)
        way, call = self._now
        if way is None:
            return call(*inputs, **named)
        try:
            return self._run(way, call, inputs, named)
        except Exception as error:
            if way.build is None or not is_compiler_error(error):
                raise
            result = self._run(way, self._module, inputs, named)  # raises if the input is wrong
            self._leave_compiler(way, error)
            return result

    def _leave_compiler(self, way: Way, error: Exception) -> None:
        eager = next((one for one in self._ways if one.build is None), None)
        self.serving = "plain" if eager is None else eager.name
        self._now = (eager, self._module)
        logger.warning("%s failed, serving %s from now on: %s", way.name, self._words(eager), _shown(error))

    def method(self, method: Callable[..., Any]) -> Callable[..., Any]:
        """Make a method of the module, other than its forward, work with the weights as they are now."""

        def run(*inputs: Any, **named: Any) -> Any:
            if self._now[0] is None or self._dtype is None:
                return method(*inputs, **named)
            with torch.autocast(self._device.type, self._dtype):
                return widened(method(*inputs, **named))

        return run

    def _run_with_gradient(self, inputs: tuple[Any, ...], named: dict[str, Any]) -> Any:
        if not self._decided:
            with self._lock:
                if not self._decided:
                    return self._module(*inputs, **named)
        way = self._now[0]
        if way is None:
            return self._module(*inputs, **named)
        return self._run(way, self._module, inputs, named, gradient=True)

    def _run(
        self,
        way: Way,
        call: Callable[..., Any],
        inputs: tuple[Any, ...],
        named: dict[str, Any],
        *,
        gradient: bool = False,
    ) -> Any:
        if self._channels_last:
            inputs, named = map_tensors((inputs, named), _with_channels_last)
        compiled = call is not self._module
        with ExitStack() as stack:
            if not gradient:
                stack.enter_context(torch.no_grad())
            if self._dtype is not None:
                stack.enter_context(torch.autocast(self._device.type, self._dtype))
            if compiled and way.config:
                stack.enter_context(_inductor_config(way.config))
            if compiled and way.clones:
                torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
            output = call(*inputs, **named)
            if compiled and way.clones:
                output = map_tensors(output, torch.clone)
        return output if self._dtype is None else widened(output)

    # ---- the first call ------------------------------------------------------------------------------------------

    def _decide(self, inputs: tuple[Any, ...], named: dict[str, Any]) -> Any:
        before = _state(self._module) if self._unasked else None
        expected = self._run_plain(inputs, named)  # raises if the input is wrong
        problems: list[str] = []
        if before is not None and _state(self._module) != before:
            self._settle(None, self._module, ["a model that keeps a state between calls is left alone"])
            return expected
        try:
            for way in self._ways:
                call, found, problem = self._try(way, expected, inputs, named)
                if not problem:
                    self._settle(way, call, problems)
                    return found
                problems.append(f"{way.name} {problem}")
        except BaseException:
            self._convert(None)
            raise
        self._convert(None)
        self._settle(None, self._module, problems)
        return expected

    def _try(
        self, way: Way, expected: Any, inputs: tuple[Any, ...], named: dict[str, Any]
    ) -> tuple[Callable[..., Any], Any, str]:
        """Run one way; return what it calls, its output, and what is wrong with it."""
        call: Callable[..., Any] = self._module
        try:
            self._convert(way)
            call = call if way.build is None else way.build()
            found = self._run(way, call, *_copied(inputs, named))
        except Exception as error:  # of the compiler, or of an operator that is missing for these dtypes
            return call, None, f"fails with {_shown(error)}"
        difference = compare(expected, found)
        if self._unasked and not (difference.compared and difference.size <= self._tolerance):
            return call, None, f"differs by {difference.size:.3g} in {difference.compared} tensors"
        if difference.size > self._tolerance:
            own = self._own_difference(way, expected, inputs, named) if difference.is_finite else 0.0
            if own <= self._tolerance and difference.size - 2 * own > self._tolerance:
                return call, None, f"differs by {difference.size:.3g} of the largest number of {difference.place}"
            logger.warning(
                "The plain model differs from itself by %.3g for the same input, so %s cannot be checked against it "
                "(%.3g): it is served unchecked",
                own,
                way.name,
                difference.size,
            )
            return call, expected, ""
        self._tell(way, difference)
        return call, found, ""

    def _own_difference(self, way: Way, expected: Any, inputs: tuple[Any, ...], named: dict[str, Any]) -> float:
        self._convert(None)
        own = compare(expected, self._run_plain(inputs, named)).size
        self._convert(way)
        return own

    def _run_plain(self, inputs: tuple[Any, ...], named: dict[str, Any]) -> Any:
        inputs, named = _copied(inputs, named)
        with torch.no_grad():
            return self._module(*inputs, **named)

    def _tell(self, way: Way, difference: Difference) -> None:
        left_out = difference.left_out
        if not difference.compared:
            logger.warning(
                "%s is served unchecked: the output has no numbers to compare with the plain model's",
                way.name,
            )
            return
        logger.info(
            "Serving %s: it differs from the plain model by %.2g of the largest number (tolerance %g)%s",
            way.name,
            difference.size,
            self._tolerance,
            f"; not compared: {', '.join(left_out)[:_SHOWN]}" if left_out else "",
        )

    def _settle(self, way: Way | None, call: Callable[..., Any], problems: list[str]) -> None:
        if problems and self._unasked:
            logger.info("%s runs, for %s", self._words(way), "; ".join(problems))
        elif problems:
            logger.warning(
                "optimize: %s. Serving %s from now on. The tolerance is %g: if such answers are good enough, raise "
                "optimize.tolerance in model-config.yaml, else remove the setting",
                "; ".join(problems),
                self._words(way),
                self._tolerance,
            )
        self._weights = None
        self.serving = "plain" if way is None else way.name
        self._now = (way, call)
        self._decided = True

    def _words(self, way: Way | None) -> str:
        return "the plain model" if way is None else way.name

    def _convert(self, way: Way | None) -> None:
        """Give the module the weights for a way, or the plain ones."""
        if self._weights is not None:
            self._weights.use(converted=way is not None, folded=way is not None and way.folds)


def _state(module: nn.Module) -> dict[tuple[str, str], Any]:
    """Return the parts of a module that change when it keeps state from a call."""
    return {
        (name, key): (id(value), _changes(value))
        for name, part in module.named_modules()
        for key, value in {**vars(part), **part._buffers}.items()
    }


def _changes(value: Any) -> int | None:
    """Return a number that differs after this same object was changed, as far as that can be known."""
    if isinstance(value, torch.Tensor):
        return None if value.is_inference() else value._version
    return len(value) if isinstance(value, list | dict | set | deque) else None


def _with_channels_last(tensor: torch.Tensor) -> torch.Tensor:
    if tensor.dim() == 4 and tensor.is_floating_point():
        return tensor.contiguous(memory_format=torch.channels_last)
    return tensor


def _copied(inputs: tuple[Any, ...], named: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Copy the tensors: a model may change its inputs."""
    copied: tuple[tuple[Any, ...], dict[str, Any]] = map_tensors((inputs, named), torch.clone)
    return copied


def _inductor_config(settings: tuple[tuple[str, Any], ...]) -> Any:
    from torch._inductor import config

    return config.patch(dict(settings))


def _shown(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = f"{type(error).__name__}: {' '.join(lines[: 2 if lines and lines[0].endswith(':') else 1])}"
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "..."
